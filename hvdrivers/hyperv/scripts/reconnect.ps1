# Other connections for the volumes and NICs of a stopped machine: all of them, or none. What is named
# keeps its place: a drive its place at the controller, a NIC its address and its place among the NICs.
#
#   ROOT\index\UUID.reconnect     a request changes the connections of the machine, or its client has
#                                 died. Whoever has the machine's lock next and finds the file makes
#                                 the connections that it names: the old ones, or, if a disk behind
#                                 one of these is gone, the new ones. A migration leaves such a file at
#                                 both hosts (migration.ps1).
#
# Lines of that file; all words are percent-encoded:
#
#   drive BUS NUMBER LOCATION PATH LIMIT BOOTS   PATH: "disk:UNIQUEID" for a disk of the host
#   target IQN                                a target that the host logs out of if nobody uses it then
#   nic NAME MAC MODE TAGS LIMIT SWITCH IOV ID   MAC "dynamic"; TAGS: VLAN, or NATIVE/ALLOWED of a trunk.
#                                             ID: of the switch. Others may have the same name, and it
#                                             may get another one. "-": any of that name
#   is LINE                                   a line of the record
#   else LINE                                 one of the three for the new connections

function Get-HvReconnecting {
    param([string]$Uuid)
    [IO.Path]::Combine($HvShared.Facts.Index, "$Uuid.reconnect")
}

# Somebody has to make connections before what the machine has can be shown. Not while it moves: then
# its lock is taken for as long as the host copies.
function Test-HvReconnecting {
    param([string]$Uuid)
    [IO.File]::Exists((Get-HvReconnecting $Uuid)) -and
        -not [IO.File]::Exists((Get-HvLeaving $Uuid)) -and
        [IO.Directory]::GetFiles($HvShared.Facts.Index, "$Uuid.*.incoming").Length -eq 0
}

function Invoke-HvReconnect {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $volumes = $null
    $disks = $null
    $begun = $false
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        $lines = Get-HvRecord $found.Folder
        Repair-HvDisks $found $lines
        $volumes = Lock-HvVolumes
        $targets = @(Get-HvTargets $lines $Arguments.volumes)
        if (@($Arguments.volumes | Where-Object { $_.disk }).Count -gt 0) {
            $disks = Lock-HvDisks
        }
        $old = @()
        $new = @()
        $records = @()
        foreach ($volume in $Arguments.volumes) {
            $null = Find-HvReconnected $found $lines $volume
        }
        if ($disks) {
            # before the host logs in anywhere: who dies then has it log out again
            Set-HvFile (Get-HvReconnecting $found.Uuid) ($targets -join "`n")
            $begun = $true
        }
        foreach ($volume in $Arguments.volumes) {
            $line = Find-HvLine $lines "volume $($volume.id)"
            $drive = Find-HvReconnected $found $lines $volume
            $place = "drive $(Get-HvPlace $drive)"
            $boots = $line -match '"boot_index":0[,}]'
            $before = [long]$drive.MaximumIOPS
            $limit = $before
            if ($volume.limits) { $limit = [long]$volume.iops }
            $source = $volume.path
            $used = @{ Word = $volume.word }
            if ($volume.disk) {
                $disk = Connect-HvDisk $volume.disk (New-Object System.Collections.ArrayList) {
                    param($Path)
                    $used.Word = [Uri]::EscapeDataString($Path)
                }
                Set-HvDiskReady $disk $found.VM
                $source = "disk:$($disk.UniqueId)"
                $unique = [Uri]::EscapeDataString("$($disk.UniqueId)")
                $records += "disk $($volume.id) $unique $(Get-HvPlace $drive)"
            }
            $old += "$place $([Uri]::EscapeDataString((Get-HvSource $drive))) $before $boots"
            $new += "$place $([Uri]::EscapeDataString($source)) $limit $boots"
            $json = Copy-HvFields $volume.json $line @('boot_index', 'bus', 'qos')
            $records += "volume $($volume.id) $($used.Word) $json"
        }
        Assert-HvOnce $found.VM $new
        foreach ($nic in $Arguments.nics) { Assert-HvSwitch $nic }
        $wired = Get-HvRewired $found.VM $lines $Arguments.nics
        if ($wired.missing.Count -gt 0) {
            Stop-Hv 'NoNic' 'the instance has no such NIC'
        }
        $old += $wired.old
        $new += $wired.new
        $records += $wired.records
        if ($new.Count -eq 0) { return }
        $was = @(foreach ($each in $records) {
            $word = $each.Split(' ')
            "is $(Find-HvLine $lines "$($word[0]) $($word[1])")"
        })
        Assert-HvBudget
        $intent = $old + $was + $targets + @($new | ForEach-Object { "else $_" }) +
            @($records | ForEach-Object { "else is $_" })
        Set-HvFile (Get-HvReconnecting $found.Uuid) ($intent -join "`n")
        $begun = $true
        Set-HvConnections $found $new
        Set-HvRecord $found.Folder (Set-HvLines $lines $records)
        Assert-HvBudget
        if ($disks) { Disconnect-HvTargets $targets }
        Remove-HvFile (Get-HvReconnecting $found.Uuid)
        $done = $true
    }
    finally {
        if ($begun -and -not $done) {
            Undo-Hv {
                if (Complete-HvReconnect $found $disks) {
                    Stop-Hv 'NotUndone' 'a disk is gone that the instance had; it has the new ones'
                }
            }
        }
        Unlock-Hv $disks
        Unlock-Hv $volumes
        Unlock-Hv $lock
    }
}

