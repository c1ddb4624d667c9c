"""What takes the place of a machine's volumes and NICs that get other connections: of one that is
stopped, or one that moves to another host.

A device keeps its id, its place and what the guest sees of it. Only what is behind it is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from uuid import UUID

from hvdrivers.libvirt.devices import (
    attached_vif,
    attached_volume,
    no_such_nic,
    target_prefix,
    vifs_of,
    volumes_of,
)
from hvdrivers.libvirt.domain import next_target
from hvdrivers.libvirt.held_volumes import not_attached, settle
from hvdrivers.libvirt.host_nics import is_function, stays, wants_function
from hvdrivers.libvirt.network_checks import Networks
from hvdrivers.libvirt.shared_memory import fit_memory
from hvdrivers.libvirt.volumes import VolumeSources
from hvdrivers.libvirt.wiring import vif_element
from hvdrivers.libvirt.xml import Element, attribute
from hvdrivers.models.migration import Blocker, BlockerKind
from hvdrivers.models.vif import HostdevVif, MacvtapVif, UserVif, VdpaVif, Vif
from hvdrivers.models.volume import VolumeAttachment

_STAYS = ("boot", "rom", "acpi", "blockio")
"""What the guest sees of a device, whatever it is connected to."""
_SEEN = {
    "MAC address": ("mac", "address"),
    "model": ("model", "type"),
    "queues": ("driver", "queues"),
    "MTU": ("mtu", "size"),
}
"""What the guest's driver sees of a NIC: tag and attribute of each."""
_TO_USER = (
    "a user-mode network does not offer what the guest's virtio NIC has here (headers of offloaded"
    " packets, vnet_hdr)"
)
_FROM_USER = (
    "the guest's connections are in the user-mode network that it has here, and QEMU hands them to"
    " another user-mode network alone"
)
_OF_HOST = {None, "hostdev", "vdpa"}
"""Types of elements of NICs that stay with their host."""
_WIRED = {"source", "virtualport", "target", "vlan", "bandwidth"}
"""What says where a NIC leads."""


def wire_of(device: Element) -> str:
    """What a device of a definition is known by: its alias; of a NIC that an adopted machine has
    brought along its MAC address, as libvirt itself chooses another alias at each start."""
    name = attribute(device, "alias", "name") or ""
    address = attribute(device, "mac", "address")
    if name.startswith("ua-") or device.tag != "interface" or address is None:
        return name
    return f"mac {address}"


@dataclass(frozen=True)
class Rewiring:
    """What takes the place of what."""

    devices: Mapping[str, Element]
    """New elements by what those that they replace are known by (:func:`wire_of`)."""

    def on(self, xml: Element) -> Element:
        """A machine's XML with them, changed in place."""
        devices = xml.find("devices")
        if devices is None:
            return xml
        for index, device in enumerate(devices):
            new = self.devices.get(wire_of(device))
            if new is None:
                continue
            new = deepcopy(new)
            settle(xml, device)
            serial, shown = new.find("serial"), device.findtext("serial")
            if serial is not None and shown:
                serial.text = shown  # after a swap_volume() a running guest sees another number
            address = device.find("address")
            same_bus = attribute(new, "target", "bus") == attribute(device, "target", "bus")
            if address is not None and same_bus:
                new.append(deepcopy(address))
            for tag in _STAYS:  # where the new connection does not say
                if new.find(tag) is None and (kept := device.find(tag)) is not None:
                    new.append(deepcopy(kept))
            devices[index] = new
        # nothing but a new connection changes what the memory is for
        return fit_memory(xml) if self.devices else xml

    def nowhere(self, xml: Element) -> Element:
        """A machine's XML with the new NICs alone, changed in place. Each leads nowhere: the guest
        sees what it will see at the other host, and nothing on this host is needed for it.

        In the state of a virtio NIC QEMU says whether the device on the host passes on a header
        with each packet (vnet_hdr). It takes such a state only for a device that does so too, and
        a user-mode network does not.
        """
        nics = {wire: each for wire, each in self.devices.items() if each.tag == "interface"}
        xml = Rewiring(nics).on(xml)
        names = {attribute(each, "alias", "name") for each in nics.values()}
        for interface in xml.iterfind("devices/interface"):
            if attribute(interface, "alias", "name") not in names:
                continue
            if interface.get("type") != "user":
                interface.set("type", "ethernet")
            for each in [each for each in interface if each.tag in _WIRED]:
                interface.remove(each)
        return xml

    def seen_by_guest(self, xml: Element) -> Iterator[Blocker]:
        """Why a guest that runs cannot have the new NICs.

        Args:
            xml: the machine as it runs.
        """
        for vif_id, (kind, interface) in vifs_of(xml).items():
            new = self.devices.get(wire_of(interface))
            if new is None or stays(kind, interface):
                continue  # another blocker says so
            if is_function(new) or new.get("type") in _OF_HOST:
                continue  # another blocker says so
            here, there = interface.get("type"), new.get("type")
            model = attribute(interface, "model", "type")
            others = [
                name
                for name, (tag, key) in _SEEN.items()
                if attribute(interface, tag, key) != attribute(new, tag, key)
            ]
            if others:
                yield Blocker(
                    kind=BlockerKind.NETWORK,
                    reason=f"the guest runs, and would find another {' and another '.join(others)}"
                    " of its NIC",
                    hint="leave that as it is; or power_off() the instance, and cold_migrate() it",
                    device=vif_id,
                )
            elif here != there and (here == "user" or (there == "user" and model == "virtio")):
                yield Blocker(
                    kind=BlockerKind.NETWORK,
                    reason=_FROM_USER if here == "user" else _TO_USER,
                    hint="power_off() the instance, and cold_migrate() it; or give it a NIC of the"
                    " same kind there",
                    device=vif_id,
                )


