# Another size, another root disk, a disk to rescue from.

function Get-HvFlavor {
    param([string[]]$Lines)
    ConvertFrom-Json -InputObject ((Find-HvLine $Lines 'flavor').Substring(7))
}

function ConvertTo-HvFlavorLine {
    param($Flavor)
    'flavor ' + (ConvertTo-Json -InputObject $Flavor -Depth 5 -Compress)
}

# The drive of the root disk: of an adopted machine, of the first disk that it had.
function Find-HvRoot {
    param($Found)
    $drive = Find-HvDrive $Found.VM "$(Get-HvDisks $Found)\root.vhdx"
    if ($null -ne $drive) { return $drive }
    $line = Find-HvLine (Get-HvRecord $Found.Folder) 'own'
    if (-not $line) { return }
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $Found.VM) {
        $path = "$($drive.Path)"
        if ($path -and (Test-HvHad $Found.Uuid $line (Get-HvBase $path))) { return $drive }
    }
}

# What the machine boots from when it is not rescued: its own disk, or a volume.
function Find-HvBootDrive {
    param($Found, [string[]]$Lines)
    $root = Find-HvRoot $Found
    if ($null -ne $root) { return $root }
    foreach ($line in $Lines) {
        if ("$line".StartsWith('volume ', 'Ordinal') -and $line -match '"boot_index":0[,}]') {
            $word = $line.Split(' ')
            return Find-HvVolumeDrive $Found.VM $Lines $word[1] (ConvertFrom-HvWord $word[2])
        }
    }
}

function Invoke-HvResize {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $undo = New-Object System.Collections.ArrayList
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        Begin-HvChange $lock $found.Uuid
        Exit-HvRescue $found
        $vm = $found.VM
        $lines = Get-HvRecord $found.Folder
        $old = Get-HvFlavor $lines
        $new = ConvertFrom-Json -InputObject $Arguments.flavor
        if ([long]$old.ephemeral_gib -ne [long]$new.ephemeral_gib -or
            [long]$old.swap_mib -ne [long]$new.swap_mib) {
            Stop-Hv 'OtherDisks' 'a resize does not change the ephemeral and the swap disk'
        }
        Assert-HvFits $Arguments.cpus $Arguments.memory
        $root = Find-HvRoot $found
        $before = 0L
        if ($null -eq $root -or $Arguments.size -le 0) { $new.disk_gib = $old.disk_gib }
        else {
            $before = [long](Hyper-V\Get-VHD -Path $root.Path).Size
            if ($Arguments.size -lt $before) { Stop-Hv 'TooSmall' "the disk has $before bytes, and would shrink" }
            if ($Arguments.size -gt $before -and @(Hyper-V\Get-VMSnapshot -VM $vm).Count -gt 0) {
                Stop-Hv 'HasSnapshots' 'a disk with checkpoints does not grow'
            }
            if ($Arguments.size -gt $before) { Assert-HvNoBase $vm $root.Path }
        }
        $cpus = [int]$vm.ProcessorCount
        $memory = [long]$vm.MemoryStartup
        [void]$undo.Add({ Hyper-V\Set-VMProcessor -VM $vm -Count $cpus })
        $processor = @{ Count = $Arguments.cpus }
        if ($Arguments.numa -gt 0) {
            $processor.MaximumCountPerNumaNode = [int]($Arguments.cpus / $Arguments.numa)
        }
        Hyper-V\Set-VMProcessor -VM $vm @processor
        [void]$undo.Add({ Hyper-V\Set-VMMemory -VM $vm -StartupBytes $memory })
        Hyper-V\Set-VMMemory -VM $vm -StartupBytes $Arguments.memory
        if ($before -gt 0 -and $Arguments.size -gt $before) {
            [void]$undo.Add({ Hyper-V\Resize-VHD -Path $root.Path -SizeBytes $before })
            Hyper-V\Resize-VHD -Path $root.Path -SizeBytes $Arguments.size
        }
        Assert-HvBudget
        Set-HvRecord $found.Folder (Edit-HvLines $lines 'flavor' (ConvertTo-HvFlavorLine $new))
        $done = $true
    }
    finally {
        if (-not $done -and $undo.Count -gt 0) {
            Undo-Hv {
                for ($at = $undo.Count - 1; $at -ge 0; $at--) { . $undo[$at] }
            }
        }
        Unlock-Hv $lock
    }
}

