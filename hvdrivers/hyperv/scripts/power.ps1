# On, off, again, and the states between. Each ends in the state that it names.

function Invoke-HvPower {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    try {
        $found = Find-HvLegal $Arguments
        $vm = $found.VM
        switch ($Arguments.action) {
            'on' {
                if ($found.State -eq 'running') { break }
                if ($found.State -eq 'stopped' -and $found.Rescued) { Exit-HvRescue $found }
                Assert-HvMayStart
                Assert-HvStartable $found
                Start-HvMachine $vm
            }
            'off' { Stop-HvMachine $vm $Arguments.graceful }
            'reset' {
                if ($found.State -eq 'paused') { Hyper-V\Resume-VM -VM $vm -Confirm:$false }
                Hyper-V\Restart-VM -VM $vm -Force -Confirm:$false
                Wait-HvState $vm 'Running'
            }
            'reboot' {
                Assert-HvMayStart
                $answer = Wait-HvShutDown $vm 0
                if ($answer -eq 'deaf') { Stop-Hv 'NoAgent' 'the guest has no shutdown service' }
                if ($answer -ne 'off') {
                    Stop-Hv 'GuestDoesNotStop' 'the guest did not go down in time; it runs on'
                }
                $global:HvNotUndone = 'the guest went down, and the machine did not start: power_on() it'
                Start-HvMachine $vm
                $global:HvNotUndone = $null
            }
            'pause' {
                if ($found.State -ne 'paused') { Hyper-V\Suspend-VM -VM $vm -Confirm:$false }
                Wait-HvState $vm 'Paused'
            }
            'unpause' {
                if ($found.State -eq 'paused') { Hyper-V\Resume-VM -VM $vm -Confirm:$false }
                Wait-HvState $vm 'Running'
            }
            'suspend' {
                if ($found.State -ne 'suspended') {
                    if (Test-HvHasDevices $vm) {
                        Stop-Hv 'NotSaved' 'Hyper-V saves no machine with a device of the host'
                    }
                    Hyper-V\Save-VM -VM $vm -Confirm:$false
                }
                Wait-HvState $vm 'Saved'
            }
            'resume' {
                if ($found.State -eq 'suspended') {
                    Assert-HvMayStart
                    Assert-HvStartable $found
                    Start-HvMachine $vm
                }
            }
            'nmi' { Hyper-V\Debug-VM -VM $vm -InjectNonMaskableInterrupt -Force -Confirm:$false }
        }
    }
    finally { Unlock-Hv $lock }
}

function Start-HvMachine {
    param($VM)
    Hyper-V\Start-VM -VM $VM -Confirm:$false
    Wait-HvState $VM 'Running'
}

# The cmdlets wait themselves, as a rule; a state in between is waited for here.
function Wait-HvState {
    param($VM, [string]$Name)
    while ($true) {
        $now = Get-HvMachine $VM.Id.ToString()
        if ($null -eq $now) { Stop-Hv 'InstanceNotFound' 'the machine was removed meanwhile' }
        $state = $now.State.ToString()
        if ($state -eq $Name -or $state -eq "${Name}Critical") { return }
        # a guest may go down by itself as soon as it runs
        if ($Name -eq 'Running' -and $state -match '^Off') { return }
        Wait-Hv 15
    }
}

# Hyper-V refuses to turn off a machine that is between two states.
function Wait-HvSteady {
    param($VM)
    while ($true) {
        $now = Get-HvMachine $VM.Id.ToString()
        if ($null -eq $now) { return }
        if ($now.State.ToString() -notmatch '^(Starting|Saving|Pausing|Resuming|FastSaving)') {
            return $now
        }
        Wait-Hv 20
    }
}

function Stop-HvMachine {
    param($VM, [double]$Graceful)
    $VM = Wait-HvSteady $VM
    if ($null -eq $VM) { return }
    $state = $VM.State.ToString()
    if ($state -match '^Off') { return }
    if ($state -match 'Saved') {
        Hyper-V\Remove-VMSavedState -VM $VM
    }
    else {
        # Stopping: somebody has asked the guest before, and it may go down yet
        if ($Graceful -gt 0 -and $state -match '^(Running|Stopping)') {
            $null = Wait-HvShutDown $VM ([int]($Graceful * 1000))
            $VM = Get-HvMachine $VM.Id.ToString()
            if ($null -eq $VM) { Stop-Hv 'InstanceNotFound' 'the machine was removed meanwhile' }
        }
        if ($VM.State.ToString() -notmatch '^Off') {
            Hyper-V\Stop-VM -VM $VM -TurnOff -Force -Confirm:$false -WarningAction SilentlyContinue
        }
    }
    Wait-HvState $VM 'Off'
}

