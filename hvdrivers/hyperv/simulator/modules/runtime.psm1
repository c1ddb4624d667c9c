# The client of the state server: one connection a runspace, one line a call.
# A call waits in small steps, so that stopping the pipeline ends it; the host goes on with the work,
# as Hyper-V's management service does when the shell that asked is gone.

$script:link = $null
$script:scalars = 'Id', 'VMId', 'Name', 'VMName', 'VMCheckpointId', 'ControllerType', 'ControllerNumber',
    'ControllerLocation', 'Path', 'DiskNumber', 'Number', 'UniqueId', 'SerialNumber', 'NodeAddress',
    'TargetNodeAddress', 'TargetPortalAddress', 'SessionIdentifier', 'InstancePath', 'LocationPath',
    'InstanceID', 'SystemName', 'ObjectId', 'DevicePath', 'ImagePath', 'PartitionNumber', 'DriveLetter', 'ReportId',
    'BootType', 'DeviceID', 'IsManagementOs', 'PSComputerName', '__CLASS'

$script:keys = @{
    'Microsoft.HyperV.PowerShell.VirtualMachine' = 'Id', 'Name'
    'Microsoft.HyperV.PowerShell.VMSnapshot' = 'Id', 'Name', 'VMId'
    'Microsoft.HyperV.PowerShell.VMNetworkAdapter' = 'Id', 'Name', 'VMId'
    'Microsoft.HyperV.PowerShell.VMSwitch' = 'Id', 'Name'
    'Microsoft.HyperV.PowerShell.HardDiskDrive' = 'VMId', 'ControllerType', 'ControllerNumber', 'ControllerLocation', 'Path', 'Name'
    'Microsoft.HyperV.PowerShell.DvdDrive' = 'VMId', 'ControllerType', 'ControllerNumber', 'ControllerLocation', 'Path', 'Name'
}

function Open-Link {
    $socket = [System.Net.Sockets.Socket]::new(
        [System.Net.Sockets.AddressFamily]::Unix, [System.Net.Sockets.SocketType]::Stream, 0)
    $socket.Connect([System.Net.Sockets.UnixDomainSocketEndPoint]::new($env:HVSIM_SERVER))
    # a process that outlives its runspaces closes them
    $links = [AppDomain]::CurrentDomain.GetData('SimulatedHost.Links')
    if ($null -ne $links) { $links.Enqueue($socket) }
    $stream = [System.Net.Sockets.NetworkStream]::new($socket, $true)
    $utf8 = [System.Text.UTF8Encoding]::new($false)
    @{
        Socket = $socket
        Stream = $stream
        Reader = [System.IO.StreamReader]::new($stream, $utf8, $false, 65536)
        Encoding = $utf8
        Busy = $false
    }
}

function ConvertTo-Wire($value) {
    if ($null -eq $value) { return $null }
    if ($value -is [string]) { return [string]$value }
    if ($value -is [bool] -or $value -is [int] -or $value -is [long] -or $value -is [uint64] -or $value -is [double]) {
        return $value.PSObject.BaseObject
    }
    if ($value -is [switch]) { return [bool]$value }
    if ($value -is [enum] -or $value -is [guid] -or $value -is [version] -or $value -is [char]) { return $value.ToString() }
    if ($value -is [timespan]) { return @{ seconds = $value.TotalSeconds } }
    if ($value -is [datetime]) { return @{ utc = $value.ToUniversalTime().ToString('o') } }
    if ($value -is [pscredential]) { return @{ user = $value.UserName } }
    if ($value -is [securestring]) { return @{ secret = $value.Length } }
    if ($value -is [byte[]]) { return @{ base64 = [Convert]::ToBase64String($value) } }
    if ($value -is [System.Collections.IDictionary]) {
        $table = @{}
        foreach ($key in $value.Keys) { $table["$key"] = ConvertTo-Wire $value[$key] }
        return @{ table = $table }
    }
    if ($value -is [System.Collections.IList]) {
        $items = [object[]]::new($value.Count)
        for ($i = 0; $i -lt $value.Count; $i++) { $items[$i] = ConvertTo-Wire $value[$i] }
        return , $items
    }
    if ($value -is [System.ValueType]) { return $value.ToString() }
    $shape = @{ type = $value.PSObject.TypeNames[0] }
    # What identifies an object of a common type; reading every property takes long.
    $known = $script:keys[$shape.type]
    if ($null -ne $known) {
        foreach ($name in $known) { $shape[$name] = "$($value.$name)" }
        return $shape
    }
    foreach ($name in $script:scalars) {
        $property = $value.PSObject.Properties[$name]
        if ($null -ne $property -and $property.MemberType -eq 'NoteProperty') {
            $inner = $property.Value
            if ($inner -is [string] -or $inner -is [System.ValueType]) { $shape[$name] = "$inner" }
        }
    }
    $shape
}

