"""What a NIC is plugged into: is it there?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.libvirt.node_devices import node_name
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import Element, attribute, parse
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.vif import (
    BridgeVif,
    MacvtapVif,
    NetworkVif,
    OvsVif,
    VdpaVif,
    VhostUserVif,
    Vif,
)

_SET_ON_A_TAP = ("model", "queues", "mtu", "qos")
"""Fields that libvirt heeds where it makes the device on the host."""
NO_VHOST_USER = (
    "under emulation QEMU crashes when a guest's driver starts a vhost-user port: such a port needs"
    " KVM"
)
"""Seen with QEMU 7.2: SIGSEGV in vhost_net_start()."""


class Networks:
    """Look before plugging."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @provides(
        Capability.VIF_BRIDGE,
        Capability.VIF_OVS,
        Capability.VIF_NETWORK,
        Capability.VIF_TAP,
        Capability.VIF_USER,
        Capability.VIF_VHOSTUSER,
        Capability.VIF_MACVTAP,
        Capability.VIF_VDPA,
    )
    def require(self, vifs: Iterable[Vif]) -> None:
        """Refuse what is not there: by the time that libvirt's own attempt fails, its error has no
        code that would tell. One call for each bridge and each interface below a macvtap device,
        two for each network, and two more where a NIC wishes what a network of functions does not
        give."""
        vifs = list(vifs)
        seen = set()
        for vif in vifs:
            place = _place(vif)
            if place is None or place in seen:
                continue
            seen.add(place)
            kind, name = place
            remote = self._connection.remote
            missing = (
                _missing_network(remote, name)
                if kind == "network"
                else _missing_interface(remote, name, kind)
            )
            if missing is not None:
                raise missing
        for vif in vifs:
            if isinstance(vif, NetworkVif):
                self._refuse_wishes_of_a_function(vif)

    def _refuse_wishes_of_a_function(self, vif: NetworkVif) -> None:
        """A network of forward mode hostdev gives the machine a function of an adapter, and libvirt
        passes over what it sets on a device of its own."""
        asked = [name for name in _SET_ON_A_TAP if getattr(vif, name) is not None]
        asked += ["active"] * (not vif.active)
        if not asked:
            return
        network = self._connection.remote.networkLookupByName(vif.network)
        if attribute(parse(network.XMLDesc(0)), "forward", "mode") == "hostdev":
            raise errors.NotSupported(
                f"network '{vif.network}' gives a virtual function (forward mode hostdev), and"
                f" libvirt sets no {' and no '.join(asked)} of such",
                hint="leave that out, and set it in the guest or at the physical function",
            )

    def refuse_taken(self, uuid: UUID, *devices: str | None) -> None:
        """Refuse network devices of NICs that a machine which runs has. One call; none without a
        device.

        For a stopped machine libvirt looks only when it starts. A start that fails removes the
        macvtap devices that its definition names, whosever they are (seen with libvirt 9.0). Not so
        the MAC address: libvirt tells those of each machine apart.
        """
        wanted = {each for each in devices if each}
        if not wanted:
            return
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
        flags |= libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        for other, stats in self._connection.remote.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_INTERFACE, flags
        ):
            names = {stats.get(f"net.{number}.name") for number in range(stats.get("net.count", 0))}
            if wanted & names and other.UUIDString() != str(uuid):
                raise errors.DeviceBusy(
                    f"machine {other.UUIDString()} has this port ({min(wanted & names)})",
                    hint="unplug_vif() it there, or power_off() that machine",
                )

    def refuse_emulated(self, vifs: Iterable[Vif], virt_type: str | None) -> None:
        """Refuse ports of a userspace switch for a machine that is emulated. No call.

        Args:
            virt_type: what runs the machine's CPUs: ``kvm`` or ``qemu``.
        """
        if virt_type == "qemu" and any(isinstance(each, VhostUserVif) for each in vifs):
            raise errors.NotSupported(
                NO_VHOST_USER, hint="use a host with KVM, or a NIC on a bridge"
            )

    def found(self, vifs: Iterable[Vif]) -> tuple[Vif, ...]:
        """The NICs, each with the device of the host by the name that libvirt takes. No call for
        most; for a macvtap device over a PCI address one, and one for each network device of the
        host; for a vDPA device one, and one for each vDPA device of the host.

        Raises:
            NetworkNotFound: the host has no such device.
        """
        return tuple(map(self._found, vifs))

    def _found(self, vif: Vif) -> Vif:
        if isinstance(vif, MacvtapVif) and vif.pci_address is not None:
            names = self._below(
                libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET,
                "capability[@type='net']/interface",
                vif.pci_address,
            )
            source = next(names, None)
            if source is None:
                raise errors.NetworkNotFound(
                    f"the host has no network interface on the PCI device {vif.pci_address}",
                    hint="a virtual function needs its network driver on the host for macvtap:"
                    " virsh nodedev-list --cap net --tree",
                )
            return vif.model_copy(update={"source": source, "pci_address": None})
        if isinstance(vif, VdpaVif):
            path = "capability[@type='vdpa']/chardev"
            kind = libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_VDPA
            below = vif.pci_address if vif.device is None else None
            there = list(self._below(kind, path, below))
            if not there if vif.device is None else vif.device not in there:
                raise errors.NetworkNotFound(
                    f"the host has no vDPA device {vif.device or f'on {vif.pci_address}'}",
                    hint="make it first (vdpa dev add), with the driver vhost_vdpa:"
                    " virsh nodedev-list --cap vdpa",
                )
            return vif.model_copy(update={"device": vif.device or there[0]})
        return vif

    def _below(self, kind: int, path: str, address: PciAddress | None) -> Iterator[str]:
        """What devices of a kind, all or those of one PCI device, are called."""
        parent = node_name(address) if address is not None else None
        for node in self._connection.remote.listAllDevices(kind):
            with suppress(errors.HypervisorFault):  # it has gone meanwhile
                device = parse(node.XMLDesc(0))
                if parent in {None, device.findtext("parent")} and (name := device.findtext(path)):
                    yield name


