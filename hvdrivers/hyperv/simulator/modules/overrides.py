"""What the documented parameter sets do not say, by hand.

Types and their base types, aliases of parameters, which cmdlets ask before they act, and the sets
that PowerShell's binder cannot tell apart as documented.
"""

ENUMS: dict[str, tuple[str, ...]] = {
    "Access": ("Unknown", "ReadWrite", "ReadOnly"),
    "BootDevice": ("Floppy", "CD", "IDE", "LegacyNetworkAdapter", "NetworkAdapter", "VHD"),
    "CacheAttributes": (
        "Default",
        "WriteCacheEnabled",
        "WriteCacheAndFUAEnabled",
        "WriteCacheDisabled",
    ),
    "CaptureLiveState": (
        "CaptureSavedState",
        "CaptureDataConsistentState",
        "CaptureCrashConsistentState",
    ),
    "CheckpointType": ("Disabled = 2", "Production", "ProductionOnly", "Standard"),
    "ConsoleModeType": ("Default", "COM1", "COM2", "None"),
    "ControllerType": ("IDE", "SCSI"),
    "CopyFileSourceType": ("Host",),
    "CriticalErrorAction": ("None", "Pause"),
    "GroupType": ("VMCollectionType", "ManagementCollectionType"),
    "IPProtocolPreference": ("IPv4", "IPv6"),
    "IovInterruptModerationValue": (
        "Default = 0",
        "Adaptive = 1",
        "Off = 2",
        "Low = 100",
        "Medium = 200",
        "High = 300",
    ),
    "MigrationAuthenticationType": ("CredSSP", "Kerberos"),
    "OnOffState": ("On", "Off"),
    "ResolutionType": ("Maximum = 2", "Single", "Default"),
    "SnapshotType": (
        "Standard",
        "Recovery",
        "Planned",
        "Missing",
        "Replica",
        "AppConsistentReplica",
        "SyncedReplica",
    ),
    "StartAction": ("Nothing = 2", "StartIfRunning", "Start"),
    "StopAction": ("TurnOff = 2", "Save", "ShutDown"),
    "VMMigrationPerformance": ("TCPIP", "Compression", "SMB"),
    "VMNetworkAdapterAclAction": ("Allow = 1", "Deny", "Meter"),
    "VMNetworkAdapterAclDirection": ("Inbound = 1", "Outbound", "Both"),
    "VMNetworkAdapterExtendedAclAction": ("Allow = 1", "Deny"),
    "VMNetworkAdapterExtendedAclDirection": ("Inbound = 1", "Outbound"),
    "VMNetworkAdapterIsolationMode": (
        "None",
        "NativeVirtualSubnet",
        "ExternalVirtualSubnet",
        "Vlan",
    ),
    "VMNetworkAdapterPortMirroringMode": ("None", "Destination", "Source"),
    "VMResourcePoolType": (
        "Memory",
        "Processor",
        "Ethernet",
        "VHD",
        "ISO",
        "VFD",
        "FibreChannelPort",
        "FibreChannelConnection",
        "PciExpress",
    ),
    "VMSwitchBandwidthMode": ("Default", "Weight", "Absolute", "None"),
    "VMSwitchLoadBalancingAlgorithm": ("HyperVPort", "Dynamic"),
    "VMSwitchTeamingMode": ("SwitchIndependent",),
    "VMSwitchType": ("Private", "Internal", "External"),
    "VhdCompactMode": ("Full", "Quick", "Retrim", "Pretrimmed", "Prezeroed"),
    "VhdType": ("Unknown", "Fixed = 2", "Dynamic = 3", "Differencing = 4"),
    "WaitVMTypes": ("Heartbeat = 1", "IPAddress"),
}
"""Enumerations of parameters, with the numbers of the .NET types where a script sees them."""

LOOSE = frozenset({"CimSession", "VMReplication", "VHDSnapshotInfo"})
"""Types that take any object here."""

