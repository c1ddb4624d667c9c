"""Which disk of a machine is which, and which NIC; also after somebody has moved disks to other
units. No call is made here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from pyVmomi import vim

from hvdrivers.models.base import Model
from hvdrivers.models.vif import NicModel, VifType
from hvdrivers.models.volume import DiskBus
from hvdrivers.vmware.devices import by_address, file_of, id_of

_ENDING = re.compile(r"(-[0-9]{6})?\.[a-z]+$")
"""Of a disk's file: the number of a snapshot too."""
_WORD = re.compile(r"-[0-9a-f]{12}$")
"""What rescue() and rebuild() put behind a name."""
_NAMED_BY_US = re.compile(r"\] [^/]+/(volumes|instances/[^/]+)/[^/]+$")
"""Folders in which a file has the name of what it is."""
SEED = "seed"
"""Role of the disc with a machine's first configuration, and name of its file."""
ROOT = "root"
RESCUE, RESCUE_SEED = "rescue", "rescue-seed"
DISCS = frozenset({SEED, RESCUE_SEED})
"""Roles of CD drives. People may put other discs into them."""
LOST = "lost "
"""How the key of a disk begins that is attached nowhere."""
_FOR_A_TIME = frozenset({RESCUE, *DISCS})


class VolumeRecord(Model):
    """One attached volume."""

    id: str
    bus: DiskBus
    read_only: bool = False
    boot_index: int | None = None
    multiattach: bool = False
    native_id: str | None = None
    """The host's own id of the volume, if reconnect() or a serial has given it another one here."""
    file: str | None = None
    """Its file when it was attached, where that is not named after the volume (one of Cinder's)."""
    targets: tuple[str, ...] = ()
    """Names of the iSCSI targets that a LUN is behind."""
    disk: str | None = None
    """The UUID in its VMDK, where the driver has read it."""

    @property
    def held(self) -> str:
        """The id by which two machines have the same volume."""
        return self.native_id or self.id


class VifRecord(Model):
    """One NIC of ours."""

    id: str
    type: VifType
    model: NicModel


class Devices(Model):
    """Which device is what."""

    version: Literal[1] = 1
    own: Mapping[str, str] = Field(default_factory=dict)
    """Role (``root``, ``ephemeral``, ``swap``, ``seed``) by address."""
    volumes: Mapping[str, VolumeRecord] = Field(default_factory=dict)
    """By address: ``scsi0:1``."""
    vifs: Mapping[str, VifRecord] = Field(default_factory=dict)
    """By MAC address, in the order in which they were plugged."""
    ids: Mapping[str, str] = Field(default_factory=dict)
    """The UUID in the VMDK of an own disk by its role, where the driver has read it. Neither a
    snapshot nor a Storage vMotion changes it: the guest sees it."""
    doubtful: frozenset[str] = Field(default=frozenset(), exclude=True)
    """Addresses at which something else may be now. See :func:`hvdrivers.vmware.moved.moved`."""

    @property
    def sure(self) -> Mapping[str, str]:
        """The own disks that the driver may delete or change, if they are attached."""
        return {a: role for a, role in self.own.items() if a not in self.doubtful}


@dataclass(frozen=True)
class _Item:
    """One disk of a record."""

    address: str
    lost: str
    """Its key in the record if it is attached nowhere, and something else has its address."""
    fits: Callable[[str], bool]
    """Whether a file has its name."""
    id: str | None
    named: bool = True
    """Its file has a name that tells; that of a volume of Cinder's may have any."""

    def is_not(self, disk: Any) -> bool:
        """Whether a disk or drive, whose file has another name, surely is something else."""
        return (
            isinstance(disk, vim.vm.device.VirtualCdrom)
            or (self.id is not None and id_of(disk) not in (None, self.id))
            or (self.named and _NAMED_BY_US.search(file_of(disk) or "") is not None)
        )


