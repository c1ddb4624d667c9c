"""Cmdlets for CIM, and the methods that scripts for Hyper-V call."""

import base64
import re
import struct
from collections.abc import Callable, Iterator
from uuid import UUID

from hvdrivers.hyperv.simulator.cmdlets import jobs
from hvdrivers.hyperv.simulator.cmdlets.call import Call, like
from hvdrivers.hyperv.simulator.cmdlets.cim_classes import CLASSES, VIRTUALIZATION, Row
from hvdrivers.hyperv.simulator.cmdlets.power import reset, save, start, turn_off
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import CIM_EXCEPTION, CmdletError
from hvdrivers.hyperv.simulator.state.host import HostDevice
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.hyperv.simulator.wire import Thing, UInt32, Value

_Method = Callable[[Call, dict[str, str], dict[str, object]], Row]


def _cim_error(code: str, category: str, why: str) -> CmdletError:
    return CmdletError(code, category, "injected", kind=CIM_EXCEPTION, why=why)


_QUERY = re.compile(
    r"\s*select\s+(?P<what>.+?)\s+from\s+(?P<name>\w+)(?:\s+where\s+(?P<where>.+))?\s*", re.I | re.S
)
_TERM = re.compile(
    r"\s*(\w+)\s*(=|<>|!=|like)\s*(?:'((?:[^'\\]|\\.)*)'|\"([^\"]*)\"|(\w+))\s*", re.I
)


def _rows(call: Call, namespace: str, name: str, where: str) -> Iterator[Thing]:
    space = re.sub(r"[\\/]+", "/", namespace).strip("/").lower()
    found = CLASSES.get((space, name.lower()))
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
            full for (space, _), (full, _) in CLASSES.items() if space == VIRTUALIZATION
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
    across = [(x * 31 // width) << 11 | 8 for x in range(width)]
    lines = {
        level: struct.pack(f"<{width}H", *(each | level << 5 for each in across))
        for level in {y * 63 // height for y in range(height)}
    }
    pixels = b"".join(lines[y * 63 // height] for y in range(height))
    return {"ImageData": pixels}


def _type_text(call: Call, item: dict[str, str], arguments: dict[str, object]) -> Row:
    machine = _system(call, item)
    typed = getattr(machine.guest, "typed", None)
    if typed is not None:
        typed(str(arguments.get("AsciiText", "")))
    return {}


def _target_mapping(call: Call, _: dict[str, str], arguments: dict[str, object]) -> Row:
    """Which disk of the host each logical unit behind a port of the host is (WDK,
    HBAFCPScsiEntry)."""
    storage = call.host.storage
    match arguments.get("HbaPortWWN"):
        case {"base64": str(text)}:
            wanted = base64.b64decode(text).hex()
        case _:
            return {"HBAStatus": UInt32(1), "Entry": None}
    if all(port.lower() != wanted for _, port in storage.hba_ports):
        return {"HBAStatus": UInt32(5), "Entry": None}
    numbers = {disk.unique_id: disk.number for disk in storage.disks.values()}
    entries: list[Value] = [
        Thing(
            (),
            {
                "FCPId": Thing((), {"PortWWN": bytes.fromhex(target.wwn), "Fcid": UInt32(1)}),
                "ScsiId": Thing(
                    (),
                    {
                        "OSDeviceName": f"\\\\.\\PhysicalDrive{numbers[unit.unique_id]}",
                        "ScsiBusNumber": UInt32(0),
                        "ScsiTargetNumber": UInt32(place),
                        "ScsiOSLun": UInt32(unit.number),
                    },
                ),
            },
        )
        for place, target in enumerate(storage.fabric.values())
        for unit in target.luns
        if unit.unique_id in numbers
    ]
    most = int(str(arguments.get("InEntryCount", 0)))
    return {
        "HBAStatus": UInt32(0 if len(entries) <= most else 7),
        "TotalEntryCount": UInt32(len(entries)),
        "OutEntryCount": UInt32(min(most, len(entries))),
        "Entry": entries[:most],
    }


def _pnp_device(call: Call, item: dict[str, str]) -> HostDevice:
    for device in call.host.hardware.devices:
        if device.shown_id == item.get("DeviceID"):
            return device
    raise _cim_error("HRESULT 0x80041002", "ObjectNotFound", "Not found")


def _device_properties(call: Call, item: dict[str, str], arguments: dict[str, object]) -> Row:
    device = _pnp_device(call, item)
    known: Row = {
        "DEVPKEY_Device_LocationPaths": [device.location_path],
        "DEVPKEY_Device_BusNumber": UInt32(device.bus),
        "DEVPKEY_Device_Address": UInt32(device.slot << 16 | device.function),
    }
    wanted = arguments.get("devicePropertyKeys")
    names = [str(each) for each in wanted] if isinstance(wanted, list) else list(known)
    told: list[Value] = [
        Thing((), {"KeyName": name, "Data": known[name]}) for name in names if name in known
    ]
    return {"deviceProperties": told}


def _win32_shutdown(call: Call, _: dict[str, str], arguments: dict[str, object]) -> Row:
    flags = int(str(arguments.get("Flags", 0))) & ~4
    if not call.host.administrator:
        return {"ReturnValue": UInt32(1314)}
    if flags not in (1, 2, 8):
        return {"ReturnValue": UInt32(87)}
    if call.host.power is None:
        raise _cim_error("HRESULT 0x80041024", "NotImplemented", "This host stays up")
    call.host.power(flags == 2)
    return {}


def _switch_device(enabled: bool) -> _Method:
    def switch(call: Call, item: dict[str, str], _: dict[str, object]) -> Row:
        _pnp_device(call, item).enabled = enabled
        return {"RebootNeeded": False}

    return switch


_METHODS: dict[tuple[str, str], _Method] = {
    ("msvm_computersystem", "requeststatechange"): _request_state,
    ("msvm_shutdowncomponent", "initiateshutdown"): _initiate_shutdown,
    ("msvm_virtualsystemmanagementservice", "getvirtualsystemthumbnailimage"): _thumbnail,
    ("msvm_keyboard", "typetext"): _type_text,
    ("msvm_migrationjob", "requeststatechange"): _end_migration,
    ("msfc_hbafcpinfo", "getfcptargetmapping"): _target_mapping,
    ("win32_pnpentity", "getdeviceproperties"): _device_properties,
    ("win32_pnpentity", "disable"): _switch_device(False),
    ("win32_pnpentity", "enable"): _switch_device(True),
    ("win32_operatingsystem", "win32shutdown"): _win32_shutdown,
}