BASES: dict[str, tuple[str, ...]] = {
    "VirtualMachine": ("VirtualMachineBase",),
    "VMSnapshot": ("VirtualMachineBase",),
    "VMNetworkAdapter": ("VMNetworkAdapterBase", "VMComponentObject"),
    "VMInternalNetworkAdapter": ("VMNetworkAdapterBase", "VMComponentObject"),
    "HardDiskDrive": ("Drive", "VMComponentObject"),
    "DvdDrive": ("Drive", "VMComponentObject"),
    "VMBootSource": ("VMComponentObject",),
    "VMIdeController": ("VMDriveController", "VMComponentObject"),
    "VMScsiController": ("VMDriveController", "VMComponentObject"),
    "ShutdownComponent": ("VMIntegrationComponent",),
    "DataExchangeComponent": ("VMIntegrationComponent",),
    "GuestServiceInterfaceComponent": ("VMIntegrationComponent",),
}
"""Base types that a parameter may ask for."""

CLASSES: dict[str, str] = {
    name: "Microsoft.Vhd.PowerShell.Cmdlets." + name.replace("-", "")
    for name in (
        "Convert-VHD",
        "Dismount-VHD",
        "Get-VHD",
        "Merge-VHD",
        "Mount-VHD",
        "New-VHD",
        "New-VFD",
        "Optimize-VHD",
        "Resize-VHD",
        "Set-VHD",
        "Test-VHD",
    )
}
"""Classes that do not follow ``Microsoft.HyperV.PowerShell.Commands.<VerbNoun>``."""

IMPACT: dict[str, str] = {
    "Restore-VMSnapshot": "High",
    "Disconnect-IscsiTarget": "High",
    "Initialize-Disk": "Medium",
    "Format-Volume": "High",
    "Remove-IscsiTargetPortal": "High",
    "Unregister-IscsiSession": "High",
}
"""Cmdlets that ask unless ``-Confirm:$false``. The host's rules ask for those with ``-Force``."""

ALIASES: dict[str, tuple[str, ...]] = {
    "ComputerName": ("PSComputerName",),
    "MemoryStartupBytes": (),
    "VMSnapshot": ("VMCheckpoint",),
    "SnapshotName": ("CheckpointName",),
    "ParentSnapshot": ("ParentCheckpoint",),
    "CimSession": ("Session",),
}
"""Aliases that a parameter of this name has in every cmdlet."""

PARAMETER_ALIASES: dict[tuple[str, str], tuple[str, ...]] = {
    ("Get-VMSnapshot", "Name"): ("SnapshotName", "CheckpointName"),
    ("Remove-VMSnapshot", "Name"): ("SnapshotName", "CheckpointName"),
    ("Restore-VMSnapshot", "Name"): ("SnapshotName", "CheckpointName"),
    ("Add-VMNetworkAdapter", "Name"): ("VMNetworkAdapterName",),
    ("Get-VMNetworkAdapter", "Name"): ("VMNetworkAdapterName",),
    ("Set-VMNetworkAdapter", "Name"): ("VMNetworkAdapterName",),
    ("Remove-VMNetworkAdapter", "Name"): ("VMNetworkAdapterName",),
    ("Set-VMMemory", "MaximumAmountPerNumaNodeBytes"): ("MaximumPerNumaNodeBytes",),
    ("New-VM", "Name"): ("VMName",),
    ("Get-VM", "Name"): ("VMName",),
    ("Get-VM", "Id"): ("VMId",),
    ("Set-VM", "Name"): ("VMName",),
    ("Start-VM", "Name"): ("VMName",),
    ("Remove-VM", "Name"): ("VMName",),
    ("Get-VHD", "Path"): ("FullName",),
    ("Get-VMSwitch", "Name"): ("SwitchName",),
    ("Get-VMSwitch", "Id"): ("SwitchId",),
    ("Get-Disk", "Number"): ("DeviceId",),
}

