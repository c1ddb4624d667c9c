"""The cmdlets of virtual hard disks."""

import ntpath
from collections.abc import Iterator

from hvdrivers.hyperv.simulator.cmdlets.call import Call, has_wildcard
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import (
    E_INVALID_PARAMETER,
    CmdletError,
    file_error,
    invalid_parameter,
)
from hvdrivers.hyperv.simulator.state.files import join
from hvdrivers.hyperv.simulator.state.host import HostState
from hvdrivers.hyperv.simulator.state.storage import HostDisk
from hvdrivers.hyperv.simulator.state.vhd import BLOCK, MIB, DiskFile
from hvdrivers.hyperv.simulator.wire import Thing, UInt32, UInt64

_TYPE = "Microsoft.Vhd.PowerShell.VirtualHardDisk"


def full_path(host: HostState, path: str) -> str:
    """A path below the host's folder for disks where only a name is given.

    Raises:
        CmdletError: it is on a share that the user cannot open.
    """
    host.files.ask(path)
    return path if ntpath.dirname(path) else join(host.settings.vhd_path, path)


def view(host: HostState, disk: DiskFile) -> Thing:
    """Microsoft.Vhd.PowerShell.VirtualHardDisk."""
    number = next((n for path, n in host.mounted.items() if host.files.same(path, disk.path)), None)
    attached = number is not None or bool(host.users_of(disk.path))
    return Thing(
        (_TYPE, "System.Object"),
        {
            "Path": disk.path,
            "VhdFormat": disk.format,
            "VhdType": disk.kind,
            "FileSize": UInt64(disk.file_size),
            "Size": UInt64(disk.size),
            "MinimumSize": None,
            "LogicalSectorSize": UInt32(512),
            "PhysicalSectorSize": UInt32(4096 if disk.format == "VHDX" else 512),
            "BlockSize": UInt32(BLOCK if disk.format == "VHDX" else 2 * MIB),
            "ParentPath": disk.parent or "",
            "DiskIdentifier": str(disk.identifier).upper(),
            "FragmentationPercentage": None if disk.kind != "Dynamic" else 0,
            "Alignment": 1,
            "Attached": attached,
            "DiskNumber": None if number is None else UInt32(number),
            "Number": None if number is None else UInt32(number),
            "IsPMEMCompatible": False,
            "AddressAbstractionType": "None",
            "ComputerName": host.name,
        },
        _TYPE,
    )


def _paths(call: Call) -> Iterator[str]:
    for path in call.texts("Path"):
        if has_wildcard(path) and not path.startswith("\\\\"):
            folder = call.host.files.file(ntpath.dirname(path))
            from hvdrivers.hyperv.simulator.cmdlets.call import like

            if folder.is_dir():
                for entry in sorted(folder.iterdir()):
                    if like(entry.name, ntpath.basename(path)):
                        yield join(ntpath.dirname(path), entry.name)
                continue
        yield full_path(call.host, path)


@cmdlet("Get-VHD")
def get_vhd(call: Call) -> None:
    host = call.host
    if call.has("VMId") or call.has("VM"):
        for machine in call.machines():
            for drive in machine.config.drives:
                if drive.path:
                    call.write(view(host, host.disks.look(drive.path)))
        return
    if call.has("DiskNumber"):
        for path, number in host.mounted.items():
            if number == call.integer("DiskNumber"):
                call.write(view(host, host.disks.look(path)))
        return
    for path in _paths(call):
        try:
            call.write(view(host, host.disks.look(path)))
        except CmdletError as error:
            call.error(error)


def _suffix(path: str) -> None:
    if not path.lower().endswith((".vhd", ".vhdx", ".avhd", ".avhdx", ".vhds")):
        raise invalid_parameter("Path", "The file name must end in .vhd, .vhdx or .vhds.")


def _check_size(path: str, size: int) -> None:
    """A VHD holds up to 2040 GiB, a VHDX up to 64 TiB; both count in sectors."""
    limit = 2040 << 30 if path.lower().endswith((".vhd", ".avhd")) else 64 << 40
    if not 3 * MIB <= size <= limit or size % 512:
        raise CmdletError(
            "InvalidParameter",
            "InvalidArgument",
            "invalid-parameter",
            hresult=E_INVALID_PARAMETER,
            target=path,
            name="SizeBytes",
            why="It is out of range, or not a multiple of the sector size.",
        )


@cmdlet("New-VHD")
def new_vhd(call: Call) -> None:
    host = call.host
    for given in call.texts("Path"):
        path = full_path(host, given)
        _suffix(path)
        parent = call.text("ParentPath")
        if parent or call.flag("Differencing"):
            if ntpath.splitext(parent)[1].lower().strip(".a") != ntpath.splitext(path)[
                1
            ].lower().strip(".a"):
                raise invalid_parameter("ParentPath", "Parent and child must have one format.")
            size = call.integer("SizeBytes") if call.has("SizeBytes") else None
            disk = host.disks.differencing(path, full_path(host, parent), size)
        else:
            size = call.integer("SizeBytes")
            _check_size(path, size)
            disk = host.disks.create(path, size, "Fixed" if call.flag("Fixed") else "Dynamic")
        call.write(view(host, disk))


