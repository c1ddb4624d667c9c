# Volumes: VHDX files that outlive machines.

# Before anything is made: it is there, and nobody who is powered on has it.
function Assert-HvVolume {
    param($Volume, $VM = $null)
    if ($Volume.refused) { Stop-Hv 'Unsupported' $Volume.refused }
    # it is looked for where the host logs in to its target
    if ($Volume.disk) { return }
    Assert-HvOnOtherHost $Volume.path
    if (-not (Test-HvFile $Volume.path)) {
        Stop-Hv 'VolumeNotFound' 'the host does not find the volume'
    }
    if (-not $Volume.shared) { Assert-HvDiskFree $Volume.path $VM }
}

# Whether a file is there. Test-Path says no as well where a share lets this session see nothing: then the
# caller is told. BLIND: what the session cannot see counts as there, as the host may see it.
function Test-HvFile {
    param([string]$Path, [switch]$Blind)
    if (Test-Path -LiteralPath $Path) { return $true }
    if (-not $Path.StartsWith('\\', 'Ordinal')) { return $false }
    try { $null = Hyper-V\Get-VHD -Path $Path }
    catch {
        if (-not (Test-HvDenied $_)) { return $false }
        if (-not $Blind) { Stop-Hv 'ShareRefused' 'the share lets this session see no file there' }
    }
    $true
}

# E_ACCESSDENIED, in the error or below it.
function Test-HvDenied {
    param($Problem)
    if ($Problem.FullyQualifiedErrorId.Split(',')[0] -eq 'AccessDenied') { return $true }
    $exception = $Problem.Exception
    while ($null -ne $exception) {
        if ($exception.HResult -eq 0x80070005) { return $true }
        $exception = $exception.InnerException
    }
    $false
}

function Assert-HvDiskFree {
    param([string]$Path, $VM = $null)
    foreach ($other in Get-HvUsers $Path) {
        if ($null -ne $VM -and $other.Id.ToString() -eq $VM.Id.ToString()) { continue }
        if (Test-HvPoweredOn $other) {
            Stop-Hv 'DiskBusy' 'another machine that is powered on has the volume'
        }
    }
}

# Stands between the look for the users of a volume and its deletion, and beside that between the
# look whether it is there and the drive that a machine gets.
function Lock-HvVolumes { Lock-Hv 'volumes' }

# The machines that have a disk.
function Get-HvUsers {
    param([string]$Path)
    $machines = @(Hyper-V\Get-VM)
    if ($machines.Count -eq 0) { return }
    $ids = @{}
    foreach ($drive in Get-HvDrives $machines) {
        $own = "$($drive.Path)"
        if ($own -eq $Path -or ($own -match '\.avhdx?$' -and @(Get-HvChain $own) -contains $Path)) {
            $ids[$drive.VMId.ToString()] = $true
        }
    }
    foreach ($machine in $machines) { if ($ids[$machine.Id.ToString()]) { $machine } }
}

function Find-HvDrive {
    param($VM, [string]$Path)
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $VM) {
        $own = "$($drive.Path)"
        if ($own -eq $Path -or ($own -match '\.avhdx?$' -and (Get-HvBase $own) -eq $Path)) {
            return $drive
        }
    }
}