function Assert-HvFits {
    param([long]$Cpus, [long]$Memory)
    $vmhost = Hyper-V\Get-VMHost
    if ($Cpus -gt $vmhost.LogicalProcessorCount) {
        Stop-Hv 'TooLarge' 'the host has not so many logical processors'
    }
    if ($Memory -gt $vmhost.MemoryCapacity) {
        Stop-Hv 'TooLarge' 'the host has not so much memory'
    }
}

# Static memory may change while the machine runs, up and down (Windows Server 2016 and later).
function Invoke-HvHotMemory {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $changed = $false
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        Begin-HvChange $lock $found.Uuid
        $vm = $found.VM
        $lines = Get-HvRecord $found.Folder
        $flavor = Get-HvFlavor $lines
        $before = [long]$vm.MemoryStartup
        if ($null -eq $flavor.max_memory_mib) {
            Stop-Hv 'Headroom' 'the flavor has no max_memory_mib'
        }
        if ($Arguments.mib -gt [long]$flavor.max_memory_mib) {
            Stop-Hv 'Headroom' 'more than the max_memory_mib of the flavor'
        }
        if ($Arguments.memory -ne $before) {
            $changed = $true
            Hyper-V\Set-VMMemory -VM $vm -StartupBytes $Arguments.memory
        }
        Assert-HvBudget
        $flavor.memory_mib = [long]$Arguments.mib
        Set-HvRecord $found.Folder (Edit-HvLines $lines 'flavor' (ConvertTo-HvFlavorLine $flavor))
        $done = $true
    }
    finally {
        if ($changed -and -not $done) {
            Undo-Hv { Hyper-V\Set-VMMemory -VM $vm -StartupBytes $before }
        }
        Unlock-Hv $lock
    }
}

