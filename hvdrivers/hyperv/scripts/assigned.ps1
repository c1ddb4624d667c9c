# Devices of the host that a machine gets as they are (discrete device assignment), and partitions of its
# GPUs. A machine has them from spawn to destroy; who gives or takes them holds the lock "devices".
#
#   pci LOCATION INSTANCE HOST   a line of the record: a device by its location path and its instance id.
#                                HOST: "yes" if it was the host's own when the driver took it, and goes back
#
# An administrator sets a device aside for machines by Dismount-VMHostAssignableDevice.

function Lock-HvDevices { Lock-Hv 'devices' }

# PCI functions of the host that may be of use to a machine: no bridges.
function Get-HvPciDevices {
    foreach ($entity in Get-CimInstance -ClassName Win32_PnPEntity -Filter "DeviceID LIKE 'PCI%'") {
        $id = "$($entity.DeviceID)"
        if ($id -notmatch '^(PCIP?)\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})') { continue }
        $aside = $Matches[1] -eq 'PCIP'
        $vendor = $Matches[2].ToLowerInvariant()
        $product = $Matches[3].ToLowerInvariant()
        # bridges and root ports; a device that is set aside is of this class too
        if (-not $aside -and "$($entity.PNPClass)" -eq 'System') { continue }
        $found = @{}
        $told = Invoke-CimMethod -InputObject $entity -MethodName GetDeviceProperties -Arguments @{
            devicePropertyKeys = @('DEVPKEY_Device_LocationPaths', 'DEVPKEY_Device_BusNumber',
                'DEVPKEY_Device_Address') }
        foreach ($each in $told.deviceProperties) { $found["$($each.KeyName)"] = $each.Data }
        $path = @($found['DEVPKEY_Device_LocationPaths'])[0]
        if (-not $path -or $null -eq $found['DEVPKEY_Device_BusNumber']) { continue }
        $place = [long]$found['DEVPKEY_Device_Address']
        $class = ''
        foreach ($name in $entity.CompatibleID) {
            if ("$name" -match 'CC_([0-9A-F]{6})$') { $class = $Matches[1].ToLowerInvariant() }
            elseif (-not $class -and "$name" -match 'CC_([0-9A-F]{4})$') {
                $class = $Matches[1].ToLowerInvariant() + '00'
            }
        }
        @{
            address = '0000:{0:x2}:{1:x2}.{2:x}' -f [int]$found['DEVPKEY_Device_BusNumber'],
                [int][Math]::Floor($place / 65536), [int]($place % 65536)
            vendor = $vendor; product = $product; class = $class; label = "$($entity.Name)"
            aside = $aside; instance = $id; path = "$path"
        }
    }
}

# Whether the host's module has a cmdlet.
function Test-HvCommand {
    param([string]$Name)
    $null -ne (Get-Command -Name $Name -ErrorAction SilentlyContinue)
}

# GPUs that can be cut into partitions. The cmdlet is of Windows Server 2022.
function Get-HvHostGpus {
    if (Test-HvCommand 'Get-VMHostPartitionableGpu') { Hyper-V\Get-VMHostPartitionableGpu }
}