@cmdlet("Convert-VHD")
def convert_vhd(call: Call) -> None:
    host = call.host
    source, target = (
        full_path(host, call.text("Path")),
        full_path(host, call.text("DestinationPath")),
    )
    _suffix(target)
    _need_idle(host, source)
    before = host.disks.look(source)
    kind = call.text("VHDType") or ("Fixed" if before.kind == "Fixed" else "Dynamic")
    if kind == "Differencing":
        parent = call.text("ParentPath")
        if not parent:
            raise invalid_parameter("ParentPath", "A differencing disk needs a parent.")
        disk = host.disks.differencing(target, parent)
    else:
        with host.unlocked():
            disk = host.disks.convert(source, target, kind)
    if call.flag("DeleteSource"):
        host.files.file(source).unlink()
        host.disks.forget(source)
    if call.flag("Passthru"):
        call.write(view(host, disk))


def _need_idle(host: HostState, path: str) -> None:
    """Refuse where a running machine or the host has the disk open."""
    if host.users_of(path) or any(host.files.same(path, each) for each in host.mounted):
        raise file_error("file-in-use", path)


@cmdlet("Resize-VHD")
def resize_vhd(call: Call) -> None:
    host = call.host
    for path in _paths(call):
        disk = host.disks.look(path)
        size = disk.size if call.flag("ToMinimumSize") else call.integer("SizeBytes")
        _check_size(path, size)
        users = host.users_of(path)
        if users and (disk.format != "VHDX" or size < disk.size or not _on_scsi(host, path)):
            raise file_error("file-in-use", path)
        if any(host.files.same(path, d.parent or "") for d in _children(host, path)):
            raise file_error("file-in-use", path)
        if users:
            if not all(m.guest is not None and _resized(m, path, size) for m in users):
                host.disks.resize(path, size)
        else:
            host.disks.resize(path, size)
        if call.flag("Passthru"):
            call.write(view(host, host.disks.look(path)))


def _resized(machine: object, path: str, size: int) -> bool:
    """Let a real guest's own process change the size of a disk that it has open."""
    grow = getattr(getattr(machine, "guest", None), "grow", None)
    return bool(grow(path, size)) if grow is not None else False


def _on_scsi(host: HostState, path: str) -> bool:
    return all(
        drive.slot.bus == "SCSI"
        for machine in host.users_of(path)
        for drive in machine.config.drives
        if drive.path and host.files.same(drive.path, path)
    )


def _children(host: HostState, path: str) -> list[DiskFile]:
    """Disks of machines that have this one as their parent."""
    found: list[DiskFile] = []
    for machine in host.machines.values():
        for each in machine.disk_paths():
            if host.files.file(each).is_file():
                disk = host.disks.look(each)
                if disk.parent and host.files.same(disk.parent, path):
                    found.append(disk)
    return found


@cmdlet("Merge-VHD")
def merge_vhd(call: Call) -> None:
    host = call.host
    path = full_path(host, call.text("Path"))
    _need_idle(host, path)
    disk = host.disks.look(path)
    into = call.text("DestinationPath") or disk.parent
    if into is None:
        raise invalid_parameter("Path", "The disk is not a differencing disk.")
    host.disks.merge(path, into)
    if call.flag("Passthru"):
        call.write(view(host, host.disks.look(into)))


@cmdlet("Set-VHD")
def set_vhd(call: Call) -> None:
    host = call.host
    path = full_path(host, call.text("Path"))
    _need_idle(host, path)
    disk = host.disks.look(path)
    if call.has("ParentPath"):
        if disk.parent is None:
            raise invalid_parameter("ParentPath", "The disk is not a differencing disk.")
        parent = host.disks.look(call.text("ParentPath"))
        if parent.size > disk.size and not call.flag("IgnoreIdMismatch"):
            raise file_error("vhd-chain", path)
        host.disks.rebase(path, call.text("ParentPath"))
    if call.flag("Passthru"):
        call.write(view(host, host.disks.look(path)))


@cmdlet("Test-VHD")
def test_vhd(call: Call) -> None:
    for path in _paths(call):
        try:
            call.host.disks.chain(path)
        except CmdletError as error:
            call.error(error)
            call.write(False)
        else:
            call.write(True)


@cmdlet("Optimize-VHD")
def optimize_vhd(call: Call) -> None:
    for path in _paths(call):
        _need_idle(call.host, path)
        call.host.disks.look(path)


@cmdlet("Mount-VHD")
def mount_vhd(call: Call) -> None:
    host = call.host
    for path in _paths(call):
        disk = host.disks.look(path)
        _need_idle(host, path)
        number = host.storage.free_number()
        host.storage.disks[number] = HostDisk(
            number,
            str(disk.identifier),
            "",
            disk.size,
            bus="File Backed Virtual",
            read_only=call.flag("ReadOnly"),
            name="Msft Virtual Disk",
            location=path,
        )
        host.mounted[path] = number
        if call.flag("Passthru"):
            call.write(view(host, disk))


@cmdlet("Dismount-VHD")
def dismount_vhd(call: Call) -> None:
    host = call.host
    numbers = [call.integer("DiskNumber")] if call.has("DiskNumber") else []
    for path in _paths(call):
        match = [n for each, n in host.mounted.items() if host.files.same(each, path)]
        if not match:
            raise file_error("file-not-found", path)
        numbers.extend(match)
    for number in numbers:
        host.storage.disks.pop(number, None)
        for path, each in list(host.mounted.items()):
            if each == number:
                del host.mounted[path]
                if call.flag("Passthru"):
                    call.write(view(host, host.disks.look(path)))


@cmdlet("New-VFD")
def new_vfd(call: Call) -> None:
    for path in call.texts("Path"):
        file = call.host.files.file(path)
        if file.exists():
            raise file_error("file-exists", path)
        file.write_bytes(bytes(1_474_560))