PIPED_BY_NAME = frozenset(
    {
        ("Get-VM", "Name"),
        ("Get-VHD", "Path"),
        ("Mount-VHD", "Path"),
        ("Dismount-VHD", "Path"),
        ("Resize-VHD", "Path"),
        ("Test-VHD", "Path"),
        ("Optimize-VHD", "Path"),
        ("Set-VHD", "Path"),
        ("Merge-VHD", "Path"),
        ("Convert-VHD", "Path"),
        ("Start-VM", "Name"),
        ("Stop-VM", "Name"),
        ("Remove-VM", "Name"),
        ("Set-VM", "Name"),
        ("Suspend-VM", "Name"),
        ("Resume-VM", "Name"),
        ("Save-VM", "Name"),
        ("Restart-VM", "Name"),
        ("Checkpoint-VM", "Name"),
        ("Export-VM", "Name"),
        ("Get-VMSwitch", "Name"),
    }
)
"""Parameters of strings that the pipeline binds, by value and by property name."""

_CIM = {
    "Partition": "MSFT_Partition",
    "Disk": "MSFT_Disk",
    "Volume": "MSFT_Volume",
    "VirtualDisk": "MSFT_VirtualDisk",
    "PhysicalDisk": "MSFT_PhysicalDisk",
    "DiskImage": "MSFT_DiskImage",
    "IscsiTarget": "MSFT_iSCSITarget",
    "IscsiSession": "MSFT_iSCSISession",
    "IscsiConnection": "MSFT_iSCSIConnection",
    "IscsiTargetPortal": "MSFT_iSCSITargetPortal",
    "InitiatorPort": "MSFT_InitiatorPort",
}
_CIM_BY_LOWER = {key.lower(): value for key, value in _CIM.items()}
_INPUT = {"Initialize-Disk": "Disk", "New-Partition": "Disk", "Format-Volume": "Volume"}


def cim_type(name: str) -> str:
    """The full type name of a CIM instance of a class."""
    return f"Microsoft.Management.Infrastructure.CimInstance#{name}"


def cim_parameter(cmdlet: str, parameter: str) -> str:
    """The full name of the CIM class that a parameter of a Storage or iSCSI cmdlet takes."""
    key = _INPUT.get(cmdlet, cmdlet.split("-")[1]) if parameter == "InputObject" else parameter
    return cim_type(_CIM_BY_LOWER.get(key.lower(), f"MSFT_{key}"))


def full_type(base: str) -> str:
    """The full .NET name of a type of module Hyper-V."""
    space = "Microsoft.Vhd.PowerShell" if base.startswith("Vhd") else "Microsoft.HyperV.PowerShell"
    return f"{space}.{base}"


def types_of(base: str) -> tuple[str, ...]:
    """The type names of an object: its own and those of its base types."""
    return (*(full_type(name) for name in (base, *BASES.get(base, ()))), "System.Object")


def mandatory(cmdlet: str, parameter_set: str, parameter: str, documented: bool) -> bool:
    """Whether a parameter is mandatory in a set."""
    return MANDATORY.get((cmdlet, parameter_set, parameter), documented)


DEFAULT_SETS: dict[str, str] = {"Restart-VM": "VMObject"}
"""Default parameter sets other than the documented ones: with those, PowerShell cannot choose
between the sets that take a machine as an object."""

MANDATORY: dict[tuple[str, str, str], bool] = {
    ("Restart-VM", "NameWait", "Wait"): True,
    ("Restart-VM", "VMObjectWait", "Wait"): True,
    ("Move-VM", "NameMultipleDestinations", "VirtualMachinePath"): True,
    ("Move-VM", "VMMultipleDestinations", "VirtualMachinePath"): True,
    ("Compare-VM", "NameMultipleDestinations", "VirtualMachinePath"): True,
    ("Compare-VM", "VMMultipleDestinations", "VirtualMachinePath"): True,
    ("Start-VMFailover", "VMName_Test", "AsTest"): True,
    ("Start-VMFailover", "VMObject_Test", "AsTest"): True,
    ("Start-VMFailover", "VMSnapshot_Test", "AsTest"): True,
}
"""Parameters that tell two sets apart; as documented, PowerShell could not choose between them."""
