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

# Where the machine's disks are by the host's own record, which is read anew.
function Get-HvDiskPaths {
    param([string]$Id)
    $vm = Hyper-V\Get-VM -Id $Id
    foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $vm) { "$($drive.Path)" }
}

function Get-HvUnmoved {
    param($Vhds, [string[]]$Paths)
    foreach ($each in $Vhds) { if ($Paths -notcontains $each.DestinationFilePath) { $each } }
}

# After a success: what the host has left at the sources, and folders that no disk is in any more,
# which an attempt may have left that was killed.
function Remove-HvSources {
    param($Found, [string]$Target, $Vhds)
    $paths = @(Get-HvDiskPaths $Found.VM.Id.ToString())
    foreach ($each in $Vhds) {
        if ($paths -notcontains $each.SourceFilePath) { Remove-HvTree $each.SourceFilePath }
    }
    foreach ($folder in @(Get-HvPoolFolders $Found.Uuid)) {
        if ($folder -ne $Target) { Remove-HvOwnFolder $Found $folder $paths }
    }
}

# After a failure: disks that have moved go back, and what was copied is removed. A disk that the
# machine has is never removed.
function Undo-HvRelocation {
    param($Found, [string]$Target, $Vhds, [string]$File)
    $id = $Found.VM.Id.ToString()
    $null = Wait-HvMigrations $id $File
    $paths = @(Get-HvDiskPaths $id)
    $rest = @(Get-HvUnmoved $Vhds $paths)
    if ($rest.Count -lt $Vhds.Count -and -not (Test-HvWanted $File 'destroy')) {
        Set-HvFile $File 'back'
        $back = @(foreach ($each in $Vhds) {
            if ($paths -notcontains $each.DestinationFilePath) { continue }
            Remove-HvTree $each.SourceFilePath
            @{ SourceFilePath = $each.DestinationFilePath
                DestinationFilePath = $each.SourceFilePath }
        })
        $failure = $null
        $vm = Hyper-V\Get-VM -Id $id
        $moves = [hashtable[]]$back
        try { $null = Hyper-V\Move-VMStorage -VM $vm -Vhds $moves -Confirm:$false }
        catch { $failure = $_ }
        $null = Wait-HvMigrations $id $File
        $paths = @(Get-HvDiskPaths $id)
        $rest = @(Get-HvUnmoved $Vhds $paths)
    }
    foreach ($each in $rest) { Remove-HvTree $each.DestinationFilePath }
    if ($Target -ne $Found.Folder) { Remove-HvOwnFolder $Found $Target $paths }
    if ($rest.Count -lt $Vhds.Count -and -not (Test-HvWanted $File 'destroy')) {
        throw "some disks are in the other pool, and do not go back: $($failure.Exception.Message)"
    }
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
        $vhds = New-Object System.Collections.ArrayList
        $bytes = 0L
        $lines = Get-HvRecord $found.Folder
        $volumes = Get-HvVolumePaths $lines
        $taken = @(Get-HvDiskPaths $found.VM.Id.ToString())
        foreach ($path in @($taken)) {
            if (-not $path -or $volumes -contains $path -or
                -not (Test-HvOwn $uuid $lines (Get-HvBase $path))) { continue }
            if ($path.StartsWith("$target\", 'OrdinalIgnoreCase')) { continue }
            $name = $path.Substring($path.LastIndexOf('\') + 1)
            if ($taken -contains "$target\$name") {
                Stop-Hv 'SameName' "more than one of the machine's disks is named $name"
            }
            $taken += "$target\$name"
            $bytes += [long](Hyper-V\Get-VHD -Path $path).FileSize
            [void]$vhds.Add(@{ SourceFilePath = $path; DestinationFilePath = "$target\$name" })
        }
        if ($vhds.Count -eq 0) {
            Remove-HvSources $found $target $vhds
            return
        }
        if (@(Hyper-V\Get-VMSnapshot -VM $found.VM).Count -gt 0) {
            Stop-Hv 'HasSnapshots' 'disks with checkpoints stay where they are'
        }
        if ($bytes -gt [long](Get-HvSpace $Arguments.pool).free) {
            Stop-Hv 'PoolFull' 'the pool has no room for the disks'
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
        # whatever the cmdlet has said
        $rest = @(Get-HvUnmoved $vhds @(Get-HvDiskPaths $found.VM.Id.ToString()))
        if ($rest.Count -eq 0) { $done = $true }
        elseif (Test-HvAborted $file) {
            if (Test-HvWanted $file 'destroy') { Stop-Hv 'InstanceNotFound' 'it is being destroyed' }
            Stop-Hv 'NotMoved' 'nobody wants the disks to be moved any more'
        }
        elseif ($late) { Stop-Hv 'Deadline' 'the deadline passed; the disks stay where they were' }
        elseif ($null -ne $failure) { throw $failure }
        else { Stop-Hv 'NotMoved' 'the host has moved nothing' }
        Undo-Hv { Remove-HvSources $found $target $vhds }
    }
    finally {
        if ($begun -and -not $done) {
            Undo-Hv { Undo-HvRelocation $found $target $vhds $file }
        }
        if ($begun) { Remove-HvFile $file }
        Unlock-Hv $lock
    }
}

# For who has called it and does not want it any more. Disks that go back go on.
function Invoke-HvRelocateEnd {
    param($Arguments)
    $file = Get-HvRelocating $Arguments.uuid
    if (-not [IO.File]::Exists($file) -or (Test-HvWanted $file 'back')) { return }
    $id = Get-HvMachineId $Arguments.uuid
    Set-HvFile $file 'abort'
    if ($id) { Stop-HvMigration $id }
}
