# Checkpoints. Hyper-V brings name, notes, processors, memory, NICs and drives of the machine back with
# the disks; the contract brings back the disks alone. So a file says first what the machine is now:
#
#   ROOT\index\UUID.revert        lines as Get-HvIntent writes them; gone when all is put back
#
# Whoever finds that file after a client has died puts back what it says.

function Get-HvIntentFile {
    param([string]$Uuid)
    [IO.Path]::Combine($HvShared.Facts.Index, "$Uuid.revert")
}

# What machines are called, and have, whose checkpoint is being applied now.
function Get-HvIntents {
    $found = @{}
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, '*.revert')) {
        try { $lines = @([IO.File]::ReadAllLines($file)) }
        catch [IO.IOException] { continue }
        $size = (Find-HvLine $lines 'size').Split(' ')
        $found[([IO.Path]::GetFileName($file)).Split('.')[0]] = @{
            Name = ConvertFrom-HvWord ((Find-HvLine $lines 'name').Substring(5))
            Cpus = [int]$size[1]
            Memory = [long]$size[2]
        }
    }
    $found
}

# What a revert must not change, as lines of words.
function Get-HvIntent {
    param($VM, [string]$Memory)
    $lines = @(
        "memory $Memory"
        "name $([Uri]::EscapeDataString($VM.Name))"
        "notes $([Uri]::EscapeDataString("$($VM.Notes)"))"
        "size $([int]$VM.ProcessorCount) $([long]$VM.MemoryStartup)"
    )
    foreach ($nic in Hyper-V\Get-VMNetworkAdapter -VM $VM) { $lines += Get-HvNicLine $nic }
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $VM) {
        $path = Get-HvBase "$($drive.Path)"
        $lines += "drive $($drive.ControllerType) $([int]$drive.ControllerNumber)" +
            " $([int]$drive.ControllerLocation) $([Uri]::EscapeDataString($path))"
    }
    , $lines
}

# As Get-HvWiring gives it, with the kind of the adapter.
function Get-HvNicLine {
    param($Nic)
    "$(Get-HvWiring $Nic) $([bool]$Nic.IsLegacy)"
}

# Words that are the same for two machines to which the same memory fits.
function Get-HvShape {
    param($VM, [string[]]$Lines)
    $names = @(foreach ($line in $Lines) {
        $word = $line.Split(' ')
        if ($word[0] -ceq 'volume' -or $word[0] -ceq 'nic') { "$($word[0]):$($word[1])" }
    })
    [array]::Sort($names, [StringComparer]::Ordinal)
    "$([int]$VM.ProcessorCount);$([long]$VM.MemoryStartup);" + ($names -join ';')
}

# Until the host has done with the checkpoints and disks of a machine.
function Wait-HvIdle {
    param($VM)
    while ($true) {
        $now = Get-HvMachine $VM.Id.ToString()
        if ($null -eq $now) { Stop-Hv 'InstanceNotFound' 'the machine was removed meanwhile' }
        if ("$($now.SecondaryOperationalStatus)" -notmatch 'Merging|Snapshot') { return $now }
        Wait-Hv 25
    }
}

function Read-HvSnapshots {
    param($Found)
    $current = "$($Found.VM.ParentSnapshotId)"
    $marks = @{}
    foreach ($line in (Get-HvRecord $Found.Folder)) {
        $word = "$line".Split(' ')
        if ($word[0] -ceq 'snapshot') { $marks[$word[1]] = $word[2] }
    }
    $list = New-Object System.Collections.ArrayList
    foreach ($each in Hyper-V\Get-VMSnapshot -VM $Found.VM) {
        $id = $each.Id.ToString()
        # one that somebody made by hand has memory if the machine was not off
        $memory = "$($each.State)" -notmatch '^Off'
        if ($marks.ContainsKey($id)) { $memory = $marks[$id] -cne 'none' }
        [void]$list.Add(@{
            id = $id
            name = [string]$each.Name
            parent = "$($each.ParentSnapshotId)"
            created = $each.CreationTime.ToUniversalTime().ToString('o')
            memory = $memory
            current = ($id -eq $current)
        })
    }
    , $list.ToArray()
}

