# Making machines, looking at them, and removing them.

function Invoke-HvSpawn {
    param($Arguments)
    $uuid = $Arguments.uuid
    $claim = Get-HvClaim $uuid
    Assert-HvFree $uuid
    if ($null -ne (Get-HvMachine $uuid)) {
        Stop-Hv 'InstanceExists' 'a machine of others has this UUID'
    }
    $memory = 0L
    if ($Arguments.start) {
        Assert-HvMayStart
        $memory = $Arguments.memory
    }
    Assert-HvFits $Arguments.cpus $memory
    foreach ($nic in $Arguments.nics) {
        if ($nic.refused) { Stop-Hv 'Unsupported' $nic.refused }
        Assert-HvSwitch $nic
        if ($Arguments.start) { Assert-HvPortFree $nic.name }
    }
    if ($Arguments.image) { Assert-HvImage $Arguments.image }
    foreach ($volume in $Arguments.volumes) {
        # the disk that generation 1 boots from is on IDE, the others are on SCSI
        if ($volume.ide -and -not ($volume.boot -and $Arguments.generation -eq 1)) {
            Stop-Hv 'NoIde' 'only the disk that generation 1 boots from is made on IDE'
        }
        Assert-HvVolume $volume
    }
    $lock = Lock-Hv $uuid
    $made = $false
    $done = $false
    try {
        Assert-HvFree $uuid $lock
        if ($Arguments.start) { Assert-HvMayStart }
        # the lock is ours: nobody works at a claim that is there, and it is not complete. Its
        # client died in the middle of a spawn
        if ([IO.File]::Exists($claim)) { Remove-HvInstance $uuid }
        if (-not (New-HvFile $claim)) { Stop-Hv 'InstanceExists' 'the UUID is taken' }
        $made = $true
        $vm = New-HvMachine $Arguments $claim
        Assert-HvBudget
        if ($Arguments.start) {
            Start-HvMachine $vm
            Assert-HvBudget
        }
        $state = 'stopped'
        if ($Arguments.start) { $state = 'running' }
        Set-HvOwner $uuid $vm.Id.ToString() $state
        $done = $true
        Read-HvInstance (Find-Hv $uuid)
    }
    finally {
        if ($made -and -not $done) { Undo-Hv { Remove-HvInstance $uuid } }
        Unlock-Hv $lock
    }
}

# A complete instance has this UUID, or had it until somebody removed its machine.
function Assert-HvFree {
    param([string]$Uuid, $Held = $null)
    $id = Get-HvMachineId $Uuid
    if (-not $id) { return }
    if ($null -ne (Get-HvMachine $id)) { Stop-Hv 'InstanceExists' 'the UUID is taken' }
    if ([IO.File]::Exists((Get-HvLeaving $Uuid))) {
        # it has moved to another host, and its client died before it had told
        $lock = $Held
        if ($null -eq $lock) { $lock = Lock-Hv $Uuid }
        try { Clear-HvDeparted $Uuid }
        finally { if ($null -eq $Held) { Unlock-Hv $lock } }
        if (-not (Get-HvMachineId $Uuid)) { return }
    }
    Stop-Hv 'Remains' 'the machine of an instance with this UUID is gone, and its disks are there'
}

