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

# A file says what a client has begun at an instance, and what is to be made of it if the client dies.
function Test-HvLeft {
    param([string]$Uuid)
    foreach ($file in (Get-HvIntentFile $Uuid), (Get-HvReconnecting $Uuid), (Get-HvRebuilding $Uuid),
        (Get-HvBegun $Uuid)) {
        if ([IO.File]::Exists($file)) { return $true }
    }
    $false
}

function Get-HvBegun {
    param([string]$Uuid)
    [IO.Path]::Combine($HvShared.Facts.Index, "$Uuid.begun")
}

# Says that a change goes on, until the lock is given back. If the client dies, the next request that
# changes the instance waits for the call that it was in: the host does that after what comes next, and
# the later one would not have the last word.
function Begin-HvChange {
    param($Lock, [string]$Uuid)
    $file = Get-HvBegun $Uuid
    $null = New-HvFile $file
    Add-Member -InputObject $Lock -NotePropertyName Begun -NotePropertyValue $file
}

# Until the host has ended the calls that change a machine: one that a dead client was in would undo what
# is put back before. The caller has the instance's lock, so nobody begins another one.
function Wait-HvCalls {
    param($VM)
    $space = 'root/virtualization/v2'
    $name = $VM.Id.ToString().ToUpperInvariant()
    while ($true) {
        $system = @(Get-CimInstance -Namespace $space -ClassName Msvm_ComputerSystem `
            -Filter "Name = '$name'")
        if ($system.Count -eq 0) { return }
        $open = @(Get-CimAssociatedInstance -InputObject $system[0] `
            -Association Msvm_AffectedJobElement -ResultClassName CIM_ConcreteJob |
            Where-Object { [int]$_.JobState -lt 7 })  # 7: completed
        if ($open.Count -eq 0) { return }
        Wait-Hv 50
    }
}

# Until the host has ended the calls that were at work at disks by now. A job does not surely name the disk
# of every kind of call, so those of others are waited for too; those that begin later are not.
function Wait-HvDiskCalls {
    $first = $null
    while ($true) {
        $open = @(Get-CimInstance -Namespace 'root/virtualization/v2' -ClassName Msvm_StorageJob |
            Where-Object { [int]$_.JobState -lt 7 } | ForEach-Object { "$($_.InstanceID)" })
        if ($null -eq $first) { $first = $open }
        if (@($open | Where-Object { $first -contains $_ }).Count -eq 0) { return }
        Wait-Hv 50
    }
}

# An instance, after the calls of a client that died in a change of it.
function Find-HvSettled {
    param([string]$Uuid)
    $found = Find-Hv $Uuid
    if (-not (Test-HvLeft $Uuid)) { return $found }
    Wait-HvCalls $found.VM
    Wait-HvDiskCalls
    Remove-HvFile (Get-HvBegun $Uuid)
    Find-Hv $Uuid
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
