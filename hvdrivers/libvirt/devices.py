"""Disks and NICs in domain XML: built from a volume or VIF, and read back from a domain."""

from __future__ import annotations

import re
from copy import deepcopy

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.libvirt.adopted import adoption_in
from hvdrivers.libvirt.held_volumes import source_of, volumes_of
from hvdrivers.libvirt.host_nics import is_function
from hvdrivers.libvirt.naming import FUNCTION, alias, from_alias
from hvdrivers.libvirt.xml import Element, attribute, children, el
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.vif import AttachedVif, NicModel, VifType
from hvdrivers.models.volume import (
    AttachedVolume,
    CacheMode,
    DeviceType,
    DiskBus,
    DiskQos,
    VolumeAttachment,
)

_SECTOR, _LARGEST_SECTOR = 512, 2 << 20
"""Bytes: what a disk has if nobody says otherwise, and the most that QEMU takes."""

TARGET_PREFIX = {
    DiskBus.VIRTIO: "vd",
    DiskBus.SCSI: "sd",
    DiskBus.SATA: "sd",
    DiskBus.USB: "sd",
}
"""Buses, and what names of their disks begin with. IDE does not exist on q35, NVMe disks cannot be
made by libvirt 9."""


def bus_of(attachment: VolumeAttachment) -> DiskBus:
    """The bus to use."""
    bus = attachment.bus or (
        DiskBus.SCSI if attachment.device_type in {"lun", "cdrom"} else DiskBus.VIRTIO
    )
    if bus not in TARGET_PREFIX:
        raise errors.NotSupported(
            f"disks on {bus} are not supported here", hint="use virtio, scsi, sata or usb"
        )
    return bus


def target_prefix(attachment: VolumeAttachment) -> str:
    """``vd`` or ``sd``."""
    return TARGET_PREFIX[bus_of(attachment)]


def disk_element(
    attachment: VolumeAttachment, source: Element, kind: str, format_: str, target: str
) -> Element:
    """The ``<disk>`` of an attached volume.

    Args:
        source: its ``<source>``.
        kind: ``file``, ``block``, ``network``: where the source is.
        format_: never left to QEMU to guess.
        target: device name.
    """
    cache = attachment.cache or CacheMode.NONE
    return el(
        "disk",
        el(
            "driver",
            name="qemu",
            type=format_,
            cache=cache.value,
            discard="unmap" if attachment.discard else None,
        ),
        source,
        el("target", dev=target, bus=bus_of(attachment).value),
        blockio(attachment),
        iotune(attachment.qos) if attachment.qos else None,
        el("readonly") if attachment.read_only else None,
        el("shareable") if attachment.volume.multiattach else None,
        # the guest finds it by this: /dev/disk/by-id/virtio-<first 20 characters>
        el("serial", serial_of(attachment.volume_id)),
        el("boot", order=attachment.boot_index + 1) if attachment.boot_index is not None else None,
        el("alias", name=alias("volume", attachment.volume_id)),
        type=kind,
        device=attachment.device_type.value,
    )


def blockio(attachment: VolumeAttachment) -> Element | None:
    """``<blockio>``: the sizes of the sectors, where the storage server tells them.

    Raises:
        InvalidRequest: no disk has such sectors.
        NotSupported: QEMU makes no such sectors on this bus.
    """
    data = attachment.volume.data
    logical, physical = data.logical_block_size, data.physical_block_size
    if (logical, physical) == (None, None) or attachment.device_type is DeviceType.LUN:
        return None  # the guest asks the unit itself
    logical = logical or _SECTOR
    physical = physical or logical  # QEMU's own would be 512, which may be too small
    if physical < logical or any(each & (each - 1) for each in (logical, physical)):
        raise errors.InvalidRequest(
            f"no disk has logical blocks of {logical} bytes and physical ones of {physical}",
            hint="both are powers of two, and logical_block_size is not the larger one",
        )
    if attachment.device_type is DeviceType.CDROM or physical > _LARGEST_SECTOR:
        raise errors.NotSupported(
            "QEMU chooses no block sizes of a CD, and none above 2 MiB",
            hint="leave logical_block_size and physical_block_size out",
        )
    if logical != _SECTOR and bus_of(attachment) is DiskBus.SATA:
        raise errors.NotSupported(
            f"QEMU has no SATA disks with logical blocks of {logical} bytes",
            hint="use virtio, scsi or usb",
        )
    return el("blockio", logical_block_size=logical, physical_block_size=physical)


