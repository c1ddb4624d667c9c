"""Disks and NICs in domain XML: built from a volume or VIF, and read back from a domain."""

from __future__ import annotations

import re
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.libvirt.held_volumes import source_of, volumes_of
from hvdrivers.libvirt.naming import alias, from_alias
from hvdrivers.libvirt.xml import Element, attribute, el
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.vif import (
    AttachedVif,
    Bandwidth,
    BridgeVif,
    NetworkVif,
    NicModel,
    OvsVif,
    TapVif,
    UserVif,
    VhostUserVif,
    Vif,
    VifQos,
    VifType,
)
from hvdrivers.models.volume import (
    AttachedVolume,
    CacheMode,
    DiskBus,
    DiskQos,
    VolumeAttachment,
)

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


def no_free_port() -> errors.InsufficientResources:
    """What to say about it."""
    return errors.InsufficientResources(
        "the running machine has no free slot for another device",
        hint="power_off() it first; or connect(hotplug_slots=...) before the next spawn()",
    )


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


def vif_element(vif: Vif) -> Element:
    """The ``<interface>`` of a VIF."""
    kind, wiring = _wiring(vif)
    return el(
        "interface",
        el("mac", address=vif.mac),
        *wiring,
        el("model", type=(vif.model or NicModel.VIRTIO).value),
        el("driver", queues=vif.queues) if vif.queues else None,
        el("mtu", size=vif.mtu) if vif.mtu else None,
        el("link", state="down") if not vif.active else None,
        bandwidth(vif.qos) if vif.qos else None,
        el("alias", name=alias(f"vif-{vif.type}", vif.id)),
        type=kind,
    )


def with_interface(domain: Element, vif: Vif) -> Element:
    """The definition, with this VIF too."""
    devices = domain.find("devices")
    if devices is not None:
        devices.append(vif_element(vif))
    return domain


def tap_of(vif: Vif) -> str:
    """Name of the VIF's device on the host."""
    return attribute(vif_element(vif), "target", "dev") or ""


def _wiring(vif: Vif) -> tuple[str, list[Element]]:
    if vif.model is NicModel.NETVSC:
        raise errors.NotSupported("QEMU has no netvsc adapter", hint="use virtio or e1000e")
    tag = el("vlan", el("tag", id=vif.vlan)) if vif.vlan else None
    if isinstance(vif, NetworkVif):
        source = el("source", network=vif.network, portgroup=vif.portgroup)
        wiring = [source, tag, el("target", dev=vif.tap)]
        return "network", [each for each in wiring if each is not None]
    if isinstance(vif, BridgeVif):
        if tag is not None:
            raise errors.NotSupported(
                "libvirt sets no VLAN tag on a Linux bridge",
                hint="use a bridge of the VLAN's own interface, or Open vSwitch",
            )
        return "bridge", [el("source", bridge=vif.bridge), el("target", dev=vif.device_name)]
    if isinstance(vif, OvsVif):
        if vif.datapath_type == "netdev":
            raise errors.NotSupported(
                "libvirt plugs no tap device into a userspace bridge",
                hint="use a vhost-user VIF for a bridge with datapath_type=netdev",
            )
        if vif.hybrid_plug:
            # the Linux bridge between was made, and wired to the switch, by os-vif
            return "bridge", [
                el("source", bridge=vif.hybrid_bridge),
                el("target", dev=vif.device_name),
            ]
        port = el(
            "virtualport",
            el("parameters", interfaceid=_interface_id(vif), profileid=vif.profile_id),
            type="openvswitch",
        )
        wiring = [el("source", bridge=vif.bridge), port, tag, el("target", dev=vif.device_name)]
        return "bridge", [each for each in wiring if each is not None]
    if isinstance(vif, TapVif):
        managed = "no" if vif.exists else None
        return "ethernet", [el("target", dev=vif.device_name, managed=managed)]
    return _wiring_without_device(vif)


def _wiring_without_device(vif: Vif) -> tuple[str, list[Element]]:
    if isinstance(vif, UserVif):
        _refuse_of_user_network(vif)
        return "user", []
    if isinstance(vif, VhostUserVif):
        _refuse_of_vhost_user(vif)
        return "vhostuser", [el("source", type="unix", path=vif.socket, mode=vif.mode)]
    raise errors.NotSupported(f"VIFs of type {vif.type} are not supported here")