# Lines for the targets that the volumes have, and are to have.
function Get-HvTargets {
    param([string[]]$Lines, $Volumes)
    $names = @{}
    foreach ($volume in $Volumes) {
        $line = Find-HvLine $Lines "volume $($volume.id)"
        if ($line) { $names[(Get-HvIqn (ConvertFrom-HvWord ($line.Split(' ')[2])))] = $true }
        if (-not $volume.disk) { continue }
        foreach ($target in $volume.disk.targets) { if ($target.iqn) { $names[$target.iqn] = $true } }
    }
    foreach ($name in $names.Keys) { if ($name) { "target $([Uri]::EscapeDataString($name))" } }
}

function Disconnect-HvTargets {
    param([string[]]$Targets)
    foreach ($line in $Targets) {
        if ("$line".StartsWith('target ', 'Ordinal')) {
            Disconnect-HvTarget (ConvertFrom-HvWord $line.Substring(7)) ''
        }
    }
}

# The drive of a volume, once it is certain that it can have the other disk.
function Find-HvReconnected {
    param($Found, [string[]]$Lines, $Volume)
    $drive = $null
    $line = Find-HvLine $Lines "volume $($Volume.id)"
    if ($line) {
        $path = ConvertFrom-HvWord ($line.Split(' ')[2])
        $drive = Find-HvVolumeDrive $Found.VM $Lines $Volume.id $path
    }
    if ($null -eq $drive) { Stop-Hv 'NotAttached' 'it is not attached to this instance' }
    Assert-HvVolume $Volume $Found.VM
    if ("$($drive.Path)" -match '\.avhdx?$') {
        # what was written since the checkpoint is in its file, and would be lost to the volume
        Stop-Hv 'HasSnapshots' 'a checkpoint that somebody has made contains the volume'
    }
    if ((Test-HvOfHost $path) -ne (Test-HvOfHost $Volume.path)) {
        Stop-Hv 'StaysSo' 'a volume that is a file stays one, and a disk of the host stays one'
    }
    if ($Volume.bus -and $Volume.bus -ne $drive.ControllerType.ToString()) {
        Stop-Hv 'StaysSo' 'a volume stays on its controller'
    }
    if ($Volume.indexed -and $Volume.boot -ne ($line -match '"boot_index":0[,}]')) {
        Stop-Hv 'BootOrder' 'the machine goes on booting from the disk that it boots from'
    }
    $drive
}

# No file is to be behind two drives of the machine.
function Assert-HvOnce {
    param($VM, [string[]]$Wanted)
    $paths = @{}
    $places = @{}
    foreach ($line in $Wanted) {
        $word = $line.Split(' ')
        $places["$($word[1]) $($word[2]) $($word[3])"] = $true
        $path = (ConvertFrom-HvWord $word[4]).ToLowerInvariant()
        if ($paths[$path]) { Stop-Hv 'SameDisk' 'two volumes are to be the same disk' }
        $paths[$path] = $true
    }
    if ($paths.Count -eq 0) { return }
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $VM) {
        $source = Get-HvSource $drive
        if ($places[(Get-HvPlace $drive)] -or -not $source) { continue }
        if ($paths[(Get-HvBase $source).ToLowerInvariant()]) {
            Stop-Hv 'SameDisk' 'the instance has this disk already, as another volume'
        }
    }
}

