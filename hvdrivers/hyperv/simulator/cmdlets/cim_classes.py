"""The CIM classes that scripts for Hyper-V read: the instances of each."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from hvdrivers.hyperv.simulator.state.host import ConcreteJob, HostState, StorageJob
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.hyperv.simulator.wire import Thing, UInt16, UInt32, UInt64, Value

VIRTUALIZATION = "root/virtualization/v2"
Row = dict[str, Value]

_ENABLED = {"Running": 2, "Off": 3, "Saved": 32769, "Paused": 32768, "Starting": 32770,
            "Saving": 32773, "Stopping": 32774, "Pausing": 32776, "Resuming": 32777}  # fmt: skip


def _operating_system(host: HostState) -> Iterator[Row]:
    version, caption = host.operating_system
    yield {
        "Caption": caption,
        "Version": version,
        "BuildNumber": version.rsplit(".", 1)[-1],
        "CSName": host.name,
        "OSArchitecture": "64-bit",
        "TotalVisibleMemorySize": UInt64(host.hardware.memory >> 10),
        "FreePhysicalMemory": UInt64(host.free_memory() >> 10),
        "LastBootUpTime": host.booted,
        "LocalDateTime": datetime.now(UTC),
        "ProductType": UInt32(3),
    }


def _processors(host: HostState) -> Iterator[Row]:
    hardware = host.hardware
    for socket in range(hardware.sockets):
        yield {
            "DeviceID": f"CPU{socket}",
            "Name": hardware.processor_name,
            "Manufacturer": "GenuineIntel",
            "Architecture": UInt16(9),
            "Family": UInt16(179),
            "NumberOfCores": UInt32(hardware.cores),
            "NumberOfLogicalProcessors": UInt32(hardware.processors // hardware.sockets),
            "MaxClockSpeed": UInt32(2600),
            "LoadPercentage": UInt16(3),
            "SocketDesignation": f"SOCKET {socket}",
            "VirtualizationFirmwareEnabled": True,
        }


def _computer(host: HostState) -> Iterator[Row]:
    yield {
        "Name": host.name,
        "DNSHostName": host.name,
        "Domain": "WORKGROUP",
        "PartOfDomain": False,
        "Manufacturer": "hvdrivers",
        "Model": "Simulated host",
        "TotalPhysicalMemory": UInt64(host.hardware.memory),
        "NumberOfProcessors": UInt32(host.hardware.sockets),
        "NumberOfLogicalProcessors": UInt32(host.hardware.processors),
        "HypervisorPresent": True,
    }


def _logical_disks(host: HostState) -> Iterator[Row]:
    yield {
        "DeviceID": "C:",
        "DriveType": UInt32(3),
        "FileSystem": "NTFS",
        "Size": UInt64(host.disks.capacity),
        "FreeSpace": UInt64(host.disks.free()),
    }


def _shares(host: HostState) -> Iterator[Row]:
    for name, path in host.shares.items():
        kind = (2147483648 if name.endswith("$") else 0) + (0 if path else 3)
        yield {"Name": name, "Path": path, "Type": UInt32(kind), "Status": "OK"}


def _plug_and_play(host: HostState) -> Iterator[Row]:
    for device in host.hardware.devices:
        yield {
            "DeviceID": device.shown_id,
            "Name": device.name + (" - Dismounted" if device.dismounted else ""),
            "PNPClass": "System" if device.dismounted else "Net",
            "CompatibleID": [f"PCI\\CC_{device.class_code}", f"PCI\\CC_{device.class_code[:4]}"],
            "ConfigManagerErrorCode": UInt32(0 if device.enabled else 22),
            "Present": True,
        }


def _guid(machine: Machine) -> str:
    return str(machine.id).upper()


def _computer_systems(host: HostState) -> Iterator[Row]:
    yield {
        "Name": host.name,
        "ElementName": host.name,
        "Caption": "Hosting Computer System",
        "EnabledState": UInt16(2),
    }
    for machine in host.machines.values():
        yield {
            "Name": _guid(machine),
            "ElementName": machine.name,
            "Caption": "Virtual Machine",
            "EnabledState": UInt16(_ENABLED.get(machine.state, 0)),
            "HealthState": UInt16(25 if machine.critical else 5),
            "OnTimeInMilliseconds": UInt64(int(machine.uptime() * 1000)),
            "ProcessID": UInt32(4000) if machine.on else None,
            "InstallDate": machine.created,
        }


def _settings(host: HostState) -> Iterator[Row]:
    for machine in host.machines.values():
        yield {
            "InstanceID": f"Microsoft:{_guid(machine)}",
            "ElementName": machine.name,
            "VirtualSystemIdentifier": _guid(machine),
            "VirtualSystemType": "Microsoft:Hyper-V:System:Realized",
            "VirtualSystemSubType": f"Microsoft:Hyper-V:SubType:{machine.config.generation}",
            "ConfigurationDataRoot": machine.path,
            "Notes": [machine.config.notes],
            "Version": machine.config.version,
            "BIOSGUID": "{" + str(machine.config.bios_guid).upper() + "}",
            "SystemName": _guid(machine),
        }


def _exchange(host: HostState) -> Iterator[Row]:
    for machine in host.machines.values():
        details = machine.guest.details() if machine.guest and machine.state == "Running" else {}
        enabled = machine.config.services["2A34B1C2-FD73-4043-8A5B-DD2159BC743F"].enabled
        items: list[Value] = [
            '<INSTANCE CLASSNAME="Msvm_KvpExchangeDataItem">'
            f'<PROPERTY NAME="Data" TYPE="string"><VALUE>{escape(value)}</VALUE></PROPERTY>'
            f'<PROPERTY NAME="Name" TYPE="string"><VALUE>{escape(name)}</VALUE></PROPERTY>'
            '<PROPERTY NAME="Source" TYPE="uint16"><VALUE>2</VALUE></PROPERTY></INSTANCE>'
            for name, value in (details.items() if enabled else ())
        ]
        yield {
            "SystemName": _guid(machine),
            "DeviceID": f"Microsoft:{_guid(machine)}\\2A34B1C2-FD73-4043-8A5B-DD2159BC743F",
            "ElementName": "Key-Value Pair Exchange",
            "GuestIntrinsicExchangeItems": items,
            "GuestExchangeItems": [],
            "EnabledState": UInt16(2 if enabled else 3),
        }


def _shutdown(host: HostState) -> Iterator[Row]:
    for machine in host.machines.values():
        if machine.on:
            yield {
                "SystemName": _guid(machine),
                "DeviceID": f"Microsoft:{_guid(machine)}\\9F8233AC-BE49-4C79-8EE3-E7E1985B2077",
                "ElementName": "Shutdown",
                "EnabledState": UInt16(2),
            }


def _keyboards(host: HostState) -> Iterator[Row]:
    for machine in host.machines.values():
        if machine.on:
            yield {"SystemName": _guid(machine), "ElementName": "Keyboard"}


def _management(host: HostState) -> Iterator[Row]:
    yield {"Name": "vmms", "SystemName": host.name, "EnabledState": UInt16(2)}


def _migrations(host: HostState) -> Iterator[Row]:
    for job in host.migrations:
        yield {
            "InstanceID": str(job.id).upper(),
            "Caption": "Migration Job",
            "VirtualSystemName": str(job.machine).upper(),
            "DestinationHost": job.destination,
            "PercentComplete": UInt16(job.percent),
            "JobState": UInt16(job.state),
            "Cancellable": job.state == 4,
        }


def _concrete_jobs(host: HostState) -> Iterator[Row]:
    for job in host.jobs:
        if isinstance(job, ConcreteJob):
            yield {
                "InstanceID": str(job.id).upper(),
                "Caption": job.caption,
                "JobState": UInt16(job.state),
            }


def _storage_jobs(host: HostState) -> Iterator[Row]:
    for job in host.jobs:
        if isinstance(job, StorageJob):
            yield {
                "InstanceID": str(job.id).upper(),
                "Caption": "Storage Job",
                "Description": job.caption,
                "Child": job.path,
                "JobState": UInt16(job.state),
            }


def _terminal(host: HostState) -> Iterator[Row]:
    yield {
        "InstanceID": f"Microsoft:{host.name}\\TerminalService",
        "ElementName": "Terminal Service Settings",
        "ListenerPort": UInt32(2179),
    }


NO_DISK = 0xFFFFFFFF


def _iscsi_sessions(host: HostState) -> Iterator[Row]:
    storage = host.storage
    numbers = {disk.unique_id: disk.number for disk in storage.disks.values()}
    for session in storage.sessions.values():
        target = storage.network.get(session.target)
        devices: list[Value] = [
            Thing(
                (),
                {
                    "TargetName": session.target,
                    "ScsiPathId": UInt32(0),
                    "ScsiTargetId": UInt32(0),
                    "ScsiLun": UInt32(unit.number),
                    "DeviceNumber": UInt32(numbers.get(unit.unique_id, NO_DISK)),
                },
            )
            for unit in (target.luns if target is not None else ())
        ]
        yield {
            "SessionId": session.identifier,
            "TargetName": session.target,
            "InitiatorName": storage.initiator,
            "Devices": devices,
        }


def _initiator_ports(host: HostState) -> Iterator[Row]:
    if not host.administrator:
        return
    storage = host.storage
    ports = [(2, storage.initiator, "ISCSI ANY PORT")]
    ports += [(1, node, port) for node, port in storage.hba_ports]
    for kind, node, port in ports:
        yield {"NodeAddress": node, "PortAddress": port, "ConnectionType": UInt16(kind)}


def _fibre_adapters(host: HostState) -> Iterator[Row]:
    for index, (node, port) in enumerate(host.storage.hba_ports):
        yield {"InstanceName": f"PCI\\FC_{index}", "Active": True, "Port": port, "Node": node}


Rows = Callable[[HostState], Iterator[Row]]
CLASSES: dict[tuple[str, str], tuple[str, Rows]] = {
    (namespace, name.lower()): (name, rows)
    for namespace, classes in {
        "root/cimv2": {
            "Win32_OperatingSystem": _operating_system,
            "Win32_Processor": _processors,
            "Win32_ComputerSystem": _computer,
            "Win32_LogicalDisk": _logical_disks,
            "Win32_Share": _shares,
            "Win32_PnPEntity": _plug_and_play,
        },
        "root/wmi": {
            "MSiSCSIInitiator_SessionClass": _iscsi_sessions,
            "MSFC_HBAFCPInfo": _fibre_adapters,
        },
        "root/microsoft/windows/storage": {"MSFT_InitiatorPort": _initiator_ports},
        VIRTUALIZATION: {
            "Msvm_ComputerSystem": _computer_systems,
            "Msvm_VirtualSystemSettingData": _settings,
            "Msvm_KvpExchangeComponent": _exchange,
            "Msvm_ShutdownComponent": _shutdown,
            "Msvm_Keyboard": _keyboards,
            "Msvm_VirtualSystemManagementService": _management,
            "Msvm_TerminalServiceSettingData": _terminal,
            "Msvm_MigrationJob": _migrations,
            "Msvm_ConcreteJob": _concrete_jobs,
            "Msvm_StorageJob": _storage_jobs,
        },
    }.items()
    for name, rows in classes.items()
}
