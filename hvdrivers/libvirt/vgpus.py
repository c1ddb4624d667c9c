"""Slices of the host's GPUs for machines: mediated devices, which libvirt makes (by ``mdevctl``).

A slice is made when its machine is, and stays defined on the host, with autostart, so that it is
there again after the host has started. Its UUID comes from the instance's and its number: that is
how destroy() finds it, also if no machine came of the spawn. What a GPU has left, the kernel says.
https://libvirt.org/formatnode.html, https://libvirt.org/drvnodedev.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import UUID, uuid5

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.libvirt.node_devices import device_in, node_name
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import Element, el, parse, text
from hvdrivers.models.instance import VgpuRequest
from hvdrivers.models.resources import PciDevice

_MOST = 64
"""Slices of one machine: more than it has slots for."""
_MEDIATED = (
    libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV
    | libvirt.VIR_CONNECT_LIST_NODE_DEVICES_ACTIVE
    | libvirt.VIR_CONNECT_LIST_NODE_DEVICES_INACTIVE
)
_NO_MDEVCTL = "VIR_ERR_SYSTEM_ERROR/ENOENT"


class Vgpus:
    """Make and remove slices."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @provides(Capability.VGPU)
    def make(self, instance: UUID, number: int, wanted: VgpuRequest) -> Element:
        """A slice, and its ``<hostdev>``. 4 calls, and 1 for each GPU of the host.

        Raises:
            InsufficientResources: no GPU has one left, or the one that is named.
            NotSupported: the host makes none.
        """
        uuid = _uuid_of(instance, number)
        parent = self._with_one_left(wanted)
        document = text(
            el(
                "device",
                el("parent", node_name(parent.address)),
                el(
                    "capability",
                    el("type", id=wanted.type),
                    el("uuid", str(uuid)),
                    type="mdev",
                ),
            )
        )
        try:
            node = self._connection.remote.nodeDeviceDefineXML(document, 0)
        except errors.VolumeNotFound as error:
            if error.vendor_code != _NO_MDEVCTL:
                raise
            raise errors.NotSupported(
                "libvirt cannot make a mediated device on the host",
                vendor_code=error.vendor_code,
                hint="install mdevctl there",
            ) from error
        node.setAutostart(1)
        node.create(0)
        return slice_element(uuid)

    def _with_one_left(self, wanted: VgpuRequest) -> PciDevice:
        known = set()
        for device in self._gpus():
            if wanted.parent not in {None, device.address}:
                continue
            for kind in device.mediated_types:
                known.add(kind.name)
                if kind.name == wanted.type and kind.available > 0:
                    return device
        where = f"the device {wanted.parent}" if wanted.parent is not None else "the host"
        if wanted.type in known:
            raise errors.InsufficientResources(
                f"{where} has no slice of type {wanted.type!r} left",
                hint=hints.OTHER_SLICE,
            )
        raise errors.InsufficientResources(
            f"{where} has no slices of type {wanted.type!r}",
            hint="it has " + (", ".join(sorted(known)) or "none: get_available_resource().devices"),
        )

    def _gpus(self) -> Iterator[PciDevice]:
        kind = libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV_TYPES
        for node in self._connection.remote.listAllDevices(kind):
            with suppress(errors.HypervisorFault):  # gone meanwhile, or no PCI device
                yield device_in(parse(node.XMLDesc(0)))

    def remove(self, instance: UUID) -> None:
        """Remove an instance's slices; none is as good. One call, and two for each slice."""
        mine = {_uuid_of(instance, number) for number in range(_MOST)}
        for node in self._connection.remote.listAllDevices(_MEDIATED):
            if _uuid_in(node.name()) in mine:
                with suppress(errors.InvalidState):
                    _gone(node.destroy)
                _gone(node.undefine)


def slice_element(uuid: UUID) -> Element:
    """The ``<hostdev>`` of a slice. QEMU shows its picture nowhere: the machine has a screen."""
    return el(
        "hostdev",
        el("source", el("address", uuid=str(uuid))),
        mode="subsystem",
        type="mdev",
        model="vfio-pci",
        display="off",
    )


def _gone(remove: Callable[[], object]) -> None:
    """Call what removes a device, which may have been removed meanwhile."""
    try:
        remove()
    except errors.HypervisorFault as error:
        if error.vendor_code != "VIR_ERR_NO_NODE_DEVICE":
            raise


def _uuid_of(instance: UUID, number: int) -> UUID:
    return uuid5(instance, f"vgpu {number}")


def _uuid_in(name: str) -> UUID | None:
    """The UUID in the name of a mediated device: ``mdev_<uuid>_<parent>``, with underscores."""
    parts = name.split("_")
    with suppress(ValueError):
        return UUID("-".join(parts[1:6])) if parts[0] == "mdev" else None
    return None