function Get-HvPlace {
    param($Drive)
    "$($Drive.ControllerType) $([int]$Drive.ControllerNumber) $([int]$Drive.ControllerLocation)"
}

# A NIC as one line.
function Get-HvWiring {
    param($Nic)
    $vlan = Hyper-V\Get-VMNetworkAdapterVlan -VMNetworkAdapter $Nic
    $mode = "$($vlan.OperationMode)"
    $tags = '0'
    if ($mode -eq 'Access') { $tags = "$([int]$vlan.AccessVlanId)" }
    elseif ($mode -eq 'Trunk') {
        $tags = "$([int]$vlan.NativeVlanId)/$($vlan.AllowedVlanIdListString)"
    }
    elseif ($mode -ne 'Untagged') {
        Stop-Hv 'VlanMode' "somebody has put the NIC into the VLAN mode $mode, which the driver does not set"
    }
    $most = 0L
    if ($null -ne $Nic.BandwidthSetting) { $most = [long]$Nic.BandwidthSetting.MaximumBandwidth }
    $mac = "$($Nic.MacAddress)"
    if ($Nic.DynamicMacAddressEnabled) { $mac = 'dynamic' }
    "nic $([Uri]::EscapeDataString($Nic.Name)) $mac $mode $([Uri]::EscapeDataString($tags)) $most" +
        " $([Uri]::EscapeDataString("$($Nic.SwitchName)")) $([long]$Nic.IovWeight)" +
        " $(Get-HvSwitchWord $Nic)"
}

function Get-HvSwitchWord {
    param($Nic)
    if (-not "$($Nic.SwitchName)" -or -not "$($Nic.SwitchId)") { return '-' }
    "$($Nic.SwitchId)"
}

# The switch that a line means; $null if it is gone.
function Find-HvSwitch {
    param([string]$Name, [string]$Id)
    if (-not $Name) { return }
    $switches = @(Hyper-V\Get-VMSwitch)
    $found = @($switches | Where-Object { "$($_.Id)" -eq $Id })
    if ($found.Count -eq 0) { $found = @($switches | Where-Object { $_.Name -ceq $Name }) }
    # of several that have the name none is surely the right one
    if ($found.Count -eq 1) { $found[0] }
}

# NICs as they are and as they are to be, with their lines of the record; and the ids of those that the
# instance does not have. A NIC keeps what the new data do not name.
function Get-HvRewired {
    param($VM, [string[]]$Lines, $Nics)
    $wired = @{ old = @(); new = @(); records = @(); missing = @() }
    if (@($Nics).Count -eq 0) { return $wired }
    $there = @(Hyper-V\Get-VMNetworkAdapter -VM $VM)
    $addresses = New-Object System.Collections.Hashtable ([StringComparer]::Ordinal)
    foreach ($each in $there) { $addresses[[string]$each.Name] = "$($each.MacAddress)" }
    foreach ($nic in $Nics) {
        if ($nic.refused) { Stop-Hv 'Unsupported' $nic.refused }
        $line = Find-HvLine $Lines "nic $($nic.word)"
        $adapter = @($there | Where-Object { $line -and $_.Name -ceq $nic.name })
        if ($adapter.Count -eq 0) {
            $wired.missing += $nic.name
            continue
        }
        $before = Get-HvWiring $adapter[0]
        $wired.old += $before
        $wired.new += Get-HvOtherWiring $before $nic
        $json = Copy-HvFields $nic.json $line @('model', 'qos')
        $wired.records += "nic $($nic.word) $($adapter[0].Id) $json"
        if ($nic.address) { $addresses[$nic.name] = $nic.mac }
    }
    foreach ($nic in $Nics) {
        if (-not $nic.address) { continue }
        # a NIC may be called "Keys"
        foreach ($each in $addresses.GetEnumerator()) {
            if ($each.Key -cne $nic.name -and $each.Value -eq $nic.mac) {
                Stop-Hv 'AddressTaken' 'another NIC of the instance has this address'
            }
        }
    }
    $wired
}

function Get-HvOtherWiring {
    param([string]$Line, $Nic)
    $word = $Line.Split(' ')
    $mac = $word[2]
    if ($Nic.address) { $mac = $Nic.mac }
    $mode = 'Untagged'
    if ($Nic.vlan -gt 0) { $mode = 'Access' }
    $most = $word[5]
    if ($Nic.limits) { $most = [long]$Nic.maximum }
    $switch = ''
    if ($Nic.active) { $switch = [Uri]::EscapeDataString($Nic.switch) }
    $weight = 0
    if ($Nic.sriov) { $weight = 100 }
    "nic $($word[1]) $mac $mode $([int]$Nic.vlan) $most $switch $weight -"
}