def _place(vif: Vif) -> tuple[str, str] | None:
    if isinstance(vif, NetworkVif):
        return "network", vif.network
    if isinstance(vif, OvsVif) and vif.hybrid_plug:
        return "bridge", vif.hybrid_bridge
    if isinstance(vif, BridgeVif | OvsVif):
        return "bridge", vif.bridge
    if isinstance(vif, MacvtapVif):
        return "network interface", vif.source or ""
    return None


def missing_network(remote: Remote, interface: Element) -> errors.NetworkNotFound | None:
    """After a failure: what is wrong with what an ``<interface>`` is plugged into, if anything."""
    network = attribute(interface, "source", "network")
    if network is not None:
        return _missing_network(remote, network)
    if interface.get("type") == "direct":
        below = attribute(interface, "source", "dev") or ""
        return _missing_interface(remote, below, "network interface")
    if interface.get("type") == "ethernet" and attribute(interface, "target", "managed") == "no":
        device = attribute(interface, "target", "dev") or ""
        return _missing_interface(remote, device, "tap device")
    bridge = attribute(interface, "source", "bridge")
    if bridge is None:
        return None
    plain = attribute(interface, "virtualport", "type") is None
    return _missing_interface(remote, bridge, "bridge", plain=plain)


def unplugged(
    remote: Remote, interface: Element, error: errors.HypervisorError
) -> errors.HypervisorError | None:
    """After a failure: why a NIC could not be plugged in, where it was that. Calls as for
    missing_network()."""
    missing = missing_network(remote, interface)
    if missing is not None or attribute(interface, "source", "bridge") is None:
        return missing
    if error.vendor_code != "VIR_ERR_SYSTEM_ERROR/ENOTCONN":
        return None
    return errors.PermissionDenied(
        error.message,
        vendor_code=error.vendor_code,
        hint="a session daemon plugs a NIC into a bridge by qemu-bridge-helper alone, which must be"
        " set-user-ID root, and allowed that bridge in /etc/qemu/bridge.conf (allow BRIDGE); or use"
        " a user-mode network (UserVif)",
    )


def macvtap_hint(interface: Element, error: errors.HypervisorError) -> str | None:
    """After a failure: what the kernel's answer may mean for a macvtap device. No call."""
    if interface.get("type") != "direct":
        return None
    source = attribute(interface, "source", "dev")
    return {
        "VIR_ERR_SYSTEM_ERROR/EINVAL": f"a machine may have the whole of {source}, in mode"
        " passthrough, beside which there is no other; or want it where others are",
        "VIR_ERR_SYSTEM_ERROR/EOPNOTSUPP": "the host's kernel has no macvtap (module macvtap)",
    }.get(error.vendor_code or "")


_MAKE_IT = "make it first: drivers never make networks"


def _missing_network(remote: Remote, name: str) -> errors.NetworkNotFound | None:
    try:
        network = remote.networkLookupByName(name)
    except errors.NetworkNotFound as error:
        error.hint = f"{_MAKE_IT}; virsh net-list --all shows those that there are"
        return error
    if network.isActive():
        return None
    return errors.NetworkNotFound(f"network '{name}' is not active", hint=f"virsh net-start {name}")


def _missing_interface(
    remote: Remote, name: str, kind: str, *, plain: bool = False
) -> errors.NetworkNotFound | None:
    """With ``plain`` it must be a bridge of Linux itself, which costs one call more.

    Args:
        kind: what to call it.
    """
    hint = f"{_MAKE_IT}; virsh iface-list --all shows those that there are"
    try:
        interface = remote.interfaceLookupByName(name)
        if plain and parse(interface.XMLDesc(0)).get("type") != "bridge":
            return errors.NetworkNotFound(f"'{name}' is no bridge", hint=hint)
    except errors.NotSupported:
        return None  # a daemon without the interface driver: the attempt itself must tell
    except errors.NetworkNotFound as error:
        missing = errors.NetworkNotFound(
            f"there is no {kind} '{name}' on the host", vendor_code=error.vendor_code, hint=hint
        )
        missing.__cause__ = error
        return missing
    return None
