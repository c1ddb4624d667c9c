"""hvdrivers: one typed Python interface over hypervisors.

::

    import hvdrivers

    with hvdrivers.connect("qemu:///system") as driver:
        for instance in driver.list_instances():
            print(instance.uuid, instance.name, instance.state)

``hvdrivers.contract`` says what every operation means, ``hvdrivers.models`` what goes in and comes
out. The names below are the public ones; each is imported when it is first used, so that
``import hvdrivers`` costs nothing and needs no hypervisor's library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvdrivers.contract.capabilities import Capability, provides
    from hvdrivers.contract.driver import ComputeDriver, Driver, check_state
    from hvdrivers.contract.errors import (
        AuthenticationFailed,
        ConnectionFailed,
        ContractViolation,
        DeviceBusy,
        GuestAgentUnavailable,
        HypervisorError,
        HypervisorFault,
        ImageRejected,
        InstanceExists,
        InstanceNotFound,
        InsufficientResources,
        InvalidRequest,
        InvalidState,
        NetworkNotFound,
        NotSupported,
        OperationTimeout,
        OutcomeUnknown,
        PermissionDenied,
        PluginError,
        VolumeExists,
        VolumeNotFound,
        worth_repeating,
    )
    from hvdrivers.contract.events import EventStream
    from hvdrivers.contract.power import RebootKind
    from hvdrivers.guard import guarded
    from hvdrivers.models.cloudinit import CloudInit
    from hvdrivers.models.config import DriverConfig
    from hvdrivers.models.console import ConsoleAccess, ConsoleKind, ConsoleLog, Screenshot
    from hvdrivers.models.disk import DiskRole, FileSystem, OwnDisk
    from hvdrivers.models.events import (
        DeviceEvent,
        DeviceKind,
        Event,
        LifecycleEvent,
        LifecycleKind,
        ResyncEvent,
    )
    from hvdrivers.models.flavor import CpuPolicy, Flavor
    from hvdrivers.models.group import ServerGroup, ServerGroupPolicy
    from hvdrivers.models.guest import (
        AddressSource,
        ExecResult,
        GuestAddress,
        GuestCredentials,
        Share,
    )
    from hvdrivers.models.hardware import (
        CpuTopology,
        Hardware,
        TpmModel,
        VideoModel,
        WatchdogAction,
    )
    from hvdrivers.models.host import HostInfo, HostPowerAction
    from hvdrivers.models.image import (
        CachedImage,
        Checksum,
        FileImage,
        HostImage,
        HttpImage,
        ImageFormat,
        ImageInfo,
        ImageRef,
    )
    from hvdrivers.models.instance import (
        Firmware,
        ForeignInstance,
        InstanceInfo,
        InstanceSpec,
        InstanceSummary,
        Keep,
        PciRequest,
        VgpuRequest,
    )
    from hvdrivers.models.metrics import DiskMetrics, InstanceMetrics, VifMetrics
    from hvdrivers.models.migration import (
        Blocker,
        BlockerKind,
        Destination,
        MigrationPhase,
        MigrationPlan,
        MigrationProgress,
        Move,
        MovePhase,
    )
    from hvdrivers.models.numa import NumaNode
    from hvdrivers.models.pci import PciAddress
    from hvdrivers.models.progress import Phase, Progress
    from hvdrivers.models.resources import (
        CpuResources,
        HostResources,
        HugePages,
        Inventory,
        LargestMachine,
        MachineChoices,
        MediatedType,
        MemoryResources,
        NumaCell,
        PciDevice,
        PlacementProvider,
        StorageResources,
    )
    from hvdrivers.models.seed import SeedDisc
    from hvdrivers.models.snapshot import Backup, ChangedExtent, Snapshot
    from hvdrivers.models.state import InstanceState, StartAs
    from hvdrivers.models.vif import Vif
    from hvdrivers.models.vif.common import (
        AttachedVif,
        Bandwidth,
        FixedIp,
        FixedIpRoute,
        NicModel,
        OvsOffload,
        VifQos,
    )
    from hvdrivers.models.vif.kinds import (
        BridgeVif,
        DvsVif,
        HostdevVif,
        HypervVif,
        MacvtapVif,
        NetworkVif,
        OvsVif,
        TapVif,
        UserVif,
        VdpaVif,
        VhostUserVif,
    )
    from hvdrivers.models.volume import Volume, parse_connection_info
    from hvdrivers.models.volume.attachment import (
        AttachedVolume,
        CacheMode,
        DeviceType,
        DiskBus,
        VolumeAttachment,
        VolumeEncryption,
    )
    from hvdrivers.models.volume.connector import VolumeConnector
    from hvdrivers.models.volume.fc import FcData, FibreChannelVolume
    from hvdrivers.models.volume.host import (
        FcdData,
        FcdVolume,
        HostVolume,
        LocalData,
        LocalVolume,
        PoolData,
        PoolVolume,
        VmdkConfig,
        VmdkData,
        VmdkVolume,
        VolumeSpec,
    )
    from hvdrivers.models.volume.iscsi import IscsiData, IscsiVolume
    from hvdrivers.models.volume.network import (
        NfsData,
        NfsVolume,
        RbdData,
        RbdVolume,
        SmbfsData,
        SmbfsVolume,
    )
    from hvdrivers.models.volume.nvmeof import NvmeofData, NvmeofVolume, NvmePortal, NvmeReplica
    from hvdrivers.models.volume.qos import DiskQos
    from hvdrivers.plugins.connecting import connect
    from hvdrivers.plugins.discovery import PluginInfo, list_plugins

__all__ = [
    "AddressSource",
    "AttachedVif",
    "AttachedVolume",
    "AuthenticationFailed",
    "Backup",
    "Bandwidth",
    "Blocker",
    "BlockerKind",
    "BridgeVif",
    "CacheMode",
    "CachedImage",
    "Capability",
    "ChangedExtent",
    "Checksum",
    "CloudInit",
    "ComputeDriver",
    "ConnectionFailed",
    "ConsoleAccess",
    "ConsoleKind",
    "ConsoleLog",
    "ContractViolation",
    "CpuPolicy",
    "CpuResources",
    "CpuTopology",
    "Destination",
    "DeviceBusy",
    "DeviceEvent",
    "DeviceKind",
    "DeviceType",
    "DiskBus",
    "DiskMetrics",
    "DiskQos",
    "DiskRole",
    "Driver",
    "DriverConfig",
    "DvsVif",
    "Event",
    "EventStream",
    "ExecResult",
    "FcData",
    "FcdData",
    "FcdVolume",
    "FibreChannelVolume",
    "FileImage",
    "FileSystem",
    "Firmware",
    "FixedIp",
    "FixedIpRoute",
    "Flavor",
    "ForeignInstance",
    "GuestAddress",
    "GuestAgentUnavailable",
    "GuestCredentials",
    "Hardware",
    "HostImage",
    "HostInfo",
    "HostPowerAction",
    "HostResources",
    "HostVolume",
    "HostdevVif",
    "HttpImage",
    "HugePages",
    "HypervVif",
    "HypervisorError",
    "HypervisorFault",
    "ImageFormat",
    "ImageInfo",
    "ImageRef",
    "ImageRejected",
    "InstanceExists",
    "InstanceInfo",
    "InstanceMetrics",
    "InstanceNotFound",
    "InstanceSpec",
    "InstanceState",
    "InstanceSummary",
    "InsufficientResources",
    "InvalidRequest",
    "InvalidState",
    "Inventory",
    "IscsiData",
    "IscsiVolume",
    "Keep",
    "LargestMachine",
    "LifecycleEvent",
    "LifecycleKind",
    "LocalData",
    "LocalVolume",
    "MachineChoices",
    "MacvtapVif",
    "MediatedType",
    "MemoryResources",
    "MigrationPhase",
    "MigrationPlan",
    "MigrationProgress",
    "Move",
    "MovePhase",
    "NetworkNotFound",
    "NetworkVif",
    "NfsData",
    "NfsVolume",
    "NicModel",
    "NotSupported",
    "NumaCell",
    "NumaNode",
    "NvmePortal",
    "NvmeReplica",
    "NvmeofData",
    "NvmeofVolume",
    "OperationTimeout",
    "OutcomeUnknown",
    "OvsOffload",
    "OvsVif",
    "OwnDisk",
    "PciAddress",
    "PciDevice",
    "PciRequest",
    "PermissionDenied",
    "Phase",
    "PlacementProvider",
    "PluginError",
    "PluginInfo",
    "PoolData",
    "PoolVolume",
    "Progress",
    "RbdData",
    "RbdVolume",
    "RebootKind",
    "ResyncEvent",
    "Screenshot",
    "SeedDisc",
    "ServerGroup",
    "ServerGroupPolicy",
    "Share",
    "SmbfsData",
    "SmbfsVolume",
    "Snapshot",
    "StartAs",
    "StorageResources",
    "TapVif",
    "TpmModel",
    "UserVif",
    "VdpaVif",
    "VgpuRequest",
    "VhostUserVif",
    "VideoModel",
    "Vif",
    "VifMetrics",
    "VifQos",
    "VmdkConfig",
    "VmdkData",
    "VmdkVolume",
    "Volume",
    "VolumeAttachment",
    "VolumeConnector",
    "VolumeEncryption",
    "VolumeExists",
    "VolumeNotFound",
    "VolumeSpec",
    "WatchdogAction",
    "check_state",
    "connect",
    "guarded",
    "list_plugins",
    "parse_connection_info",
    "provides",
    "worth_repeating",
]

_HOMES = """
hvdrivers.contract.capabilities: Capability provides
hvdrivers.contract.driver: ComputeDriver Driver check_state
hvdrivers.contract.errors: AuthenticationFailed ConnectionFailed ContractViolation DeviceBusy
    GuestAgentUnavailable HypervisorError HypervisorFault ImageRejected InstanceExists
    InstanceNotFound InsufficientResources InvalidRequest InvalidState NetworkNotFound
    NotSupported OperationTimeout OutcomeUnknown PermissionDenied PluginError VolumeExists
    VolumeNotFound worth_repeating
