"""Which disks of its own a machine shall have, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass

from hvdrivers.contract import errors
from hvdrivers.driverkit.own_disks import wanted_disks
from hvdrivers.libvirt.devices import TARGET_PREFIX
from hvdrivers.libvirt.domain import next_target
from hvdrivers.libvirt.hardware import bus_of_own
from hvdrivers.libvirt.xml import Element, el
from hvdrivers.models.hardware import Hardware
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.volume import DeviceType, DiskBus


@dataclass(frozen=True)
class Planned:
    """One of the disks that a machine shall have."""

    role: str
    """``root``, ``ephemeral``, ``ephemeral-1``, ``swap``."""
    size: int
    """Bytes; 0 for the root disk: as large as what it is made from."""
    bus: DiskBus
    target: str
    kept: str | None


def planned(spec: InstanceSpec) -> list[Planned]:
    """The disks, in the order of the guest.

    Raises:
        NotSupported: one of them on a bus that libvirt has no disk for.
    """
    names = el("domain", el("devices"))
    found = []
    for disk in wanted_disks(spec):
        bus = bus_of_own(disk.wish.bus, spec.hardware)
        target = next_target(TARGET_PREFIX[bus], names)
        names[0].append(named(target))
        found.append(Planned(disk.name, disk.size, bus, target, disk.wish.kept))
    return found


@dataclass(frozen=True)
class SeedDrive:
    """What the guest finds a seed disc in."""

    bus: DiskBus
    cdrom: bool

    @property
    def prefix(self) -> str:
        """``vd`` or ``sd``."""
        return TARGET_PREFIX[self.bus]


def seed_drive(seed: SeedDisc | None, hardware: Hardware) -> SeedDrive:
    """The drive of a seed disc; of one that the driver makes itself, without an argument.

    Raises:
        NotSupported: QEMU has no such drive.
    """
    if seed is None or seed.device_type is DeviceType.CDROM:
        # not SATA, q35's own: kernels made for clouds have no AHCI driver, but this one
        bus = (seed.bus if seed is not None else None) or DiskBus.SCSI
        return SeedDrive(bus_of_own(bus, hardware), cdrom=True)
    bus = bus_of_own(seed.bus, hardware)
    if bus is DiskBus.SATA:
        raise errors.NotSupported(
            "QEMU has no read-only disk on sata",
            hint="leave SeedDisc.bus out, or give the disc as a cdrom",
        )
    return SeedDrive(bus, cdrom=False)


def names_of(spec: InstanceSpec) -> Element:
    """A ``<domain>`` with nothing but the names of the disks that are not volumes."""
    names = el("domain", el("devices", *(named(each.target) for each in planned(spec))))
    if spec.cloud_init is not None or spec.seed is not None:
        names[0].append(named(next_target(seed_drive(spec.seed, spec.hardware).prefix, names)))
    return names


def named(target: str) -> Element:
    """A ``<disk>`` with nothing but its name."""
    return el("disk", el("target", dev=target))
