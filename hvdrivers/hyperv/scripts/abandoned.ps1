# What clients have left that died in the middle of making an instance: a claim without an owner file,
# and the machine and disks of it. spawn() and destroy() of the UUID remove it at once; who looks for room
# removes what is ten minutes old. Only then has the host ended a call that it may have been in.

function Get-HvClaimed {
    param([string]$Uuid)
    try { [IO.File]::ReadAllText((Get-HvClaim $Uuid)).Trim() }
    catch [IO.IOException] { '' }
}

# The claim is that of an adoption which has not come to its end: the machine is not ours.
function Test-HvHalfAdopted {
    param([string]$Uuid)
    -not (Get-HvMachineId $Uuid) -and (Get-HvClaimed $Uuid) -eq $Uuid
}

# UUIDs of spawns whose clients have died, and which nobody works at.
function Get-HvAbandoned {
    $owned = @{}
    foreach ($uuid in (Get-HvOwners).Values) { $owned[$uuid] = $true }
    $end = [DateTime]::UtcNow.AddMinutes(-10)
    foreach ($file in [IO.Directory]::GetFiles($HvShared.Facts.Index, '*.claim')) {
        $uuid = ([IO.Path]::GetFileName($file)).Split('.')[0]
        if ($owned[$uuid] -or [IO.File]::GetLastWriteTimeUtc($file) -gt $end -or
            (Get-HvClaimed $uuid) -eq $uuid) { continue }
        if (Test-HvNobodyAt $uuid) { $uuid }
    }
}

# A request that works at an instance has its lock open.
function Test-HvNobodyAt {
    param([string]$Uuid)
    $file = [IO.Path]::Combine($HvShared.Facts.Locks, $Uuid)
    try {
        [IO.File]::Create($file, 1, [IO.FileOptions]::DeleteOnClose).Dispose()
        $true
    }
    catch [IO.IOException] { $false }
}

function Clear-HvAbandoned {
    foreach ($uuid in @(Get-HvAbandoned)) {
        $lock = Lock-Hv $uuid
        # another spawn may have begun meanwhile
        try {
            if (-not (Get-HvMachineId $uuid) -and [IO.File]::Exists((Get-HvClaim $uuid)) -and
                [IO.File]::GetLastWriteTimeUtc((Get-HvClaim $uuid)) -le
                [DateTime]::UtcNow.AddMinutes(-10)) {
                Remove-HvInstance $uuid
            }
        }
        finally { Unlock-Hv $lock }
    }
}

# Machines that the host has made for spawns that were over by then: nobody has given them a name.
function Remove-HvLate {
    param([string]$Uuid)
    $folder = Get-HvFolder $Uuid
    $owner = Get-HvMachineId $Uuid
    $named = @(try { Hyper-V\Get-VM -Name $Uuid } catch { Assert-HvGone $_ })
    foreach ($vm in $named) {
        $path = "$($vm.Path)".TrimEnd('\')
        if ($vm.Id.ToString() -eq $owner -or $vm.Id.ToString() -eq $Uuid) { continue }
        if ($path -ne $folder -and $path -ne "$folder\$Uuid") { continue }
        Stop-HvMachine $vm 0
        Hyper-V\Remove-VM -VM $vm -Force -Confirm:$false
    }
}