# The new disk is made beside the old one and put into its place at the end: a drive that is removed
# and added again gives the machine the right to its file.
#
#   ROOT\index\UUID.rebuild       a rebuild goes on, or its client has died: the "image" line of the
#                                 record afterwards
function Invoke-HvRebuild {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $file = Get-HvRebuilding $Arguments.uuid
    $begun = $false
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        $lines = Get-HvRecord $found.Folder
        if ($found.State -eq 'stopped') { Exit-HvRescue $found }
        $disks = Get-HvDisks $found
        $path = "$disks\root.vhdx"
        $fresh = "$disks\root.new.vhdx"
        $aside = "$disks\root.old.vhdx"
        if (@(Hyper-V\Get-VMSnapshot -VM $found.VM).Count -gt 0) {
            Stop-Hv 'HasSnapshots' 'the disk has checkpoints'
        }
        Restore-HvRoot $found
        if ($null -eq (Find-HvDrive $found.VM $path)) {
            if (Find-HvLine $lines 'adopted') {
                Stop-Hv 'Adopted' 'the driver replaces no disk of a machine that others have made'
            }
            Stop-Hv 'VolumeRoot' 'the instance was booted from a volume'
        }
        Assert-HvImage $Arguments.image
        $begun = $true
        Remove-HvTree $fresh
        $null = Hyper-V\New-VHD -Path $fresh -ParentPath $Arguments.image -Differencing
        if (-not (Test-HvFile $Arguments.image)) {
            Stop-Hv 'ImageEvicted' 'the image was evicted from the cache meanwhile'
        }
        $wanted = [long](Get-HvFlavor $lines).disk_gib * 1GB
        $size = [long](Hyper-V\Get-VHD -Path $fresh).Size
        if ($wanted -gt 0 -and $wanted -lt $size) { Stop-Hv 'ImageTooLarge' "$size" }
        if ($wanted -gt $size) { Hyper-V\Resize-VHD -Path $fresh -SizeBytes $wanted }
        Assert-HvBudget
        $new = ''
        if ($Arguments.key) { $new = "image $($Arguments.key)" }
        $was = $found.State
        if ($was -eq 'running') { Assert-HvMayStart }
        Set-HvFile $file $new
        if ($was -eq 'running') {
            $global:HvRunLost = $true
            Stop-HvMachine $found.VM 0
        }
        Move-Item -LiteralPath $path -Destination $aside
        Move-Item -LiteralPath $fresh -Destination $path
        Reset-HvRootDrive $found
        Assert-HvBudget
        if ($was -eq 'running') { Start-HvMachine $found.VM }
        Set-HvRecord $found.Folder (Edit-HvLines $lines 'image' $new)
        $done = $true
        Remove-HvTree $aside
        Remove-HvFile $file
    }
    finally {
        if ($begun -and -not $done) {
            Undo-Hv {
                Remove-HvTree $fresh
                if (Test-Path -LiteralPath $aside) {
                    Stop-HvMachine $found.VM 0
                    Restore-HvRoot $found
                }
                Remove-HvFile $file
                if ($was -eq 'running' -and
                    (Get-HvMachine $found.VM.Id.ToString()).State.ToString() -match '^Off') {
                    Start-HvMachine $found.VM
                }
            }
        }
        Unlock-Hv $lock
    }
}

function Get-HvRebuilding {
    param([string]$Uuid)
    [IO.Path]::Combine($HvShared.Facts.Index, "$Uuid.rebuild")
}

# After a client that died in a rebuild: the machine may have no root disk, or start from the new one
# while the record names the old.
function Complete-HvRebuild {
    param($Found)
    $file = Get-HvRebuilding $Found.Uuid
    if (-not [IO.File]::Exists($file)) { return }
    if (Test-HvRebuilt $Found) {
        $lines = Edit-HvLines (Get-HvRecord $Found.Folder) 'image' ([IO.File]::ReadAllText($file))
        Set-HvRecord $Found.Folder $lines
    }
    Restore-HvRoot $Found
    Remove-HvFile $file
    $Found.VM = Get-HvMachine $Found.VM.Id.ToString()
}

# Whether the machine runs while the old root disk lies aside: then it runs from the new one.
function Test-HvRebuilt {
    param($Found)
    (Test-Path -LiteralPath "$(Get-HvDisks $Found)\root.old.vhdx") -and
        (Get-HvMachine $Found.VM.Id.ToString()).State.ToString() -match '^Running'
}

# The old root disk again, where a rebuild did not come to its end.
function Restore-HvRoot {
    param($Found)
    $disks = Get-HvDisks $Found
    $path = "$disks\root.vhdx"
    $aside = "$disks\root.old.vhdx"
    Remove-HvTree "$disks\root.new.vhdx"
    if (-not (Test-Path -LiteralPath $aside)) { return }
    if (Test-HvRebuilt $Found) {
        Remove-HvTree $aside
        return
    }
    Remove-HvTree $path
    Move-Item -LiteralPath $aside -Destination $path
    Reset-HvRootDrive $Found
}

