# Runs one command after the other in one engine, each in a runspace of its own. A line in is the path
# of a socket, on which comes the text of the command in base64 and then what it reads; what it writes
# goes there too. The line out says that the command has ended and that nothing of it runs any more.
$in, $out, $err = [Console]::In, [Console]::Out, [Console]::Error
# what Get-Runspace lists, which not every engine has
$runspaces = [runspace].GetProperty('RunspaceList', [System.Reflection.BindingFlags]'NonPublic, Static')
$own = [runspace]::DefaultRunspace.Id
while ($null -ne ($path = $in.ReadLine())) {
    $socket = [System.Net.Sockets.Socket]::new('Unix', 'Stream', 'Unspecified')
    $socket.Connect([System.Net.Sockets.UnixDomainSocketEndPoint]::new($path))
    $stream = [System.Net.Sockets.NetworkStream]::new($socket, $true)
    $utf8 = [System.Text.UTF8Encoding]::new($false)
    $reader = [System.IO.StreamReader]::new($stream, $utf8)
    $writer = [System.IO.StreamWriter]::new($stream, $utf8)
    $writer.AutoFlush = $true
    $text = [System.Text.Encoding]::Unicode.GetString([Convert]::FromBase64String($reader.ReadLine()))
    # what the runspaces of the command open to the simulated host, and nobody closes when they end
    $links = [System.Collections.Concurrent.ConcurrentQueue[object]]::new()
    [AppDomain]::CurrentDomain.SetData('SimulatedHost.Links', $links)
    [Console]::SetIn($reader)
    [Console]::SetOut($writer)
    [Console]::SetError($writer)
    $runspace = [runspacefactory]::CreateRunspace($Host, [initialsessionstate]::CreateDefault2())
    $runspace.Open()
    $shell = [powershell]::Create()
    $shell.Runspace = $runspace
    try { $null = $shell.AddScript($text).AddCommand('Out-Default').Invoke() } catch { $err.WriteLine("$_") }
    [Console]::SetIn($in)
    [Console]::SetOut($out)
    [Console]::SetError($err)
    foreach ($each in @($runspaces.GetValue($null))) {
        if ($each.Id -eq $own) { continue }
        if ($each.RunspaceAvailability -ne 'Available') {
            # whoever ended the command has ended what it was at
            [System.Diagnostics.Process]::GetCurrentProcess().Kill()
        }
        $each.Dispose()
    }
    foreach ($each in $links) { $each.Dispose() }
    $stream.Dispose()
    $out.WriteLine('ended')
}
