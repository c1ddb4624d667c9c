"""Hard drives and DVD drives of machines."""

from typing import TypeVar

from hvdrivers.hyperv.simulator.cmdlets import views
from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.settings import targets
from hvdrivers.hyperv.simulator.errors import (
    E_SHARING_VIOLATION,
    CmdletError,
    failed,
    file_error,
    invalid_parameter,
    invalid_state,
    missing,
)
from hvdrivers.hyperv.simulator.state import devices as dev
from hvdrivers.hyperv.simulator.state.devices import DvdDrive, HardDrive, Slot
from hvdrivers.hyperv.simulator.state.machine import Machine

D = TypeVar("D", HardDrive, DvdDrive)


def taken(machine: Machine) -> set[tuple[str, int, int]]:
    """Places on controllers that hold a drive."""
    return {(d.slot.bus, d.slot.controller, d.slot.location) for d in machine.config.all_drives()}


def _limits(machine: Machine, bus: str) -> tuple[int, int]:
    if bus == "IDE":
        return (dev.IDE_CONTROLLERS if machine.config.generation == 1 else 0), dev.IDE_LOCATIONS
    return machine.config.scsi, dev.SCSI_LOCATIONS


def free_slot(machine: Machine, bus: str, controller: int | None, location: int | None) -> Slot:
    """A free place, the first one where the call leaves it open. Raises where there is none."""
    controllers, locations = _limits(machine, bus)
    used = taken(machine)
    if controller is not None and not 0 <= controller < controllers:
        raise missing(f"{bus} controller {controller}")
    if location is not None and not 0 <= location < locations:
        raise invalid_parameter("ControllerLocation")
    for number in range(controllers) if controller is None else (controller,):
        for place in range(locations) if location is None else (location,):
            if (bus, number, place) not in used:
                return Slot(bus, number, place)
    if location is not None:
        raise failed("The controller location is already in use.", target=machine.name)
    raise failed(f"There is no free location on a {bus} controller.", target=machine.name)


def _need_change(machine: Machine, bus: str) -> None:
    if machine.busy or machine.state not in ("Off", "Running", "Paused"):
        raise invalid_state(machine.name)
    if machine.on and bus == "IDE":
        # An IDE controller has no hot-plug.
        raise invalid_state(machine.name)


def add_disk(machine: Machine, slot: Slot, path: str) -> HardDrive:
    """Attach a virtual disk file. Raises where it is not a disk or another machine has it open."""
    host = machine.host
    host.files.ask(path, computer=True)
    host.disks.look(path)
    if machine.on:
        claim_disk(machine, path)
    drive = HardDrive(slot, path)
    machine.config.drives.append(drive)
    if machine.config.generation == 2:
        machine.config.firmware.order.append(drive.id)
    return drive


def claim_disk(machine: Machine, path: str) -> None:
    """Refuse a disk that a running machine, or the host itself, has open."""
    host = machine.host
    others = [m for m in host.users_of(path) if m is not machine]
    mounted = any(host.files.same(path, each) for each in host.mounted)
    if others or mounted:
        raise file_error("file-in-use", path)


def _changed(machine: Machine) -> None:
    if machine.guest is not None:
        machine.guest.changed()
    machine.host.world.notify()


def _with_controllers(call: Call) -> list[tuple[Machine, str | None, int | None]]:
    found: list[tuple[Machine, str | None, int | None]] = []
    if call.has("VMDriveController"):
        for item in call.things("VMDriveController"):
            bus = "SCSI" if "Scsi" in item["type"] else "IDE"
            found.extend(
                (m, bus, int(item["ControllerNumber"])) for m in call.with_id(item.get("VMId"))
            )
        return found
    number = call.integer("ControllerNumber") if call.has("ControllerNumber") else None
    return [(m, call.text("ControllerType") or None, number) for m in call.machines("VMName")]


@cmdlet("Get-VMHardDiskDrive")
def get_drives(call: Call) -> None:
    if call.has("VMDriveController"):
        for machine, bus, number in _with_controllers(call):
            for drive in machine.config.drives:
                if (drive.slot.bus, drive.slot.controller) == (bus, number):
                    call.write(views.hard_drive(machine, drive))
        return
    for machine, config, point in targets(call):
        for drive in _sorted(config.drives):
            if _wanted(call, drive.slot):
                call.write(views.hard_drive(machine, drive, point))


def _sorted(drives: list[D]) -> list[D]:
    return sorted(drives, key=lambda d: (d.slot.bus, d.slot.controller, d.slot.location))


def _wanted(call: Call, slot: Slot) -> bool:
    return not (
        (call.has("ControllerType") and call.text("ControllerType") != slot.bus)
        or (call.has("ControllerNumber") and call.integer("ControllerNumber") != slot.controller)
        or (call.has("ControllerLocation") and call.integer("ControllerLocation") != slot.location)
    )