# Gives drives and NICs these connections. What somebody has taken away by hand is left out.
function Set-HvConnections {
    param($Found, [string[]]$Wanted)
    Set-HvDrives $Found.VM @($Wanted | Where-Object { $_.StartsWith('drive ', 'Ordinal') })
    foreach ($line in $Wanted) {
        if (-not $line.StartsWith('nic ', 'Ordinal')) { continue }
        $nic = Find-HvNic $Found.VM (ConvertFrom-HvWord ($line.Split(' ')[1]))
        if ($null -ne $nic) { Set-HvWiring $nic $line }
    }
}

# A file that another of the drives has leaves that one first. The drive that the machine boots from
# is never taken out: its firmware would forget it.
function Set-HvDrives {
    param($VM, [string[]]$Wanted)
    $now = @{}
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $VM) { $now[(Get-HvPlace $drive)] = $drive }
    $left = @(foreach ($line in $Wanted) {
        $word = $line.Split(' ')
        @{ Bus = $word[1]; Number = [int]$word[2]; Location = [int]$word[3]
            Place = "$($word[1]) $($word[2]) $($word[3])"; Path = (ConvertFrom-HvWord $word[4])
            Limit = [long]$word[5]; Boots = $word[6] -eq 'True' }
    })
    $paths = @($left | ForEach-Object { $_.Path })
    foreach ($each in $left) {
        $drive = $now[$each.Place]
        if ($null -eq $drive -or $each.Boots) { continue }
        $source = Get-HvSource $drive
        if ($source -ne $each.Path -and $paths -contains $source) {
            Hyper-V\Remove-VMHardDiskDrive -VMHardDiskDrive $drive
            $now.Remove($each.Place)
        }
    }
    foreach ($each in @($left | Where-Object { $_.Boots }) + @($left | Where-Object { -not $_.Boots })) {
        $drive = $now[$each.Place]
        $source = Get-HvSourceArgument $each.Path
        if ($null -eq $drive) {
            $drive = Hyper-V\Add-VMHardDiskDrive -VM $VM -ControllerType $each.Bus `
                -ControllerNumber $each.Number -ControllerLocation $each.Location `
                @source -Passthru
        }
        elseif ((Get-HvSource $drive) -ne $each.Path) {
            $drive = Hyper-V\Set-VMHardDiskDrive -VMHardDiskDrive $drive @source -Passthru
        }
        Set-HvDriveLimit $drive $each.Limit
    }
}

