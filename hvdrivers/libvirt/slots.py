"""How many devices a machine may have. Libvirt's answer to one too many is an internal error."""

from __future__ import annotations

from collections.abc import Iterable

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.libvirt.devices import bus_of
from hvdrivers.libvirt.disk_plan import planned
from hvdrivers.libvirt.xml import Element, attribute
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.volume import DiskBus

MOST_DEVICES = 220
"""Disks and NICs together. PCI Express has 256 buses, one for each device and a few for what every
machine has: libvirt 9.0 defines a machine with 227 of them."""
MOST_USB = 100
"""Disks on USB: with hubs, libvirt 9.0 finds no free port for 150."""


def refuse_too_many(spec: InstanceSpec, *, discs: bool) -> None:
    """Raise InsufficientResources if a new machine cannot have all of its disks and NICs.
    No call.

    Args:
        discs: it has a seed disc.
    """
    buses = [each.bus for each in planned(spec)] + [bus_of(each) for each in spec.volumes]
    _refuse(buses, len(spec.vifs) + len(spec.pci_devices) + len(spec.vgpus) + discs)


def refuse_one_more(xml: Element, bus: DiskBus | None = None) -> None:
    """Raise InsufficientResources if a machine cannot have another disk on this bus, or (None)
    another NIC."""
    there = [attribute(each, "target", "bus") for each in xml.iterfind("devices/disk")]
    nics = len(xml.findall("devices/interface"))
    _refuse([*there, *([bus] if bus is not None else [])], nics + (bus is None))


def _refuse(buses: Iterable[str | None], others: int) -> None:
    disks = list(buses)
    usb = disks.count(DiskBus.USB)
    if usb > MOST_USB:
        raise errors.InsufficientResources(
            f"{usb} disks on USB are more than a machine has ports for, {MOST_USB}",
            hint="use virtio or scsi",
        )
    if len(disks) + others > MOST_DEVICES:
        raise errors.InsufficientResources(
            f"{len(disks) + others} disks and NICs are more than a machine has slots for,"
            f" {MOST_DEVICES}",
            hint=hints.SHARE_OUT,
        )