# Takes the drive of the root disk out and puts it in again at its place.
function Reset-HvRootDrive {
    param($Found)
    $path = "$(Get-HvDisks $Found)\root.vhdx"
    $drive = Find-HvDrive $Found.VM $path
    $place = @{ ControllerType = 'SCSI'; Path = $path }
    if ($Found.VM.Generation -eq 1) {
        $place = @{ ControllerType = 'IDE'; ControllerNumber = 0; ControllerLocation = 0
            Path = $path }
    }
    if ($null -ne $drive) {
        $place.ControllerNumber = [int]$drive.ControllerNumber
        $place.ControllerLocation = [int]$drive.ControllerLocation
        Hyper-V\Remove-VMHardDiskDrive -VMHardDiskDrive $drive
    }
    $drive = Hyper-V\Add-VMHardDiskDrive -VM $Found.VM @place -Passthru
    Set-HvBoot $Found.VM $drive
}

function Set-HvBoot {
    param($VM, $Drive)
    if ($VM.Generation -ne 1) { Hyper-V\Set-VMFirmware -VM $VM -FirstBootDevice $Drive }
}

# ---- rescue --------------------------------------------------------------------------------------

function Invoke-HvRescue {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $begun = $false
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        Exit-HvRescue $found
        $lines = Get-HvRecord $found.Folder
        $image = $Arguments.image
        if (-not $image) {
            $root = Find-HvRoot $found
            if ($null -eq $root) { Stop-Hv 'NoImage' 'the instance was not made from an image' }
            $image = "$((Hyper-V\Get-VHD -Path (Get-HvBase $root.Path)).ParentPath)"
            if (-not $image) { Stop-Hv 'NoImage' 'the root disk is not based on an image' }
        }
        if ($Arguments.image) { Assert-HvImage $image }
        elseif (-not (Test-HvFile $image)) {
            Stop-Hv 'ImageGone' 'the image is not on the host'
        }
        Assert-HvMayStart
        if ($found.State -eq 'stopped') { Assert-HvStartable $found }
        $was = $found.State
        $begun = $true
        $path = "$($found.Folder)\rescue.vhdx"
        Remove-HvTree $path
        $null = Hyper-V\New-VHD -Path $path -ParentPath $image -Differencing
        Assert-HvBudget
        if ($was -ne 'stopped') {
            $global:HvRunLost = $true
            Stop-HvMachine $found.VM 0
        }
        $null = New-HvFile (Get-HvFlag $found.Uuid)
        $found.Rescued = $true
        if ($found.VM.Generation -eq 1) {
            $boot = Find-HvBootDrive $found $lines
            if ($null -ne $boot) { Move-HvIde $found.VM $boot }
            $null = Hyper-V\Add-VMHardDiskDrive -VM $found.VM -ControllerType IDE `
                -ControllerNumber 0 -ControllerLocation 0 -Path $path -Passthru
        }
        else { Set-HvBoot $found.VM (Add-HvDrive $found.VM $path $false) }
        if ($Arguments.data) { Add-HvRescueDisc $found $Arguments.data }
        Assert-HvBudget
        Start-HvMachine $found.VM
        $done = $true
    }
    finally {
        if ($begun -and -not $done) {
            Undo-Hv {
                if ($found.Rescued) {
                    Stop-HvMachine $found.VM 0
                    Exit-HvRescue $found
                }
                Remove-HvTree "$($found.Folder)\rescue.vhdx"
                Remove-HvRescueDisc $found
                if ($was -ne 'stopped' -and
                    (Get-HvMachine $found.VM.Id.ToString()).State.ToString() -match '^Off') {
                    Start-HvMachine $found.VM
                }
            }
        }
        Unlock-Hv $lock
    }
}

# The disc of a rescued machine takes the place of its own, in the same drive.
function Add-HvRescueDisc {
    param($Found, [string]$Data)
    $path = "$($Found.Folder)\rescue.iso"
    [IO.File]::WriteAllBytes((Get-HvFile $path), [Convert]::FromBase64String($Data))
    $drive = Find-HvDisc $Found.VM "$($Found.Folder)\seed.iso"
    if ($null -ne $drive) { Hyper-V\Set-VMDvdDrive -VMDvdDrive $drive -Path $path }
    else { $null = Add-HvOwnDisk $Found.VM @{ path = $path; seed = $true } }
}

# The machine's own disc again, or none, in a machine that is off.
function Remove-HvRescueDisc {
    param($Found)
    $path = "$($Found.Folder)\rescue.iso"
    if (-not (Test-Path -LiteralPath $path)) { return }
    $own = "$($Found.Folder)\seed.iso"
    $drive = Find-HvDisc $Found.VM $path
    if ($null -ne $drive) {
        if (Test-Path -LiteralPath $own) { Hyper-V\Set-VMDvdDrive -VMDvdDrive $drive -Path $own }
        else { Hyper-V\Remove-VMDvdDrive -VMDvdDrive $drive }
    }
    Remove-HvTree $path
}

function Find-HvDisc {
    param($VM, [string]$Path)
    foreach ($drive in Hyper-V\Get-VMDvdDrive -VM $VM) {
        if ("$($drive.Path)" -eq $Path) { return $drive }
    }
}

# From the first place on IDE, which boots, to a free one.
function Move-HvIde {
    param($VM, $Drive)
    $taken = @{}
    foreach ($each in Hyper-V\Get-VMHardDiskDrive -VM $VM) {
        $taken["$($each.ControllerType) $($each.ControllerNumber) $($each.ControllerLocation)"] = 1
    }
    foreach ($each in Hyper-V\Get-VMDvdDrive -VM $VM) {
        $taken["$($each.ControllerType) $($each.ControllerNumber) $($each.ControllerLocation)"] = 1
    }
    foreach ($place in @(0, 1), @(1, 0), @(1, 1)) {
        if ($taken["IDE $($place[0]) $($place[1])"]) { continue }
        Hyper-V\Set-VMHardDiskDrive -VMHardDiskDrive $Drive -ToControllerType IDE `
            -ToControllerNumber $place[0] -ToControllerLocation $place[1]
        return
    }
    Stop-Hv 'NoSlot' 'the machine has no free place on IDE'
}