function Find-HvSnapshot {
    param($VM, [string]$Id)
    foreach ($each in Hyper-V\Get-VMSnapshot -VM $VM) {
        if ($each.Id.ToString() -eq $Id) { return $each }
    }
}

function Invoke-HvSnapshots {
    param($Arguments)
    , (Read-HvSnapshots (Find-Hv $Arguments.uuid))
}

# A machine that others have made may have any type of checkpoints; Hyper-V's own default has no memory.
function Assert-HvCheckpoints {
    param($VM, [bool]$Memory)
    $type = "$($VM.CheckpointType)"
    if ($type -eq 'Disabled') { Stop-Hv 'Checkpoints' 'checkpoints of the machine are switched off' }
    if ($Memory -and $type -ne 'Standard') {
        Stop-Hv 'Checkpoints' 'a production checkpoint of the machine has no memory'
    }
}

function Invoke-HvSnapshot {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $begun = $false
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        if ($found.State -eq 'stopped') {
            if ($Arguments.memory) { Stop-Hv 'NoMemory' 'a stopped machine has no memory' }
            Exit-HvRescue $found
        }
        $vm = Wait-HvIdle $found.VM
        foreach ($each in Hyper-V\Get-VMSnapshot -VM $vm) {
            if ($each.Name -ceq $Arguments.name) {
                Stop-Hv 'SnapshotTaken' 'the instance has a snapshot of this name'
            }
        }
        $lines = Get-HvRecord $found.Folder
        foreach ($line in $lines) {
            if ("$line".StartsWith('volume ', 'Ordinal')) {
                $word = $line.Split(' ')
                $drive = Find-HvVolumeDrive $vm $lines $word[1] (ConvertFrom-HvWord $word[2])
                if ($null -ne $drive) {
                    Stop-Hv 'HasVolumes' 'Hyper-V cannot leave attached volumes out of a checkpoint'
                }
            }
        }
        if (Test-HvHasDevices $vm) {
            Stop-Hv 'NoCheckpoint' 'a machine with a device of the host has no checkpoints'
        }
        if (@(Get-HvStrangeDrives $found.Uuid $vm $lines).Count -gt 0) {
            Stop-Hv 'HasVolumes' 'somebody has attached a disk, which a checkpoint would contain'
        }
        Assert-HvCheckpoints $vm $Arguments.memory
        $begun = $true
        $made = Hyper-V\Checkpoint-VM -VM $vm -SnapshotName $Arguments.name -Passthru
        Assert-HvBudget
        $memory = 'none'
        if ($Arguments.memory) { $memory = $found.State }
        $shape = [Uri]::EscapeDataString((Get-HvShape $vm $lines))
        Set-HvRecord $found.Folder ($lines + "snapshot $($made.Id) $memory $shape")
        $done = $true
        $found.VM = Get-HvMachine $vm.Id.ToString()
        foreach ($each in (Read-HvSnapshots $found)) {
            if ($each.id -eq $made.Id.ToString()) { return $each }
        }
    }
    finally {
        if ($begun -and -not $done) {
            Undo-Hv {
                $null = Wait-HvIdle $found.VM
                foreach ($each in Hyper-V\Get-VMSnapshot -VM $found.VM) {
                    if ($each.Name -ceq $Arguments.name) {
                        Hyper-V\Remove-VMSnapshot -VMSnapshot $each -Confirm:$false
                    }
                }
                $null = Wait-HvIdle $found.VM
            }
        }
        Unlock-Hv $lock
    }
}