# The deserializer puts a word in front of every type name. $inner names properties that hold objects.
function Repair-TypeName($thing, [string[]]$inner) {
    $names = $thing.PSObject.TypeNames
    for ($i = 0; $i -lt $names.Count; $i++) {
        if ($names[$i].StartsWith('Deserialized.')) { $names[$i] = $names[$i].Substring(13) }
    }
    foreach ($name in $inner) {
        foreach ($item in $thing.$name) { if ($item -is [psobject]) { Repair-TypeName $item $inner } }
    }
}

function New-SimulatedError($text) {
    $told = ConvertFrom-Json $text
    $exception = [System.Management.Automation.RuntimeException]::new([string]$told.message)
    if ($told.kind) {
        # The class of Hyper-V's exception is not here: the name is what scripts can see of it.
        $exception.PSObject.TypeNames.Insert(0, [string]$told.kind)
    }
    if ($null -ne $told.hresult) { $exception.HResult = [int]$told.hresult }
    $record = [System.Management.Automation.ErrorRecord]::new(
        $exception, [string]$told.id, [System.Management.Automation.ErrorCategory]$told.category, $told.target)
    if ($told.kind) { $record.CategoryInfo.Reason = ([string]$told.kind).Split('.')[-1] }
    $record
}

function Invoke-SimulatedCmdlet($cmdlet, [string]$name, $bound, [string]$impact) {
    # A function of a module does not see the preferences of its caller; a compiled cmdlet does.
    $outer = $cmdlet.SessionState.PSVariable
    if (-not $bound.ContainsKey('ErrorAction')) { $ErrorActionPreference = $outer.GetValue('ErrorActionPreference') }
    if (-not $bound.ContainsKey('WarningAction')) { $WarningPreference = $outer.GetValue('WarningPreference') }
    if ($impact) {
        if (-not $bound.ContainsKey('Confirm')) { $ConfirmPreference = $outer.GetValue('ConfirmPreference') }
        if (-not $bound.ContainsKey('WhatIf')) { $WhatIfPreference = $outer.GetValue('WhatIfPreference') }
        $asks = $bound.ContainsKey('Confirm') -or $bound.ContainsKey('WhatIf') -or $WhatIfPreference -or
            $impact -eq 'High' -or "$ConfirmPreference" -in 'Medium', 'Low'
        if ($asks) {
            $target = foreach ($key in 'VMName', 'Name', 'VM', 'VMSnapshot', 'Path', 'InputObject', 'Number', 'NodeAddress') {
                if ($bound.ContainsKey($key)) { foreach ($item in $bound[$key]) { if ($item -is [psobject] -and $item.Name) { $item.Name } else { "$item" } }; break }
            }
            if (-not $cmdlet.ShouldProcess(($target -join ', '), $name)) { return }
        }
    }
    $wire = @{}
    foreach ($pair in $bound.GetEnumerator()) { $wire[$pair.Key] = ConvertTo-Wire $pair.Value }
    $line = ConvertTo-Json -Compress -Depth 12 -InputObject @{ c = $name; s = $cmdlet.ParameterSetName; b = $wire }
    if ($null -eq $script:link -or $script:link.Busy) {
        if ($null -ne $script:link) { $script:link.Stream.Dispose() }
        $script:link = Open-Link
    }
    $link = $script:link
    $link.Busy = $true
    $bytes = $link.Encoding.GetBytes($line + "`n")
    $link.Stream.Write($bytes, 0, $bytes.Length)
    # The whole answer is read before any of it is written: an error may end the caller's script.
    $answers = [System.Collections.Generic.List[string]]::new()
    $begun = $false
    while ($true) {
        # an answer comes in one piece: only its begin is waited for
        while (-not $begun -and -not $link.Socket.Poll(20000, [System.Net.Sockets.SelectMode]::SelectRead)) { }
        $answer = $link.Reader.ReadLine()
        $begun = $true
        if ($null -eq $answer) { throw 'The simulated host closed its connection.' }
        if ($answer -ceq '.') { break }
        if ($answer[0] -ceq [char]'C') {
            $asked = ConvertFrom-Json $answer.Substring(1)
            $yes = $cmdlet.ShouldContinue($asked.query, $asked.caption)
            $bytes = $link.Encoding.GetBytes($(if ($yes) { "Y`n" } else { "N`n" }))
            $link.Stream.Write($bytes, 0, $bytes.Length)
            $begun = $false
            continue
        }
        $answers.Add($answer)
    }
    $link.Busy = $false
    foreach ($answer in $answers) {
        $rest = $answer.Substring(1)
        switch -CaseSensitive ($answer[0]) {
            'O' {
                $cut = $rest.IndexOf('<')
                $inner = if ($cut) { $rest.Substring(0, $cut).Split(',') } else { @() }
                Write-Thing $cmdlet $rest.Substring($cut) $inner
            }
            'W' { $cmdlet.WriteWarning((ConvertFrom-Json $rest)) }
            'E' { $cmdlet.WriteError((New-SimulatedError $rest)) }
            'X' { $cmdlet.ThrowTerminatingError((New-SimulatedError $rest)) }
        }
    }
}

