# A copy of the root disk: instances\UUID\export-NONCE.vhdx stands alone. The client reads it in
# pieces and removes it. One that a dead client has left, which nobody has read for ten minutes, goes when the
# next one is made, or with the instance.

function Get-HvExport {
    param($Arguments)
    "$(Get-HvFolder $Arguments.uuid)\export-$($Arguments.nonce).vhdx"
}

# The disk of a machine that is powered on is open, but what lies below a checkpoint is not.
function Invoke-HvExport {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $path = Get-HvExport $Arguments
    $begun = $false
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        $root = Find-HvRoot $found
        if ($null -eq $root) {
            Stop-Hv 'VolumeRoot' 'the instance has no root disk of its own: it boots from a volume'
        }
        if (Test-HvPoweredOn $found.VM) { Assert-HvCheckpoints $found.VM $false }
        # what a client has left that died in the middle
        Clear-HvExports $found.Folder
        $vm = Remove-HvExportPoints $found.VM
        $source = "$((Find-HvRoot $found).Path)"
        $on = Test-HvPoweredOn $vm
        if ($on) { Assert-HvFreezes $vm }
        $begun = $true
        if ($on) {
            Hyper-V\Checkpoint-VM -VM $vm -SnapshotName "hvdrivers.export-$($Arguments.nonce)"
            Assert-HvBudget
            $source = "$((Hyper-V\Get-VHD -Path (Find-HvRoot $found).Path).ParentPath)"
        }
        Open-Hv { Hyper-V\Convert-VHD -Path $source -DestinationPath $path -VHDType Dynamic }
        Assert-HvBudget
        $null = Remove-HvExportPoints $vm
        Assert-HvBudget
        $disk = Hyper-V\Get-VHD -Path $path
        $done = $true
        @{ size = [long]$disk.Size; length = (New-Object IO.FileInfo (Get-HvFile $path)).Length }
    }
    finally {
        if ($begun -and -not $done) {
            Undo-Hv {
                $null = Remove-HvExportPoints $found.VM
                Remove-HvTree $path
            }
        }
        Unlock-Hv $lock
    }
}

# Hyper-V makes checkpoints of what the machine has.
function Assert-HvFreezes {
    param($VM)
    $passed = @(Hyper-V\Get-VMHardDiskDrive -VM $VM | Where-Object { Test-HvPassed $_ })
    if ($passed.Count -gt 0 -or (Test-HvHasDevices $VM)) {
        Stop-Hv 'OffOnly' 'Hyper-V makes no checkpoint of a machine with a disk or device of the host'
    }
}

function Clear-HvExports {
    param([string]$Folder)
    $end = [DateTime]::UtcNow.AddMinutes(-10)
    foreach ($file in [IO.Directory]::GetFiles((Get-HvReal $Folder), 'export-*.vhdx')) {
        if ([IO.File]::GetLastWriteTimeUtc($file) -ge $end) { continue }
        # one that somebody has open goes another time
        try { Remove-HvFile $file }
        catch { if (-not (Test-HvPasses $_)) { throw } }
    }
}

# The caller has the lock of the instance: whoever made such a checkpoint is not at work any more.
function Remove-HvExportPoints {
    param($VM)
    $VM = Wait-HvIdle $VM
    foreach ($each in Hyper-V\Get-VMSnapshot -VM $VM) {
        if ($each.Name -cmatch '^hvdrivers\.export-[0-9a-f]{16}\z') {
            Hyper-V\Remove-VMSnapshot -VMSnapshot $each -Confirm:$false
        }
    }
    Wait-HvIdle $VM
}

# One piece: raw deflate of at most so many bytes from this offset on.
function Invoke-HvExportRead {
    param($Arguments)
    if (-not (Test-Path -LiteralPath (Get-HvExport $Arguments))) {
        $null = Find-Hv $Arguments.uuid # it was destroyed meanwhile
        Stop-Hv 'Changed' 'somebody has removed the copy of the disk'
    }
    $file = Get-HvFile (Get-HvExport $Arguments)
    # it is in use
    [IO.File]::SetLastWriteTimeUtc($file, [DateTime]::UtcNow)
    $stream = [IO.File]::Open($file, 'Open', 'Read', 'Read')
    try {
        [void]$stream.Seek($Arguments.offset, 'Begin')
        $plain = New-Object byte[] $Arguments.count
        $count = $stream.Read($plain, 0, $plain.Length)
    }
    finally { $stream.Dispose() }
    $packed = New-Object IO.MemoryStream
    $packer = New-Object IO.Compression.DeflateStream(
        $packed, [IO.Compression.CompressionMode]::Compress, $true)
    $packer.Write($plain, 0, $count)
    $packer.Dispose()
    @{ data = [Convert]::ToBase64String($packed.ToArray()) }
}

function Invoke-HvExportDrop {
    param($Arguments)
    if (Test-Path -LiteralPath (Get-HvFolder $Arguments.uuid)) {
        Remove-HvTree (Get-HvExport $Arguments)
    }
}