def serial_of(volume_id: str) -> str:
    """The serial number by which the guest finds a volume: its id, as far as a serial number can
    be it. Libvirt's schema takes only these characters, and QEMU's SCSI disks 36 of them."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", volume_id)[:36]


def iotune(qos: DiskQos) -> Element:
    """``<iotune>``; libvirt's names are the model's."""
    return el("iotune", *(el(name, str(value)) for name, value in qos.limits().items()))


def limits_of(qos: DiskQos | None) -> dict[str, int]:
    """All of libvirt's limits of a disk; zero is its "no limit"."""
    return dict.fromkeys(DiskQos.model_fields, 0) | (qos.limits() if qos else {})


def limits_in(disk: Element) -> dict[str, int]:
    """The limits that a ``<disk>`` has, as libvirt's call takes them."""
    found = {each.tag: each.text or "" for each in disk.iterfind("iotune/*")}
    return limits_of(None) | {name: int(text) for name, text in found.items() if text.isdecimal()}


def has_free_port(domain: Element) -> bool:
    """Whether a running machine can take another PCI device. PCI Express plugs only into empty
    root ports, and nothing adds one while it runs; older machines (pc) have none, and a bus with
    slots."""
    ports = {
        int(controller.get("index", "0"))
        for controller in domain.iterfind("devices/controller[@model='pcie-root-port']")
    }
    used = {
        int(address.get("bus", "0"), 16)
        for address in domain.iterfind("devices/*/address[@type='pci']")
    }
    return not ports or bool(ports - used)


def no_such_nic(vif_id: str) -> errors.NetworkNotFound:
    """What to say of a NIC that a machine has not."""
    return errors.NetworkNotFound(f"the instance has no NIC {vif_id!r}", hint=hints.ATTACHED)


def no_free_port() -> errors.InsufficientResources:
    """What to say about it."""
    return errors.InsufficientResources(
        "the running machine has no free slot for another device",
        hint="power_off() it first; or connect(hotplug_slots=...) before the next spawn()",
    )


def as_defined(device: Element) -> Element:
    """A running machine's disk or memory for its definition, without what libvirt adds for the
    run."""
    defined = deepcopy(device)
    for each in [each for each in defined if each.tag in _OF_A_RUN]:
        defined.remove(each)
    for source in defined.iterfind("source"):
        source.attrib.pop("index", None)
    return defined


def attached_volume(volume_id: str, disk: Element) -> AttachedVolume:
    """What a ``<disk>`` says."""
    bus = attribute(disk, "target", "bus")
    order = attribute(disk, "boot", "order")
    return AttachedVolume(
        volume_id=volume_id,
        device=attribute(disk, "target", "dev"),
        bus=DiskBus(bus) if bus in {each.value for each in DiskBus} else None,
        address=_pci_address(disk),
        read_only=disk.find("readonly") is not None,
        boot_index=int(order) - 1 if order else None,
    )


_OF_A_RUN = frozenset({"backingStore", "mirror", "address"})
"""What a device has while its machine runs. The definition's address is libvirt's own choice there,
too."""
_VIF_TYPES: tuple[VifType, ...] = (
    "network",
    "bridge",
    "ovs",
    "tap",
    "user",
    "vhostuser",
    "macvtap",
    "vdpa",
    "hw_veb",
    "hostdev_physical",
    "ib_hostdev",
)
_TYPES_OF_OTHERS: dict[str, VifType] = {
    "network": "network",
    "bridge": "bridge",
    "ethernet": "tap",
    "user": "user",
    "vhostuser": "vhostuser",
    "direct": "macvtap",
    "vdpa": "vdpa",
    "hostdev": "hw_veb",
}
"""Libvirt's types of interfaces. One on a network of functions is of type hostdev while the machine
runs, and its XML does not name the network then."""
_NICS = {"interface", "hostdev"}
"""A whole network device of the host is a ``<hostdev>``; only an ``<interface>`` has a MAC address
and a VLAN that the host sets."""


