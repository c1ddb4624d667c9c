"""Objects as the cmdlets write them: type names and properties of the real module."""

from datetime import timedelta
from uuid import UUID

from hvdrivers.hyperv.simulator.modules.overrides import types_of
from hvdrivers.hyperv.simulator.state import devices as dev
from hvdrivers.hyperv.simulator.state.machine import Checkpoint, Machine
from hvdrivers.hyperv.simulator.wire import Int64, Thing, UInt32, UInt64, Value, Version

NO_ID = UUID(int=0)


def thing(base: str, properties: dict[str, Value], text: str | None = None) -> Thing:
    """An object of module Hyper-V. ``text`` is its type name unless it says otherwise."""
    types = types_of(base)
    return Thing(types, properties, types[0] if text is None else text)


def plain(properties: dict[str, Value]) -> Thing:
    """An object inside another one, whose type no parameter asks for."""
    return Thing((), properties)


def on_off(value: bool) -> str:
    """An OnOffState."""
    return "On" if value else "Off"


def upper(identity: UUID) -> str:
    """As Hyper-V writes an Id in a text."""
    return str(identity).upper()


def machine(vm: Machine) -> Thing:
    """Microsoft.HyperV.PowerShell.VirtualMachine."""
    config, host = vm.config, vm.host
    memory = config.memory
    running = vm.state in ("Running", "Paused")
    assigned = memory.startup if vm.on else 0
    heartbeat = vm.guest.heartbeat() if vm.guest is not None and vm.state == "Running" else False
    details = config.memory.dynamic
    return thing(
        "VirtualMachine",
        {
            "Id": vm.id,
            "VMId": vm.id,
            "Name": config.name,
            "VMName": config.name,
            "State": vm.shown_state,
            "PrimaryOperationalStatus": "Ok" if not vm.merging else "InService",
            "PrimaryStatusDescription": "Operating normally",
            "SecondaryOperationalStatus": "MergingDisks" if vm.merging else None,
            "SecondaryStatusDescription": "Merging disks" if vm.merging else None,
            "Status": "Merging disks" if vm.merging else vm.status,
            "StatusDescriptions": [vm.status],
            "OperationalStatus": ["InService", "MergingDisks"] if vm.merging else ["Ok"],
            "Heartbeat": _heartbeat(vm, heartbeat),
            "Generation": config.generation,
            "Version": config.version,
            "Notes": config.notes,
            "Path": vm.path,
            "ConfigurationLocation": vm.path,
            "SnapshotFileLocation": config.snapshot_path or vm.path,
            "CheckpointFileLocation": config.snapshot_path or vm.path,
            "SmartPagingFilePath": config.smart_paging_path or vm.path,
            "SmartPagingFileInUse": False,
            "CreationTime": vm.created,
            "Uptime": timedelta(seconds=round(vm.uptime(), 3)),
            "CPUUsage": 1 if vm.state == "Running" else 0,
            "ProcessorCount": Int64(config.processor.count),
            "MemoryAssigned": Int64(assigned),
            "MemoryDemand": Int64(assigned // 2 if running else 0),
            "MemoryStatus": "OK" if running and details else "",
            "MemoryStartup": Int64(memory.startup),
            "MemoryMinimum": Int64(memory.minimum if memory.dynamic else memory.startup),
            "MemoryMaximum": Int64(memory.maximum if memory.dynamic else memory.startup),
            "DynamicMemoryEnabled": memory.dynamic,
            "AutomaticStartAction": config.start_action,
            "AutomaticStartDelay": config.start_delay,
            "AutomaticStopAction": config.stop_action,
            "AutomaticCriticalErrorAction": config.critical_action,
            "AutomaticCriticalErrorActionTimeout": config.critical_timeout,
            "AutomaticCheckpointsEnabled": config.automatic_checkpoints,
            "CheckpointType": config.checkpoint_type,
            "SnapshotType": config.checkpoint_type,
            "LockOnDisconnect": on_off(config.lock_on_disconnect),
            "GuestControlledCacheTypes": config.guest_cache_types,
            "LowMemoryMappedIoSpace": UInt32(config.low_mmio),
            "HighMemoryMappedIoSpace": UInt64(config.high_mmio),
            "BatteryPassthroughEnabled": True,
            "EnhancedSessionTransportType": "VMBus",
            "IntegrationServicesState": "Up to date" if heartbeat else "",
            "IntegrationServicesVersion": Version("0.0"),
            "IsClustered": vm.clustered,
            "IsDeleted": False,
            "ParentSnapshotId": vm.current_parent,
            "ParentCheckpointId": vm.current_parent,
            "ParentSnapshotName": _parent_name(vm),
            "ParentCheckpointName": _parent_name(vm),
            "ReplicationState": vm.replication,
            "ReplicationMode": vm.replication_mode,
            "ReplicationHealth": "NotApplicable",
            "ResourceMeteringEnabled": vm.metering is not None,
            "SizeOfSystemFiles": Int64(50_000),
            "VirtualNumaNodesCount": 1,
            "VirtualNumaSocketCount": 1,
            "NumaAligned": True if vm.on else None,
            "NumaNodesCount": 1,
            "NumaSocketCount": 1,
            "VirtualMachineType": "RealizedVirtualMachine",
            "VirtualMachineSubType": f"Generation{config.generation}",
            "ComputerName": host.name,
        },
        f"VirtualMachine (Name = '{config.name}') [Id = '{vm.id}']",
    )


def _heartbeat(vm: Machine, answers: bool) -> str | None:
    if vm.state != "Running":
        return None
    enabled = vm.config.services["84EAAE65-2F2E-45F5-9BB5-0E857DC8EB47"].enabled
    if not enabled:
        return "Disabled"
    return "OkApplicationsUnknown" if answers else "NoContact"


def _parent_name(vm: Machine) -> str | None:
    point = vm.checkpoints.get(vm.current_parent) if vm.current_parent else None
    return point.name if point else None


def checkpoint(vm: Machine, point: Checkpoint) -> Thing:
    """Microsoft.HyperV.PowerShell.VMSnapshot."""
    parent = vm.checkpoints.get(point.parent) if point.parent else None
    config = point.config
    return thing(
        "VMSnapshot",
        {
            "Id": point.id,
            "VMId": vm.id,
            "Name": point.name,
            "VMName": vm.name,
            "SnapshotType": point.kind,
            "IsAutomaticCheckpoint": False,
            "CreationTime": point.created,
            "ParentSnapshotId": point.parent,
            "ParentCheckpointId": point.parent,
            "ParentSnapshotName": parent.name if parent else None,
            "ParentCheckpointName": parent.name if parent else None,
            "State": "Saved" if point.memory is not None else "Off",
            "Notes": config.notes,
            "Generation": config.generation,
            "Path": vm.path,
            "Version": config.version,
            "ProcessorCount": Int64(config.processor.count),
            "MemoryStartup": Int64(config.memory.startup),
            "SizeOfSystemFiles": Int64(50_000),
            "ComputerName": vm.host.name,
            "IsDeleted": False,
        },
        f"VMSnapshot (Name = '{point.name}', VMName = '{vm.name}') [Id = '{point.id}']",
    )


def controller_id(vm: Machine, bus: str, number: int) -> str:
    """The id that drives of a controller have in front."""
    if bus == "IDE":
        return f"Microsoft:{upper(vm.id)}\\83F8638B-8DCA-4152-9EDA-2CA8B33039B4\\{number}"
    return f"Microsoft:{upper(vm.id)}\\BA6163D9-04A1-4D29-B605-72E2FFB1DC7F\\{number}"


def hard_drive(vm: Machine, drive: dev.HardDrive, point: Checkpoint | None = None) -> Thing:
    """Microsoft.HyperV.PowerShell.HardDiskDrive."""
    slot = drive.slot
    root = controller_id(vm, slot.bus, slot.controller)
    return thing(
        "HardDiskDrive",
        {
            "Id": f"{root}\\{slot.location}\\D",
            "Name": "Hard Drive",
            "Path": drive.path if drive.disk_number is None else f"Disk {drive.disk_number}",
            "DiskNumber": None if drive.disk_number is None else UInt32(drive.disk_number),
            "Disk": None,
            "ControllerType": slot.bus,
            "ControllerNumber": slot.controller,
            "ControllerLocation": slot.location,
            "MinimumIOPS": UInt64(drive.minimum_iops),
            "MaximumIOPS": UInt64(drive.maximum_iops),
            "QoSPolicyID": NO_ID,
            "SupportPersistentReservations": drive.persistent_reservations,
            "WriteHardeningMethod": "Disabled" if drive.cache == "Default" else drive.cache,
            "AttachmentType": "Virtual" if drive.disk_number is None else "Physical",
            "PoolName": drive.pool,
            "VMId": vm.id,
            "VMName": vm.name,
            "VMCheckpointId": point.id if point else NO_ID,
            "VMSnapshotId": point.id if point else NO_ID,
            "VMSnapshotName": point.name if point else "",
            "ComputerName": vm.host.name,
            "IsDeleted": False,
        },
    )


def dvd(vm: Machine, drive: dev.DvdDrive, point: Checkpoint | None = None) -> Thing:
    """Microsoft.HyperV.PowerShell.DvdDrive."""
    slot = drive.slot
    return thing(
        "DvdDrive",
        {
            "Id": f"{controller_id(vm, slot.bus, slot.controller)}\\{slot.location}\\D",
            "Name": "DVD Drive",
            "Path": drive.path or None,
            "DvdMediaType": "ISO" if drive.path else "None",
            "ControllerType": slot.bus,
            "ControllerNumber": slot.controller,
            "ControllerLocation": slot.location,
            "PoolName": drive.pool,
            "VMId": vm.id,
            "VMName": vm.name,
            "VMCheckpointId": point.id if point else NO_ID,
            "VMSnapshotId": point.id if point else NO_ID,
            "VMSnapshotName": point.name if point else "",
            "ComputerName": vm.host.name,
            "IsDeleted": False,
        },
    )


def controller(vm: Machine, bus: str, number: int, point: Checkpoint | None = None) -> Thing:
    """Microsoft.HyperV.PowerShell.VMIdeController or VMScsiController."""
    config = point.config if point else vm.config
    drives: list[Value] = [
        *(
            hard_drive(vm, d, point)
            for d in config.drives
            if (d.slot.bus, d.slot.controller) == (bus, number)
        ),
        *(
            dvd(vm, d, point)
            for d in config.dvds
            if (d.slot.bus, d.slot.controller) == (bus, number)
        ),
    ]
    return thing(
        "VMScsiController" if bus == "SCSI" else "VMIdeController",
        {
            "Id": controller_id(vm, bus, number),
            "Name": f"{bus} Controller" + (f" {number}" if bus == "IDE" else ""),
            "ControllerNumber": number,
            "ControllerType": bus,
            "IsTemplate": False,
            "Drives": drives,
            "VMId": vm.id,
            "VMName": vm.name,
            "VMCheckpointId": point.id if point else NO_ID,
            "ComputerName": vm.host.name,
        },
    )