function New-HvMachine {
    param($Arguments, [string]$Claim)
    $uuid = $Arguments.uuid
    $folder = Get-HvFolder $uuid
    $null = New-Item -ItemType Directory -Force -Path $folder
    $disks = New-HvDisks $Arguments $folder
    Assert-HvBudget
    # the label may have letters that no folder has: it comes after
    $vm = Hyper-V\New-VM -Name $uuid -Path "$($HvShared.Facts.Root)\instances" -NoVHD `
        -Generation $Arguments.generation -MemoryStartupBytes $Arguments.memory
    Set-HvFile $Claim $vm.Id.ToString()
    Hyper-V\Set-VMMemory -VM $vm -DynamicMemoryEnabled $false
    $processor = @{ Count = $Arguments.cpus }
    if ($Arguments.nested) { $processor.ExposeVirtualizationExtensions = $true }
    if ($Arguments.numa -gt 0) {
        $processor.MaximumCountPerNumaNode = [int]($Arguments.cpus / $Arguments.numa)
    }
    Hyper-V\Set-VMProcessor -VM $vm @processor
    $automatic = @{ AutomaticStopAction = 'ShutDown' }
    # Hyper-V starts no machine with a device of the host that has another stop action
    if (@($Arguments.pci).Count + @($Arguments.vgpus).Count -gt 0) {
        $automatic.AutomaticStopAction = 'TurnOff'
    }
    # Windows Server 2016 has no automatic checkpoints, and no parameter for them
    if (Test-HvParameter 'Set-VM' 'AutomaticCheckpointsEnabled') {
        $automatic.AutomaticCheckpointsEnabled = $false
    }
    Hyper-V\Set-VM -VM $vm -NewVMName $Arguments.name -Notes $Arguments.notes `
        -AutomaticStartAction StartIfRunning `
        -CheckpointType Standard @automatic
    foreach ($adapter in Hyper-V\Get-VMNetworkAdapter -VM $vm) {
        Hyper-V\Remove-VMNetworkAdapter -VMNetworkAdapter $adapter
    }
    if (-not (Hyper-V\Get-VMScsiController -VM $vm)) { Hyper-V\Add-VMScsiController -VM $vm }
    if ($Arguments.pipe) { Hyper-V\Set-VMComPort -VM $vm -Number 1 -Path $Arguments.pipe }
    $lines = @("record $($Arguments.record)", "metadata $($Arguments.metadata)",
        "flavor $($Arguments.flavor)")
    if ($Arguments.key) { $lines += "image $($Arguments.key)" }
    $boot = $null
    foreach ($disk in $disks) { $drive = Add-HvOwnDisk $vm $disk; if ($disk.boot) { $boot = $drive } }
    foreach ($volume in $Arguments.volumes) {
        Assert-HvBudget
        $line = "volume $($volume.id) $($volume.word) $($volume.json)"
        if ($volume.disk) {
            $lock = Lock-HvDisks
            try {
                $save = { param($New) Set-HvRecord $folder $New }
                $undo = New-Object System.Collections.ArrayList
                $drive = Add-HvDisk $vm $volume ($lines + $line) $save $undo
            }
            finally { Unlock-Hv $lock }
            $lines = Get-HvRecord $folder
            if ($volume.boot) { $boot = $drive }
            continue
        }
        $lock = Lock-HvVolumes
        try {
            if (-not (Test-HvFile $volume.path)) {
                Stop-Hv 'VolumeNotFound' 'the volume was deleted meanwhile'
            }
            $drive = Add-HvDrive $vm $volume.path ([bool]$volume.boot)
        }
        finally { Unlock-Hv $lock }
        Set-HvDriveLimit $drive $volume.iops
        $lines += $line
        if ($volume.boot) { $boot = $drive }
    }
    foreach ($nic in $Arguments.nics) {
        Assert-HvBudget
        $adapter = Add-HvNic $vm $nic
        $lines += "nic $($nic.word) $($adapter.Id) $($nic.json)"
    }
    Set-HvFirmware $vm $Arguments $boot
    Set-HvRecord $folder (Add-HvDevices $vm $Arguments $lines $folder)
    $vm
}

function New-HvDisks {
    param($Arguments, [string]$Folder)
    $disks = @()
    if ($Arguments.image) {
        $root = "$Folder\root.vhdx"
        $null = Hyper-V\New-VHD -Path $root -ParentPath $Arguments.image -Differencing
        # an eviction that went on meanwhile has seen this disk, or has removed the image by now
        if (-not (Test-HvFile $Arguments.image)) {
            Stop-Hv 'ImageEvicted' 'the image was evicted from the cache meanwhile'
        }
        $size = (Hyper-V\Get-VHD -Path $root).Size
        if ($Arguments.size -gt 0 -and $Arguments.size -lt $size) {
            Stop-Hv 'ImageTooLarge' "$size"
        }
        if ($Arguments.size -gt $size) { Hyper-V\Resize-VHD -Path $root -SizeBytes $Arguments.size }
        $disks += @{ path = $root; boot = $true }
    }
    foreach ($extra in $Arguments.extra) {
        $path = "$Folder\$($extra.name).vhdx"
        $null = Hyper-V\New-VHD -Path $path -SizeBytes $extra.size -Dynamic
        $disks += @{ path = $path }
    }
    if ($Arguments.data) {
        $path = "$Folder\seed.iso"
        [IO.File]::WriteAllBytes((Get-HvFile $path), [Convert]::FromBase64String($Arguments.data))
        $disks += @{ path = $path; seed = $true }
    }
    , $disks
}

function Add-HvOwnDisk {
    param($VM, $Disk)
    if ($Disk.seed) {
        if ($VM.Generation -eq 1) {
            return Hyper-V\Add-VMDvdDrive -VM $VM -ControllerNumber 1 -ControllerLocation 0 `
                -Path $Disk.path -Passthru
        }
        return Hyper-V\Add-VMDvdDrive -VM $VM -Path $Disk.path -Passthru
    }
    Add-HvDrive $VM $Disk.path ([bool]$Disk.boot)
}