def _refuse_of_vhost_user(vif: VhostUserVif) -> None:
    """The switch has the port, and libvirt no device on the host. It sets no limits and no VLAN
    there, and of limits it warns in its log alone."""
    asked = [name for name in ("qos", "vlan") if getattr(vif, name) is not None]
    if asked:
        raise errors.NotSupported(
            f"libvirt sets no {' and no '.join(asked)} of a vhost-user port",
            hint="set it at the port of the userspace switch",
        )
    if vif.model not in {None, NicModel.VIRTIO}:
        raise errors.NotSupported(
            "a vhost-user port has a virtio NIC", hint="leave the model out, or say virtio"
        )


def _refuse_of_user_network(vif: UserVif) -> None:
    """QEMU's user-mode network (slirp) has no device on the host. libvirt warns of limits in its
    log, and starts the machine without them."""
    wanted = {"qos": vif.qos, "mtu": vif.mtu, "queues": vif.queues, "vlan": vif.vlan}
    asked = [name for name, value in wanted.items() if value is not None]
    if asked:
        raise errors.NotSupported(
            f"a user-mode network takes no {' and no '.join(asked)}",
            hint="use a NIC on a bridge or a libvirt network, on a host that lets you",
        )


def _interface_id(vif: OvsVif) -> str | None:
    try:
        return str(UUID(vif.iface_id))
    except ValueError:
        if vif.interface_id is None:
            return None  # the caller's own id, which no control plane looks for
        raise errors.InvalidRequest(
            "libvirt takes only a UUID as Open vSwitch interface id",
            hint="give interface_id= the port's UUID",
        ) from None


def bandwidth(qos: VifQos) -> Element:
    """``<bandwidth>``: libvirt counts kilobytes where the model counts kilobits."""

    def direction(name: str, limits: Bandwidth | None) -> Element | None:
        if limits is None:
            return None
        return el(
            name,
            average=-(-limits.average // 8),
            peak=-(-limits.peak // 8) if limits.peak else None,
            burst=-(-limits.burst // 8) if limits.burst else None,
        )

    return el("bandwidth", direction("inbound", qos.inbound), direction("outbound", qos.outbound))


_VIF_TYPES: tuple[VifType, ...] = ("network", "bridge", "ovs", "tap", "user", "vhostuser")


def vif_in_alias(text: str) -> tuple[VifType, str] | None:
    """Type and id of the VIF in a device alias."""
    for kind in _VIF_TYPES:
        identifier = from_alias(f"vif-{kind}", text)
        if identifier is not None:
            return kind, identifier
    return None


def vifs_of(domain: Element) -> dict[str, tuple[VifType, Element]]:
    """Type and ``<interface>`` of each VIF, by id, in the order of the guest."""
    found = {}
    for interface in domain.iterfind("devices/interface"):
        named = vif_in_alias(attribute(interface, "alias", "name") or "")
        if named is not None:
            found[named[1]] = (named[0], interface)
    return found


def attached_vif(vif_id: str, kind: VifType, interface: Element) -> AttachedVif:
    """What an ``<interface>`` says."""
    model = attribute(interface, "model", "type")
    return AttachedVif(
        id=vif_id,
        address=attribute(interface, "mac", "address"),
        type=kind,
        device=attribute(interface, "target", "dev"),
        model=NicModel(model) if model in {each.value for each in NicModel} else None,
        pci_address=_pci_address(interface),
    )


def _pci_address(device: Element) -> PciAddress | None:
    address = device.find("address")
    if address is None or address.get("type") != "pci":
        return None
    parts = [int(address.get(name, "0"), 16) for name in ("domain", "bus", "slot", "function")]
    return PciAddress.of(*parts)


__all__ = [
    "attached_vif",
    "attached_volume",
    "bandwidth",
    "bus_of",
    "disk_element",
    "has_free_port",
    "iotune",
    "limits_of",
    "no_free_port",
    "serial_of",
    "source_of",
    "tap_of",
    "target_prefix",
    "vif_element",
    "vif_in_alias",
    "vifs_of",
    "volumes_of",
    "with_interface",
]
