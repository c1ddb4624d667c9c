"""CIM classes that scripts for Hyper-V read, and the methods that they call."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from uuid import UUID
from xml.sax.saxutils import escape

from hvdrivers.hyperv.simulator.cmdlets import jobs
from hvdrivers.hyperv.simulator.cmdlets.call import Call, like
from hvdrivers.hyperv.simulator.cmdlets.power import reset, save, start, turn_off
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import CIM_EXCEPTION, CmdletError
from hvdrivers.hyperv.simulator.state.host import HostState
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.hyperv.simulator.wire import Thing, UInt16, UInt32, UInt64, Value

VIRTUALIZATION = "root/virtualization/v2"
Row = dict[str, Value]

_ENABLED = {"Running": 2, "Off": 3, "Saved": 32769, "Paused": 32768, "Starting": 32770,
            "Saving": 32773, "Stopping": 32774, "Pausing": 32776, "Resuming": 32777}  # fmt: skip


def _cim_error(code: str, category: str, why: str) -> CmdletError:
    return CmdletError(code, category, "injected", kind=CIM_EXCEPTION, why=why)


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


def _terminal(host: HostState) -> Iterator[Row]:
    yield {
        "InstanceID": f"Microsoft:{host.name}\\TerminalService",
        "ElementName": "Terminal Service Settings",
        "ListenerPort": UInt32(2179),
    }


_Rows = Callable[[HostState], Iterator[Row]]
_CLASSES: dict[tuple[str, str], tuple[str, _Rows]] = {
    (namespace, name.lower()): (name, rows)
    for namespace, classes in {
        "root/cimv2": {
            "Win32_OperatingSystem": _operating_system,
            "Win32_Processor": _processors,
            "Win32_ComputerSystem": _computer,
            "Win32_LogicalDisk": _logical_disks,
            "Win32_Share": _shares,
        },
        VIRTUALIZATION: {
            "Msvm_ComputerSystem": _computer_systems,
            "Msvm_VirtualSystemSettingData": _settings,
            "Msvm_KvpExchangeComponent": _exchange,
            "Msvm_ShutdownComponent": _shutdown,
            "Msvm_Keyboard": _keyboards,
            "Msvm_VirtualSystemManagementService": _management,
            "Msvm_TerminalServiceSettingData": _terminal,
            "Msvm_MigrationJob": _migrations,
        },
    }.items()
    for name, rows in classes.items()
}

_QUERY = re.compile(
    r"\s*select\s+(?P<what>.+?)\s+from\s+(?P<name>\w+)(?:\s+where\s+(?P<where>.+))?\s*", re.I | re.S
)
_TERM = re.compile(
    r"\s*(\w+)\s*(=|<>|!=|like)\s*(?:'((?:[^'\\]|\\.)*)'|\"([^\"]*)\"|(\w+))\s*", re.I
)


def _rows(call: Call, namespace: str, name: str, where: str) -> Iterator[Thing]:
    space = re.sub(r"[\\/]+", "/", namespace).strip("/").lower()
    found = _CLASSES.get((space, name.lower()))
    if found is None:
        raise _cim_error("HRESULT 0x80041010", "MetadataError", "Invalid class")
    full, rows = found
    for row in rows(call.host):
        if not where or _holds(where, row):
            yield _instance(space, full, row)


def _instance(space: str, name: str, row: Row) -> Thing:
    types = (
        f"Microsoft.Management.Infrastructure.CimInstance#{space}/{name}",
        f"Microsoft.Management.Infrastructure.CimInstance#{name}",
        "Microsoft.Management.Infrastructure.CimInstance",
        "System.Object",
    )
    return Thing(types, {**row, "__CLASS": name, "PSComputerName": None}, name)


def _holds(where: str, row: Row) -> bool:
    for part in re.split(r"\s+and\s+", where, flags=re.I):
        match = _TERM.fullmatch(part)
        if match is None:
            raise _cim_error("HRESULT 0x80041017", "InvalidArgument", "Invalid query")
        name, operator, *texts = match.groups()
        text = next(each for each in texts if each is not None).replace("\\\\", "\\")
        value = next((str(v) for k, v in row.items() if k.lower() == name.lower()), None)
        if value is None:
            raise _cim_error("HRESULT 0x80041017", "InvalidArgument", "Invalid query")
        if operator.lower() == "like":
            same = like(value, text.replace("%", "*").replace("_", "?"))
        else:
            same = (value.lower() == text.lower()) == (operator == "=")
        if not same:
            return False
    return True


@cmdlet("Get-CimInstance")
def get_instance(call: Call) -> None:
    if call.has("InputObject"):
        for item in call.things("InputObject"):
            key = "Name" if "Name" in item else "SystemName"
            where = f"{key} = '{item[key]}'" if key in item else ""
            space = VIRTUALIZATION if item["__CLASS"].startswith("Msvm") else "root/cimv2"
            for row in _rows(call, space, item["__CLASS"], where):
                call.write(row)
        return
    name, where = call.text("ClassName"), call.text("Filter")
    if call.has("Query"):
        match = _QUERY.fullmatch(call.text("Query"))
        if match is None:
            raise _cim_error("HRESULT 0x80041017", "InvalidArgument", "Invalid query")
        name, where = match["name"], match["where"] or ""
    for row in _rows(call, call.text("Namespace", "root/cimv2"), name, where):
        call.write(row)


@cmdlet("Get-CimAssociatedInstance")
def get_associated(call: Call) -> None:
    for item in call.things("InputObject"):
        system = item.get("SystemName") or item.get("Name", "")
        wanted = call.text("ResultClassName")
        if call.text("Association").lower() == "msvm_affectedjobelement":
            for kind, properties in jobs.affecting(call.host, system):
                if wanted.lower() in {"", "cim_concretejob", kind.lower()}:
                    call.write(_instance(VIRTUALIZATION, kind, properties))
            continue
        names = [wanted] if wanted else [
            full for (space, _), (full, _) in _CLASSES.items() if space == VIRTUALIZATION
        ]  # fmt: skip
        for name in names:
            key = "Name" if name.lower() == "msvm_computersystem" else "SystemName"
            for row in _rows(call, VIRTUALIZATION, name, ""):
                if str(row.properties.get(key, "")).lower() == system.lower():
                    call.write(row)


def _answer(values: Row) -> Thing:
    types = ("Microsoft.Management.Infrastructure.CimMethodResult", "System.Object")
    return Thing(types, {"ReturnValue": UInt32(0), "PSComputerName": None, **values})


@cmdlet("Invoke-CimMethod")
def invoke(call: Call) -> None:
    items = call.things("InputObject")
    name = items[0]["__CLASS"] if items else call.text("ClassName")
    arguments: dict[str, object] = {}
    match call.bound.get("Arguments"):
        case {"table": dict(table)}:
            arguments = {str(key): value for key, value in table.items()}
    method = _METHODS.get((name.lower(), call.text("MethodName").lower()))
    if method is None:
        raise _cim_error("HRESULT 0x8004102f", "InvalidType", "Invalid method")
    call.write(_answer(method(call, items[0] if items else {}, arguments)))


def _system(call: Call, item: dict[str, str]) -> Machine:
    text = item.get("SystemName") or item.get("Name") or item.get("InstanceID", "")[-36:]
    try:
        return call.host.machines[UUID(text)]
    except (KeyError, ValueError):
        raise _cim_error("HRESULT 0x80041002", "ObjectNotFound", "Not found") from None


def _request_state(call: Call, item: dict[str, str], arguments: dict[str, object]) -> Row:
    machine = _system(call, item)
    wanted = int(str(arguments.get("RequestedState", 0)))
    if wanted == 2:
        machine.require("Off", "Saved")
        start(machine)
    elif wanted == 3:
        turn_off(machine)
    elif wanted in (6, 32773):
        save(machine)
    elif wanted == 11:
        reset(machine)
    else:
        return {"ReturnValue": UInt32(32773)}
    return {"ReturnValue": UInt32(0), "Job": None}


def _end_migration(call: Call, item: dict[str, str], arguments: dict[str, object]) -> Row:
    if int(str(arguments.get("RequestedState", 0))) not in (4, 5):
        return {"ReturnValue": UInt32(32773)}
    for job in call.host.migrations:
        if str(job.id).upper() == item.get("InstanceID", "").upper():
            if job.state != 4:
                return {"ReturnValue": UInt32(32775)}
            job.cancelled = True
            call.host.world.notify()
            return {}
    raise _cim_error("HRESULT 0x80041002", "ObjectNotFound", "Not found")


def _initiate_shutdown(call: Call, item: dict[str, str], arguments: dict[str, object]) -> Row:
    machine = _system(call, item)
    guest = machine.guest
    if guest is None or not guest.heartbeat():
        return {"ReturnValue": UInt32(32768)}
    if arguments.get("Force") is not None:
        guest.request_shutdown()
    return {"ReturnValue": UInt32(0)}


def _thumbnail(call: Call, _: dict[str, str], arguments: dict[str, object]) -> Row:
    width = int(str(arguments.get("WidthPixels", 80)))
    height = int(str(arguments.get("HeightPixels", 60)))
    target = arguments.get("TargetSystem")
    if not isinstance(target, dict) or not (0 < width <= 4096 and 0 < height <= 4096):
        return {"ReturnValue": UInt32(32773), "ImageData": None}
    machine = _system(call, {str(key): str(value) for key, value in target.items()})
    if not machine.on:
        return {"ReturnValue": UInt32(32775), "ImageData": None}
    screen = getattr(machine.guest, "screen", None)
    if screen is not None:
        return {"ImageData": screen(width, height)}
    # RGB565, little endian: a ramp, so that a picture of it is not one colour.
    pixels = b"".join(
        ((x * 31 // width) << 11 | (y * 63 // height) << 5 | 8).to_bytes(2, "little")
        for y in range(height)
        for x in range(width)
    )
    return {"ImageData": pixels}


def _type_text(call: Call, item: dict[str, str], arguments: dict[str, object]) -> Row:
    machine = _system(call, item)
    typed = getattr(machine.guest, "typed", None)
    if typed is not None:
        typed(str(arguments.get("AsciiText", "")))
    return {}


_Method = Callable[[Call, dict[str, str], dict[str, object]], Row]
_METHODS: dict[tuple[str, str], _Method] = {
    ("msvm_computersystem", "requeststatechange"): _request_state,
    ("msvm_shutdowncomponent", "initiateshutdown"): _initiate_shutdown,
    ("msvm_virtualsystemmanagementservice", "getvirtualsystemthumbnailimage"): _thumbnail,
    ("msvm_keyboard", "typetext"): _type_text,
    ("msvm_migrationjob", "requeststatechange"): _end_migration,
}
