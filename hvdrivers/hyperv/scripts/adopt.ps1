# Machines of others become instances; the host as a whole takes no starts.

function Invoke-HvAdopt {
    param($Arguments)
    $uuid = $Arguments.uuid
    $lock = Lock-Hv $uuid
    $made = $false
    $done = $false
    try {
        if (Get-HvMachineId $uuid) {
            $null = Find-HvLegal $Arguments
            return Read-HvInstance (Find-Hv $uuid)
        }
        $vm = Get-HvMachine $uuid
        if ($null -eq $vm -or (Get-HvOwners)[$uuid]) {
            Stop-Hv 'InstanceNotFound' 'no machine of others has this Id'
        }
        Assert-HvAlone $vm
        if ("$($vm.ReplicationMode)" -match 'Replica$') {
            Stop-Hv 'Replica' 'another host writes to it (Hyper-V Replica)'
        }
        $claim = Get-HvClaim $uuid
        $state = Get-HvState $vm $false
        if ($Arguments.legal -notcontains $state) { Stop-Hv 'InvalidState' $state }
        if (-not $Arguments.name -and -not (Test-HvLabel $vm.Name)) {
            Stop-Hv 'BadLabel' 'the name of the machine is no valid label'
        }
        # the lock is ours: nobody works at an adoption that is not complete. Its client has died
        if (Test-HvHalfAdopted $uuid) { Remove-HvInstance $uuid }
        if (-not (New-HvFile $claim $uuid)) {
            Stop-Hv 'InstanceExists' 'the UUID is taken'
        }
        $made = $true
        $folder = Get-HvFolder $uuid
        $null = New-Item -ItemType Directory -Force -Path $folder
        $flavor = @{
            vcpus = [int]$vm.ProcessorCount
            memory_mib = [Math]::Max(16, [long]$vm.MemoryStartup / 1MB)
            disk_gib = 0
        }
        Set-HvRecord $folder (@("record $($Arguments.record)", 'adopted yes',
            "metadata $($Arguments.metadata)", (ConvertTo-HvFlavorLine $flavor)) +
            @(Get-HvOwnLines $vm))
        if ($Arguments.name -and $vm.Name -cne $Arguments.name) {
            Hyper-V\Set-VM -VM $vm -NewVMName $Arguments.name
        }
        Assert-HvBudget
        if ($state -eq 'paused') { $state = 'running' }
        Set-HvOwner $uuid $uuid $state
        $done = $true
        Read-HvInstance (Find-Hv $uuid)
    }
    finally {
        if ($made -and -not $done) {
            Undo-Hv {
                Remove-HvTree (Get-HvFolder $uuid)
                Remove-HvFile (Get-HvClaim $uuid)
            }
        }
        Unlock-Hv $lock
    }
}

# A failover cluster starts its machines, and takes them to other hosts, by itself.
function Assert-HvAlone {
    param($VM)
    if ($VM.IsClustered) { Stop-Hv 'Clustered' 'a failover cluster has the machine' }
}

# As the contract's labels are: 1 to 63 characters that can be printed, no blanks around them.
function Test-HvLabel {
    param([string]$Name)
    $Name.Length -ge 1 -and $Name.Length -le 63 -and $Name -ceq $Name.Trim() -and
        $Name -notmatch '\p{C}' -and $Name -notmatch '[\u2028\u2029]' -and
        [Text.Encoding]::UTF8.GetByteCount($Name) -le 128
}