function Invoke-HvAttach {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $volumes = $null
    $begun = $false
    $done = $false
    $undo = New-Object System.Collections.ArrayList
    try {
        $found = Find-HvLegal $Arguments
        Begin-HvChange $lock $found.Uuid
        $volume = $Arguments.volume
        $lines = Get-HvRecord $found.Folder
        if ($volume.disk) { $volumes = Lock-HvDisks } else { $volumes = Lock-HvVolumes }
        $drive = Find-HvVolumeDrive $found.VM $lines $volume.id $volume.path
        $line = Find-HvLine $lines "volume $($volume.id)"
        if ($null -eq $drive) {
            Assert-HvVolume $volume $found.VM
            if ($volume.ide) {
                if ($found.VM.Generation -ne 1) {
                    Stop-Hv 'NoIde' 'only a machine of generation 1 has IDE'
                }
            }
            elseif (-not (Hyper-V\Get-VMScsiController -VM $found.VM)) {
                Stop-Hv 'NoController' 'the machine has no SCSI controller' # others have made it
            }
            $begun = $true
        }
        if (-not $line -or $begun) {
            # before the drive comes: whoever dies in between leaves a volume that can be detached
            $new = "volume $($volume.id) $($volume.word) $($volume.json)"
            Set-HvRecord $found.Folder (Edit-HvLines $lines "volume $($volume.id)" $new)
        }
        if ($volume.disk) {
            if ($begun) {
                $save = { param($New) Set-HvRecord $found.Folder $New }
                $now = Get-HvRecord $found.Folder
                $drive = Add-HvDisk $found.VM $volume $now $save $undo
            }
            else {
                # the host may have lost its login since
                $null = Connect-HvDisk $volume.disk $undo {
                    param($Path)
                    $now = Get-HvRecord $found.Folder
                    Set-HvRecord $found.Folder (Rename-HvVolume $now $volume.id $Path)
                }
                if ($found.State -eq 'stopped') {
                    Unlock-Hv $volumes
                    $volumes = $null
                    Repair-HvDisks $found $lines
                }
            }
            Assert-HvBudget
            if ($begun) { Write-HvDevice $found 'added' $volume.id }
        }
        elseif ($begun) {
            if ($volume.ide) {
                $drive = Hyper-V\Add-VMHardDiskDrive -VM $found.VM -ControllerType IDE `
                    -Path $volume.path -Passthru
            }
            else { $drive = Add-HvDrive $found.VM $volume.path $false }
            Assert-HvBudget
            Set-HvDriveLimit $drive $volume.iops
            Assert-HvBudget
            Write-HvDevice $found 'added' $volume.id
        }
        $done = $true
        Read-HvInstance (Find-Hv $Arguments.uuid)
    }
    finally {
        if ($begun -and -not $done) {
            Undo-Hv {
                if ($volume.disk) {
                    $now = Get-HvRecord $found.Folder
                    $null = Remove-HvDisk $found.VM $found.Uuid $now $volume.id $volume.path
                }
                else {
                    $left = Find-HvDrive $found.VM $volume.path
                    if ($null -ne $left) {
                        Hyper-V\Remove-VMHardDiskDrive -VMHardDiskDrive $left
                    }
                }
                Set-HvRecord $found.Folder $lines
            }
        }
        Unlock-Hv $volumes
        Unlock-Hv $lock
    }
}

# Hyper-V counts operations of 8 KiB: a larger one counts as several. 0: no limit.
function Set-HvDriveLimit {
    param($Drive, [long]$Iops)
    if ([long]$Drive.MaximumIOPS -ne $Iops) {
        Hyper-V\Set-VMHardDiskDrive -VMHardDiskDrive $Drive -MaximumIOPS $Iops
    }
}

function Invoke-HvDiskQos {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $drive = $null
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        Begin-HvChange $lock $found.Uuid
        $lines = Get-HvRecord $found.Folder
        $start = "volume $($Arguments.id)"
        $line = Find-HvLine $lines $start
        if ($line) {
            $path = ConvertFrom-HvWord ($line.Split(' ')[2])
            if (Test-HvOfHost $path) {
                Stop-Hv 'NoLimit' 'Hyper-V limits no disk that it passes through'
            }
            $drive = Find-HvDrive $found.VM $path
        }
        if ($null -eq $drive) { Stop-Hv 'NotAttached' 'it is not attached to this instance' }
        $before = [long]$drive.MaximumIOPS
        Set-HvDriveLimit $drive $Arguments.iops
        Assert-HvBudget
        $done = $true
    }
    finally {
        if ($null -ne $drive -and -not $done) {
            Undo-Hv {
                Hyper-V\Set-VMHardDiskDrive -VMHardDiskDrive $drive -MaximumIOPS $before
            }
        }
        Unlock-Hv $lock
    }
}

function Invoke-HvDetach {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $disks = $null
    try {
        $found = Find-HvLegal $Arguments
        Begin-HvChange $lock $found.Uuid
        $lines = Get-HvRecord $found.Folder
        $start = "volume $($Arguments.id)"
        $line = Find-HvLine $lines $start
        if (-not $line) { return }
        if ($line -match '"boot_index":0[,}]') {
            Stop-Hv 'BootVolume' 'the instance boots from this volume'
        }
        $path = ConvertFrom-HvWord ($line.Split(' ')[2])
        $drive = Find-HvVolumeDrive $found.VM $lines $Arguments.id $path
        if (Test-HvOfHost $path) {
            $disks = Lock-HvDisks
            $lines = Remove-HvDisk $found.VM $found.Uuid $lines $Arguments.id $path
        }
        elseif ($null -ne $drive) { Hyper-V\Remove-VMHardDiskDrive -VMHardDiskDrive $drive }
        Set-HvRecord $found.Folder (Edit-HvLines $lines $start '')
        if ($null -ne $drive) { Write-HvDevice $found 'removed' $Arguments.id }
    }
    finally {
        Unlock-Hv $disks
        Unlock-Hv $lock
    }
}

function Invoke-HvExtend {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    try {
        $found = Find-HvLegal $Arguments
        Begin-HvChange $lock $found.Uuid
        $lines = Get-HvRecord $found.Folder
        $line = Find-HvLine $lines "volume $($Arguments.id)"
        if (-not $line) { Stop-Hv 'NotAttached' 'it is not attached to this instance' }
        $path = ConvertFrom-HvWord ($line.Split(' ')[2])
        $drive = Find-HvVolumeDrive $found.VM $lines $Arguments.id $path
        if ($null -eq $drive) { Stop-Hv 'NotAttached' 'it is not attached to this instance' }
        if (Test-HvOfHost $path) {
            if ($found.State -eq 'stopped') {
                Repair-HvDisks $found $lines
                $drive = Find-HvVolumeDrive $found.VM $lines $Arguments.id $path
            }
            Sync-HvDiskSize $drive $Arguments.size
            return
        }
        $size = (Hyper-V\Get-VHD -Path $drive.Path).Size
        if ($Arguments.size -lt $size) { Stop-Hv 'TooSmall' "the disk has $size bytes, and would shrink" }
        if ($Arguments.size -gt $size) {
            Hyper-V\Resize-VHD -Path $drive.Path -SizeBytes $Arguments.size
        }
    }
    finally { Unlock-Hv $lock }
}

# ---- the host's own volumes ----------------------------------------------------------------------

function Invoke-HvCreateVolume {
    param($Arguments)
    $folder = Get-HvPool $Arguments.pool
    if (-not (Test-Path -LiteralPath $folder)) {
        $null = New-Item -ItemType Directory -Force -Path $folder
    }
    $path = "$folder\$($Arguments.file)"
    # the cmdlet may take minutes: a name that only one can have comes first
    $hold = Get-HvFile "$path.new"
    if (-not (New-HvFile $hold)) { Stop-Hv 'NameTaken' 'the name is taken' }
    $done = $false
    $made = $false
    try {
        if (Test-Path -LiteralPath $path) { Stop-Hv 'NameTaken' 'the name is taken' }
        $made = $true
        $null = Hyper-V\New-VHD -Path $path -SizeBytes $Arguments.size -Dynamic
        Assert-HvBudget
        $done = $true
    }
    finally {
        if ($made -and -not $done) { Undo-Hv { Remove-HvTree $path } }
        Remove-HvFile $hold
    }
    $path
}

function Invoke-HvListVolumes {
    param($Arguments)
    $found = New-Object System.Collections.ArrayList
    foreach ($pool in $Arguments.pools) {
        $folder = Get-HvPool $pool
        $real = Get-HvReal $folder
        if (-not [IO.Directory]::Exists($real)) { continue }
        foreach ($item in (New-Object IO.DirectoryInfo($real)).GetFiles()) {
            if ($item.Name -notmatch '\.vhdx$' -or ($item.Attributes -band 'Hidden')) { continue }
            if ($Arguments.file -and $item.Name -ne $Arguments.file) { continue }
            $path = "$folder\$($item.Name)"
            try {
                $disk = Hyper-V\Get-VHD -Path $path
                [void]$found.Add(@($pool, $item.Name, [long]$disk.Size, [long]$disk.FileSize))
            }
            catch {
                # deleted meanwhile, or no disk at all
                if (Test-Path -LiteralPath $path) { $null = $_ }
            }
        }
    }
    , $found.ToArray()
}

# Whether a disk that somebody has made in a pool is based on this one. The driver's own volumes stand
# alone, so they are not asked.
function Test-HvBelow {
    param([string]$Path)
    $pools = @('default') + @($HvShared.Facts.Pools | ForEach-Object { $_.name })
    foreach ($pool in $pools) {
        $folder = Get-HvPool $pool
        if (-not (Test-Path -LiteralPath $folder)) { continue }
        foreach ($item in Get-ChildItem -LiteralPath $folder -File) {
            if ($item.Name -notmatch '\.a?vhdx?$') { continue }
            if ($item.Name -cmatch '^v-([a-z0-9-]|_[0-9a-f]{2})+\.vhdx$') { continue }
            if (@(Get-HvChain "$folder\$($item.Name)" | Select-Object -Skip 1) -contains $Path) {
                return $true
            }
        }
    }
    $false
}

function Invoke-HvDeleteVolume {
    param($Arguments)
    $path = "$(Get-HvPool $Arguments.pool)\$($Arguments.file)"
    if (-not (Test-Path -LiteralPath $path)) { return }
    $lock = Lock-HvVolumes
    try {
        if (-not (Test-Path -LiteralPath $path)) { return }
        if (Get-HvUsers $path) { Stop-Hv 'DiskInUse' 'a machine has the volume' }
        if ((Get-HvParents)[$path.ToLowerInvariant()]) {
            Stop-Hv 'DiskInUse' 'a disk of a machine is based on the volume'
        }
        if (Test-HvBelow $path) { Stop-Hv 'DiskInUse' 'another disk is based on the volume' }
        Assert-HvBudget
        Remove-HvTree $path
    }
    finally { Unlock-Hv $lock }
}
