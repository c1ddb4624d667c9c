# Inside a guest, by PowerShell Direct: Windows lets its host in over the bus of the machine, with an account
# of the guest. No network is needed, and no credentials beyond that account: nobody goes on to another host.

# What runs in the guest. It gives 'begun' when it has begun to change something, and then what came of it.
function Get-HvGuestRun {
    {
        param([string]$Program, [string]$Line, [string]$Data, [int]$Milliseconds, [int]$Most)
        $ErrorActionPreference = 'Stop'
        $start = New-Object System.Diagnostics.ProcessStartInfo
        $start.FileName = $Program
        $start.Arguments = $Line
        $start.UseShellExecute = $false
        $start.CreateNoWindow = $true
        $start.RedirectStandardInput = $true
        $start.RedirectStandardOutput = $true
        $start.RedirectStandardError = $true
        $clock = [System.Diagnostics.Stopwatch]::StartNew()
        try { $process = [System.Diagnostics.Process]::Start($start) }
        catch {
            $code = -1
            for ($each = $_.Exception; $null -ne $each; $each = $each.InnerException) {
                if ($each -is [System.ComponentModel.Win32Exception]) { $code = $each.NativeErrorCode }
            }
            return @{ failed = $code }
        }
        'begun'
        $bytes = [Convert]::FromBase64String($Data)
        $in = $process.StandardInput.BaseStream
        $writing = $in.WriteAsync($bytes, 0, $bytes.Length)
        $streams = @($process.StandardOutput.BaseStream, $process.StandardError.BaseStream)
        $buffers = @((New-Object byte[] 65536), (New-Object byte[] 65536))
        $kept = @((New-Object System.IO.MemoryStream), (New-Object System.IO.MemoryStream))
        $reading = @($null, $null)
        $open = @($true, $true)
        $cut = $false
        $over = $null
        while ($true) {
            if ($null -ne $writing -and $writing.IsCompleted) {
                $writing = $null
                # a program that does not read has closed it
                try { $in.Close() } catch { $null = $_ }
            }
            foreach ($at in 0, 1) {
                while ($open[$at]) {
                    if ($null -eq $reading[$at]) {
                        $reading[$at] = $streams[$at].ReadAsync($buffers[$at], 0, 65536)
                    }
                    if (-not $reading[$at].IsCompleted) { break }
                    $count = 0
                    if (-not $reading[$at].IsFaulted) { $count = $reading[$at].Result }
                    $reading[$at] = $null
                    if ($count -eq 0) { $open[$at] = $false; break }
                    $room = [int][Math]::Min($count, $Most - $kept[$at].Length)
                    $kept[$at].Write($buffers[$at], 0, $room)
                    if ($room -lt $count) { $cut = $true }
                }
            }
            if ($process.HasExited) {
                if (-not ($open[0] -or $open[1])) { break }
                # a child of it may have the streams still
                if ($null -eq $over) { $over = $clock.ElapsedMilliseconds + 1000 }
                if ($clock.ElapsedMilliseconds -gt $over) { break }
            }
            if ($clock.ElapsedMilliseconds -gt $Milliseconds) { return @{ runs = $true } }
            Start-Sleep -Milliseconds 5
        }
        @{
            exit = [int]$process.ExitCode
            stdout = [Convert]::ToBase64String($kept[0].ToArray())
            stderr = [Convert]::ToBase64String($kept[1].ToArray())
            cut = $cut
        }
    }
}

# The name may look like a pattern.
function Get-HvGuestPassword {
    {
        param([string]$Name, [securestring]$Password)
        $ErrorActionPreference = 'Stop'
        try {
            $user = @(Get-LocalUser | Where-Object { $_.Name -eq $Name })
            if ($user.Count -eq 0) { return @{ failed = 'UserNotFound' } }
            'begun'
            Set-LocalUser -SID $user[0].SID -Password $Password
        }
        catch { return @{ failed = $_.FullyQualifiedErrorId.Split(',')[0] } }
        @{ failed = '' }
    }
}

# A password as no log of Windows shows it.
function ConvertTo-HvSecure {
    param([string]$Text)
    $secret = New-Object System.Security.SecureString
    foreach ($char in $Text.ToCharArray()) { $secret.AppendChar($char) }
    $secret
}

