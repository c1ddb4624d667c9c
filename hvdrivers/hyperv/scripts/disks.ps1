# Disks of the host that machines get as they are (pass-through): logical units of iSCSI targets, which the
# host's own initiator logs in to, and of Fibre Channel.
#
#   disk ID UNIQUEID BUS NUMBER LOCATION   a line of the record, beside "volume ID PATH JSON", whose PATH is
#                                          iscsi:IQN,LUN or fc:WWN,LUN. UNIQUEID: of Get-Disk, "-" until the
#                                          disk is found. The rest: its place in the machine
#   autostart ACTION                       what the host did with the machine when it started itself
#
# A disk may have another number each time the host starts, so a machine is told the right one before it
# starts, and the host does not start it by itself. Who holds the lock "disks" brings and takes them away.

function Test-HvOfHost {
    param([string]$Path)
    $Path -match '^(iscsi|fc):'
}

function Lock-HvDisks { Lock-Hv 'disks' }

# The drive of a volume: of a file, or of a disk of the host, which is known by its place.
function Find-HvVolumeDrive {
    param($VM, [string[]]$Lines, [string]$Id, [string]$Path)
    if (-not (Test-HvOfHost $Path)) { return Find-HvDrive $VM $Path }
    $line = Find-HvLine $Lines "disk $Id"
    if ($line) { Find-HvPassed $VM (($line.Split(' ') | Select-Object -Skip 3) -join ' ') }
}

function Find-HvPassed {
    param($VM, [string]$Place)
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $VM) {
        if ((Test-HvPassed $drive) -and (Get-HvPlace $drive) -eq $Place) { return $drive }
    }
}

