"""What a NIC is plugged into: is it there?"""

from __future__ import annotations

from collections.abc import Iterable

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import Element, attribute, parse
from hvdrivers.models.vif import BridgeVif, NetworkVif, OvsVif, Vif


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
    )
    def require(self, vifs: Iterable[Vif]) -> None:
        """Refuse what is not there: by the time that libvirt's own attempt fails, its error has no
        code that would tell. One call for each bridge, two for each network."""
        seen = set()
        for vif in vifs:
            place = _place(vif)
            if place is None or place in seen:
                continue
            seen.add(place)
            kind, name = place
            missing = (_missing_network if kind == "network" else _missing_bridge)(
                self._connection.remote, name
            )
            if missing is not None:
                raise missing


def _place(vif: Vif) -> tuple[str, str] | None:
    if isinstance(vif, NetworkVif):
        return "network", vif.network
    if isinstance(vif, OvsVif) and vif.hybrid_plug:
        return "bridge", vif.hybrid_bridge
    if isinstance(vif, BridgeVif | OvsVif):
        return "bridge", vif.bridge
    return None


def missing_network(remote: Remote, interface: Element) -> errors.NetworkNotFound | None:
    """After a failure: what is wrong with what an ``<interface>`` is plugged into, if anything."""
    network = attribute(interface, "source", "network")
    if network is not None:
        return _missing_network(remote, network)
    bridge = attribute(interface, "source", "bridge")
    if bridge is None:
        return None
    plain = attribute(interface, "virtualport", "type") is None
    return _missing_bridge(remote, bridge, plain=plain)


def _missing_network(remote: Remote, name: str) -> errors.NetworkNotFound | None:
    try:
        network = remote.networkLookupByName(name)
    except errors.NetworkNotFound as error:
        error.hint = "make it first: drivers never make networks; virsh net-list --all"
        return error
    if network.isActive():
        return None
    return errors.NetworkNotFound(f"network '{name}' is not active", hint=f"virsh net-start {name}")


def _missing_bridge(
    remote: Remote, name: str, *, plain: bool = False
) -> errors.NetworkNotFound | None:
    """With ``plain`` it must be a bridge of Linux itself, which costs one call more."""
    hint = "make it first: drivers never make networks"
    try:
        interface = remote.interfaceLookupByName(name)
        if plain and parse(interface.XMLDesc(0)).get("type") != "bridge":
            return errors.NetworkNotFound(f"'{name}' is no bridge", hint=hint)
    except errors.NotSupported:
        return None  # a daemon without the interface driver: the attempt itself must tell
    except errors.NetworkNotFound as error:
        missing = errors.NetworkNotFound(
            f"there is no bridge '{name}' on the host", vendor_code=error.vendor_code, hint=hint
        )
        missing.__cause__ = error
        return missing
    return None