def moved(devices: Devices, hardware: Iterable[Any], uuid: str) -> Devices:
    """The record of a machine whose disks may have been moved by hand: vSphere's client can give a
    disk another unit, and the one that it had to another disk.

    A disk is known by the UUID in its VMDK, if the driver has read that. Else by its file: a disk
    of the machine's own is ``root.vmdk`` in a folder with the machine's UUID in its name, and a
    volume has its own name. One that is attached nowhere, while something else has its address,
    has no address in the result: its key there is none.

    Where there is no UUID, and no file, or more than one, fits better than that at the recorded
    address, the address decides, as a Storage vMotion may have given the file any name. That
    address is doubtful: the driver deletes and changes nothing there.
    """
    present = by_address(hardware)
    disks = {a: d for a, d in present.items() if isinstance(d, vim.vm.device.VirtualDisk)}
    items = _items(devices, uuid)
    now = {
        a: a if a not in disks else f"{LOST}{role}"
        for a, role in devices.own.items()
        if role in DISCS
    }
    ids = Counter(id_of(disk) for disk in disks.values())
    by_id = {id_of(disk): a for a, disk in disks.items()}
    for item in items:
        here = disks.get(item.address)
        if item.id is None:
            continue
        if here is not None and id_of(here) == item.id:
            now[item.address] = item.address
        elif ids[item.id] == 1 and by_id[item.id] not in now.values():
            now[item.address] = by_id[item.id]
    files = {a: file_of(disk) or "" for a, disk in disks.items()}
    for item in items:
        at_home = item.address in files.keys() - now.values() and item.fits(files[item.address])
        if item.address not in now and at_home:
            now[item.address] = item.address
    for item in items:
        fitting = [a for a in files.keys() - now.values() if item.fits(files[a])]
        if item.address not in now and len(fitting) == 1:
            now[item.address] = fitting[0]
    taken = frozenset(now.values())
    doubtful = set()
    for item in items:
        here = present.get(item.address)
        if item.address in now:
            continue
        if item.address in taken or (here is not None and item.is_not(here)):
            now[item.address] = item.lost
            continue
        now[item.address] = item.address
        if here is not None and item.named:
            doubtful.add(item.address)
    return _learned(_renamed(devices, now), disks, frozenset(doubtful))


def _items(devices: Devices, uuid: str) -> list[_Item]:
    found = [
        _Item(a, f"{LOST}{role}", _is_role(role, uuid), devices.ids.get(role))
        for a, role in devices.own.items()
        if role not in DISCS
    ]
    for address, volume in devices.volumes.items():
        named = "/" in volume.held and volume.file is None
        fits = _is_volume(volume.held) if named else _is_file(volume.file)
        key = f"{LOST}{volume.id}"
        found.append(_Item(address, key, fits, volume.disk, named or volume.file is not None))
    return found


def _renamed(devices: Devices, now: Mapping[str, str]) -> Devices:
    return devices.model_copy(
        update={
            "own": {now[a]: role for a, role in devices.own.items()},
            "volumes": {now[a]: each for a, each in devices.volumes.items()},
        }
    )


def _learned(devices: Devices, disks: Mapping[str, Any], doubtful: frozenset[str]) -> Devices:
    """The same with the UUIDs of the disks that are sure, to be written with the next change."""
    ids = {a: id_of(disk) for a, disk in disks.items() if a not in doubtful}
    own = {role: ids.get(a) or devices.ids.get(role) for a, role in devices.own.items()}
    return devices.model_copy(
        update={
            "ids": {role: i for role, i in own.items() if i and role not in _FOR_A_TIME},
            "volumes": {
                a: each.model_copy(update={"disk": ids.get(a) or each.disk})
                for a, each in devices.volumes.items()
            },
            "doubtful": doubtful,
        }
    )


def _is_file(file: str | None) -> Callable[[str], bool]:
    return lambda path: path == file


def _is_role(role: str, uuid: str) -> Callable[[str], bool]:
    def fits(path: str) -> bool:
        folder, _, name = path.partition("] ")[2].rpartition("/")
        home = folder.rpartition("/")[2]
        stem = _ENDING.sub("", name)
        known = _WORD.sub("", stem) == role
        if role == "root" and home != uuid:
            # a clone's, as its folder, or as its machine: vCenter may put a number behind the first
            known = known or stem == home or stem.endswith(f".{uuid}")
        return bool(uuid) and uuid in home and known

    return fits


def _is_volume(volume_id: str) -> Callable[[str], bool]:
    pool, _, name = volume_id.partition("/")
    return lambda path: path.startswith(f"[{pool}] ") and path.endswith(f"/volumes/{name}.vmdk")
