"""What a NIC is plugged into: is it there?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.libvirt.host_facts import NO_VHOST_USER, HostFacts
from hvdrivers.libvirt.host_nics import is_function, of_one_port, wants_function
from hvdrivers.libvirt.node_devices import node_name
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.sockets import require_socket
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


class Networks:
    """Look before plugging."""

    def __init__(self, connection: Connection, facts: HostFacts) -> None:
        self._connection = connection
        self._facts = facts

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
    def require(self, vifs: Iterable[Vif], *, starts: bool = False) -> None:
        """Refuse what is not there: by the time that libvirt's own attempt fails, its error has no
        code that would tell. One call for each bridge and each interface below a macvtap device,
        one for each network and one for all of them; three for each socket that QEMU makes.

        Args:
            starts: the machine runs, or shall run, so the functions of networks must be free.
        """
        vifs = list(vifs)
        for kind, name in dict.fromkeys(filter(None, map(_place, vifs))):
            missing = _missing_interface(self._connection.remote, name, kind)
            if missing is not None:
                raise missing
        for vif in vifs:
            if isinstance(vif, VhostUserVif):
                require_socket(self._connection.remote, vif)
        self._require_networks([e for e in vifs if isinstance(e, NetworkVif)], starts=starts)

    def _require_networks(self, vifs: Sequence[NetworkVif], *, starts: bool) -> None:
        if not vifs:
            return
        if any(map(wants_function, vifs)):
            reason = self._facts.narrowed().get(Capability.VIF_HOSTDEV)
            if reason is not None:
                raise errors.NotSupported(reason, hint="leave sriov out, or choose another host")
        remote = self._connection.remote
        flags = libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE
        active = {each.name(): each for each in remote.listAllNetworks(flags)}
        for name in dict.fromkeys(each.network for each in vifs):
            network = active.get(name)
            if network is None:
                missing = _missing_network(remote, name)
                if missing is not None:
                    raise missing
                network = remote.networkLookupByName(name)  # it was started meanwhile
            wanted = [wants_function(each) for each in vifs if each.network == name]
            _refuse_unfit(parse(network.XMLDesc(0)), wanted, starts=starts)

    def refuse_taken(self, uuid: UUID, *devices: str | None) -> None:
        """Refuse network devices of NICs that a machine which runs has. One call; none without a
        device.

        For a stopped machine libvirt looks only when it starts. A start that fails removes the
        macvtap devices that its definition names. Not so the MAC address: libvirt tells those of
        each machine apart. For a macvtap device it never looks, and the kernel only at those over
        the same interface.
        """
        wanted = {each for each in devices if each}
        if not wanted:
            return
        for other, name in _running_devices(self._connection.remote):
            if other != str(uuid) and any(of_one_port(name, each) for each in wanted):
                raise port_taken(other, name)

    def refuse_ports(self, uuid: UUID, xml: Element) -> None:
        """Refuse to start a machine of whose macvtap ports another that runs has one. No call
        without such a NIC, else one.

        Args:
            xml: its definition.
        """
        self.refuse_taken(uuid, *_macvtap_devices(xml.iterfind("devices/interface")))

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


def _refuse_unfit(network: Element, wanted: Sequence[bool], *, starts: bool) -> None:
    """Refuse NICs on a network that is not of their kind, or has too few functions. No call.

    Args:
        wanted: of each NIC on it whether it wants a function.
    """
    name = network.findtext("name")
    if not is_pool(network):
        if any(wanted):
            raise errors.NotSupported(
                f"network '{name}' gives no virtual functions (its forward mode is not hostdev)",
                hint="name a network with <forward mode='hostdev'>, or leave sriov out",
            )
        return
    if not all(wanted):
        raise _functions_alone(name, "say sriov=True, or name another network")
    there, left = functions_of(network)
    if not there:
        raise errors.NotSupported(
            f"network '{name}' has no virtual functions",
            hint="the host's administrator makes them (sriov_numvfs) and starts the network anew;"
            " or leave sriov out",
        )
    if starts and left < len(wanted):
        raise too_few(name, left)


def _functions_alone(name: str | None, hint: str) -> errors.NotSupported:
    return errors.NotSupported(
        f"network '{name}' gives virtual functions alone (forward mode hostdev)", hint=hint
    )


def is_pool(network: Element) -> bool:
    """Whether machines get functions of an adapter from a network."""
    return attribute(network, "forward", "mode") == "hostdev"


def functions_of(network: Element) -> tuple[int, int]:
    """How many functions an active network has, and how many are left: libvirt gives one to each
    NIC that is connected."""
    there = len(network.findall("forward/address"))
    return there, there - int(network.get("connections") or 0)


def too_few(name: str | None, left: int) -> errors.InsufficientResources:
    """What to say where machines that run have the others."""
    return errors.InsufficientResources(
        f"network '{name}' has {left or 'no'} virtual function{'s' * (left != 1)} left: machines"
        " that run have the others",
        hint="power_off() one of them, give the network more functions, or leave sriov out",
    )


def _place(vif: Vif) -> tuple[str, str] | None:
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


def unfit_network(
    remote: Remote, interface: Element
) -> errors.NetworkNotFound | errors.NotSupported | None:
    """What is wrong with what an ``<interface>`` would be plugged into on another host, if
    anything. Calls as for missing_network(); of a NIC on a network two more."""
    missing = missing_network(remote, interface)
    name = attribute(interface, "source", "network")
    if missing is not None or name is None or is_function(interface):
        return missing
    if not is_pool(parse(remote.networkLookupByName(name).XMLDesc(0))):
        return None
    return _functions_alone(name, "connect the NIC to another network there: Destination.vifs")


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


def without_function(
    remote: Remote, interfaces: Iterable[Element]
) -> errors.InsufficientResources | None:
    """After a failure: whether networks have too few functions for these NICs. Two calls for each
    network of functions."""
    wanted = Counter(attribute(e, "source", "network") for e in interfaces if is_function(e))
    for name, count in wanted.items():
        _, left = functions_of(parse(remote.networkLookupByName(name).XMLDesc(0)))
        if left < count:
            return too_few(name, left)
    return None


def _running_devices(remote: Remote) -> Iterator[tuple[str, str]]:
    """The network devices of machines that run, and whose they are. One call."""
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    flags |= libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    for other, stats in remote.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_INTERFACE, flags):
        for number in range(stats.get("net.count", 0)):
            yield other.UUIDString(), str(stats.get(f"net.{number}.name"))


def _macvtap_devices(interfaces: Iterable[Element]) -> set[str]:
    names = (attribute(e, "target", "dev") for e in interfaces if e.get("type") == "direct")
    return set(filter(None, names))


def port_taken(owner: str, device: str) -> errors.DeviceBusy:
    """What to say of a port that a machine which runs has."""
    return errors.DeviceBusy(
        f"machine {owner} has this port ({device})",
        hint="unplug_vif() it there, or power_off() that machine",
    )


def macvtap_taken(
    remote: Remote, interfaces: Iterable[Element], error: errors.HypervisorError
) -> errors.DeviceBusy | None:
    """After a failure: whether the kernel has refused a second macvtap device with one MAC address
    over one interface, and whose the first one is. One call, where it has."""
    if error.vendor_code != "VIR_ERR_SYSTEM_ERROR/EADDRINUSE":
        return None
    mine = _macvtap_devices(interfaces)
    for other, name in _running_devices(remote) if mine else ():
        if name not in mine and any(of_one_port(name, each) for each in mine):
            found = port_taken(other, name)
            found.vendor_code = error.vendor_code
            return found
    return None


def macvtap_hint(interface: Element, error: errors.HypervisorError) -> str | None:
    """After a failure: what the kernel's answer may mean for a macvtap device. No call."""
    if interface.get("type") != "direct":
        return None
    source = attribute(interface, "source", "dev")
    return {
        "VIR_ERR_SYSTEM_ERROR/EINVAL": f"a machine may have the whole of {source}, in mode"
        " passthrough, beside which there is no other; or want it where others are",
        "VIR_ERR_SYSTEM_ERROR/EADDRINUSE": f"{source} has a device with this MAC address already:"
        " give the NIC another address",
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