def vif_in_alias(text: str) -> tuple[VifType, str] | None:
    """Type and id of the VIF in a device alias."""
    if not text.startswith("ua-vif-"):
        return None  # most devices of a machine are none
    for kind in _VIF_TYPES:
        identifier = from_alias(f"vif-{kind}", text)
        if identifier is not None:
            return kind, identifier
    identifier = from_alias(f"vif-{FUNCTION}", text)
    return ("network", identifier) if identifier is not None else None


def vifs_of(domain: Element) -> dict[str, tuple[VifType, Element]]:
    """Type and ``<interface>``, or ``<hostdev>``, of each VIF, by id, in the order of the guest.

    A NIC that an adopted machine brought along has its MAC address as id. Of a team, whose NICs
    have one address, the NIC that stays in a live migration is shown
    (https://libvirt.org/formatdomain.html#teaming-a-virtio-hostdev-nic-pair)."""
    found = {}
    adopted = adoption_in(domain) is not None
    for device in children(domain, "devices"):
        if device.tag not in _NICS:
            continue  # most devices of a machine are none
        named = vif_in_alias(attribute(device, "alias", "name") or "")
        if named is None and adopted and device.tag == "interface":
            named = _brought_along(device)
        if named is None or (named[1] in found and _is_second(device)):
            continue
        found[named[1]] = (named[0], device)
    return found


def _is_second(interface: Element) -> bool:
    """Whether a NIC is the one of a team that libvirt takes out for a live migration."""
    return attribute(interface, "teaming", "type") == "transient"


def _brought_along(interface: Element) -> tuple[VifType, str] | None:
    """Type and id of a NIC that others have plugged; None for one that has no such type here."""
    kind = _TYPES_OF_OTHERS.get(interface.get("type") or "")
    address = attribute(interface, "mac", "address")
    if kind is None or address is None:
        return None
    if kind == "bridge" and attribute(interface, "virtualport", "type") == "openvswitch":
        kind = "ovs"
    return kind, address


def attached_vif(vif_id: str, kind: VifType, interface: Element) -> AttachedVif:
    """What an ``<interface>`` or a ``<hostdev>`` says."""
    function = is_function(interface)
    is_device = function or interface.get("type") == "hostdev"  # whatever model others have written
    own = None if is_device else attribute(interface, "model", "type")
    return AttachedVif(
        id=vif_id,
        address=attribute(interface, "mac", "address"),
        type=kind,
        device=attribute(interface, "target", "dev"),
        model=NicModel(own) if own in {each.value for each in NicModel} else None,
        pci_address=_pci_address(interface),
        host_pci_address=_host_device(interface),
        sriov=function,
    )


def _pci_address(device: Element) -> PciAddress | None:
    address = device.find("address")
    return _pci_in(address) if address is not None and address.get("type") == "pci" else None


def _host_device(device: Element) -> PciAddress | None:
    """The device of the host that a NIC is. Of one that libvirt chooses it is there while the
    machine runs."""
    source = device.find("source")  # a path of two steps is walked in Python
    address = source.find("address") if source is not None else None
    if address is None or address.get("type") not in {None, "pci"}:
        return None
    return _pci_in(address)


def _pci_in(address: Element) -> PciAddress:
    parts = [int(address.get(name, "0"), 16) for name in ("domain", "bus", "slot", "function")]
    return PciAddress.of(*parts)


__all__ = [
    "attached_vif",
    "attached_volume",
    "bus_of",
    "disk_element",
    "has_free_port",
    "iotune",
    "limits_of",
    "no_free_port",
    "no_such_nic",
    "serial_of",
    "source_of",
    "target_prefix",
    "vif_in_alias",
    "vifs_of",
    "volumes_of",
]
