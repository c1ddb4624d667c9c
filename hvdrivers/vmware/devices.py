"""Virtual devices: addresses, controllers and unit numbers. No call is made here.

The rules are those of the vSphere documentation ("Configuration Maximums", "SCSI and SATA Storage
Controller Conditions"), as a server refuses what breaks them, or accepts it and does not start:
four controllers of a kind; fifteen disks on a SCSI controller, whose own unit is 7; thirty on a
SATA, fifteen on an NVMe controller, two on each of two IDE channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.hints import UNPLUG_ONE
from hvdrivers.models.volume import DiskBus

_dev = vim.vm.device


@dataclass(frozen=True)
class _Kind:
    """One kind of controller."""

    name: str
    base: Any
    make: Any
    most: int
    units: tuple[int, ...]


_SCSI_OWN_UNIT = 7
_KINDS = {
    DiskBus.SCSI: _Kind(
        "scsi",
        _dev.VirtualSCSIController,
        _dev.ParaVirtualSCSIController,
        4,
        tuple(unit for unit in range(16) if unit != _SCSI_OWN_UNIT),
    ),
    DiskBus.SATA: _Kind(
        "sata", _dev.VirtualSATAController, _dev.VirtualAHCIController, 4, tuple(range(30))
    ),
    DiskBus.NVME: _Kind(
        "nvme", _dev.VirtualNVMEController, _dev.VirtualNVMEController, 4, tuple(range(15))
    ),
    DiskBus.IDE: _Kind("ide", _dev.VirtualIDEController, _dev.VirtualIDEController, 2, (0, 1)),
}
NIC_LIMIT = 10
"""NICs of one machine."""


def bus_of(wanted: DiskBus | None) -> DiskBus:
    """The bus for a wish; None is SCSI.

    Raises:
        NotSupported: vSphere has no such bus for disks.
    """
    if wanted is None:
        return DiskBus.SCSI
    if wanted not in _KINDS:
        raise errors.NotSupported(
            f"vSphere has no {wanted.value} bus for disks",
            hint="use scsi, sata, nvme or ide",
        )
    return wanted


class Slots:
    """Where there is room in a machine. It hands out addresses and collects the controllers that
    must be added for them.

    Args:
        devices: the machine's hardware; nothing for a machine that is not there yet.
        scsi_controllers: how many SCSI controllers the machine may have.
    """

    def __init__(self, devices: Sequence[Any] = (), *, scsi_controllers: int = 4) -> None:
        self._most = {bus: kind.most for bus, kind in _KINDS.items()}
        self._most[DiskBus.SCSI] = scsi_controllers
        self._controllers: dict[DiskBus, dict[int, int]] = {bus: {} for bus in _KINDS}
        """Key of each controller by its bus number."""
        self._taken: dict[int, set[int]] = {}
        self._next_key = -1
        self._nics = 0
        self.added: list[Any] = []
        """Device changes that add the controllers."""
        for device in devices:
            for bus, kind in _KINDS.items():
                if isinstance(device, kind.base):
                    self._controllers[bus][device.busNumber] = device.key
                    self._taken.setdefault(device.key, set())
            if device.controllerKey is not None and device.unitNumber is not None:
                self._taken.setdefault(device.controllerKey, set()).add(device.unitNumber)
            self._nics += isinstance(device, _dev.VirtualEthernetCard)
        if not devices:
            # each new machine has two IDE channels, with these keys
            self._controllers[DiskBus.IDE] = {0: 200, 1: 201}

    def key(self) -> int:
        """A key for a new device: negative, and used once in a request."""
        self._next_key -= 1
        return self._next_key

    def nic(self) -> None:
        """Take the place of a NIC.

        Raises:
            InsufficientResources: the machine has the most that it can have.
        """
        if self._nics >= NIC_LIMIT:
            raise errors.InsufficientResources(
                f"a machine has at most {NIC_LIMIT} NICs", hint=UNPLUG_ONE
            )
        self._nics += 1

    def disk(self, bus: DiskBus, *, hot: bool = False) -> tuple[int, int, str]:
        """Take the place of a disk or CD drive.

        Args:
            hot: the machine is powered on, so IDE takes nothing.

        Returns:
            The key of the controller, the unit number, and the address.

        Raises:
            InsufficientResources: there is no free unit and no further controller.
            NotSupported: the bus takes nothing while the machine runs.
        """
        kind = _KINDS[bus]
        if hot and bus is DiskBus.IDE:
            raise errors.NotSupported(
                "the IDE bus takes no disk while the machine is powered on",
                hint="use bus=scsi, or stop the instance first",
            )
        for number, key in sorted(self._controllers[bus].items()):
            used = self._taken.setdefault(key, set())
            for unit in kind.units:
                if unit not in used:
                    used.add(unit)
                    return key, unit, f"{kind.name}{number}:{unit}"
        numbers = set(range(self._most[bus])) - self._controllers[bus].keys()
        if not numbers:
            raise errors.InsufficientResources(
                f"the machine's {kind.name} controllers have no free unit",
                hint=f"{self._most[bus]} controllers take {len(kind.units)} disks each",
            )
        number = min(numbers)
        key = self._add_controller(bus, number)
        self._taken[key] = {kind.units[0]}
        return key, kind.units[0], f"{kind.name}{number}:{kind.units[0]}"

    def controller_of(self, address: str) -> int:
        """The key of the controller in an address. One that is not there is added."""
        bus = bus_in(address)
        number = int(address.removeprefix(_KINDS[bus].name).partition(":")[0])
        if number in self._controllers[bus]:
            return self._controllers[bus][number]
        return self._add_controller(bus, number)

    def _add_controller(self, bus: DiskBus, number: int) -> int:
        controller = _KINDS[bus].make()
        controller.key = self.key()
        controller.busNumber = number
        if bus is DiskBus.SCSI:
            controller.sharedBus = _dev.VirtualSCSIController.Sharing.noSharing
        self.added.append(adding(controller))
        self._controllers[bus][number] = controller.key
        return int(controller.key)


def adding(device: Any, *, create: bool = False) -> Any:
    """A device change that adds a device, and with ``create`` its file."""
    change = _dev.VirtualDeviceSpec(device=device, operation="add")
    if create:
        change.fileOperation = "create"
    return change


def removing(device: Any) -> Any:
    """A device change that takes a device away and leaves its file."""
    return _dev.VirtualDeviceSpec(device=device, operation="remove")


def taking_away(disk: Any, *, snapshots: bool) -> Any:
    """A device change that takes a volume away. The file of a mapping goes: it is nothing without
    the disk, and the LUN is untouched.

    Args:
        snapshots: the machine has some: a revert may bring the disk back, and needs the file.
    """
    change = removing(disk)
    if lun_of(disk) is not None and not snapshots:
        change.fileOperation = "destroy"
    return change


def editing(device: Any) -> Any:
    """A device change that changes a device."""
    return _dev.VirtualDeviceSpec(device=device, operation="edit")


def by_address(devices: Iterable[Any]) -> dict[str, Any]:
    """The disks and CD drives of a machine, by address."""
    devices = list(devices)
    names = {
        device.key: f"{kind.name}{device.busNumber}"
        for device in devices
        for kind in _KINDS.values()
        if isinstance(device, kind.base)
    }
    return {
        f"{names[device.controllerKey]}:{device.unitNumber}": device
        for device in devices
        if isinstance(device, _dev.VirtualDisk | _dev.VirtualCdrom)
        and device.controllerKey in names
    }


def by_mac(devices: Iterable[Any]) -> dict[str, Any]:
    """The NICs of a machine, by MAC address in lower case."""
    return {
        (device.macAddress or "").lower(): device
        for device in devices
        if isinstance(device, _dev.VirtualEthernetCard)
    }


def bus_in(address: str) -> DiskBus:
    """The bus of an address."""
    return next(bus for bus, kind in _KINDS.items() if address.startswith(kind.name))


def file_of(disk: Any) -> str | None:
    """The file that a disk writes to: ``[datastore] folder/name.vmdk``."""
    return getattr(disk.backing, "fileName", None) or None


def id_of(disk: Any) -> str | None:
    """The UUID in its VMDK, if the server tells it."""
    return getattr(disk.backing, "uuid", None) or None


def lun_of(disk: Any) -> str | None:
    """The id of the LUN that a disk maps; None for any other disk."""
    backing = disk.backing
    if isinstance(backing, _dev.VirtualDisk.RawDiskMappingVer1BackingInfo):
        return backing.lunUuid or None
    return None


def size_of(disk: Any) -> int | None:
    """Bytes that the guest sees; None where that is its array's affair."""
    return None if lun_of(disk) is not None else capacity_of(disk)


def chain_of(disk: Any) -> frozenset[str]:
    """All files of a disk: the one that it writes to, and those below it."""
    found, backing = set(), disk.backing
    while backing is not None:
        found.add(getattr(backing, "fileName", None) or "")
        backing = getattr(backing, "parent", None)
    return frozenset(found - {""})


def base_file_of(disk: Any) -> str | None:
    """The file at the end of a disk's chain: the one that it was before any snapshot."""
    backing = disk.backing
    while getattr(backing, "parent", None) is not None:
        backing = backing.parent
    return getattr(backing, "fileName", None) or None


def capacity_of(disk: Any) -> int:
    """Bytes that the guest sees."""
    return int(disk.capacityInBytes or (disk.capacityInKB or 0) * 1024)
