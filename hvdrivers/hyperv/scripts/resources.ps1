# What the host has, and what is taken of it.

function Invoke-HvHost {
    param($Arguments)
    $vmhost = Hyper-V\Get-VMHost
    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    $packages = @(Get-CimInstance -ClassName Win32_Processor)
    $owners = Get-HvOwners
    $used = 0
    $memory = 0L
    $ours = 0
    foreach ($vm in Hyper-V\Get-VM) {
        if ($owners[$vm.Id.ToString()]) { $ours++ }
        if (Test-HvPoweredOn $vm) {
            $used += [int]$vm.ProcessorCount
            $assigned = [long]$vm.MemoryAssigned
            if ($assigned -le 0) { $assigned = [long]$vm.MemoryStartup }
            $memory += $assigned
        }
    }
    $cells = New-Object System.Collections.ArrayList
    foreach ($node in Hyper-V\Get-VMHostNumaNode) {
        [void]$cells.Add(@{
            id = [int]$node.NodeId
            processors = @($node.ProcessorsAvailability).Count
            memory = [long]$node.MemoryTotal
        })
    }
    $cores = 0
    $threads = 0
    foreach ($package in $packages) {
        $cores += [int]$package.NumberOfCores
        $threads += [int]$package.NumberOfLogicalProcessors
    }
    @{
        computer = [string]$vmhost.ComputerName
        processors = [int]$vmhost.LogicalProcessorCount
        sockets = $packages.Count
        cores = $cores
        threads = $threads
        model = [string]$packages[0].Name
        memory = [long]$vmhost.MemoryCapacity
        # this class counts in kibibytes
        free = [long]$system.FreePhysicalMemory * 1024
        used = $used
        assigned = $memory
        instances = $ours
        cells = $cells.ToArray()
        devices = @(Get-HvPciDevices)
        gpus = @(Get-HvGpus)
        pools = @(foreach ($name in $Arguments.pools) { Get-HvSpace $name })
    }
}

# The space of a pool; $null where nobody tells: that of a share is its server's, and a drive may be
# away.
function Get-HvSpace {
    param([string]$Name)
    $path = Get-HvPool $Name
    $space = @{ name = $Name; total = $null; free = $null; shared = $path.StartsWith('\\', 'Ordinal') }
    if ($path -notmatch '^[A-Za-z]:') { return $space }
    try {
        # a folder may lie on another volume than its letter says
        if (Test-Path -LiteralPath $path) { $volume = Get-Volume -FilePath $path }
        else { $volume = Get-Volume -DriveLetter $path.Substring(0, 1) }
        $space.total = [long]$volume.Size
        $space.free = [long]$volume.SizeRemaining
    }
    catch {
        # the Storage module needs more rights than Hyper-V's: then the drive itself tells
        $drive = $path.Substring(0, 2) + '\'
        if (Test-Path -LiteralPath $drive) {
            $drive = New-Object IO.DriveInfo((Convert-Path -LiteralPath $drive))
            $space.total = $drive.TotalSize
            $space.free = $drive.AvailableFreeSpace
        }
    }
    $space
}

function Invoke-HvMetrics {
    param($Arguments)
    foreach ($attempt in 1..5) {
        # a machine that is removed while they are read is not in the next list
        try { return , @(Read-HvMetrics $Arguments) }
        catch {
            if ($attempt -eq 5) { throw }
            Assert-HvGone $_
        }
    }
}

function Read-HvMetrics {
    param($Arguments)
    $owners = Get-HvOwners
    $rescued = Get-HvRescued
    $machines = @(Hyper-V\Get-VM | Where-Object { $owners[$_.Id.ToString()] })
    if ($Arguments.uuids) {
        $machines = @($machines | Where-Object { $Arguments.uuids -contains $owners[$_.Id.ToString()] })
    }
    $looks = @{ Left = 10 }
    $machines = @($machines | ForEach-Object { Wait-HvStopping $_ $looks } | Where-Object { $_ })
    $nics = @{}
    $drives = @{}
    foreach ($vm in $machines) {
        $nics[$vm.Id.ToString()] = New-Object System.Collections.ArrayList
        $drives[$vm.Id.ToString()] = New-Object System.Collections.ArrayList
    }
    if ($machines.Count -gt 0) {
        foreach ($nic in Hyper-V\Get-VMNetworkAdapter -VM $machines) {
            [void]$nics[$nic.VMId.ToString()].Add(@([string]$nic.Name, [string]$nic.SwitchName))
        }
        foreach ($drive in Hyper-V\Get-VMHardDiskDrive -VM $machines) {
            [void]$drives[$drive.VMId.ToString()].Add(@([string]$drive.ControllerType,
                [int]$drive.ControllerNumber, [int]$drive.ControllerLocation))
        }
    }
    $found = New-Object System.Collections.ArrayList
    foreach ($vm in $machines) {
        $id = $vm.Id.ToString()
        $uuid = $owners[$id]
        [void]$found.Add(@{
            uuid = $uuid
            state = Get-HvState $vm ([bool]$rescued[$uuid])
            cpus = [int]$vm.ProcessorCount
            memory = [long]$vm.MemoryStartup
            assigned = [long]$vm.MemoryAssigned
            demand = [long]$vm.MemoryDemand
            nics = $nics[$id].ToArray()
            drives = $drives[$id].ToArray()
        })
    }
    $found.ToArray()
}

function Invoke-HvConnector {
    param($Arguments)
    $result = @{ initiator = ''; wwpns = @(); wwnns = @(); host = [string]$env:COMPUTERNAME; ip = ''
        multipath = Test-HvMultipath }
    foreach ($port in Get-InitiatorPort) {
        $type = "$($port.ConnectionType)"
        if ($type -match 'iSCSI|^2$' -and -not $result.initiator) {
            $result.initiator = [string]$port.NodeAddress
        }
        elseif ($type -match 'Fibre|^1$') {
            $result.wwpns += [string]$port.PortAddress
            $result.wwnns += [string]$port.NodeAddress
        }
    }
    $result
}