function Invoke-HvDeleteSnapshot {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    try {
        $found = Find-HvLegal $Arguments
        $vm = Wait-HvIdle $found.VM
        $snapshot = Find-HvSnapshot $vm $Arguments.id
        if ($null -ne $snapshot) {
            if ($Arguments.children) {
                Hyper-V\Remove-VMSnapshot -VMSnapshot $snapshot -IncludeAllChildSnapshots `
                    -Confirm:$false
            }
            else { Hyper-V\Remove-VMSnapshot -VMSnapshot $snapshot -Confirm:$false }
            $null = Wait-HvIdle $vm
        }
        $left = @{}
        foreach ($each in Hyper-V\Get-VMSnapshot -VM $vm) { $left[$each.Id.ToString()] = $true }
        $lines = Get-HvRecord $found.Folder
        $kept = @($lines | Where-Object {
            -not $_.StartsWith('snapshot ', 'Ordinal') -or $left[$_.Split(' ')[1]] })
        if ($kept.Count -ne $lines.Count) { Set-HvRecord $found.Folder $kept }
    }
    finally { Unlock-Hv $lock }
}

function Invoke-HvRevert {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $begun = $false
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        $vm = Wait-HvIdle $found.VM
        $snapshot = Find-HvSnapshot $vm $Arguments.id
        if ($null -eq $snapshot) { Stop-Hv 'SnapshotNotFound' 'there is no such snapshot' }
        $type = "$($snapshot.SnapshotType)"
        if ($type -match '^(Recovery|Planned|Missing)$') {
            Stop-Hv 'NoSnapshot' "it is no snapshot to go back to, but Hyper-V's own ($type), of a backup for instance"
        }
        if ($found.State -eq 'stopped') { Exit-HvRescue $found }
        $lines = Get-HvRecord $found.Folder
        $volumes = Get-HvVolumePaths $lines
        foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $vm) {
            if ("$($drive.Path)" -notmatch '\.avhdx?$') { continue }
            $path = Get-HvBase "$($drive.Path)"
            if ($volumes -contains $path -or -not (Test-HvOwn $found.Uuid $lines $path)) {
                # a checkpoint that somebody made by hand while it was attached
                Stop-Hv 'HasVolumes' 'the data of an attached disk would come back too'
            }
        }
        $memory = 'none'
        if ("$($snapshot.State)" -notmatch '^Off') { $memory = 'running' }
        $line = Find-HvLine $lines "snapshot $($Arguments.id)"
        if ($line) { $memory = $line.Split(' ')[2] }
        if ($memory -ne 'none') {
            $now = Get-HvShape $vm $lines
            $then = "$([int]$snapshot.ProcessorCount);$([long]$snapshot.MemoryStartup)"
            $fits = $now.StartsWith("$then;", 'Ordinal')
            if ($line) { $fits = $now -ceq (ConvertFrom-HvWord ($line.Split(' ')[3])) }
            if (-not $fits) {
                Stop-Hv 'OtherHardware' 'the memory of the snapshot belongs to another flavor or devices'
            }
            Assert-HvMayStart
        }
        Assert-HvBudget
        $file = Get-HvIntentFile $found.Uuid
        Set-HvFile $file ((Get-HvIntent $vm $memory) -join "`n")
        $begun = $true
        Stop-HvMachine $vm 0
        Hyper-V\Restore-VMSnapshot -VMSnapshot $snapshot -Confirm:$false
        Complete-HvRevert $found
        $done = $true
    }
    finally {
        if ($begun -and -not $done) {
            Undo-Hv { Complete-HvRevert $found }
            # the guest has lost its power, and perhaps its disks are those of the snapshot
            $global:HvNotUndone = 'the revert did not come to its end in time; repeat it'
        }
        Unlock-Hv $lock
    }
}

# Puts back what the intent says, as often as it takes. Nothing without an intent.
function Complete-HvRevert {
    param($Found)
    $file = Get-HvIntentFile $Found.Uuid
    if (-not [IO.File]::Exists($file)) { return }
    $intent = @([IO.File]::ReadAllLines($file))
    $vm = Wait-HvIdle $Found.VM
    $word = (Find-HvLine $intent 'name').Split(' ')
    $name = ConvertFrom-HvWord $word[1]
    $notes = ConvertFrom-HvWord ((Find-HvLine $intent 'notes').Substring(6))
    if ($vm.Name -cne $name) { Hyper-V\Set-VM -VM $vm -NewVMName $name }
    if ("$($vm.Notes)" -cne $notes) { Hyper-V\Set-VM -VM $vm -Notes $notes }
    $memory = (Find-HvLine $intent 'memory').Split(' ')[1]
    $state = $vm.State.ToString()
    if ($state -match 'Saved' -and $memory -eq 'none') {
        Hyper-V\Remove-VMSavedState -VM $vm
        Wait-HvState $vm 'Off'
        $state = 'Off'
    }
    if ($state -match '^Off') { Reset-HvDevices $vm $intent }
    elseif ($state -match 'Saved' -and $memory -ne 'none') {
        Start-HvMachine $vm
        if ($memory -eq 'paused') {
            Hyper-V\Suspend-VM -VM $vm -Confirm:$false
            Wait-HvState $vm 'Paused'
        }
    }
    Remove-HvFile $file
    $Found.VM = Get-HvMachine $vm.Id.ToString()
}

# Processors, memory, NICs and drives of a machine that is off.
function Reset-HvDevices {
    param($VM, [string[]]$Intent)
    $size = (Find-HvLine $Intent 'size').Split(' ')
    if ([int]$VM.ProcessorCount -ne [int]$size[1]) {
        Hyper-V\Set-VMProcessor -VM $VM -Count ([int]$size[1])
    }
    if ([long]$VM.MemoryStartup -ne [long]$size[2]) {
        Hyper-V\Set-VMMemory -VM $VM -StartupBytes ([long]$size[2])
    }
    # names of NICs and switches may differ by nothing but the case of their letters
    $wanted = New-Object System.Collections.Hashtable ([StringComparer]::Ordinal)
    foreach ($line in $Intent) {
        if ($line.StartsWith('nic ', 'Ordinal')) { $wanted[$line] = $true }
    }
    foreach ($nic in @(Hyper-V\Get-VMNetworkAdapter -VM $VM)) {
        $line = ''
        try { $line = Get-HvNicLine $nic }
        catch {
            # it had a VLAN mode then that the driver does not set
            if ($_.FullyQualifiedErrorId -notmatch '^Hv\.VlanMode') { throw }
        }
        if ($wanted.ContainsKey($line)) { $wanted.Remove($line) }
        else { Hyper-V\Remove-VMNetworkAdapter -VMNetworkAdapter $nic }
    }
    # a NIC may be called "Keys"
    foreach ($line in @($wanted.GetEnumerator() | ForEach-Object { $_.Key })) { Add-HvNicLine $VM $line }
    $there = @{}
    foreach ($drive in @(Hyper-V\Get-VMHardDiskDrive -VM $VM)) {
        $path = [Uri]::EscapeDataString((Get-HvBase "$($drive.Path)"))
        if (@($Intent | Where-Object { $_.StartsWith('drive ', 'Ordinal') -and
            $_.EndsWith(" $path", 'OrdinalIgnoreCase') })) { $there[$path] = $true }
        else { Hyper-V\Remove-VMHardDiskDrive -VMHardDiskDrive $drive }
    }
    foreach ($line in $Intent) {
        $word = $line.Split(' ')
        if ($word[0] -cne 'drive' -or $there[$word[4]]) { continue }
        Hyper-V\Add-VMHardDiskDrive -VM $VM -ControllerType $word[1] `
            -ControllerNumber ([int]$word[2]) -ControllerLocation ([int]$word[3]) `
            -Path (ConvertFrom-HvWord $word[4])
    }
}

function Add-HvNicLine {
    param($VM, [string]$Line)
    $word = $Line.Split(' ')
    $given = @{ VM = $VM; Name = (ConvertFrom-HvWord $word[1]) }
    if ($word[2] -eq 'dynamic') { $given.DynamicMacAddress = $true }
    else { $given.StaticMacAddress = $word[2] }
    if ($word[9] -eq 'True') { $given.IsLegacy = $true }
    $nic = Hyper-V\Add-VMNetworkAdapter @given -Passthru
    Set-HvWiring $nic $Line
}