hvdrivers.contract.events: EventStream
hvdrivers.contract.power: RebootKind
hvdrivers.guard: guarded
hvdrivers.models.cloudinit: CloudInit
hvdrivers.models.config: DriverConfig
hvdrivers.models.console: ConsoleAccess ConsoleKind ConsoleLog Screenshot
hvdrivers.models.disk: DiskRole FileSystem OwnDisk
hvdrivers.models.events: DeviceEvent DeviceKind Event LifecycleEvent LifecycleKind ResyncEvent
hvdrivers.models.flavor: CpuPolicy Flavor
hvdrivers.models.group: ServerGroup ServerGroupPolicy
hvdrivers.models.guest: AddressSource ExecResult GuestAddress GuestCredentials Share
hvdrivers.models.hardware: CpuTopology Hardware TpmModel VideoModel WatchdogAction
hvdrivers.models.host: HostInfo HostPowerAction
hvdrivers.models.image: CachedImage Checksum FileImage HostImage HttpImage ImageFormat ImageInfo
    ImageRef
hvdrivers.models.instance: Firmware ForeignInstance InstanceInfo InstanceSpec InstanceSummary
    Keep PciRequest VgpuRequest
hvdrivers.models.metrics: DiskMetrics InstanceMetrics VifMetrics
hvdrivers.models.migration: Blocker BlockerKind Destination MigrationPhase MigrationPlan
    MigrationProgress Move MovePhase
