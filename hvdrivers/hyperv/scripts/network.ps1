# NICs on virtual switches. The adapter's name is the id of the VIF.

function Assert-HvPortFree {
    param([string]$Name, $VM = $null)
    # any other id is a name within its machine, and no port of a network
    if ($Name -notmatch '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\z') { return }
    foreach ($adapter in Hyper-V\Get-VMNetworkAdapter -All) {
        if ($adapter.Name -cne $Name -or $adapter.IsManagementOs) { continue }
        $id = "$($adapter.VMId)"
        if (-not $id -or ($null -ne $VM -and $id -eq $VM.Id.ToString())) { continue }
        $other = Get-HvMachine $id
        if ($null -ne $other -and (Test-HvPoweredOn $other)) {
            Stop-Hv 'PortBusy' 'another machine that is powered on has the port'
        }
    }
}

# Before anything is made: its switch is there, and has virtual functions if the NIC is to have one.
function Assert-HvSwitch {
    param($Nic)
    $switch = Get-HvSwitch $Nic.switch
    if (-not $Nic.sriov) { return }
    if (-not $switch.IovEnabled) {
        Stop-Hv 'NoFunctions' 'the virtual switch was made without SR-IOV'
    }
    if ($switch.IovSupport) { return }
    $why = (@($switch.IovSupportReasons) + @((Hyper-V\Get-VMHost).IovSupportReasons) |
        Where-Object { $_ }) -join ' '
    if ($why.Length -gt 400) { $why = $why.Substring(0, 400) }
    Stop-Hv 'NoFunctions' "the host has no virtual functions for guests: $why"
}

function Add-HvNic {
    param($VM, $Nic)
    $switch = Get-HvSwitch $Nic.switch
    $most = $HvShared.Facts.Nics
    if ($VM.Generation -eq 1) { $most = [Math]::Min(8, $most) }
    if (@(Hyper-V\Get-VMNetworkAdapter -VM $VM).Count -ge $most) {
        Stop-Hv 'NoSlot' 'the machine has no slot for another NIC'
    }
    $adapter = Hyper-V\Add-VMNetworkAdapter -VM $VM -Name $Nic.name `
        -StaticMacAddress $Nic.mac -Passthru
    Hyper-V\Connect-VMNetworkAdapter -VMNetworkAdapter $adapter -VMSwitch $switch
    if ($Nic.vlan -gt 0) {
        Hyper-V\Set-VMNetworkAdapterVlan -VMNetworkAdapter $adapter -Access -VlanId $Nic.vlan
    }
    if ($Nic.maximum -gt 0) {
        Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $adapter -MaximumBandwidth $Nic.maximum
    }
    # any weight but 0 is a wish for a virtual function
    if ($Nic.sriov) { Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $adapter -IovWeight 100 }
    if (-not $Nic.active) { Hyper-V\Disconnect-VMNetworkAdapter -VMNetworkAdapter $adapter }
    $adapter
}

function Find-HvNic {
    param($VM, [string]$Name)
    foreach ($adapter in Hyper-V\Get-VMNetworkAdapter -VM $VM) {
        if ($adapter.Name -ceq $Name) { return $adapter }
    }
}

# A NIC of ours that is plugged into nothing, though its link is to be up.
function Test-HvSwitchGone {
    param($Nic, [string[]]$Lines)
    $line = Find-HvLine $Lines "nic $([Uri]::EscapeDataString($Nic.Name))"
    if (-not $line -or $line -match '"active":false[,}]') { return $false }
    -not $Nic.Connected -or -not "$($Nic.SwitchName)"
}

function Invoke-HvPlug {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $added = $false
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        Begin-HvChange $lock $found.Uuid
        $nic = $Arguments.nic
        $lines = Get-HvRecord $found.Folder
        $adapter = Find-HvNic $found.VM $nic.name
        if ($null -eq $adapter) {
            if ($nic.refused) { Stop-Hv 'Unsupported' $nic.refused }
            Assert-HvSwitch $nic
            if ($found.State -ne 'stopped') {
                if ($found.VM.Generation -eq 1) {
                    Stop-Hv 'ColdOnly' 'a machine of generation 1 takes NICs only while it is off'
                }
            }
            Assert-HvPortFree $nic.name $found.VM
            $added = $true
            # before the adapter comes: whoever dies in between leaves a NIC that can be unplugged
            $new = "nic $($nic.word) - $($nic.json)"
            Set-HvRecord $found.Folder (Edit-HvLines $lines "nic $($nic.word)" $new)
            $adapter = Add-HvNic $found.VM $nic
            Assert-HvBudget
        }
        if ($added -or -not (Find-HvLine $lines "nic $($nic.word)")) {
            $new = "nic $($nic.word) $($adapter.Id) $($nic.json)"
            Set-HvRecord $found.Folder (Edit-HvLines $lines "nic $($nic.word)" $new)
            if ($added) { Write-HvDevice $found 'added' $nic.word }
        }
        $done = $true
        Read-HvInstance (Find-Hv $Arguments.uuid)
    }
    finally {
        if ($added -and -not $done) {
            Undo-Hv {
                $left = Find-HvNic $found.VM $nic.name
                if ($null -ne $left) { Hyper-V\Remove-VMNetworkAdapter -VMNetworkAdapter $left }
                Set-HvRecord $found.Folder $lines
            }
        }
        Unlock-Hv $lock
    }
}

# What the guest sends, in bits per second. 0: no limit.
function Invoke-HvVifQos {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    $nic = $null
    $done = $false
    try {
        $found = Find-HvLegal $Arguments
        Begin-HvChange $lock $found.Uuid
        if (Find-HvLine (Get-HvRecord $found.Folder) "nic $($Arguments.word)") {
            $nic = Find-HvNic $found.VM $Arguments.name
        }
        if ($null -eq $nic) { Stop-Hv 'NoNic' 'the instance has no such NIC' }
        $before = 0L
        if ($null -ne $nic.BandwidthSetting) {
            $before = [long]$nic.BandwidthSetting.MaximumBandwidth
        }
        Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $nic -MaximumBandwidth $Arguments.maximum
        Assert-HvBudget
        $done = $true
    }
    finally {
        if ($null -ne $nic -and -not $done) {
            Undo-Hv {
                Hyper-V\Set-VMNetworkAdapter -VMNetworkAdapter $nic -MaximumBandwidth $before
            }
        }
        Unlock-Hv $lock
    }
}

function Invoke-HvUnplug {
    param($Arguments)
    $lock = Lock-Hv $Arguments.uuid
    try {
        $found = Find-HvLegal $Arguments
        Begin-HvChange $lock $found.Uuid
        $lines = Get-HvRecord $found.Folder
        $start = "nic $($Arguments.word)"
        if (-not (Find-HvLine $lines $start)) { return }
        $adapter = Find-HvNic $found.VM $Arguments.name
        if ($null -ne $adapter) {
            if ($found.State -ne 'stopped' -and $found.VM.Generation -eq 1) {
                Stop-Hv 'ColdOnly' 'a machine of generation 1 gives NICs back only while it is off'
            }
            Hyper-V\Remove-VMNetworkAdapter -VMNetworkAdapter $adapter
        }
        Set-HvRecord $found.Folder (Edit-HvLines $lines $start '')
        if ($null -ne $adapter) { Write-HvDevice $found 'removed' $Arguments.word }
    }
    finally { Unlock-Hv $lock }
}
