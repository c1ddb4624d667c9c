# Moving a machine to another host. The client talks to both: the source looks, the destination says
# what it lacks and makes room, the source runs Move-VM, the destination takes over the identity.
#
#   ROOT\index\UUID.VMID.incoming   at the destination: the machine VMID is the instance UUID as soon
#                                   as it is there. It becomes UUID.VMID.vm when somebody has seen
#                                   it. In it: the image there that the disk is going to be based
#                                   on, and the deadline of the migration by the clock there
#   ROOT\index\UUID.leaving         at the source: Move-VM runs, or its client has died. "abort" or
#                                   "destroy" in it: it is to end
#   ROOT\index\UUID.reconnect       the destination has other networks for NICs: there what they are
#                                   plugged into when the machine has come, here what they get back
#                                   if it stays (reconnect.ps1). On its way they are plugged into
#                                   nothing
#
# The host's own switch from one to the other decides: before it the machine is an instance here, and
# afterwards there, whoever dies.

function Get-HvLeaving {
    param([string]$Uuid)
    [IO.Path]::Combine($HvShared.Facts.Index, "$Uuid.leaving")
}

# What the destination must have for it. With "seed": the seed disc too, which Move-VM leaves behind.
function Invoke-HvMoveLook {
    param($Arguments)
    if ($Arguments.seed -and [IO.File]::Exists((Get-HvLeaving $Arguments.uuid))) {
        # another client moves it: what this one would prepare at the destination takes that one's files away
        $lock = Lock-Hv $Arguments.uuid
        try { Complete-HvMoving $Arguments.uuid }
        finally { Unlock-Hv $lock }
    }
    $found = Find-HvSeen $Arguments
    $rescued = $found.Rescued -and $found.State -eq 'stopped'
    if ($Arguments.seed -and ($rescued -or (Test-HvReconnecting $Arguments.uuid))) {
        # a machine that is off is not rescued any more, and does not take the rescue's disks along
        $lock = Lock-Hv $Arguments.uuid
        try {
            $found = Find-HvLegal $Arguments
            Exit-HvRescue $found
        }
        finally { Unlock-Hv $lock }
    }
    $state = $found.State
    $vm = $found.VM
    $lines = Get-HvRecord $found.Folder
    $memory = 0L
    if (Test-HvPoweredOn $vm) { $memory = [long]$vm.MemoryStartup }
    $blockers = New-Object System.Collections.ArrayList
    if (@(Hyper-V\Get-VMSnapshot -VM $vm).Count -gt 0) {
        [void]$blockers.Add(@('storage', 'it has snapshots', '',
            'delete the snapshots first'))
    }
    if ($vm.IsClustered) {
        [void]$blockers.Add(@('state', 'a failover cluster has the machine', '',
            'Move-ClusterVirtualMachineRole moves it within the cluster'))
    }
    $volumes = Get-HvVolumePaths $lines
    $bytes = 0L
    $base = ''
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $vm) {
        $path = "$($drive.Path)"
        if (-not $path) { continue }
        if (Test-HvPassed $drive) {
            # it is behind this host's initiator, or somebody has attached it
            $path = Get-HvVolumeAt $drive $lines
            if (-not $path) { $path = "$($drive.Path)" }
        }
        $file = Get-HvBase $path
        if ($volumes -contains $path -or -not (Test-HvOwn $Arguments.uuid $lines $file)) {
            if (-not $path.StartsWith('\\', 'Ordinal')) {
                $what = 'a volume is on a disk of its host'
                if ($volumes -notcontains $path) {
                    $what = 'somebody has attached a disk of its host to it'
                }
                [void]$blockers.Add(@('storage', $what, '',
                    'detach it, or keep volumes on an SMB share'))
            }
            continue
        }
        $disk = Hyper-V\Get-VHD -Path $path
        $bytes += [long]$disk.FileSize
        if ("$($disk.ParentPath)") {
            $base = "$($disk.ParentPath)"
            $bytes += [long](Hyper-V\Get-VHD -Path $base).FileSize
        }
    }
    $seed = ''
    $disc = "$($found.Folder)\seed.iso"
    $has = Test-Path -LiteralPath $disc
    if ($has -and $Arguments.seed) {
        $seed = [Convert]::ToBase64String([IO.File]::ReadAllBytes((Get-HvFile $disc)))
    }
    foreach ($drive in Hyper-V\Get-VMDvdDrive -VM $vm) {
        if ("$($drive.Path)" -and "$($drive.Path)" -ne $disc) {
            [void]$blockers.Add(@('device', 'it has a disc of its host', '', 'eject the disc'))
        }
    }
    if (-not (Hyper-V\Get-VMHost).VirtualMachineMigrationEnabled) {
        [void]$blockers.Add(@('connection', 'the host that it is on migrates no machines', '',
            'Enable-VMMigration on both hosts'))
    }
    $wired = Get-HvRewired $vm $lines $Arguments.nics
    foreach ($name in $wired.missing) {
        [void]$blockers.Add(@('network', 'the instance has no such NIC', $name, ''))
    }
    $nics = New-Object System.Collections.ArrayList
    foreach ($nic in Hyper-V\Get-VMNetworkAdapter -VM $vm) {
        $other = @($Arguments.nics | Where-Object { $_.name -ceq $nic.Name })
        if ($other.Count -gt 0) {
            [void]$nics.Add(@([string]$nic.Name, [string]$other[0].switch, [bool]$other[0].sriov))
            continue
        }
        [void]$nics.Add(@([string]$nic.Name, [string]$nic.SwitchName, ([long]$nic.IovWeight -gt 0)))
        # one that runs may go on without it; one that is off could not start there
        if ($state -eq 'stopped' -and (Test-HvSwitchGone $nic $lines)) {
            [void]$blockers.Add(@('network', 'a virtual switch of the instance is gone',
                [string]$nic.Name, 'name another one for the NIC with Destination.vifs'))
        }
    }
    @{
        id = $vm.Id.ToString(); root = $HvShared.Facts.Root; state = $state
        cpus = [int]$vm.ProcessorCount; memory = $memory; startup = [long]$vm.MemoryStartup
        bytes = $bytes; base = $base
        nics = $nics.ToArray(); record = $lines; seed = $seed; blockers = $blockers.ToArray()
        arrives = Set-HvLines $lines $wired.records; wired = @($wired.new)
    }
}