hvdrivers.models.numa: NumaNode
hvdrivers.models.pci: PciAddress
hvdrivers.models.progress: Phase Progress
hvdrivers.models.resources: CpuResources HostResources HugePages Inventory LargestMachine
    MachineChoices MediatedType MemoryResources NumaCell PciDevice PlacementProvider
    StorageResources
hvdrivers.models.seed: SeedDisc
hvdrivers.models.snapshot: Backup ChangedExtent Snapshot
hvdrivers.models.state: InstanceState StartAs
hvdrivers.models.vif: Vif
hvdrivers.models.vif.common: AttachedVif Bandwidth FixedIp FixedIpRoute NicModel OvsOffload
    VifQos
hvdrivers.models.vif.kinds: BridgeVif DvsVif HostdevVif HypervVif MacvtapVif NetworkVif OvsVif
    TapVif UserVif VdpaVif VhostUserVif
hvdrivers.models.volume: Volume parse_connection_info
hvdrivers.models.volume.attachment: AttachedVolume CacheMode DeviceType DiskBus VolumeAttachment
    VolumeEncryption
hvdrivers.models.volume.connector: VolumeConnector
hvdrivers.models.volume.fc: FcData FibreChannelVolume
hvdrivers.models.volume.host: FcdData FcdVolume HostVolume LocalData LocalVolume PoolData
    PoolVolume VmdkConfig VmdkData VmdkVolume VolumeSpec
hvdrivers.models.volume.iscsi: IscsiData IscsiVolume
hvdrivers.models.volume.network: NfsData NfsVolume RbdData RbdVolume SmbfsData SmbfsVolume
hvdrivers.models.volume.nvmeof: NvmePortal NvmeReplica NvmeofData NvmeofVolume
hvdrivers.models.volume.qos: DiskQos
hvdrivers.plugins.connecting: connect
hvdrivers.plugins.discovery: PluginInfo list_plugins
"""
_HOME = {
    name: module
    for module, _, names in (
        entry.partition(": ") for entry in _HOMES.replace("\n    ", " ").strip().splitlines()
    )
    for name in names.split()
}


if not TYPE_CHECKING:  # a type checker would take any misspelt name for granted

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # what has no other home is an error class
        value = getattr(import_module(_HOME.get(name, "hvdrivers.contract.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