@cmdlet("Add-VMHardDiskDrive")
def add_drive(call: Call) -> None:
    for machine, asked, number in _with_controllers(call):
        bus = asked or ("IDE" if machine.config.generation == 1 else "SCSI")
        if bus == "IDE" and machine.config.generation == 2:
            raise failed("A machine of generation 2 has no IDE controller.", target=machine.name)
        location = call.integer("ControllerLocation") if call.has("ControllerLocation") else None
        _need_change(machine, bus)
        slot = free_slot(machine, bus, number, location)
        if call.has("DiskNumber"):
            drive = _pass_through(machine, slot, call.integer("DiskNumber"))
        elif call.text("Path"):
            path = call.text("Path")
            if any(machine.host.files.same(path, d.path) for d in machine.config.drives if d.path):
                raise file_error("file-in-use", path)
            drive = add_disk(machine, slot, path)
        else:
            drive = HardDrive(slot)
            machine.config.drives.append(drive)
        _options(call, drive)
        _changed(machine)
        if call.flag("Passthru"):
            call.write(views.hard_drive(machine, drive))


def _pass_through(machine: Machine, slot: Slot, number: int) -> HardDrive:
    host = machine.host
    disk = host.storage.disks.get(number)
    if disk is None:
        raise missing(f"Disk {number}")
    if not disk.offline:
        raise failed(
            "The physical disk is online.", hresult=E_SHARING_VIOLATION, target=machine.name
        )
    claim_host_disk(machine, number)
    if any(d.disk_number == number for d in machine.config.drives):
        raise _in_use(machine)
    drive = HardDrive(slot, disk_number=number, disk_unique_id=disk.unique_id)
    machine.config.drives.append(drive)
    if machine.config.generation == 2:
        machine.config.firmware.order.append(drive.id)
    return drive


def claim_host_disk(machine: Machine, number: int) -> None:
    """Refuse a disk of the host that another machine which is on has."""
    for other in machine.host.machines.values():
        has = any(drive.disk_number == number for drive in other.config.drives)
        if has and other is not machine and other.on:
            raise _in_use(machine)


def _in_use(machine: Machine) -> CmdletError:
    return failed("The physical disk is in use.", hresult=E_SHARING_VIOLATION, target=machine.name)


def _options(call: Call, drive: HardDrive) -> None:
    drive.minimum_iops = call.integer("MinimumIOPS", drive.minimum_iops)
    drive.maximum_iops = call.integer("MaximumIOPS", drive.maximum_iops)
    drive.persistent_reservations = call.flag(
        "SupportPersistentReservations", drive.persistent_reservations
    )
    drive.cache = call.text("OverrideCacheAttributes", drive.cache)


def _chosen(call: Call, parameter: str, drives: "dict[str, list[D]]") -> list[tuple[Machine, D]]:
    """Drives that a Set or Remove means, by object or by place. Raises ObjectNotFound."""
    found: list[tuple[Machine, D]] = []
    if call.has(parameter):
        places = [
            (
                item.get("VMId"),
                item["ControllerType"],
                int(item["ControllerNumber"]),
                int(item["ControllerLocation"]),
            )
            for item in call.things(parameter)
        ]
    else:
        bus = call.text("ControllerType")
        places = [
            (str(m.id), bus, call.integer("ControllerNumber"), call.integer("ControllerLocation"))
            for m in call.machines("VMName")
        ]
    for identity, bus, number, location in places:
        for machine in call.with_id(identity):
            pool: list[D] = drives[str(machine.id)]
            match = [
                d
                for d in pool
                if (not bus or d.slot.bus == bus)
                and (d.slot.controller, d.slot.location) == (number, location)
            ]
            if not match:
                call.error(missing(f"{bus} {number}:{location}"))
            found.extend((machine, d) for d in match[:1])
    return found


def _hard_drives(call: Call) -> dict[str, list[HardDrive]]:
    return {str(m.id): m.config.drives for m in call.host.machines.values()}


def _dvd_drives(call: Call) -> dict[str, list[DvdDrive]]:
    return {str(m.id): m.config.dvds for m in call.host.machines.values()}


@cmdlet("Remove-VMHardDiskDrive")
def remove_drive(call: Call) -> None:
    for machine, drive in _chosen(call, "VMHardDiskDrive", _hard_drives(call)):
        _need_change(machine, drive.slot.bus)
        machine.config.drives.remove(drive)
        machine.config.firmware.order = [i for i in machine.config.firmware.order if i != drive.id]
        _changed(machine)
        if call.flag("Passthru"):
            call.write(views.hard_drive(machine, drive))