# Takes the rescue disk out of a machine that is off, and boots from its own disk again.
function Exit-HvRescue {
    param($Found)
    if (-not $Found.Rescued) { return }
    $path = "$($Found.Folder)\rescue.vhdx"
    $drive = Find-HvDrive $Found.VM $path
    if ($null -ne $drive) { Hyper-V\Remove-VMHardDiskDrive -VMHardDiskDrive $drive }
    $lines = Get-HvRecord $Found.Folder
    $boot = Find-HvBootDrive $Found $lines
    if ($null -ne $boot) {
        if ($Found.VM.Generation -ne 1) {
            # without the rescue disk an adopted machine has the boot order that others gave it
            if (-not (Find-HvLine $lines 'adopted')) { Set-HvBoot $Found.VM $boot }
        }
        elseif ([int]$boot.ControllerNumber -ne 0 -or [int]$boot.ControllerLocation -ne 0) {
            Hyper-V\Set-VMHardDiskDrive -VMHardDiskDrive $boot -ToControllerType IDE `
                -ToControllerNumber 0 -ToControllerLocation 0
        }
    }
    Remove-HvTree $path
    Remove-HvRescueDisc $Found
    Remove-HvFile (Get-HvFlag $Found.Uuid)
    $Found.Rescued = $false
}

function Invoke-HvUnrescue {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $off = $false
    try {
        $found = Find-HvLegal $Arguments
        if (-not $found.Rescued) { return }
        $on = $found.State -ne 'stopped'
        if ($on) {
            Assert-HvMayStart
            $off = $true
            Stop-HvMachine $found.VM 0
        }
        Exit-HvRescue $found
        if ($on) { Start-HvMachine $found.VM }
        $off = $false
    }
    finally {
        if ($off) {
            # there is no way back to the rescue
            $global:HvNotUndone = 'it did not come to its end: power_on() ends it, and starts the machine'
        }
        Unlock-Hv $lock
    }
}