# Runs a script in the guest, and returns what it gave last. ACCOUNTS: the second is tried where the guest
# refuses the first. The host may be stopped in it, as a guest may not answer.
function Enter-HvGuest {
    param($VM, $Accounts, [scriptblock]$Script, [object[]]$List)
    if (@($Accounts).Count -eq 0) {
        Stop-Hv 'NoAccount' 'PowerShell Direct asks for an account of the guest'
    }
    foreach ($account in $Accounts) {
        $secret = ConvertTo-HvSecure $account.password
        $credential = New-Object System.Management.Automation.PSCredential($account.user, $secret)
        $global:HvSaid = $null
        try {
            Open-Hv {
                Invoke-Command -VMId $VM.Id -Credential $credential -ScriptBlock $Script `
                    -ArgumentList $List | ForEach-Object {
                        if ($_ -is [string] -and $_ -eq 'begun') {
                            $global:HvNotUndone = 'what was begun in the guest may go on there'
                        }
                        else { $global:HvSaid = $_ }
                    }
            }
            if ($null -ne $global:HvSaid) {
                $global:HvNotUndone = $null
                return $global:HvSaid
            }
            Stop-Hv 'NoAgent' 'the guest ended the session'
        }
        catch {
            if ($null -ne $global:HvNotUndone) { throw }
            if (Test-HvGuestRefuses $_) { continue }
            if ($_.FullyQualifiedErrorId -match
                'PSSessionStateBroken|VMSessionConnectFailed|InvalidVMState') {
                Stop-Hv 'NoAgent' 'the guest does not answer PowerShell Direct'
            }
            throw
        }
    }
    Stop-Hv 'GuestRefused' 'the guest refused the account'
}

# The guest's word about the account: an exception of its own, in all languages.
function Test-HvGuestRefuses {
    param($Problem)
    if ($Problem.FullyQualifiedErrorId -match '(^|,)InvalidCredential(,|$)') { return $true }
    for ($each = $Problem.Exception; $null -ne $each; $each = $each.InnerException) {
        if ($each.GetType().Name -eq 'PSDirectException') { return $true }
    }
    $false
}

# Its machine may be turned off meanwhile: no lock.
function Invoke-HvGuestExec {
    param($Arguments)
    $found = Find-HvSeen $Arguments
    $left = ($HvDeadline - [DateTime]::UtcNow.Ticks) / 10000
    $list = @($Arguments.program, $Arguments.line, $Arguments.stdin,
        [int][Math]::Max(0, [Math]::Min(2e9, $left)), [int]$Arguments.most)
    $done = Enter-HvGuest $found.VM $Arguments.accounts (Get-HvGuestRun) $list
    if ($done.runs) { Stop-Hv 'StillRuns' 'the program still runs, and may run on' }
    if ($null -ne $done.failed) {
        # ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND, ERROR_INVALID_NAME, ERROR_BAD_EXE_FORMAT
        if (2, 3, 123, 193 -contains $done.failed) { Stop-Hv 'NoProgram' 'the guest has no such program' }
        # ERROR_ACCESS_DENIED, ERROR_ELEVATION_REQUIRED
        if (5, 740 -contains $done.failed) { Stop-Hv 'GuestDenied' 'the account may not start it' }
        Stop-Hv 'NotStarted' "the guest does not start the program ($($done.failed))"
    }
    @{ exit = [long]$done.exit; stdout = [string]$done.stdout; stderr = [string]$done.stderr
        cut = [bool]$done.cut }
}

function Invoke-HvGuestPassword {
    param($Arguments)
    $found = Find-HvSeen $Arguments
    $done = Enter-HvGuest $found.VM $Arguments.accounts (Get-HvGuestPassword) @(
        $Arguments.user, (ConvertTo-HvSecure $Arguments.password))
    switch ("$($done.failed)") {
        '' { return }
        'UserNotFound' { Stop-Hv 'NoUser' 'the guest knows no such user' }
        'AccessDenied' { Stop-Hv 'GuestDenied' 'the account may not set it' }
        'CommandNotFoundException' { Stop-Hv 'OldGuest' 'the guest has no Set-LocalUser' }
        default { Stop-Hv 'PasswordRefused' "the guest did not set the password ($($done.failed))" }
    }
}