@cmdlet("Set-VMHardDiskDrive")
def set_drive(call: Call) -> None:
    for machine, drive in _chosen(call, "VMHardDiskDrive", _hard_drives(call)):
        moves = any(
            call.has(n) for n in ("ToControllerType", "ToControllerNumber", "ToControllerLocation")
        )
        if call.has("Path") or call.has("DiskNumber") or moves:
            _need_change(machine, drive.slot.bus)
            if machine.on:
                raise invalid_state(machine.name)
        if moves:
            bus = call.text("ToControllerType", drive.slot.bus)
            number = call.integer("ToControllerNumber", drive.slot.controller)
            location = (
                call.integer("ToControllerLocation") if call.has("ToControllerLocation") else None
            )
            drive.slot = free_slot(machine, bus, number, location)
        if call.has("Path"):
            machine.host.files.ask(call.text("Path"), computer=True)
            machine.host.disks.look(call.text("Path"))
            drive.path, drive.disk_number = call.text("Path"), None
        if call.has("DiskNumber"):
            place = machine.config.drives.index(drive)
            order = list(machine.config.firmware.order)
            machine.config.drives.remove(drive)
            try:
                new = _pass_through(machine, drive.slot, call.integer("DiskNumber"))
            except CmdletError:
                machine.config.drives.insert(place, drive)
                raise
            # it stays the same drive
            new.id, machine.config.firmware.order = drive.id, order
            machine.config.drives.remove(new)
            machine.config.drives.insert(place, new)
        else:
            new = drive
        _options(call, new)
        _changed(machine)
        if call.flag("Passthru"):
            call.write(views.hard_drive(machine, new))


@cmdlet("Get-VMDvdDrive")
def get_dvds(call: Call) -> None:
    if call.has("VMDriveController"):
        for machine, bus, number in _with_controllers(call):
            for drive in machine.config.dvds:
                if (drive.slot.bus, drive.slot.controller) == (bus, number):
                    call.write(views.dvd(machine, drive))
        return
    for machine, config, point in targets(call):
        for drive in _sorted(config.dvds):
            if _wanted(call, drive.slot):
                call.write(views.dvd(machine, drive, point))


@cmdlet("Add-VMDvdDrive")
def add_dvd(call: Call) -> None:
    for machine, asked, number in _with_controllers(call):
        bus = asked or ("IDE" if machine.config.generation == 1 else "SCSI")
        _need_change(machine, bus)
        location = call.integer("ControllerLocation") if call.has("ControllerLocation") else None
        path = call.text("Path")
        _check_medium(machine, path)
        drive = DvdDrive(free_slot(machine, bus, number, location), path)
        machine.config.dvds.append(drive)
        if machine.config.generation == 2:
            machine.config.firmware.order.append(drive.id)
        _changed(machine)
        if call.flag("Passthru"):
            call.write(views.dvd(machine, drive))


def _check_medium(machine: Machine, path: str) -> None:
    machine.host.files.ask(path, computer=True)
    if path and not machine.host.files.file(path).is_file():
        raise file_error("file-not-found", path)


@cmdlet("Set-VMDvdDrive")
def set_dvd(call: Call) -> None:
    chosen: list[tuple[Machine, DvdDrive]]
    if call.has("VMDvdDrive") or call.has("ControllerNumber") or call.has("ControllerLocation"):
        chosen = _chosen(call, "VMDvdDrive", _dvd_drives(call))
    else:
        chosen = []
        for machine in call.machines("VMName"):
            if len(machine.config.dvds) != 1:
                raise (
                    missing("DVD Drive") if not machine.config.dvds else invalid_parameter("VMName")
                )
            chosen.append((machine, machine.config.dvds[0]))
    for machine, drive in chosen:
        if machine.busy or machine.state == "Saved":
            raise invalid_state(machine.name)
        moves = any(call.has(name) for name in ("ToControllerNumber", "ToControllerLocation"))
        if moves:
            if machine.on:
                raise invalid_state(machine.name)
            location = (
                call.integer("ToControllerLocation") if call.has("ToControllerLocation") else None
            )
            drive.slot = free_slot(
                machine,
                drive.slot.bus,
                call.integer("ToControllerNumber", drive.slot.controller),
                location,
            )
        if "Path" in call.bound:
            _check_medium(machine, call.text("Path"))
            drive.path = call.text("Path")
        _changed(machine)
        if call.flag("Passthru"):
            call.write(views.dvd(machine, drive))


@cmdlet("Remove-VMDvdDrive")
def remove_dvd(call: Call) -> None:
    for machine, drive in _chosen(call, "VMDvdDrive", _dvd_drives(call)):
        _need_change(machine, drive.slot.bus)
        machine.config.dvds.remove(drive)
        machine.config.firmware.order = [i for i in machine.config.firmware.order if i != drive.id]
        _changed(machine)
        if call.flag("Passthru"):
            call.write(views.dvd(machine, drive))