# Asks the guest to go down. 'off': it did, within so many milliseconds, or (0) before the deadline.
# 'on': it did not, and may do so later. 'deaf': it has no shutdown service that runs. Stop-VM waits for
# the guest for minutes, so it waits in a runspace of its own.
function Wait-HvShutDown {
    param($VM, [int]$Milliseconds)
    $id = $VM.Id.ToString()
    $end = $HvDeadline - 10000000
    if ($Milliseconds -gt 0) {
        $end = [Math]::Min($end, [DateTime]::UtcNow.Ticks + 10000L * $Milliseconds)
    }
    $asking = [powershell]::Create()
    $asking.RunspacePool = Get-HvCallsPool
    [void]$asking.AddScript('param($id) $ErrorActionPreference = "Stop"; ' +
        'if (-not $global:HvReady) { Import-Module -Name Hyper-V -DisableNameChecking; ' +
        '$global:HvReady = $true }; ' +
        'Hyper-V\Stop-VM -VM (Hyper-V\Get-VM -Id $id) -Force -Confirm:$false ' +
        '-WarningAction SilentlyContinue').AddArgument($id)
    $handle = $asking.BeginInvoke()
    try {
        while ($true) {
            $now = Get-HvMachine $id
            if ($null -eq $now -or $now.State.ToString() -match '^Off') { return 'off' }
            if ([DateTime]::UtcNow.Ticks -ge $end) { return 'on' }
            if ($handle.IsCompleted -and (Test-HvDeaf $asking.InvocationStateInfo.Reason)) {
                return 'deaf'
            }
            Start-Sleep -Milliseconds 20
        }
    }
    finally {
        [void]$asking.BeginStop($null, $null)
    }
}

# Whether Stop-VM has failed because the guest has nobody who could be asked: ERROR_NOT_READY.
function Test-HvDeaf {
    param($Exception)
    while ($null -ne $Exception) {
        foreach ($each in $Exception, $Exception.ErrorRecord.Exception) {
            if ($null -ne $each -and $each.HResult -eq 0x80070015) { return $true }
        }
        $Exception = $Exception.InnerException
    }
    $false
}

# The host has refused a change that the contract allows, as the machine is between two states: it says
# InvalidState, or 0x80048052. Empty: that is not why. "Stopping" may last: nothing on the host tells that
# somebody in the guest has called the shutdown off.
function Get-HvBetween {
    param($Problem, $Arguments)
    if ($Problem.id -notmatch '^InvalidState(,|$)' -and $Problem.codes -notcontains 0x80048052) { return '' }
    if ($null -eq $Arguments -or -not $Arguments.uuid) { return '' }
    try { $state = (Find-Hv $Arguments.uuid).VM.State.ToString() }
    catch { return '' }
    if ($state -notmatch '^(Starting|Stopping|Saving|Pausing|Resuming|Reset|FastSaving)') { return '' }
    "Hyper-V refuses it while the machine is between two states ($state)"
}

# Volumes and ports that another machine which is powered on has. What stays is told the machine: the
# numbers that its disks of the host have now.
function Assert-HvStartable {
    param($Found)
    $lines = Get-HvRecord $Found.Folder
    foreach ($line in $lines) {
        $word = "$line".Split(' ')
        if ($word[0] -ceq 'volume' -and $word.Count -ge 4) {
            $path = ConvertFrom-HvWord $word[2]
            if (Test-HvOfHost $path) { continue }
            if (-not (Test-HvFile $path -Blind)) {
                Stop-Hv 'VolumeGone' 'a volume of the instance is gone'
            }
            if ($line -notmatch '"multiattach":true') { Assert-HvDiskFree $path $Found.VM }
        }
    }
    Repair-HvDisks $Found $lines
    foreach ($nic in Hyper-V\Get-VMNetworkAdapter -VM $Found.VM) {
        if (Find-HvLine $lines "nic $([Uri]::EscapeDataString($nic.Name))") {
            if (Test-HvSwitchGone $nic $lines) {
                Stop-Hv 'SwitchGone' 'a virtual switch of the instance is gone'
            }
            Assert-HvPortFree ([string]$nic.Name) $Found.VM
        }
    }
}