function Write-Thing($cmdlet, [string]$text, [string[]]$inner) {
    foreach ($thing in [System.Management.Automation.PSSerializer]::Deserialize($text)) {
        if ($thing -is [psobject]) { Repair-TypeName $thing $inner }
        $cmdlet.WriteObject($thing, $false)
    }
}

# Without cmdlets: the module that has those of drives takes longer to load than all else that a command
# without Hyper-V needs.
function Add-SimulatedDrive {
    if (-not $env:HVSIM_DRIVE) { return }
    $session = $ExecutionContext.SessionState
    $provider = $session.Provider.GetOne('FileSystem')
    $drive = [System.Management.Automation.PSDriveInfo]::new('C', $provider, $env:HVSIM_DRIVE, '', $null)
    try { $null = $session.Drive.New($drive, 'global') }
    catch [System.Management.Automation.SessionStateException] {
        if ($_.Exception.ErrorRecord.CategoryInfo.Category -ne 'ResourceExists') { throw }
    }
}

# The functions of a module, which it binds to itself. Each is parsed when it is called first, and what
# was parsed serves every runspace of the process.
function Get-SimulatedFunction([string]$folder) {
    $process = [AppDomain]::CurrentDomain
    [System.Threading.Monitor]::Enter($process)
    try {
        # an engine outlives its shells: a file that was edited meanwhile is read again
        $known = "$folder $([System.IO.File]::GetLastWriteTimeUtc("$folder/functions").Ticks)"
        $functions = $process.GetData($known)
        if ($null -eq $functions) {
            Add-SimulatedEnum "$folder/enums"
            $functions = @(Read-SimulatedFunction "$folder/functions")
            $process.SetData($known, $functions)
        }
    }
    finally { [System.Threading.Monitor]::Exit($process) }
    $functions
}

function Read-SimulatedFunction([string]$file) {
    # What the engine itself uses for its own functions; without it they are parsed at once.
    $delayed = [scriptblock].GetMethod('CreateDelayParsedScriptBlock', [System.Reflection.BindingFlags]'NonPublic, Static')
    foreach ($line in [System.IO.File]::ReadAllLines($file)) {
        $name, $alias, $text = $line.Split("`t", 3)
        $block = if ($null -ne $delayed) { $delayed.Invoke($null, @($text, $false)) } else { [scriptblock]::Create($text) }
        @{ Name = $name; Alias = $alias; Block = $block }
    }
}

function Add-SimulatedEnum([string]$file) {
    $name = [System.Reflection.AssemblyName]::new('SimulatedHost')
    $module = [System.Reflection.Emit.AssemblyBuilder]::DefineDynamicAssembly($name, 'Run').DefineDynamicModule('SimulatedHost')
    foreach ($line in [System.IO.File]::ReadAllLines($file)) {
        $name, $values = $line.Split("`t")
        if ($name -as [type]) { continue }
        $enum = $module.DefineEnum($name, 'Public', [int])
        $next = 0
        foreach ($value in $values.Split(';')) {
            $word, $number = $value.Split('=')
            if ($number) { $next = [int]$number }
            $null = $enum.DefineLiteral($word.Trim(), $next)
            $next++
        }
        $null = $enum.CreateType()
    }
}

# Every command of a pipeline becomes a line of text for this machine's system log, which costs a fifth of
# the time that scripts take. No simulated host writes there.
function Disable-SystemLog {
    $log = [psobject].Assembly.GetType('System.Management.Automation.MshLog')
    if ($null -eq $log) { return }
    $field = $log.GetField('s_logProviders', [System.Reflection.BindingFlags]'NonPublic, Static')
    if ($null -eq $field) { return }
    $providers = $field.GetValue($null)
    foreach ($key in @($providers.Keys)) {
        $used = $providers[$key]
        # another thread may be at it: it is replaced, and not changed
        if ($used.Count -gt 0) { $providers[$key] = [Activator]::CreateInstance($used.GetType()) }
    }
}

Disable-SystemLog
Export-ModuleMember -Function Invoke-SimulatedCmdlet, Add-SimulatedDrive, Get-SimulatedFunction
