# Properties of machines that Hyper-V reads when a script asks for them.
$simulatedTypes = @{
    NetworkAdapters = { @(Get-VMNetworkAdapter -VM $this) }
    HardDrives = { @(Get-VMHardDiskDrive -VM $this) }
    DVDDrives = { @(Get-VMDvdDrive -VM $this) }
    VMIntegrationService = { @(Get-VMIntegrationService -VM $this) }
    ComPort1 = { Get-VMComPort -VM $this -Number 1 }
    ComPort2 = { Get-VMComPort -VM $this -Number 2 }
}
foreach ($pair in $simulatedTypes.GetEnumerator()) {
    Update-TypeData -Force -TypeName 'Microsoft.HyperV.PowerShell.VirtualMachine' -MemberType ScriptProperty -MemberName $pair.Key -Value $pair.Value
}
Update-TypeData -Force -TypeName 'Microsoft.HyperV.PowerShell.VirtualMachine' -DefaultDisplayPropertySet Name, State, CPUUsage, MemoryAssigned, Uptime, Status, Version
