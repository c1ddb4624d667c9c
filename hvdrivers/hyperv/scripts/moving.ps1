# How a request waits while the host moves a machine or its disks, and how another one ends that.

# Runs Move-VM or Move-VMStorage in a runspace of its own, and ends it at the deadline, or if somebody
# wants it to end. True: it was ended at the deadline.
function Invoke-HvMoving {
    param([string]$Id, $Plan, [string]$Leaving, [string]$Cmdlet)
    $moving = [powershell]::Create()
    $moving.RunspacePool = Get-HvCallsPool
    [void]$moving.AddScript('param($id, $plan, $cmdlet) $ErrorActionPreference = "Stop"; ' +
        '$ProgressPreference = "SilentlyContinue"; $ConfirmPreference = "None"; ' +
        'if (-not $global:HvReady) { Import-Module -Name Hyper-V -DisableNameChecking; ' +
        '$global:HvReady = $true }; try { $vm = Hyper-V\Get-VM -Id $id; ' +
        'if ($cmdlet -eq "Move-VM") { $null = Hyper-V\Move-VM -VM $vm @plan -Confirm:$false } ' +
        'else { $null = Hyper-V\Move-VMStorage -VM $vm @plan -Confirm:$false } } catch { $_ }'
    ).AddArgument($Id).AddArgument($Plan).AddArgument($Cmdlet)
    $handle = $moving.BeginInvoke()
    $late = $false
    while (-not $handle.IsCompleted) {
        if (Test-HvOver) { $late = $true }
        if ($late -or (Test-HvAborted $Leaving)) { Stop-HvMigration $Id }
        [void]$handle.AsyncWaitHandle.WaitOne(50)
    }
    $failure = $null
    try {
        foreach ($each in $moving.EndInvoke($handle)) {
            if ($each -is [System.Management.Automation.ErrorRecord]) { $failure = $each }
        }
    }
    catch { $failure = $_ }
    $moving.Dispose()
    if ($null -ne $failure) {
        if (Wait-HvMigrations $Id $Leaving) { $late = $true }
        if (-not $late) { throw $failure }
    }
    $late
}

# Waits until the host does nothing with a machine or its disks any more: its job may go on when the
# cmdlet that has begun it has failed. True: the deadline passed.
function Wait-HvMigrations {
    param([string]$Id, [string]$Leaving)
    $late = $false
    while (@(Get-HvMigrations $Id).Count -gt 0) {
        if (Test-HvOver) { $late = $true }
        if ($late -or (Test-HvAborted $Leaving)) { Stop-HvMigration $Id }
        Start-Sleep -Milliseconds 50
    }
    $late
}

function Test-HvOver {
    [DateTime]::UtcNow.Ticks -ge $HvDeadline -or $HvShared.Stopped.ContainsKey($HvId)
}

function Test-HvAborted {
    param([string]$Leaving)
    (Test-HvWanted $Leaving 'abort') -or (Test-HvWanted $Leaving 'destroy')
}

function Test-HvWanted {
    param([string]$Leaving, [string]$What)
    try { return [IO.File]::ReadAllText($Leaving) -ceq $What }
    catch [IO.IOException] { return $false }
}

# The migrations of a machine that are under way.
function Get-HvMigrations {
    param([string]$Id)
    foreach ($job in Get-CimInstance -Namespace 'root/virtualization/v2' `
            -ClassName Msvm_MigrationJob) {
        if ("$($job.VirtualSystemName)" -eq $Id -and [int]$job.JobState -le 5) { $job }
    }
}

# One that ends by itself meanwhile is as good.
function Stop-HvMigration {
    param([string]$Id)
    foreach ($job in Get-HvMigrations $Id) {
        $null = Invoke-CimMethod -InputObject $job -MethodName RequestStateChange `
            -Arguments @{ RequestedState = [uint16]4 }
    }
}

# Ends a migration of whatever client, and for destroy() a move of disks too. Whoever runs it reads
# the file: its job may not be there yet.
function Stop-HvLeaving {
    param([string]$Uuid, [string]$Why)
    foreach ($file in (Get-HvLeaving $Uuid), (Get-HvRelocating $Uuid)) {
        if ($Why -ceq 'abort' -and $file -ne (Get-HvLeaving $Uuid)) { continue }
        if (-not [IO.File]::Exists($file)) { continue }
        $id = Get-HvMachineId $Uuid
        Set-HvFile $file $Why
        if ($id) { Stop-HvMigration $id }
    }
}

# What clients have left that died while the machine or its disks moved. The caller has the lock, so
# no client is at work; the host may be, and the machine does not stay as it is.
function Complete-HvMoving {
    param([string]$Uuid)
    $files = @(foreach ($file in (Get-HvLeaving $Uuid), (Get-HvRelocating $Uuid)) {
        if ([IO.File]::Exists($file)) { $file }
    })
    if ($files.Count -eq 0) { return }
    $id = Get-HvMachineId $Uuid
    if ($id) { while (@(Get-HvMigrations $id).Count -gt 0) { Wait-Hv 50 } }
    Clear-HvDeparted $Uuid
    foreach ($file in $files) { Remove-HvFile $file }
}

# UUIDs of machines that were to come here, and will not: the deadline of the migration passed ten
# minutes ago by this host's clock, the machine is not here, and nobody has a disk open that was sent.
# Its client has died: one that lives removes what it has prepared.
function Get-HvNeverArrived {
    $end = [DateTime]::UtcNow.AddMinutes(-10).Ticks
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, '*.incoming')) {
        try { $lines = @([IO.File]::ReadAllLines($file)) }
        catch [IO.IOException] { continue }
        if ($lines.Count -lt 2 -or $lines[1] -notmatch '^[0-9]{1,18}\z') { continue }
        if ([long]$lines[1] -gt $end) { continue }
        $part = ([IO.Path]::GetFileName($file)).Split('.')
        if ($null -ne (Get-HvMachine $part[1]) -or @(Get-HvMigrations $part[1]).Count -gt 0 -or
            (Test-HvOpenFiles (Get-HvFolder $part[0]))) { continue }
        $part[0]
    }
}

function Test-HvOpenFiles {
    param([string]$Folder)
    if (-not (Test-Path -LiteralPath $Folder)) { return $false }
    foreach ($item in Get-ChildItem -LiteralPath $Folder -Recurse -File) {
        # one that may not be opened, or goes meanwhile, is in somebody's hands too
        try { ([IO.File]::Open($item.FullName, 'Open', 'ReadWrite', 'None')).Dispose() }
        catch { return $true }
    }
    $false
}

function Clear-HvNeverArrived {
    foreach ($uuid in @(Get-HvNeverArrived)) {
        $lock = Lock-Hv $uuid
        # another migration may have begun meanwhile
        try { if (@(Get-HvNeverArrived) -ccontains $uuid) { Remove-HvInstance $uuid } }
        finally { Unlock-Hv $lock }
    }
}