function Get-HvVolumePaths {
    param([string[]]$Lines)
    @($Lines | Where-Object { "$_".StartsWith('volume ', 'Ordinal') } |
        ForEach-Object { ConvertFrom-HvWord ($_.Split(' ')[2]) })
}

# At the destination: whether it is this very host, and what speaks against it. Nothing changes.
function Invoke-HvMoveFits {
    param($Arguments)
    $blockers = New-Object System.Collections.ArrayList
    $vmhost = Hyper-V\Get-VMHost
    $here = $null -ne (Get-HvMachine $Arguments.id)
    $known = Get-HvMachineId $Arguments.uuid
    $there = @{ computer = [string]$vmhost.ComputerName; base = $false; here = $here
        blockers = @() }
    if ($here) {
        $there.blockers = @(, @('state', 'it is on this host already', '', ''))
        return $there
    }
    if (($known -and $null -ne (Get-HvMachine $known)) -or
        $null -ne (Get-HvMachine $Arguments.uuid)) {
        [void]$blockers.Add(@('state', 'a machine there has the same UUID', '', ''))
    }
    elseif ([IO.File]::Exists((Get-HvClaim $Arguments.uuid)) -and -not $known) {
        [void]$blockers.Add(@('state', 'an instance with this UUID is being made there', '', ''))
    }
    if (-not $vmhost.VirtualMachineMigrationEnabled) {
        [void]$blockers.Add(@('connection', 'the destination takes no migrations', '',
            'Enable-VMMigration on both hosts'))
    }
    if ([IO.File]::Exists((Get-HvClosed))) {
        [void]$blockers.Add(@('resources', 'the destination is in maintenance', '', ''))
    }
    if ($Arguments.cpus -gt $vmhost.LogicalProcessorCount) {
        [void]$blockers.Add(@('resources', 'it has not so many logical processors', '', ''))
    }
    if ($Arguments.startup -gt $vmhost.MemoryCapacity) {
        [void]$blockers.Add(@('resources', 'it has not so much memory', '', ''))
    }
    elseif ($Arguments.memory -gt 0) {
        $system = Get-CimInstance -ClassName Win32_OperatingSystem
        if ($Arguments.memory -gt [long]$system.FreePhysicalMemory * 1024) {
            [void]$blockers.Add(@('resources', 'it has not so much free memory', '', ''))
        }
    }
    $folder = "$($HvShared.Facts.Root)"
    if ($folder -ne $Arguments.root) {
        [void]$blockers.Add(@('storage', "the driver's folder is another one there", '',
            'give folder= the same path for both hosts'))
    }
    if ($Arguments.bytes -gt [long](Get-HvSpace 'default').free) {
        [void]$blockers.Add(@('storage', 'it has no room for the disks', '', ''))
    }
    $switches = New-Object System.Collections.Hashtable ([StringComparer]::Ordinal)
    foreach ($each in Hyper-V\Get-VMSwitch) { $switches["$($each.Name)"] += 1 }
    foreach ($nic in $Arguments.nics) {
        if ($nic[1] -and -not $switches[$nic[1]]) {
            [void]$blockers.Add(@('network', "it has no virtual switch $($nic[1])", $nic[0], ''))
        }
        elseif ($nic[1] -and $switches[$nic[1]] -gt 1) {
            [void]$blockers.Add(@('network', "it has several virtual switches $($nic[1])", $nic[0],
                'Rename-VMSwitch'))
        }
        elseif ($nic[1] -and $nic[2]) {
            # Hyper-V would move it, and the NIC would go through the switch from then on
            try { Assert-HvSwitch @{ switch = $nic[1]; sriov = $true } }
            catch {
                if ($_.FullyQualifiedErrorId -notmatch '^Hv\.NoFunctions') { throw }
                [void]$blockers.Add(@('network',
                    "there, the NIC would have no virtual function: $($_.Exception.Message)", $nic[0],
                    'New-VMSwitch -EnableIov there, or a NIC without sriov in Destination.vifs'))
            }
        }
        if ($Arguments.memory -le 0) { continue }
        try { Assert-HvPortFree $nic[0] }
        catch {
            if ($_.FullyQualifiedErrorId -notmatch '^Hv\.PortBusy') { throw }
            [void]$blockers.Add(@('network', 'a machine that is powered on there has the port',
                $nic[0], ''))
        }
    }
    if ($Arguments.base -and $Arguments.base.StartsWith("$folder\images\", 'OrdinalIgnoreCase')) {
        $there.base = [bool](Test-Path -LiteralPath $Arguments.base)
    }
    $there.blockers = $blockers.ToArray()
    $there
}

# What the host itself finds.
function Invoke-HvMoveCompare {
    param($Arguments)
    $found = Find-Hv $Arguments.uuid
    $plan = Get-HvMovePlan $found $Arguments
    $seed = "$($found.Folder)\seed.iso"
    $report = Hyper-V\Compare-VM -VM $found.VM @plan
    $reasons = New-Object System.Collections.ArrayList
    foreach ($each in $report.Incompatibilities) {
        $part = ''
        # the driver carries the seed disc over, before the move
        if ($null -ne $each.Source -and "$($each.Source.Path)" -eq $seed) { continue }
        # and takes a NIC that is plugged into another switch there out of its own, before the move
        if ([long]$each.MessageId -eq 33012 -and $null -ne $each.Source -and
            $Arguments.wired -ccontains "$($each.Source.Name)") { continue }
        if ($null -ne $each.Source) {
            $part = ([string]@($each.Source.PSObject.TypeNames)[0]).Split('.')[-1]
        }
        [void]$reasons.Add(@([string]$each.Message, [long]$each.MessageId, $part))
    }
    , $reasons.ToArray()
}

# Parameters of Compare-VM and Move-VM. A disk of the image cache is copied into the machine's
# folder, unless the destination has it at the same place. Parents stay at the source.
function Get-HvMovePlan {
    param($Found, $Arguments)
    $folder = "$($Arguments.root)\instances\$($Found.Uuid)"
    $lines = Get-HvRecord $Found.Folder
    $volumes = Get-HvVolumePaths $lines
    $vhds = New-Object System.Collections.ArrayList
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $Found.VM) {
        $path = "$($drive.Path)"
        if (-not $path -or $volumes -contains $path -or
            -not (Test-HvOwn $Found.Uuid $lines $path)) { continue }
        $name = $path.Substring($path.LastIndexOf('\') + 1)
        [void]$vhds.Add(@{ SourceFilePath = $path; DestinationFilePath = "$folder\$name" })
        $parent = "$((Hyper-V\Get-VHD -Path $path).ParentPath)"
        if ($parent -and -not $Arguments.base) {
            [void]$vhds.Add(@{
                SourceFilePath = $parent; DestinationFilePath = "$folder\image.vhdx" })
        }
    }
    $plan = @{
        DestinationHost = $Arguments.host
        VirtualMachinePath = $folder
        SnapshotFilePath = $folder
        SmartPagingFilePath = $folder
    }
    if ($vhds.Count -gt 0) { $plan.Vhds = [hashtable[]]$vhds.ToArray() }
    $plan
}

# ---- the destination -----------------------------------------------------------------------------

# The claim, the record and the seed disc. Whoever dies here leaves what the next one removes. With
# "arrived": the machine is here, and a destroy() or another migration has removed them meanwhile.
function Invoke-HvMovePrepare {
    param($Arguments)
    $uuid = $Arguments.uuid
    $lock = Lock-Hv $uuid
    $begun = $false
    $done = $false
    try {
        $vm = Get-HvMachine $Arguments.id
        $known = Get-HvMachineId $uuid
        if ($known -and $null -ne (Get-HvMachine $known)) { $vm = Get-HvMachine $known }
        if (-not $Arguments.arrived) {
            if ($null -ne $vm) { Stop-Hv 'Changed' 'the machine has come to the destination meanwhile' }
            # it may have been closed since it was asked
            Assert-HvMayStart
            # the lock is ours: nobody works at what is there
            Remove-HvInstance $uuid
            $begun = $true
        }
        elseif ($known -or $null -eq $vm) { return }
        $null = New-HvFile (Get-HvClaim $uuid) $Arguments.id
        $folder = Get-HvFolder $uuid
        $null = New-Item -ItemType Directory -Force -Path $folder
        Set-HvRecord $folder $Arguments.record
        if ($Arguments.wired.Count -gt 0) {
            Set-HvFile (Get-HvReconnecting $uuid) ($Arguments.wired -join "`n")
        }
        if ($Arguments.data) {
            [IO.File]::WriteAllBytes((Get-HvFile "$folder\seed.iso"),
                [Convert]::FromBase64String($Arguments.data))
        }
        Assert-HvBudget
        $file = [IO.Path]::Combine($HvShared.Facts.Index, "$uuid.$($Arguments.id).incoming")
        $power = 'off'
        if ($Arguments.on) { $power = 'on' }
        $null = New-HvFile $file "$($Arguments.base)`n$HvDeadline`n$power"
        # an eviction that went on meanwhile has seen that file, or has removed the image by now
        if ($Arguments.base -and -not $Arguments.arrived -and
            -not (Test-Path -LiteralPath $Arguments.base)) {
            Stop-Hv 'ImageEvicted' 'the image below the disk was evicted at the destination meanwhile'
        }
        if ($Arguments.arrived) { Complete-HvSettled $uuid $vm }
        $done = $true
    }
    finally {
        if ($begun -and -not $done) { Undo-Hv { Remove-HvInstance $uuid } }
        Unlock-Hv $lock
    }
}

# The machine has come, or has not: then what was prepared is removed. Repeated, it says the same.
function Invoke-HvMoveSettle {
    param($Arguments)
    $uuid = $Arguments.uuid
    $lock = Lock-Hv $uuid
    try {
        $vm = Get-HvMachine $Arguments.id
        if ($null -ne $vm) { Complete-HvSettled $uuid $vm }
        elseif ($Arguments.remove) {
            $file = [IO.Path]::Combine($HvShared.Facts.Index, "$uuid.$($Arguments.id).incoming")
            if ([IO.File]::Exists($file)) { Remove-HvInstance $uuid }
        }
        @{ here = $null -ne $vm; known = [bool](Get-HvMachineId $uuid) }
    }
    finally { Unlock-Hv $lock }
}

function Complete-HvArrival {
    param([string]$Uuid, $VM)
    $id = $VM.Id.ToString()
    $file = [IO.Path]::Combine($HvShared.Facts.Index, "$Uuid.$id.incoming")
    if (-not [IO.File]::Exists($file)) { return }
    $state = 'stopped'
    if (Test-HvPoweredOn $VM) { $state = 'running' }
    Set-HvOwner $Uuid $id $state
    Remove-HvFile $file
}

# The machine is here: it is the instance, and has the connections that it was given for this host.
function Complete-HvSettled {
    param([string]$Uuid, $VM)
    Complete-HvArrival $Uuid $VM
    if (-not [IO.File]::Exists((Get-HvReconnecting $Uuid))) { return }
    $null = Complete-HvReconnect (Find-Hv $Uuid)
}

# ---- the source ----------------------------------------------------------------------------------

function Invoke-HvMove {
    param($Arguments)
    $uuid = $Arguments.uuid
    $lock = Lock-Hv $uuid
    $leaving = Get-HvLeaving $uuid
    try {
        $found = Find-HvLegal $Arguments
        $id = $found.VM.Id.ToString()
        if ($found.State -eq 'stopped') { Exit-HvRescue $found }
        # the destination has the record as it was when this migration began
        if (((Get-HvRecord $found.Folder) -join "`n") -cne ($Arguments.record -join "`n")) {
            Stop-Hv 'Changed' 'the instance was changed while its migration began'
        }
        foreach ($drive in Get-HvStrangeDrives $uuid $found.VM (Get-HvRecord $found.Folder)) {
            # the host would take it along to the machine's folder
            if (-not "$($drive.Path)".StartsWith('\\', 'Ordinal')) {
                Stop-Hv 'Changed' 'somebody has attached a disk while the migration began'
            }
        }
        $plan = Get-HvMovePlan $found $Arguments
        Assert-HvBudget
        Set-HvFile $leaving $id
        $late = $false
        $failure = $null
        try {
            Disconnect-HvNics $found $Arguments.wired
            $late = Invoke-HvMoving $id $plan $leaving 'Move-VM'
        }
        catch { $failure = $_ }
        if ($null -ne (Get-HvMachine $id)) {
            Undo-Hv { $null = Complete-HvReconnect $found }
            Remove-HvFile $leaving
            if ($late) { Stop-Hv 'Deadline' 'the deadline passed; the machine stays where it was' }
            if ($null -ne $failure) { throw $failure }
            Stop-Hv 'NotMoved' 'the host has moved nothing'
        }
        # it is on the other host, whatever was said of it
        Undo-Hv { Remove-HvInstance $uuid }
    }
    finally { Unlock-Hv $lock }
}

function Invoke-HvMoveAbort {
    param($Arguments)
    $null = Find-HvSeen $Arguments
    Stop-HvLeaving $Arguments.uuid 'abort'
}

function Invoke-HvMoveState {
    param($Arguments)
    $found = Find-Hv $Arguments.uuid
    # a job without a destination moves disks
    $jobs = @(Get-HvMigrations $found.VM.Id.ToString() |
        Where-Object { [bool]"$($_.DestinationHost)" -ne [bool]$Arguments.storage })
    if ($jobs.Count -eq 0) { return @{ percent = -1 } }
    @{ percent = [Math]::Min(100, [int]$jobs[0].PercentComplete) }
}

# After a client that died: whether the machine is here, and what is left of one that is not goes.
function Invoke-HvMoveLeave {
    param($Arguments)
    $uuid = $Arguments.uuid
    $lock = Lock-Hv $uuid
    try {
        while (@(Get-HvMigrations $Arguments.id).Count -gt 0) { Wait-Hv 50 }
        $here = $null -ne (Get-HvMachine $Arguments.id)
        if ($here) {
            if ([IO.File]::Exists((Get-HvReconnecting $uuid))) {
                $null = Complete-HvReconnect (Find-Hv $uuid)
            }
            Remove-HvFile (Get-HvLeaving $uuid)
        }
        else { Clear-HvDeparted $uuid }
        @{ here = $here }
    }
    finally { Unlock-Hv $lock }
}

# The caller has the lock.
function Clear-HvDeparted {
    param([string]$Uuid)
    if (-not [IO.File]::Exists((Get-HvLeaving $Uuid))) { return }
    $id = Get-HvMachineId $Uuid
    if ($id -and $null -ne (Get-HvMachine $id)) { return }
    Remove-HvInstance $Uuid
}
