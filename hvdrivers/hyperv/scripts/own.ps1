# Which disks are an instance's own: those in its folders under a name that the driver gives, and those
# that an adopted machine had when it was adopted (lines "own PATH" of the record). Every other disk was
# attached by somebody else, or put there. The driver never deletes it, never takes it to another host
# or pool, and never brings an old state of it back.

function Get-HvOwnFolders {
    param([string]$Uuid)
    , @(@(Get-HvFolder $Uuid) + @(Get-HvPoolFolders $Uuid))
}

# PATH: the file below all checkpoints.
function Test-HvOwn {
    param([string]$Uuid, [string[]]$Lines, [string]$Path)
    $cut = $Path.LastIndexOf('\')
    # a disk of the host that is passed through has no path
    if ($cut -lt 0) { return $false }
    $name = $Path.Substring($cut + 1)
    $inside = (Get-HvOwnFolders $Uuid) -contains $Path.Substring(0, $cut)
    $pattern = '^(root(\.new|\.old)?|ephemeral|swap|rescue|image|export-[0-9a-f]{16})\.vhdx$'
    if ($inside -and $name -match $pattern) { return $true }
    foreach ($line in $Lines) { if (Test-HvHad $Uuid $line $Path) { return $true } }
    $false
}

# Whether the file is the disk of this line "own PATH". One that was moved to another pool or host keeps
# its name.
function Test-HvHad {
    param([string]$Uuid, [string]$Line, [string]$Path)
    if (-not $Line.StartsWith('own ', 'Ordinal')) { return $false }
    $own = ConvertFrom-HvWord $Line.Substring(4)
    if ($own -eq $Path) { return $true }
    $cut = $Path.LastIndexOf('\')
    if ($cut -lt 0 -or (Get-HvOwnFolders $Uuid) -notcontains $Path.Substring(0, $cut)) { return $false }
    $own.EndsWith($Path.Substring($cut), 'OrdinalIgnoreCase')
}

# A disk of an adopted machine may be what disks of others are based on.
function Assert-HvNoBase {
    param($VM, [string]$Path)
    if ((Get-HvParents "$($VM.Id)")[$Path.ToLowerInvariant()]) {
        Stop-Hv 'DiskInUse' 'disks of other machines are based on the disk'
    }
}

# The drives that are neither the machine's own nor attached by the driver.
function Get-HvStrangeDrives {
    param([string]$Uuid, $VM, [string[]]$Lines)
    $volumes = Get-HvVolumePaths $Lines
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $VM) {
        $path = "$($drive.Path)"
        if (-not $path -and $null -eq $drive.DiskNumber) { continue }
        if (Test-HvPassed $drive) { $path = Get-HvVolumeAt $drive $Lines }
        else { $path = Get-HvBase $path }
        if ($path -and $volumes -contains $path) { continue }
        if (-not (Test-HvOwn $Uuid $Lines $path)) { $drive }
    }
}

# Lines of the record for the disks of a machine that is adopted. A volume stays a volume.
function Get-HvOwnLines {
    param($VM)
    $kept = @("$($HvShared.Facts.Root)\images", "$($HvShared.Facts.Root)\volumes",
        "$($HvShared.Facts.Root)\templates")
    foreach ($pool in $HvShared.Facts.Pools) { $kept += $pool.path }
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $VM) {
        $path = "$($drive.Path)"
        if (-not $path) { continue }
        $path = Get-HvBase $path
        $cut = $path.LastIndexOf('\')
        if ($cut -lt 0 -or $kept -contains $path.Substring(0, $cut)) { continue }
        "own $([Uri]::EscapeDataString($path))"
    }
}

# A share of this host may lead to what the driver keeps, or to a disk that a machine has, under a name
# that nobody compares with another. Whatever the path calls the server: this host has many names.
function Assert-HvOnOtherHost {
    param([string]$Path)
    if (-not $Path.StartsWith('\\', 'Ordinal')) { return }
    $part = $Path.Substring(2).Split('\')
    $rest = ($part | Select-Object -Skip 2) -join '\'
    $kept = @($HvShared.Facts.Root) + @($HvShared.Facts.Pools | ForEach-Object { $_.path })
    foreach ($share in Get-CimInstance -ClassName Win32_Share) {
        if ("$($share.Name)" -ne $part[1]) { continue }
        $folder = "$($share.Path)".TrimEnd('\')
        $file = "$folder\$rest"
        $ours = @($kept | Where-Object { "$_" -and $file.StartsWith("$_\", 'OrdinalIgnoreCase') })
        if (-not $folder -or $ours.Count -gt 0 -or @(Get-HvUsers $file).Count -gt 0 -or
            (Get-HvParents)[$file.ToLowerInvariant()]) {
            Stop-Hv 'OwnShare' 'the path leads to a share of this host, and to no disk for others'
        }
    }
}

# A host image is there, and no disk that a machine has: the machine would write to it.
function Assert-HvImage {
    param([string]$Path)
    Assert-HvOnOtherHost $Path
    if (-not (Test-HvFile $Path)) { Stop-Hv 'ImageMissing' 'the image is not on the host' }
    if ($Path.StartsWith("$($HvShared.Facts.Root)\", 'OrdinalIgnoreCase')) { return }
    if (@(Get-HvUsers $Path).Count -gt 0) {
        Stop-Hv 'DiskInUse' 'a machine has this disk, and would change what others are based on'
    }
}

# The file and all files that it is based on.
function Get-HvChain {
    param([string]$Path)
    $seen = 0
    while ($Path -and $seen -lt 200) {
        $Path
        try { $Path = "$((Hyper-V\Get-VHD -Path $Path).ParentPath)" }
        catch { return }
        $seen++
    }
}

# Lower-case paths of all files that disks of machines are based on, without the disks themselves.
# BUT: the Id of a machine that is left out.
function Get-HvParents {
    param([string]$But)
    $parents = @{}
    $machines = @(Hyper-V\Get-VM | Where-Object { "$($_.Id)" -ne $But })
    if ($machines.Count -eq 0) { return $parents }
    $inside = "$($HvShared.Facts.Root)\instances\"
    foreach ($drive in Get-HvDrives $machines) {
        $path = "$($drive.Path)"
        # who asks has looked at these already
        if (-not $path -or ($path.StartsWith($inside, 'OrdinalIgnoreCase') -and
            $path.EndsWith('\root.vhdx', 'OrdinalIgnoreCase'))) { continue }
        foreach ($each in @(Get-HvChain $path | Select-Object -Skip 1)) {
            $parents[$each.ToLowerInvariant()] = $true
        }
    }
    $parents
}

# Takes the disks of others out of folders that are about to be removed: they become volumes.
function Save-HvStrangeDisks {
    param([string]$Uuid, [string[]]$Lines)
    $folders = Get-HvOwnFolders $Uuid
    $based = @()
    $rest = @()
    foreach ($folder in $folders) {
        if (-not (Test-Path -LiteralPath $folder)) { continue }
        foreach ($item in Get-ChildItem -LiteralPath $folder -Recurse -File) {
            if ($item.Name -notmatch '\.vhdx?$') { continue }
            $path = Get-HvWindowsPath $folder $item
            if (Test-HvOwn $Uuid $Lines $path) { continue }
            $below = @(Get-HvChain $path | Select-Object -Skip 1 | Where-Object {
                $parent = $_
                @($folders | Where-Object { $parent.StartsWith("$_\", 'OrdinalIgnoreCase') })
            })
            $each = @{ path = $path; based = $below.Count -gt 0
                pool = (Get-HvPoolOf $folder $Uuid) }
            # what others are based on is moved after them
            if ($each.based) { $based += $each } else { $rest += $each }
        }
    }
    foreach ($each in $based + $rest) {
        $number = 1
        while (Test-Path -LiteralPath "$($each.pool)\v-$Uuid-by-hand-$number.vhdx") { $number++ }
        Move-HvDisk $each.path "$($each.pool)\v-$Uuid-by-hand-$number.vhdx" $each.based
    }
}

function Get-HvPoolOf {
    param([string]$Folder, [string]$Uuid)
    if ($Folder -eq (Get-HvFolder $Uuid)) { return "$($HvShared.Facts.Root)\volumes" }
    $Folder.Substring(0, $Folder.LastIndexOf('\'))
}

# To a new name. BASED: what the disk is based on stays behind, so the new one stands alone.
function Move-HvDisk {
    param([string]$Path, [string]$Target, [bool]$Based)
    if ($Based -or $Path -match '\.vhd$') {
        $made = $false
        try {
            Hyper-V\Convert-VHD -Path $Path -DestinationPath $Target -VHDType Dynamic
            $made = $true
        }
        finally { if (-not $made) { Remove-HvTree $Target } }
        Remove-HvTree $Path
        return
    }
    Move-Item -LiteralPath $Path -Destination $Target
}

# A folder that the instance's disks have left: a machine may use a disk there that is not its own.
# USED: the disks that the instance has. Those stay too.
function Remove-HvOwnFolder {
    param($Found, [string]$Folder, [string[]]$Used)
    if (-not (Test-Path -LiteralPath $Folder)) { return }
    $lines = Get-HvRecord $Found.Folder
    $kept = @(foreach ($each in $Used) { if ($each) { Get-HvChain $each } })
    $strange = $false
    foreach ($item in Get-ChildItem -LiteralPath $Folder -Recurse -File) {
        if ($item.Name -notmatch '\.a?vhdx?$') { continue }
        $path = Get-HvWindowsPath $Folder $item
        if ($kept -notcontains $path -and (Test-HvOwn $Found.Uuid $lines $path)) {
            Remove-HvTree $path
        }
        else { $strange = $true }
    }
    if (-not $strange) { Remove-HvTree $Folder }
}