# Generation 1 boots from IDE only; a new one has an empty DVD drive there.
function Add-HvDrive {
    param($VM, [string]$Path, [bool]$Boot)
    if ($Boot -and $VM.Generation -eq 1) {
        foreach ($drive in Hyper-V\Get-VMDvdDrive -VM $VM) {
            if (-not $drive.Path) { Hyper-V\Remove-VMDvdDrive -VMDvdDrive $drive }
        }
        return Hyper-V\Add-VMHardDiskDrive -VM $VM -ControllerType IDE -ControllerNumber 0 `
            -ControllerLocation 0 -Path $Path -Passthru
    }
    $taken = @(Hyper-V\Get-VMHardDiskDrive -VM $VM | Where-Object {
        $_.ControllerType.ToString() -eq 'SCSI' }).Count
    foreach ($drive in Hyper-V\Get-VMDvdDrive -VM $VM) {
        if ($drive.ControllerType.ToString() -eq 'SCSI') { $taken++ }
    }
    if ($taken -ge $HvShared.Facts.Disks) {
        Stop-Hv 'NoSlot' 'the machine has no slot for another disk'
    }
    Hyper-V\Add-VMHardDiskDrive -VM $VM -ControllerType SCSI -Path $Path -Passthru
}

function Set-HvFirmware {
    param($VM, $Arguments, $Boot)
    if ($VM.Generation -eq 1) {
        Hyper-V\Set-VMBios -VM $VM -StartupOrder @('IDE', 'CD', 'LegacyNetworkAdapter', 'Floppy')
        return
    }
    $firmware = @{ EnableSecureBoot = 'Off' }
    if ($Arguments.secure) {
        $firmware = @{ EnableSecureBoot = 'On'; SecureBootTemplate = $Arguments.template }
    }
    if ($null -ne $Boot) { $firmware.FirstBootDevice = $Boot }
    Hyper-V\Set-VMFirmware -VM $VM @firmware
    if ($Arguments.tpm) {
        Hyper-V\Set-VMKeyProtector -VM $VM -NewLocalKeyProtector
        Hyper-V\Enable-VMTPM -VM $VM
    }
}

# ---- looking -------------------------------------------------------------------------------------

function Invoke-HvGet {
    param($Arguments)
    $uuid = $Arguments.uuid
    if ([IO.File]::Exists((Get-HvIntentFile $uuid)) -or (Test-HvReconnecting $uuid)) {
        # a checkpoint is being applied, or connections are replaced; or the client that did so has died
        $lock = Lock-Hv $uuid
        try {
            $found = Find-HvSettled $uuid
            Complete-HvRevert $found
            $null = Complete-HvReconnect $found
        }
        finally { Unlock-Hv $lock }
    }
    Read-HvInstance (Find-Hv $uuid)
}

function Read-HvInstance {
    param($Found)
    $vm = $Found.VM
    $record = Get-HvRecord $Found.Folder
    $drives = New-Object System.Collections.ArrayList
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $vm) {
        $path = "$($drive.Path)"
        if (Test-HvPassed $drive) { $path = Get-HvVolumeAt $drive $record }
        else { $path = Get-HvBase $path }
        [void]$drives.Add(@{
            path = $path
            bus = [string]$drive.ControllerType
            number = [int]$drive.ControllerNumber
            place = [int]$drive.ControllerLocation
            minimum = [long]$drive.MinimumIOPS
            maximum = [long]$drive.MaximumIOPS
        })
    }
    $nics = New-Object System.Collections.ArrayList
    foreach ($nic in Hyper-V\Get-VMNetworkAdapter -VM $vm) {
        [void]$nics.Add(@{
            id = [string]$nic.Id; name = [string]$nic.Name; mac = [string]$nic.MacAddress
            switch = [string]$nic.SwitchName; legacy = [bool]$nic.IsLegacy
            sriov = [long]$nic.IovWeight -gt 0
        })
    }
    @{
        uuid = $Found.Uuid
        id = $vm.Id.ToString()
        name = [string]$vm.Name
        state = Get-HvState $vm $Found.Rescued
        cpus = [int]$vm.ProcessorCount
        memory = [long]$vm.MemoryStartup
        generation = [int]$vm.Generation
        created = $vm.CreationTime.ToUniversalTime().ToString('o')
        record = $record
        drives = $drives.ToArray()
        nics = $nics.ToArray()
    }
}

function Invoke-HvList {
    param($Arguments)
    $owners = Get-HvOwners
    $rescued = Get-HvRescued
    $inside = "$($HvShared.Facts.Root)\instances\"
    $complete = @{}
    foreach ($uuid in $owners.Values) { $complete[$uuid] = $true }
    $ours = New-Object System.Collections.ArrayList
    $foreign = New-Object System.Collections.ArrayList
    $intents = Get-HvIntents
    $looks = @{ Left = 10 }
    foreach ($vm in Hyper-V\Get-VM) {
        $id = $vm.Id.ToString()
        $uuid = $owners[$id]
        if ($uuid) {
            $vm = Wait-HvStopping $vm $looks
            if ($null -eq $vm) { continue }
            $row = @($uuid, [string]$vm.Name, (Get-HvState $vm ([bool]$rescued[$uuid])),
                [int]$vm.ProcessorCount, [long]$vm.MemoryStartup)
            if ($intents.ContainsKey($uuid)) {
                # a checkpoint is being applied, which changes them for a moment
                $row[1] = $intents[$uuid].Name
                $row[3] = $intents[$uuid].Cpus
                $row[4] = $intents[$uuid].Memory
            }
            [void]$ours.Add($row)
        }
        else {
            # the folder of an instance that is not complete: this machine is being made, or is
            # what an interrupted spawn has left
            $path = "$($vm.Path)"
            if ($path.StartsWith($inside, 'OrdinalIgnoreCase')) {
                $folder = $path.Substring($inside.Length).Split('\')[0].ToLowerInvariant()
                if (-not $complete[$folder] -and [IO.File]::Exists((Get-HvClaim $folder))) {
                    continue
                }
            }
            [void]$foreign.Add(@($id, [string]$vm.Name, (Get-HvState $vm $false)))
        }
    }
    @{ ours = $ours.ToArray(); foreign = $foreign.ToArray() }
}

# ---- changing labels -----------------------------------------------------------------------------

function Invoke-HvRename {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    try {
        $found = Find-HvLegal $Arguments
        Begin-HvChange $lock $found.Uuid
        if ($found.VM.Name -cne $Arguments.name) {
            Hyper-V\Set-VM -VM $found.VM -NewVMName $Arguments.name
        }
    }
    finally { Unlock-Hv $lock }
}

# Replaces the record line. The rest of the record stays.
function Invoke-HvSetRecord {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    try {
        $found = Find-HvLegal $Arguments
        $lines = Get-HvRecord $found.Folder
        Set-HvRecord $found.Folder (Edit-HvLines $lines $Arguments.start $Arguments.line)
    }
    finally { Unlock-Hv $lock }
}

# ---- removing ------------------------------------------------------------------------------------

function Invoke-HvDestroy {
    param($Arguments)
    $uuid = $Arguments.uuid
    if (-not [IO.File]::Exists((Get-HvClaim $uuid)) -and -not (Get-HvMachineId $uuid) -and
        -not (Test-Path -LiteralPath (Get-HvFolder $uuid))) {
        if ($null -ne (Get-HvMachine $uuid)) {
            Stop-Hv 'InstanceNotFound' 'a machine of others has this UUID'
        }
        return
    }
    Stop-HvLeaving $uuid 'destroy'
    $lock = Lock-Hv $uuid
    try {
        # one whose client has died takes its time to end
        Complete-HvMoving $uuid
        $half = Test-HvHalfAdopted $uuid
        Remove-HvInstance $uuid $Arguments.keep
        if ($half -and $null -ne (Get-HvMachine $uuid)) {
            Stop-Hv 'InstanceNotFound' 'a machine of others has this UUID'
        }
    }
    finally { Unlock-Hv $lock }
}

# Every step succeeds where there is nothing to remove: it is also the undo of spawn.
function Remove-HvInstance {
    param([string]$Uuid, [string]$Keep)
    $folder = Get-HvFolder $Uuid
    if (Test-HvHalfAdopted $Uuid) {
        # the machine and its disks stay those of others
        Remove-HvTree $folder
        Remove-HvFile (Get-HvClaim $Uuid)
        return
    }
    $vm = Find-HvRemains $Uuid
    $lines = @()
    if (Test-Path -LiteralPath $folder) { $lines = Get-HvRecord $folder }
    if ($Keep) {
        if (Test-Path -LiteralPath $Keep) { Stop-Hv 'NameTaken' 'a volume has this name already' }
        $line = Find-HvLine $lines 'own'
        if ($line -and $null -ne $vm) {
            foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $vm) {
                $path = Get-HvBase "$($drive.Path)"
                if (Test-HvHad $Uuid $line $path) { Assert-HvNoBase $vm $path }
            }
        }
    }
    $own = @()
    if ($null -ne $vm) {
        Assert-HvAlone $vm
        Stop-HvMachine $vm 0
        $volumes = Get-HvVolumePaths $lines
        foreach ($drive in @(Remove-HvSnapshots $vm)) {
            $path = Get-HvBase $drive.Path
            if ($Keep -or $volumes -contains $path -or -not (Test-HvOwn $Uuid $lines $path)) {
                Stop-Hv 'NotMerged' "the host does not merge the checkpoints into $path, which stays"
            }
        }
        foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $vm) {
            $path = "$($drive.Path)"
            if ((Test-HvPassed $drive)) { continue }
            if ($volumes -notcontains $path -and (Test-HvOwn $Uuid $lines $path)) { $own += $path }
        }
    }
    $root = "$folder\root.vhdx"
    foreach ($other in Get-HvPoolFolders $Uuid) {
        if (Test-Path -LiteralPath "$other\root.vhdx") { $root = "$other\root.vhdx" }
    }
    if ((Find-HvLine $lines 'adopted') -and $own.Count -gt 0) { $root = $own[0] }
    if ($Keep -and (Test-Path -LiteralPath $root)) {
        # it may have come from another host with its image beside it, which goes with the folder
        $below = "$((Hyper-V\Get-VHD -Path $root).ParentPath)"
        Move-HvDisk $root $Keep $below.StartsWith("$folder\", 'OrdinalIgnoreCase')
    }
    Remove-HvDevices $vm $lines
    if ($null -ne $vm) {
        Hyper-V\Remove-VM -VM $vm -Force -Confirm:$false
    }
    Remove-HvLate $Uuid
    foreach ($line in $lines) {
        $word = "$line".Split(' ')
        if ($word[0] -cne 'volume') { continue }
        $path = ConvertFrom-HvWord $word[2]
        if (-not (Test-HvOfHost $path)) { continue }
        # the machine is gone, and with it the drive: the host lets go of the target
        $lock = Lock-HvDisks
        try {
            $lines = Remove-HvDisk $null $Uuid $lines $word[1] $path
            Set-HvRecord $folder (Edit-HvLines $lines "volume $($word[1])" '')
        }
        finally { Unlock-Hv $lock }
    }
    if ((Find-HvLine $lines 'adopted') -and $own.Count -gt 0) {
        $needed = Get-HvParents
        foreach ($path in $own) {
            # an adopted machine's disks are not below our folder, and others may use them too
            if ($path.StartsWith("$folder\", 'OrdinalIgnoreCase') -or
                $needed[$path.ToLowerInvariant()] -or @(Get-HvUsers $path).Count -gt 0) { continue }
            Remove-HvTree $path
        }
    }
    Save-HvStrangeDisks $Uuid $lines
    foreach ($other in Get-HvPoolFolders $Uuid) { Remove-HvTree $other }
    Remove-HvTree $folder
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, "$Uuid.*")) {
        if (-not $file.EndsWith('.claim', 'Ordinal')) { Remove-HvFile $file }
    }
    Remove-HvFile (Get-HvClaim $Uuid)
}

# The machine of an instance, complete or not.
function Find-HvRemains {
    param([string]$Uuid)
    $id = Get-HvMachineId $Uuid
    $claim = Get-HvClaim $Uuid
    if (-not $id -and [IO.File]::Exists($claim)) { $id = [IO.File]::ReadAllText($claim).Trim() }
    if ($id) {
        $vm = Get-HvMachine $id
        if ($null -ne $vm) { return $vm }
    }
    # only the claim of a spawn that died before it had written down the Id is empty
    if ($id) { return }
    $folder = Get-HvFolder $Uuid
    foreach ($vm in Hyper-V\Get-VM) {
        $path = "$($vm.Path)".TrimEnd('\')
        if ($path -eq $folder -or $path -eq "$folder\$Uuid") { return $vm }
    }
}

# Checkpoints go, and the disks below are merged, which takes its time.
function Remove-HvSnapshots {
    param($VM)
    $snapshots = @(Hyper-V\Get-VMSnapshot -VM $VM)
    # what the machine had when the first checkpoint was made. Backup software may have left an .avhdx there
    $first = @{}
    foreach ($snapshot in $snapshots) {
        if ($snapshot.ParentSnapshotId) { continue }
        foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VMSnapshot $snapshot) {
            $first["$($drive.Path)"] = $true
        }
    }
    foreach ($snapshot in $snapshots) {
        if (-not $snapshot.ParentSnapshotId) {
            Hyper-V\Remove-VMSnapshot -VMSnapshot $snapshot -IncludeAllChildSnapshots -Confirm:$false
        }
    }
    $seconds = 0
    if ($snapshots.Count -gt 0) { $seconds = 10 }
    Wait-HvMerged $VM $first $seconds
}

# Until no checkpoint is left and the machine has the disks that it had first. Returns the drives that the
# host does not merge: it has not worked at them for so many seconds.
function Wait-HvMerged {
    param($VM, $First, [int]$Seconds)
    $clock = [System.Diagnostics.Stopwatch]::StartNew()
    while ($true) {
        $now = Get-HvMachine $VM.Id.ToString()
        if ($null -eq $now) { return }
        $works = "$($now.SecondaryOperationalStatus)" -match 'Merging|Snapshot' -or
            @(Hyper-V\Get-VMSnapshot -VM $now).Count -gt 0
        if (-not $works) {
            $left = @(Hyper-V\Get-VMHardDiskDrive -VM $now | Where-Object {
                "$($_.Path)" -match '\.avhdx?$' -and -not $First["$($_.Path)"] })
            if ($left.Count -eq 0) { return }
            if ($clock.Elapsed.TotalSeconds -ge $Seconds) { return $left }
        }
        else { $clock.Restart() }
        Wait-Hv 25
    }
}