# The same, with the number of partitions that no machine has.
function Get-HvGpus {
    $gpus = @(Get-HvHostGpus)
    if ($gpus.Count -eq 0) { return }
    $parts = @(foreach ($vm in Hyper-V\Get-VM) {
        try { Hyper-V\Get-VMGpuPartitionAdapter -VM $vm }
        catch { Assert-HvGone $_ }
    })
    foreach ($gpu in $gpus) {
        $path = "$($gpu.Name)"
        # one without a path is on any GPU
        $used = @($parts | Where-Object {
            -not "$($_.InstancePath)" -or "$($_.InstancePath)" -eq $path })
        $instance = ''
        if ($path -match '^\\\\\?\\(PCI#[^#]+#[^#]+)#') { $instance = $Matches[1].Replace('#', '\') }
        @{ name = $path; instance = $instance; total = [int]$gpu.PartitionCount
            free = [Math]::Max(0, [int]$gpu.PartitionCount - $used.Count) }
    }
}

# Location paths of the devices that machines have.
function Get-HvAssigned {
    $taken = @{}
    foreach ($vm in Hyper-V\Get-VM) {
        try {
            foreach ($each in Hyper-V\Get-VMAssignableDevice -VM $vm) {
                $taken["$($each.LocationPath)"] = $true
            }
        }
        catch { Assert-HvGone $_ }
    }
    $taken
}

# Whether a machine has a device that Hyper-V neither saves nor copies.
function Test-HvHasDevices {
    param($VM)
    if ((Test-HvCommand 'Get-VMAssignableDevice') -and
        @(Hyper-V\Get-VMAssignableDevice -VM $VM).Count -gt 0) { return $true }
    (Test-HvCommand 'Get-VMGpuPartitionAdapter') -and
        @(Hyper-V\Get-VMGpuPartitionAdapter -VM $VM).Count -gt 0
}

# The host's own id of a device that the driver has taken from it for an instance which is still in its
# books: a client died before the machine got it, or the machine has lost it. Empty for any other device.
function Find-HvTakenFromHost {
    param([string]$Path)
    $start = "pci $([Uri]::EscapeDataString($Path)) "
    foreach ($folder in [IO.Directory]::GetDirectories((Convert-Path -LiteralPath `
        "$($HvShared.Facts.Root)\instances"))) {
        try { $lines = @([IO.File]::ReadAllLines([IO.Path]::Combine($folder, 'record'))) }
        catch [IO.IOException] { continue }
        foreach ($line in $lines) {
            if ($line.StartsWith($start, 'Ordinal') -and $line.EndsWith(' yes', 'Ordinal')) {
                return ConvertFrom-HvWord ($line.Split(' ')[2])
            }
        }
    }
    ''
}

function Stop-HvNoDevice { Stop-Hv 'NoDevice' 'the host has no such device that is free' }

# Gives a machine that is off its devices. Returns the record's lines.
function Add-HvDevices {
    param($VM, $Arguments, [string[]]$Lines, [string]$Folder)
    if (@($Arguments.pci).Count + @($Arguments.vgpus).Count -eq 0) { return , $Lines }
    $lock = Lock-HvDevices
    try {
        $devices = @(Get-HvPciDevices)
        $space = 0L
        foreach ($address in $Arguments.pci) {
            $device = @($devices | Where-Object { $_.address -eq $address })
            $taken = Get-HvAssigned
            if ($device.Count -eq 0 -or $taken[$device[0].path]) { Stop-HvNoDevice }
            $gpu = @(Get-HvGpus | Where-Object { $_.instance -eq $device[0].instance })
            if ($gpu.Count -gt 0 -and $gpu[0].free -lt $gpu[0].total) { Stop-HvNoDevice }
            $own = 'yes'
            $instance = $device[0].instance
            if ($device[0].aside) {
                $taken = Find-HvTakenFromHost $device[0].path
                # the host has another id for a device that is set aside
                if ($taken) { $instance = $taken } else { $own = 'no' }
            }
            $Lines += "pci $([Uri]::EscapeDataString($device[0].path))" +
                " $([Uri]::EscapeDataString($instance)) $own"
            # before the host loses it: who dies then has it given back
            Set-HvRecord $Folder $Lines
            if (-not $device[0].aside) { Remove-HvFromHost $device[0] }
            Hyper-V\Add-VMAssignableDevice -VM $VM -LocationPath $device[0].path
            if ($device[0].class -match '^(03|12)') { $space += $HvShared.Facts.Mmio }
            Assert-HvBudget
        }
        foreach ($wanted in $Arguments.vgpus) {
            $gpu = @(Get-HvGpus | Where-Object { $_.name -eq $wanted.type -and $_.free -gt 0 })
            if ($wanted.parent -and $gpu.Count -gt 0) {
                $parent = @($devices | Where-Object { $_.instance -eq $gpu[0].instance })
                if ($parent.Count -eq 0 -or $parent[0].address -ne $wanted.parent) { $gpu = @() }
            }
            if ($gpu.Count -eq 0) { Stop-HvNoDevice }
            $which = @{}
            if (Test-HvParameter 'Add-VMGpuPartitionAdapter' 'InstancePath') {
                $which.InstancePath = $gpu[0].name
            }
            Hyper-V\Add-VMGpuPartitionAdapter -VM $VM @which
            $space += $HvShared.Facts.Mmio
            Assert-HvBudget
        }
        if ($space -gt 0) {
            Hyper-V\Set-VM -VM $VM -GuestControlledCacheTypes $true -LowMemoryMappedIoSpace 3GB `
                -HighMemoryMappedIoSpace $space
        }
    }
    finally { Unlock-Hv $lock }
    , $Lines
}

# The host stops using the device, and lets machines have it.
function Remove-HvFromHost {
    param($Device)
    $entity = Find-HvEntity $Device.instance
    $done = Invoke-CimMethod -InputObject $entity -MethodName Disable
    if ([int]$done.ReturnValue -ne 0) {
        Stop-Hv 'DeviceKept' "the host does not let go of the device ($($done.ReturnValue))"
    }
    Hyper-V\Dismount-VMHostAssignableDevice -LocationPath $Device.path -Force
}

function Find-HvEntity {
    param([string]$Id)
    @(Get-CimInstance -ClassName Win32_PnPEntity -Filter "DeviceID LIKE 'PCI%'" |
        Where-Object { "$($_.DeviceID)" -eq $Id }) | Select-Object -First 1
}

# Takes the devices from a machine that is off or gone, and gives the host back what was its own. Every
# step succeeds where there is nothing to do.
function Remove-HvDevices {
    param($VM, [string[]]$Lines)
    $pci = @($Lines | Where-Object { "$_".StartsWith('pci ', 'Ordinal') })
    if ($pci.Count -eq 0) { return }
    $lock = Lock-HvDevices
    try {
        foreach ($line in $pci) {
            $word = $line.Split(' ')
            $path = ConvertFrom-HvWord $word[1]
            if ($null -ne $VM) {
                foreach ($each in Hyper-V\Get-VMAssignableDevice -VM $VM) {
                    if ("$($each.LocationPath)" -eq $path) {
                        Hyper-V\Remove-VMAssignableDevice -VMAssignableDevice $each
                    }
                }
            }
            if ($word[3] -ne 'yes' -or (Get-HvAssigned)[$path]) { continue }
            $aside = @(Hyper-V\Get-VMHostAssignableDevice | Where-Object {
                "$($_.LocationPath)" -eq $path })
            if ($aside.Count -gt 0) { Hyper-V\Mount-VMHostAssignableDevice -LocationPath $path }
            $entity = Find-HvEntity (ConvertFrom-HvWord $word[2])
            if ($null -ne $entity) {
                $null = Invoke-CimMethod -InputObject $entity -MethodName Enable
            }
        }
    }
    finally { Unlock-Hv $lock }
}
