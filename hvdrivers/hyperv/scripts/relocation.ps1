# Moving the disks of an instance to another pool, while it runs or not. Where they are is read from
# the machine's own drives: POOL\UUID, and for the pool "default" the instance's folder.

function Get-HvRelocating {
    param([string]$Uuid)
    [IO.Path]::Combine($HvShared.Facts.Index, "$Uuid.storage")
}

# Where disks of an instance may be, beside its own folder.
function Get-HvPoolFolders {
    param([string]$Uuid)
    foreach ($pool in $HvShared.Facts.Pools) { "$($pool.path)\$Uuid" }
}

# Where the disks of an instance are.
function Get-HvDisks {
    param($Found)
    $folders = @(Get-HvPoolFolders $Found.Uuid)
    if ($folders.Count -gt 0) {
        $lines = Get-HvRecord $Found.Folder
        foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $Found.VM) {
            $path = "$($drive.Path)"
            foreach ($folder in $folders) {
                # not by one that somebody else has put there
                if ($path.StartsWith("$folder\", 'OrdinalIgnoreCase') -and
                    (Test-HvOwn $Found.Uuid $lines (Get-HvBase $path))) { return $folder }
            }
        }
        # a rebuild that was killed may have taken the drive out
        foreach ($folder in $folders) {
            foreach ($name in 'root.vhdx', 'root.old.vhdx') {
                if (Test-Path -LiteralPath "$folder\$name") { return $folder }
            }
        }
    }
    $Found.Folder
}

function Invoke-HvRelocate {
    param($Arguments)
    $uuid = $Arguments.uuid
    $lock = Lock-Hv $uuid
    $file = Get-HvRelocating $uuid
    $begun = $false
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        $target = $found.Folder
        $pool = Get-HvPool $Arguments.pool
        if ($Arguments.pool -cne 'default') { $target = "$pool\$uuid" }
        if ($found.State -eq 'stopped') {
            Exit-HvRescue $found
            Restore-HvRoot $found
        }
        $old = Get-HvDisks $found
        $vhds = New-Object System.Collections.ArrayList
        $bytes = 0L
        $lines = Get-HvRecord $found.Folder
        $volumes = Get-HvVolumePaths $lines
        foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $found.VM) {
            $path = "$($drive.Path)"
            if (-not $path -or $volumes -contains $path -or
                -not (Test-HvOwn $uuid $lines (Get-HvBase $path))) { continue }
            if ($path.StartsWith("$target\", 'OrdinalIgnoreCase')) { continue }
            $name = $path.Substring($path.LastIndexOf('\') + 1)
            $bytes += [long](Hyper-V\Get-VHD -Path $path).FileSize
            [void]$vhds.Add(@{ SourceFilePath = $path; DestinationFilePath = "$target\$name" })
        }
        if ($vhds.Count -eq 0) { return }
        if (@(Hyper-V\Get-VMSnapshot -VM $found.VM).Count -gt 0) {
            Stop-Hv 'HasSnapshots' 'disks with checkpoints stay where they are'
        }
        if ($bytes -gt [long](Get-HvSpace $Arguments.pool).free) {
            Stop-Hv 'InsufficientResources' 'the pool has no room for the disks'
        }
        $begun = $true
        $null = New-Item -ItemType Directory -Force -Path $target
        # what an attempt has left that was killed
        foreach ($each in $vhds) { Remove-HvTree $each.DestinationFilePath }
        Assert-HvBudget
        Set-HvFile $file 'moving'
        $plan = @{ Vhds = [hashtable[]]$vhds.ToArray() }
        $late = $false
        $failure = $null
        try { $late = Invoke-HvMoving $found.VM.Id.ToString() $plan $file 'Move-VMStorage' }
        catch { $failure = $_ }
        if ((Get-HvDisks $found) -eq $target) { $done = $true }
        elseif (Test-HvAborted $file) {
            if ([IO.File]::ReadAllText($file) -ceq 'destroy') {
                Stop-Hv 'InstanceNotFound' 'it is being destroyed'
            }
            Stop-Hv 'NotMoved' 'nobody wants the disks to be moved any more'
        }
        elseif ($late) { Stop-Hv 'Deadline' 'the deadline passed; the disks stay where they were' }
        elseif ($null -ne $failure) { throw $failure }
        else { Stop-Hv 'NotMoved' 'the host has moved nothing' }
        if ($old -ne $found.Folder) { Undo-Hv { Remove-HvOwnFolder $found $old } }
    }
    finally {
        if ($begun -and -not $done) {
            Undo-Hv {
                if ($target -ne $found.Folder) { Remove-HvOwnFolder $found $target }
                else { foreach ($each in $vhds) { Remove-HvTree $each.DestinationFilePath } }
            }
        }
        if ($begun) { Remove-HvFile $file }
        Unlock-Hv $lock
    }
}

# For who has called it and does not want it any more.
function Invoke-HvRelocateEnd {
    param($Arguments)
    $file = Get-HvRelocating $Arguments.uuid
    if (-not [IO.File]::Exists($file)) { return }
    $id = Get-HvMachineId $Arguments.uuid
    Set-HvFile $file 'abort'
    if ($id) { Stop-HvMigration $id }
}