class Rewirings:
    """Find what new connections lead to, on this host."""

    def __init__(self, networks: Networks, volumes: VolumeSources) -> None:
        self._networks = networks
        self._volumes = volumes

    def find(
        self,
        uuid: UUID,
        xml: Element,
        volumes: Sequence[VolumeAttachment],
        vifs: Sequence[Vif],
    ) -> Rewiring:
        """Calls as for attaching each of them.

        Args:
            xml: the machine's definition.

        Raises:
            VolumeNotFound, NetworkNotFound: the machine has no such device, or the host cannot
                find what it is to be connected to.
        """
        found: dict[str, Element] = {}
        mine, nics = volumes_of(xml), vifs_of(xml)
        for attachment in volumes:
            old = mine.get(attachment.volume_id)
            if old is None:
                raise not_attached(attachment.volume_id)
            found[attribute(old, "alias", "name") or ""] = self._reconnected(
                uuid, xml, attachment, old
            )
        for vif in vifs:
            if vif.id not in nics:
                raise no_such_nic(vif.id)
        self._networks.refuse_emulated(vifs, xml.get("type"))
        vifs = self._networks.found(vifs)
        self._networks.require(vifs)
        for vif in vifs:
            _, interface = nics[vif.id]
            found[wire_of(interface)] = _with_model(
                vif_element(_rewired(vif, interface), uuid), vif, interface
            )
        return Rewiring(found)

    def _reconnected(
        self, uuid: UUID, xml: Element, attachment: VolumeAttachment, old: Element
    ) -> Element:
        shown = attached_volume(attachment.volume_id, old)
        kept: dict[str, object] = {}
        if attachment.bus is None and shown.bus is not None:
            kept["bus"] = shown.bus
        if attachment.boot_index is None:
            kept["boot_index"] = shown.boot_index
        attachment = attachment.model_copy(update=kept)
        prefix, target = target_prefix(attachment), shown.device or ""
        if not target.startswith(prefix):
            target = next_target(prefix, xml)
        disk = self._volumes.element(uuid, attachment, target)
        # as it is called now: after a swap_volume() by the name of another volume
        next(disk.iter("alias")).set("name", attribute(old, "alias", "name") or "")
        return disk


def _rewired(vif: Vif, interface: Element) -> Vif:
    """A VIF that the guest finds as the one before, where it does not say otherwise."""
    shown = attached_vif(vif.id, vif.type, interface)
    queues = attribute(interface, "driver", "queues")
    mtu = attribute(interface, "mtu", "size")
    kept: dict[str, object] = {}
    if not vif.address and shown.address is not None:
        kept["address"] = shown.address
    if isinstance(vif, HostdevVif) or wants_function(vif):
        return vif.model_copy(update=kept)  # the guest sees the device itself
    if vif.model is None:
        kept["model"] = shown.model
    if vif.queues is None and queues and not isinstance(vif, UserVif):
        kept["queues"] = int(queues)
    if vif.mtu is None and mtu and not isinstance(vif, UserVif | MacvtapVif | VdpaVif):
        kept["mtu"] = int(mtu)
    return vif.model_copy(update=kept)


def _with_model(new: Element, vif: Vif, old: Element) -> Element:
    """A NIC with the model of the one before, where that is one that only others choose."""
    model, shown = attribute(old, "model", "type"), attached_vif(vif.id, vif.type, old).model
    found = new.find("model")
    if vif.model is None and shown is None and model is not None and found is not None:
        found.set("type", model)
    return new