function Set-HvWiring {
    param($Nic, [string]$Line)
    $old = (Get-HvWiring $Nic).Split(' ')
    $word = $Line.Split(' ')
    if ($word[2] -ne $old[2]) {
        if ($word[2] -eq 'dynamic') {
            Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $Nic -DynamicMacAddress
        }
        else { Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $Nic -StaticMacAddress $word[2] }
    }
    $id = '-'
    if ($word.Count -gt 8) { $id = $word[8] }
    if ($word[6] -cne $old[6] -or ($id -ne '-' -and $id -ne $old[8])) {
        $switch = Find-HvSwitch (ConvertFrom-HvWord $word[6]) $id
        # an old switch may be gone meanwhile
        if ($null -eq $switch) { Hyper-V\Disconnect-VMNetworkAdapter -VMNetworkAdapter $Nic }
        elseif ("$($switch.Id)" -ne $old[8]) {
            Hyper-V\Connect-VMNetworkAdapter -VMNetworkAdapter $Nic -VMSwitch $switch
        }
    }
    if ($word[3] -ne $old[3] -or $word[4] -cne $old[4]) {
        $tags = (ConvertFrom-HvWord $word[4]).Split('/')
        if ($word[3] -eq 'Access') {
            Hyper-V\Set-VMNetworkAdapterVlan -VMNetworkAdapter $Nic -Access -VlanId ([int]$tags[0])
        }
        elseif ($word[3] -eq 'Trunk') {
            Hyper-V\Set-VMNetworkAdapterVlan -VMNetworkAdapter $Nic -Trunk `
                -NativeVlanId ([int]$tags[0]) -AllowedVlanIdList $tags[1]
        }
        else { Hyper-V\Set-VMNetworkAdapterVlan -VMNetworkAdapter $Nic -Untagged }
    }
    if ([long]$word[5] -ne [long]$old[5]) {
        Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $Nic -MaximumBandwidth ([long]$word[5])
    }
    # an earlier version wrote no weight
    if ($word.Count -gt 7 -and [long]$word[7] -ne [long]$old[7]) {
        Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $Nic -IovWeight ([uint32]$word[7])
    }
}

# Takes NICs out of their switches. The destination need not have these.
function Disconnect-HvNics {
    param($Found, [string[]]$Names)
    if (@($Names).Count -eq 0) { return }
    $nics = @(Hyper-V\Get-VMNetworkAdapter -VM $Found.VM | Where-Object { $Names -ccontains $_.Name })
    $lines = @(foreach ($nic in $nics) { Get-HvWiring $nic })
    Set-HvFile (Get-HvReconnecting $Found.Uuid) ($lines -join "`n")
    foreach ($nic in $nics) { Hyper-V\Disconnect-VMNetworkAdapter -VMNetworkAdapter $nic }
}

# Makes the connections that a request or a migration which came to no end has left to be made. True:
# they are the new ones, because a disk behind an old one is gone. The caller has the instance's lock.
function Complete-HvReconnect {
    param($Found, $Disks = $null)
    $file = Get-HvReconnecting $Found.Uuid
    if (-not [IO.File]::Exists($file)) { return $false }
    # somebody has started it by hand: its NICs and drives stay as they are until it is off
    if ((Get-HvState $Found.VM $false) -ne 'stopped') { return $false }
    $intent = @([IO.File]::ReadAllLines($file))
    $chosen = @($intent | Where-Object { -not $_.StartsWith('else ', 'Ordinal') })
    $others = @($intent | Where-Object { $_.StartsWith('else ', 'Ordinal') } |
        ForEach-Object { $_.Substring(5) })
    $forward = -not (Test-HvDrives $chosen) -and $others.Count -gt 0 -and (Test-HvDrives $others)
    if ($forward) { $chosen = $others }
    # a disk that is gone comes back to no machine
    Set-HvConnections $Found @($chosen | Where-Object { Test-HvDrives @($_) })
    $lines = @($chosen | Where-Object { $_.StartsWith('is ', 'Ordinal') } |
        ForEach-Object { $_.Substring(3) })
    if ($lines.Count -gt 0) {
        Set-HvRecord $Found.Folder (Set-HvLines (Get-HvRecord $Found.Folder) $lines)
    }
    if (@($intent | Where-Object { $_.StartsWith('target ', 'Ordinal') }).Count -gt 0) {
        $lock = $null
        if ($null -eq $Disks) { $lock = Lock-HvDisks }
        try { Disconnect-HvTargets $intent }
        finally { Unlock-Hv $lock }
    }
    Remove-HvFile $file
    $Found.VM = Get-HvMachine $Found.VM.Id.ToString()
    $forward
}

# Whether the disks of all these connections are there.
function Test-HvDrives {
    param([string[]]$Lines)
    foreach ($line in $Lines) {
        if ($line.StartsWith('drive ', 'Ordinal') -and
            -not (Test-HvSource (ConvertFrom-HvWord ($line.Split(' ')[4])))) { return $false }
    }
    $true
}

# The lines, with others in the places of those that begin with the same two words.
function Set-HvLines {
    param([string[]]$Lines, [string[]]$New)
    $by = New-Object System.Collections.Hashtable ([StringComparer]::Ordinal)
    foreach ($line in $New) { $word = $line.Split(' '); $by["$($word[0]) $($word[1])"] = $line }
    , @(foreach ($line in $Lines) {
        $word = $line.Split(' ')
        $key = "$($word[0]) $($word[1])"
        if ($word.Count -gt 1 -and $by.ContainsKey($key)) { $by[$key] } else { $line }
    })
}

# JSON of the driver's own, with fields of the old line that it does not name.
function Copy-HvFields {
    param([string]$Json, [string]$Line, [string[]]$Names)
    foreach ($name in $Names) {
        $field = '"' + $name + '":("[^"]*"|-?\d+|\{(?:[^{}]|\{[^{}]*\})*\})'
        if ($Json -cmatch $field) { continue }
        if ($Line -cmatch $field) { $Json = $Json.Substring(0, $Json.Length - 1) + ",$($Matches[0])}" }
    }
    $Json
}
