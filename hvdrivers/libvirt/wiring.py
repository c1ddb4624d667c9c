"""NICs in domain XML: the ``<interface>`` of each kind of wiring. Only functions of their
arguments, no remote call. NICs over devices of the host are in ``host_nics.py``.

https://libvirt.org/formatdomain.html#network-interfaces
"""

from __future__ import annotations

from uuid import UUID

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.libvirt.host_nics import function_of, host_nic, nic_alias, whole_device
from hvdrivers.libvirt.xml import Element, attribute, el
from hvdrivers.models.vif import (
    Bandwidth,
    BridgeVif,
    HostdevVif,
    MacvtapVif,
    NetworkVif,
    NicModel,
    OvsVif,
    TapVif,
    UserVif,
    VdpaVif,
    VhostUserVif,
    Vif,
    VifQos,
)

_MOST_RATE, _MOST_BURST = (1 << 32) - 1, (1 << 22) - 1
"""Kilobytes: libvirt has rates in 32 bits, and ``tc`` the bytes of a burst."""
_MOST_OF_TAP = 65521
"""Bytes: a tap device takes no larger MTU (65535 without the Ethernet header)."""


def vif_element(vif: Vif, instance: UUID) -> Element:
    """The ``<interface>`` of a VIF; of a whole network device of the host its ``<hostdev>``.

    Args:
        instance: whose NIC it is.
    """
    if isinstance(vif, HostdevVif):
        return whole_device(vif)
    if isinstance(vif, NetworkVif) and vif.sriov:
        return function_of(vif)
    kind, wiring = _wiring(vif, instance)
    if (vif.mtu or 0) > _MOST_OF_TAP and kind in {"network", "bridge", "ethernet"}:
        raise errors.NotSupported(
            f"a tap device has no MTU of {vif.mtu}", hint=f"name {_MOST_OF_TAP} at most"
        )
    return el(
        "interface",
        el("mac", address=vif.mac),
        *wiring,
        el("model", type=(vif.model or NicModel.VIRTIO).value),
        el("driver", queues=vif.queues) if vif.queues else None,
        el("mtu", size=vif.mtu) if vif.mtu else None,
        el("link", state="down") if not vif.active else None,
        bandwidth(vif.qos) if vif.qos else None,
        el("alias", name=nic_alias(vif)),
        type=kind,
    )


def with_interface(domain: Element, vif: Vif, instance: UUID) -> Element:
    """The definition, with this VIF too."""
    devices = domain.find("devices")
    if devices is not None:
        devices.append(vif_element(vif, instance))
    return domain


def tap_of(vif: Vif, instance: UUID) -> str:
    """Name of the VIF's device on the host; of a macvtap device without what tells it from another
    machine's of the same port."""
    if isinstance(vif, MacvtapVif):
        return vif.tap
    return attribute(vif_element(vif, instance), "target", "dev") or ""


def _wiring(vif: Vif, instance: UUID) -> tuple[str, list[Element]]:
    if vif.model is NicModel.NETVSC:
        raise errors.NotSupported("QEMU has no netvsc adapter", hint="use virtio or e1000e")
    tag = el("vlan", el("tag", id=vif.vlan)) if vif.vlan else None
    if isinstance(vif, NetworkVif):
        source = el("source", network=vif.network, portgroup=vif.portgroup)
        wiring = [source, tag, el("target", dev=vif.tap)]
        return "network", [each for each in wiring if each is not None]
    if tag is not None and (
        isinstance(vif, BridgeVif | TapVif) or (isinstance(vif, OvsVif) and vif.hybrid_plug)
    ):
        raise errors.NotSupported(
            "libvirt sets no VLAN tag on a Linux bridge or on a bare tap device",
            hint="use a bridge of the VLAN's own interface, or Open vSwitch; or let the network's"
            " agent set the tag, and leave vlan out",
        )
    if isinstance(vif, BridgeVif):
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
    return _wiring_without_device(vif, instance)


def _wiring_without_device(vif: Vif, instance: UUID) -> tuple[str, list[Element]]:
    if isinstance(vif, UserVif):
        _refuse_of_user_network(vif)
        return "user", []
    if isinstance(vif, VhostUserVif):
        _refuse_of_vhost_user(vif)
        return "vhostuser", [el("source", type="unix", path=vif.socket, mode=vif.mode)]
    if isinstance(vif, MacvtapVif | VdpaVif):
        return host_nic(vif, instance)
    raise errors.NotSupported(
        f"VIFs of type {vif.type} are not supported here",
        hint=hints.VIF_KINDS,
    )


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

    return el(
        "bandwidth",
        *(
            el(name, **kilobytes(limits))
            for name, limits in (("inbound", qos.inbound), ("outbound", qos.outbound))
            if limits is not None
        ),
    )


def kilobytes(limits: Bandwidth) -> dict[str, int]:
    """The limits of one direction that are given, in libvirt's unit and by its names.

    Raises:
        NotSupported: libvirt, or the kernel's traffic control, has no such number.
    """
    found = {
        name: -(-value // 8)
        for name, value in (
            ("average", limits.average),
            ("peak", limits.peak),
            ("burst", limits.burst),
        )
        if value is not None
    }
    for name, value in found.items():
        most = _MOST_BURST if name == "burst" else _MOST_RATE
        if value > most:
            raise errors.NotSupported(
                f"libvirt sets no {name} of {value * 8} kbit for a NIC",
                hint=f"name {most * 8} at most, or leave the limit out",
            )
    return found