# No file is behind the drive: its path is words, or empty.
function Test-HvPassed {
    param($Drive)
    -not "$($Drive.Path)".Contains('\')
}

# The path of the volume that a drive is; empty for a disk of the host that somebody else has attached.
function Get-HvVolumeAt {
    param($Drive, [string[]]$Lines)
    $place = Get-HvPlace $Drive
    foreach ($line in $Lines) {
        $word = "$line".Split(' ')
        if ($word[0] -cne 'disk' -or ($word[3..5] -join ' ') -ne $place) { continue }
        $volume = Find-HvLine $Lines "volume $($word[1])"
        if ($volume) { return ConvertFrom-HvWord ($volume.Split(' ')[2]) }
    }
    ''
}

# What is behind a drive: a path, or the id of a disk of the host.
function Get-HvSource {
    param($Drive)
    if (-not (Test-HvPassed $Drive)) { return "$($Drive.Path)" }
    if ($null -eq $Drive.DiskNumber) { return '' }
    foreach ($disk in Get-Disk) {
        if ([long]$disk.Number -eq [long]$Drive.DiskNumber) { return "disk:$($disk.UniqueId)" }
    }
    ''
}

# The parameter of Add- and Set-VMHardDiskDrive for that.
function Get-HvSourceArgument {
    param([string]$Source)
    if (-not $Source.StartsWith('disk:', 'Ordinal')) { return @{ Path = $Source } }
    @{ DiskNumber = (Find-HvUnique $Source.Substring(5)).Number }
}

# Whether it is there.
function Test-HvSource {
    param([string]$Source)
    if (-not $Source.StartsWith('disk:', 'Ordinal')) { return Test-HvFile $Source -Blind }
    @(Get-Disk | Where-Object { "disk:$($_.UniqueId)" -eq $Source }).Count -gt 0
}

# ---- a disk --------------------------------------------------------------------------------------

# The disk of the host behind a volume, after the login that it takes. UNDO gets the names of targets that
# the host was not logged in to. TELL is given the path of each target but the first, before the login: it
# is what the record has from then on, so that a later detach logs out of the right one. The caller has the
# lock "disks".
function Connect-HvDisk {
    param($Disk, $Undo, [scriptblock]$Tell = $null)
    $unreachable = $null
    $first = $true
    $dead = New-Object System.Collections.ArrayList
    $multi = $Disk.kind -eq 'iscsi' -and (Test-HvMultipath)
    if ($Disk.enforce -and -not $multi) {
        Stop-Hv 'NoMultipath' 'no Multipath I/O of the host makes one disk of the paths by iSCSI'
    }
    foreach ($target in $Disk.targets) {
        if ($Disk.kind -eq 'iscsi') {
            if (-not $first -and $null -ne $Tell) { & $Tell "iscsi:$($target.iqn),$($target.lun)" }
            $first = $false
            # the record no longer names the one that did not answer
            if ($null -ne $unreachable) { Disconnect-HvTarget $silent '' }
            try {
                [void]$Undo.Add($target.iqn)
                if (-not (Connect-HvTarget $target $Disk $multi)) { $Undo.Remove($target.iqn) }
            }
            catch {
                if (-not (Test-HvUnreachable $_)) { throw }
                # another portal may answer
                $unreachable = $_
                $silent = $target.iqn
                [void]$dead.Add($target)
                Disconnect-HvTarget $silent ''
                $Undo.Remove($silent)
                continue
            }
            if ($multi) { Connect-HvOtherPaths $target $Disk $dead }
            if ($Disk.enforce) {
                $wanted = [Math]::Max(2, (Get-HvPathCount $target $Disk))
                $there = @(Get-HvIscsiSessions $target.iqn).Count
                if ($there -lt $wanted) {
                    Stop-Hv 'PathMissing' "the host has $there of $wanted paths to the volume"
                }
            }
        }
        # a unit that the server has just exported is not there at once
        foreach ($attempt in 1..10) {
            if ($Disk.kind -eq 'iscsi') { $units = @(Get-HvUnits $target.iqn) }
            else { $units = @(Get-HvFibreUnits $target.wwn) }
            foreach ($unit in $units) {
                if ($unit.lun -eq [long]$target.lun) {
                    return Assert-HvOneDisk (Get-Disk -Number $unit.number)
                }
            }
            Assert-HvBudget
            Update-HostStorageCache
            if ($attempt -gt 2) { Wait-Hv 500 }
        }
    }
    if ($null -ne $unreachable) { throw $unreachable }
    Stop-Hv 'NotShown' 'the storage server does not show this volume to the host'
}

# A host without Multipath I/O takes each path to a unit for a disk. Two machines could have one each, and
# write to the same unit.
function Assert-HvOneDisk {
    param($Disk)
    $same = @(Get-Disk | Where-Object { "$($_.UniqueId)" -and "$($_.UniqueId)" -eq "$($Disk.UniqueId)" })
    if ($same.Count -gt 1) {
        $numbers = ($same | ForEach-Object { $_.Number }) -join ', '
        Stop-Hv 'ManyPaths' "the host takes several paths to the volume for disks of their own ($numbers)"
    }
    $Disk
}

# Nobody else has it, and the host itself lets go of it.
function Set-HvDiskReady {
    param($Disk, $VM = $null)
    if ($Disk.IsBoot -or $Disk.IsSystem -or $Disk.IsClustered) {
        Stop-Hv 'DiskInUse' 'the host itself uses this disk'
    }
    foreach ($drive in Get-HvAllDrives) {
        if ($null -eq $drive.DiskNumber -or [long]$drive.DiskNumber -ne [long]$Disk.Number) { continue }
        if ($null -ne $VM -and $drive.VMId.ToString() -eq $VM.Id.ToString()) { continue }
        $other = Get-HvMachine $drive.VMId.ToString()
        if ($null -ne $other -and (Test-HvPoweredOn $other)) {
            Stop-Hv 'DiskBusy' 'another machine that is powered on has the volume'
        }
    }
    if (-not $Disk.IsOffline) { Set-Disk -Number $Disk.Number -IsOffline $true }
    if ($Disk.IsReadOnly) { Set-Disk -Number $Disk.Number -IsReadOnly $false }
}

# A free place on SCSI, or the one that generation 1 boots from.
function Find-HvFreePlace {
    param($VM, [bool]$Boot, [bool]$Ide)
    if ($Boot -and $VM.Generation -eq 1) {
        foreach ($drive in Hyper-V\Get-VMDvdDrive -VM $VM) {
            if (-not $drive.Path) { Hyper-V\Remove-VMDvdDrive -VMDvdDrive $drive }
        }
        return 'IDE 0 0'
    }
    $taken = @{}
    $count = 0
    foreach ($drive in @(Hyper-V\Get-VMHardDiskDrive -VM $VM) + @(Hyper-V\Get-VMDvdDrive -VM $VM)) {
        $place = Get-HvPlace $drive
        $taken[$place] = $true
        if ($place.StartsWith('SCSI', 'Ordinal')) { $count++ }
    }
    if ($Ide) {
        foreach ($place in 'IDE 0 0', 'IDE 0 1', 'IDE 1 0', 'IDE 1 1') {
            if (-not $taken[$place]) { return $place }
        }
    }
    elseif ($count -lt $HvShared.Facts.Disks) {
        foreach ($controller in Hyper-V\Get-VMScsiController -VM $VM) {
            foreach ($at in 0..63) {
                $place = "SCSI $([int]$controller.ControllerNumber) $at"
                if (-not $taken[$place]) { return $place }
            }
        }
    }
    Stop-Hv 'NoSlot' 'the machine has no slot for another disk'
}

# Gives a machine the volume, and says so in the record first. Returns the drive; gives the new lines to
# SAVE. The caller undoes it by Remove-HvDisk.
function Add-HvDisk {
    param($VM, $Volume, [string[]]$Lines, [scriptblock]$Save, $Undo)
    $place = Find-HvFreePlace $VM ([bool]$Volume.boot) ([bool]$Volume.ide)
    $start = "disk $($Volume.id)"
    $Lines = Edit-HvLines $Lines $start "$start - $place"
    & $Save $Lines
    $named = @{ Lines = $Lines }
    $disk = Connect-HvDisk $Volume.disk $Undo {
        param($Path)
        $named.Lines = Rename-HvVolume $named.Lines $Volume.id $Path
        & $Save $named.Lines
    }
    $Lines = $named.Lines
    Assert-HvBudget
    Set-HvDiskReady $disk $VM
    $unique = [Uri]::EscapeDataString("$($disk.UniqueId)")
    $Lines = Edit-HvLines $Lines $start "$start $unique $place"
    if (-not (Find-HvLine $Lines 'autostart')) { $Lines += "autostart $($VM.AutomaticStartAction)" }
    & $Save $Lines
    # it would start with what has the number then
    if ("$($VM.AutomaticStartAction)" -ne 'Nothing') {
        Hyper-V\Set-VM -VM $VM -AutomaticStartAction Nothing
    }
    $word = $place.Split(' ')
    Hyper-V\Add-VMHardDiskDrive -VM $VM -ControllerType $word[0] -ControllerNumber ([int]$word[1]) `
        -ControllerLocation ([int]$word[2]) -DiskNumber $disk.Number -Passthru
}

# The lines with another path for a volume.
function Rename-HvVolume {
    param([string[]]$Lines, [string]$Id, [string]$Path)
    $word = (Find-HvLine $Lines "volume $Id").Split(' ')
    $word[2] = [Uri]::EscapeDataString($Path)
    Edit-HvLines $Lines "volume $Id" ($word -join ' ')
}

# Takes the volume away, and logs out if nobody else uses its target. Every step succeeds where there is
# nothing to do. Returns the lines without it.
function Remove-HvDisk {
    param($VM, [string]$Uuid, [string[]]$Lines, [string]$Id, [string]$Path)
    if ($null -ne $VM) {
        $drive = Find-HvVolumeDrive $VM $Lines $Id $Path
        if ($null -ne $drive) { Hyper-V\Remove-VMHardDiskDrive -VMHardDiskDrive $drive }
    }
    # the record may name another target than the caller: the one that has answered
    $line = Find-HvLine $Lines "volume $Id"
    $named = ''
    if ($line) { $named = ConvertFrom-HvWord ($line.Split(' ')[2]) }
    foreach ($iqn in @(@((Get-HvIqn $Path), (Get-HvIqn $named)) | Select-Object -Unique)) {
        if ($iqn) { Disconnect-HvTarget $iqn "$Uuid $Id" }
    }
    $Lines = Edit-HvLines $Lines "disk $Id" ''
    $start = Find-HvLine $Lines 'autostart'
    $others = @($Lines | Where-Object { "$_".StartsWith('disk ', 'Ordinal') })
    if ($start -and $others.Count -eq 0) {
        $action = $start.Split(' ')[1]
        if ($null -ne $VM -and $action -ne 'Nothing') {
            Hyper-V\Set-VM -VM $VM -AutomaticStartAction $action
        }
        $Lines = Edit-HvLines $Lines 'autostart' ''
    }
    , $Lines
}

# Tells a machine that is about to start the numbers that its disks have now. A number that another drive of
# the machine has still is free when that one has got its own; where two wait for each other, one is taken out
# and put in again.
function Repair-HvDisks {
    param($Found, [string[]]$Lines)
    $places = @($Lines | Where-Object { "$_".StartsWith('disk ', 'Ordinal') })
    if ($places.Count -eq 0) { return }
    $lock = Lock-HvDisks
    try {
        $wrong = New-Object System.Collections.ArrayList
        foreach ($line in $places) {
            $word = $line.Split(' ')
            $drive = Find-HvPassed $Found.VM ($word[3..5] -join ' ')
            if ($null -eq $drive) { continue }
            $disk = Find-HvUnique (ConvertFrom-HvWord $word[2])
            Set-HvDiskReady $disk $Found.VM
            if ($null -eq $drive.DiskNumber -or [long]$drive.DiskNumber -ne [long]$disk.Number) {
                [void]$wrong.Add(@{ Drive = $drive; Number = $disk.Number; Place = Get-HvPlace $drive })
            }
        }
        if ($wrong.Count -gt 0) { Set-HvDiskNumbers $Found.VM $wrong }
    }
    finally { Unlock-Hv $lock }
}

function Set-HvDiskNumbers {
    param($VM, $Wrong)
    if ($VM.State.ToString() -notmatch '^Off') {
        Stop-Hv 'OldNumber' ('a disk has another number since the host has started again, and' +
            ' Hyper-V changes no saved machine')
    }
    $boot = "$(Get-HvBootPlace $VM)"
    $out = @()
    while ($Wrong.Count -gt 0) {
        $held = @(Hyper-V\Get-VMHardDiskDrive -VM $VM | Where-Object { $null -ne $_.DiskNumber } |
            ForEach-Object { [long]$_.DiskNumber })
        $next = @($Wrong | Where-Object { $held -notcontains [long]$_.Number })
        if ($next.Count -gt 0) {
            Hyper-V\Set-VMHardDiskDrive -VMHardDiskDrive $next[0].Drive -DiskNumber $next[0].Number
            $Wrong.Remove($next[0])
            continue
        }
        # its firmware would forget the one that it boots from
        $next = @($Wrong | Where-Object { $_.Place -ne $boot })
        Hyper-V\Remove-VMHardDiskDrive -VMHardDiskDrive $next[0].Drive
        $Wrong.Remove($next[0])
        $out += $next[0]
    }
    foreach ($each in $out) {
        $word = $each.Place.Split(' ')
        $null = Hyper-V\Add-VMHardDiskDrive -VM $VM -ControllerType $word[0] `
            -ControllerNumber ([int]$word[1]) -ControllerLocation ([int]$word[2]) `
            -DiskNumber $each.Number -Passthru
    }
}

# The place of the drive that generation 2 boots from.
function Get-HvBootPlace {
    param($VM)
    if ($VM.Generation -eq 1) { return 'IDE 0 0' }
    $first = @((Hyper-V\Get-VMFirmware -VM $VM).BootOrder)[0]
    if ($null -ne $first -and $null -ne $first.Device.ControllerType) { Get-HvPlace $first.Device }
}

# The disk with this id. The host looks again if it does not know it.
function Find-HvUnique {
    param([string]$UniqueId)
    foreach ($attempt in 1, 2) {
        foreach ($disk in Get-Disk) {
            if ("$($disk.UniqueId)" -eq $UniqueId) { return Assert-HvOneDisk $disk }
        }
        if ($attempt -eq 1) { Update-HostStorageCache }
    }
    Stop-Hv 'VolumeGone' 'a volume of the instance is gone'
}

# The volume has grown at its server: the host looks, and the machine sees it.
function Sync-HvDiskSize {
    param($Drive, [long]$Size)
    $before = [long](Get-Disk -Number $Drive.DiskNumber).Size
    if ($Size -lt $before) { Stop-Hv 'TooSmall' "the disk has $before bytes, and would shrink" }
    foreach ($attempt in 1..10) {
        # the driver asks for whole blocks
        if ([long](Get-Disk -Number $Drive.DiskNumber).Size -gt $Size - 4096) { return }
        Update-HostStorageCache
        if ($attempt -gt 2) { Wait-Hv 500 }
    }
    Stop-Hv 'SmallAtServer' 'the volume is not so large at its server'
}
