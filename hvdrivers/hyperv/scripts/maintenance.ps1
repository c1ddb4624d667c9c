# A host that starts no machine, and one that goes down.
#
#   ROOT\index\maintenance   every client of ours refuses to start a machine
#   ROOT\index\down          the same while the host goes down: until it has started again, or for five
#                            minutes. It holds the time of the start before.
#
# Who closes the host makes the file first. Then it waits for the requests that had an instance's lock by
# then: they have not seen the file. Every later one looks for it when it has the lock, before it turns a
# machine off that it is going to start again, too.

function Get-HvClosed {
    [IO.Path]::Combine($HvShared.Facts.Index, 'maintenance')
}

function Get-HvDown {
    [IO.Path]::Combine($HvShared.Facts.Index, 'down')
}

# The caller has the lock of the instance.
function Assert-HvMayStart {
    if ([IO.File]::Exists((Get-HvClosed))) {
        Stop-Hv 'Closed' 'the host is in maintenance'
    }
    if (Test-HvGoingDown) { Stop-Hv 'GoingDown' 'the host is about to go down' }
}

# Whether somebody has told the host to go down. A file of before its start, or that is too old, is removed.
function Test-HvGoingDown {
    $file = Get-HvDown
    # of a file that is not there it is the year 1601
    $since = [IO.File]::GetLastWriteTimeUtc($file)
    if ($since.Year -lt 2000) { return $false }
    if ($since.Ticks -gt $HvShared.Facts.Boot -and $since -gt [DateTime]::UtcNow.AddMinutes(-5) -and
        (Test-HvSameStart $file)) { return $true }
    Remove-HvFile $file
    $false
}

# Whether the host has not started since the file was written. Its clock may be behind after a start: then the
# file is younger than the start. A clock that is set a little moves the time of the start along.
function Test-HvSameStart {
    param([string]$File)
    try { $text = [IO.File]::ReadAllText($File) }
    catch [IO.IOException] { return $true }
    $then = 0L
    if (-not [long]::TryParse($text, [ref]$then)) { return $true }
    [Math]::Abs($then - $HvShared.Facts.Boot) -lt [TimeSpan]::FromSeconds(30).Ticks
}

function Assert-HvAllOff {
    foreach ($vm in Hyper-V\Get-VM) {
        if (Test-HvPoweredOn $vm) { Stop-Hv 'MachinesOn' 'machines are powered on' }
    }
}

# No machine that runs is on its way here. One whose client has died, and which will not come, does not count.
function Assert-HvNoneComes {
    $lost = @(Get-HvNeverArrived)
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, '*.incoming')) {
        try { $lines = @([IO.File]::ReadAllLines($file)) }
        catch [IO.IOException] { continue }
        $part = ([IO.Path]::GetFileName($file)).Split('.')
        if ($lines.Count -gt 2 -and $lines[2] -ceq 'on' -and $lost -cnotcontains $part[0] -and
            $null -eq (Get-HvMachine $part[1])) {
            Stop-Hv 'MachinesOn' 'a machine that runs is on its way to this host'
        }
    }
}

# Nothing is powered on, and nothing that has begun before will be. The caller has made the file that holds
# back what begins later.
function Wait-HvAllOff {
    Assert-HvAllOff
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Locks)) {
        $name = [IO.Path]::GetFileName($file)
        $uuid = [guid]::Empty
        if ([guid]::TryParse($name, [ref]$uuid)) { Unlock-Hv (Lock-Hv $name) }
    }
    # calls of clients that have died in them
    $open = @(Get-CimInstance -Namespace 'root/virtualization/v2' -ClassName Msvm_ConcreteJob |
        Where-Object { [int]$_.JobState -lt 7 })
    if ($open.Count -gt 0) {
        foreach ($vm in Hyper-V\Get-VM) {
            if (-not (Test-HvPoweredOn $vm)) { Wait-HvCalls $vm }
        }
    }
    Assert-HvNoneComes
    Assert-HvAllOff
}

function Invoke-HvEnterMaintenance {
    param($Arguments)
    $lock = Lock-Hv 'maintenance'
    $new = $false
    $done = $false
    try {
        $new = New-HvFile (Get-HvClosed)
        Wait-HvAllOff
        $done = $true
    }
    finally {
        if ($new -and -not $done) { Remove-HvFile (Get-HvClosed) }
        Unlock-Hv $lock
    }
}

function Invoke-HvExitMaintenance {
    param($Arguments)
    $lock = Lock-Hv 'maintenance'
    try { Remove-HvFile (Get-HvClosed) }
    finally { Unlock-Hv $lock }
}

function Invoke-HvInMaintenance {
    param($Arguments)
    @{ closed = [IO.File]::Exists((Get-HvClosed)) }
}

# The host itself goes down, or down and up again. Its machines are not asked.
function Invoke-HvHostPower {
    param($Arguments)
    $lock = Lock-Hv 'maintenance'
    $new = $false
    $done = $false
    try {
        $new = -not (Test-HvGoingDown)
        if ($new) { Set-HvFile (Get-HvDown) "$($HvShared.Facts.Boot)" }
        Wait-HvAllOff
        Assert-HvBudget
        # 6: reboot, 12: power off; both without asking the programs that run
        $flags = 12
        if ($Arguments.reboot) { $flags = 6 }
        $system = Get-CimInstance -ClassName Win32_OperatingSystem
        $said = Invoke-CimMethod -InputObject $system -MethodName Win32Shutdown `
            -Arguments @{ Flags = [int]$flags; Reserved = [int]0 }
        if ([int]$said.ReturnValue -ne 0) {
            Stop-Hv 'NoRight' "Windows does not do it for this user ($($said.ReturnValue))"
        }
        $done = $true
        # it goes down now, whenever another client had told it to
        if (-not $new) { Set-HvFile (Get-HvDown) "$($HvShared.Facts.Boot)" }
    }
    finally {
        # the file of another client, whose shutdown is under way, stays
        if ($new -and -not $done) { Remove-HvFile (Get-HvDown) }
        Unlock-Hv $lock
    }
}
