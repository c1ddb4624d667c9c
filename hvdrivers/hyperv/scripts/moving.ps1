# How a request waits while the host moves a machine or its disks, and how another one ends that.

# Runs Move-VM or Move-VMStorage in a runspace of its own, and ends it at the deadline, or if somebody
# wants it to end. True: it was ended at the deadline.
function Invoke-HvMoving {
    param([string]$Id, $Plan, [string]$Leaving, [string]$Cmdlet)
    $moving = [powershell]::Create()
    $moving.RunspacePool = $HvShared.Pool
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
        $over = [DateTime]::UtcNow.Ticks -ge $HvDeadline -or $HvShared.Stopped.ContainsKey($HvId)
        if ($over) { $late = $true }
        if ($over -or (Test-HvAborted $Leaving)) { Stop-HvMigration $Id }
        [void]$handle.AsyncWaitHandle.WaitOne(50)
    }
    $out = $moving.EndInvoke($handle)
    $moving.Dispose()
    foreach ($each in $out) {
        if ($each -is [System.Management.Automation.ErrorRecord] -and -not $late) { throw $each }
    }
    $late
}

function Test-HvAborted {
    param([string]$Leaving)
    try { return @('abort', 'destroy') -ccontains [IO.File]::ReadAllText($Leaving) }
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
    foreach ($file in $files) { [IO.File]::Delete($file) }
}
