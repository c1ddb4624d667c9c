"""VIFs as Neutron, Nova and os-vif describe them.

Three shapes, one result:

* :func:`parse_port`: a Neutron port (``GET /v2.0/ports/{id}``), best with its network;
* :func:`parse_nova_vif`: Nova's ``network.model.VIF`` (nova ``network/model.py``);
* :func:`parse_os_vif`: an os-vif object, or its primitive form (os-vif ``objects/vif.py``).

How a type of wiring is read follows Nova 34 (``network/neutron.py`` ``_nw_info_build_network``,
``network/os_vif_util.py``, ``virt/libvirt/vif.py``, ``virt/vmwareapi/vif.py``), without its
configuration options. Keys that say nothing about wiring are passed over: a port has dozens, and
every Neutron extension adds some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hvdrivers.contract.errors import InvalidRequest, NotSupported
from hvdrivers.models.vif import UNWIRED, Vif
from hvdrivers.openstack._os_vif import parse_os_vif
from hvdrivers.openstack._reading import (
    Map,
    addresses_of,
    map_of,
    maps_of,
    mtu_of,
    text_of,
    validate,
    vlan_of,
)

__all__ = ["parse_nova_vif", "parse_os_vif", "parse_port"]

_OTHER_TYPE = "give the instance a port of another vnic_type: normal or direct"
_NIC_NAME_LENGTH = 14
_PASS_THROUGH = frozenset(
    {"direct", "direct-physical", "accelerator-direct", "accelerator-direct-physical"}
)


def parse_port(port: Mapping[str, object], network: Mapping[str, object] | None = None) -> Vif:
    """Read a Neutron port, as a host's administrator sees it (``binding:*`` is there).

    Args:
        port: the port, bound to the host that shall have it.
        network: its network: MTU, name, VLAN of ``hyperv``. Optional.

    Raises:
        InvalidRequest: not bound, the binding failed, or something is missing or malformed.
        NotSupported: a type of wiring that nothing here knows.
    """
    network = network or {}
    network_id = text_of(port, "network_id")
    details = map_of(port, "binding:vif_details")
    vlan_network = network.get("provider:network_type") == "vlan"
    return _build(
        _Port(
            id=text_of(port, "id") or "",
            type=text_of(port, "binding:vif_type"),
            details=details,
            profile=map_of(port, "binding:profile"),
            vnic_type=text_of(port, "binding:vnic_type") or "normal",
            bridge=_port_bridge(text_of(port, "binding:vif_type"), details, network_id),
            network_id=network_id,
            label=text_of(network, "name"),
            physical_network=text_of(network, "provider:physical_network"),
            segment=network.get("provider:segmentation_id") if vlan_network else None,
            common={
                "address": port.get("mac_address"),
                "mtu": mtu_of(network.get("mtu")),
                # The link state is the administrator's wish. Not port["status"]: that is DOWN
                # until the NIC is plugged, which is what we are about to do.
                "active": True if port.get("admin_state_up") is None else port["admin_state_up"],
                "addresses": [
                    {"address": ip.get("ip_address")} for ip in maps_of(port, "fixed_ips")
                ],
            },
        )
    )


def parse_nova_vif(vif: Mapping[str, object]) -> Vif:
    """Read one element of Nova's ``network_info``: a ``network.model.VIF`` or its JSON.

    Raises:
        InvalidRequest, NotSupported: as :func:`parse_port`.
    """
    network = map_of(vif, "network")
    meta = map_of(network, "meta")
    return _build(
        _Port(
            id=text_of(vif, "id") or "",
            type=text_of(vif, "type"),
            details=map_of(vif, "details"),
            profile=map_of(vif, "profile"),
            vnic_type=text_of(vif, "vnic_type") or "normal",
            bridge=text_of(network, "bridge"),
            network_id=text_of(network, "id"),
            label=text_of(network, "label"),
            device=text_of(vif, "devname"),
            interface_id=text_of(vif, "ovs_interfaceid"),
            physical_network=text_of(meta, "physical_network"),
            segment=meta.get("vlan"),
            # Nova's "active" is the port's status, not a link state: see parse_port().
            common={
                "address": vif.get("address"),
                "mtu": mtu_of(meta.get("mtu")),
                "addresses": addresses_of(maps_of(network, "subnets")),
            },
        )
    )


@dataclass(frozen=True)
class _Port:
    """What Neutron's port and Nova's VIF have in common, before its type is looked at."""

    id: str
    type: str | None
    details: Map
    profile: Map
    vnic_type: str
    common: Map
    bridge: str | None = None
    network_id: str | None = None
    label: str | None = None
    device: str | None = None
    interface_id: str | None = None
    physical_network: str | None = None
    segment: object = None
    """The network's VLAN."""

    def need(self, value: object, what: str, hint: str | None = None) -> object:
        if value in (None, ""):
            raise InvalidRequest(f"VIF {self.id}: {what} is missing", hint=hint)
        return value

    @property
    def pci_address(self) -> object:
        return self.need(
            self.profile.get("pci_slot"),
            "pci_slot in the binding profile",
            f"vnic_type {self.vnic_type} needs a device claimed by Nova, or named by hand",
        )

    @property
    def offload(self) -> dict[str, object]:
        return {
            "bridge": self.bridge,
            "interface_id": self.interface_id or self.id,
            "datapath_type": self.details.get("datapath_type"),
        }


def _build(port: _Port) -> Vif:
    if port.type is None:
        raise InvalidRequest(
            f"VIF {port.id}: it says nothing of its wiring (binding:vif_type)",
            hint="read the port with administrator rights: others do not see its binding",
        )
    if port.type in UNWIRED:
        raise InvalidRequest(f"VIF {port.id}: vif_type is {port.type}", hint=UNWIRED[port.type])
    if port.vnic_type == "baremetal":
        raise NotSupported(
            f"VIF {port.id}: vnic_type baremetal is not for virtual machines",
            hint=_OTHER_TYPE,
        )
    reader = _NEUTRON.get(port.type)
    if reader is None:
        raise NotSupported(
            f"VIF {port.id}: vif_type {port.type} is not supported",
            hint=f"supported are {', '.join(sorted(_NEUTRON))}",
        )
    return validate({"id": port.id, **port.common, **reader(port)})


# One function per Neutron vif_type --------------------------------------------------------------


def _bridge(port: _Port) -> dict[str, object]:
    return {
        "type": "bridge",
        "bridge": port.need(port.bridge, "the bridge"),
        "device": port.device,
    }


def _ovs(port: _Port) -> dict[str, object]:
    if port.vnic_type == "vdpa":
        return {"type": "vdpa", "pci_address": port.pci_address, "offload": port.offload}
    if port.vnic_type in _PASS_THROUGH:
        return {**_pci_device(port), "type": "hw_veb", "vlan": None, "offload": port.offload}
    if port.vnic_type == "remote-managed":  # a DPU plugs the representor on its own side
        return {**_pci_device(port), "type": "hw_veb", "vlan": None}
    if port.vnic_type != "normal":
        raise NotSupported(
            f"VIF {port.id}: vnic_type {port.vnic_type} with vif_type ovs",
            hint=_OTHER_TYPE,
        )
    if port.details.get("nsx-logical-switch-id"):
        return {"type": "dvs", "opaque_network_id": port.details["nsx-logical-switch-id"]}
    return {
        "type": "ovs",
        "bridge": port.need(port.bridge, "the bridge"),
        "interface_id": port.interface_id,
        "datapath_type": port.details.get("datapath_type"),
        "hybrid_plug": bool(port.details.get("ovs_hybrid_plug")),
        "device": port.device,
    }


def _tap(port: _Port) -> dict[str, object]:
    return {"type": "tap", "device": port.device}


def _macvtap(port: _Port) -> dict[str, object]:
    return {
        "type": "macvtap",
        "source": port.need(port.details.get("macvtap_source"), "macvtap_source in vif_details"),
        "mode": port.need(port.details.get("macvtap_mode"), "macvtap_mode in vif_details"),
        "physical_interface": port.details.get("physical_interface"),
    }


def _hw_veb(port: _Port) -> dict[str, object]:
    if port.vnic_type == "macvtap":
        return {
            "type": "macvtap",
            "pci_address": port.pci_address,
            "mode": "passthrough",
            "vlan": vlan_of(port.details.get("vlan")),
        }
    return _pci_device(port)


def _pci_device(port: _Port) -> dict[str, object]:
    return {
        "type": port.type,
        "pci_address": port.pci_address,
        "vlan": vlan_of(port.details.get("vlan")) if port.type == "hw_veb" else None,
        "physical_network": (
            port.profile.get("physical_network")
            or port.physical_network
            or port.details.get("physical_network")
        ),
        "trusted": str(port.profile.get("trusted", "")).lower() == "true",
    }


def _vhostuser(port: _Port) -> dict[str, object]:
    for plug in ("vhostuser_fp_plug", "vhostuser_vrouter_plug"):
        if port.details.get(plug):
            raise NotSupported(
                f"VIF {port.id}: {plug} needs a switch that os-vif no longer knows",
                hint="use a port of Open vSwitch, or of another vhost-user switch",
            )
    return {
        "type": "vhostuser",
        "socket": port.need(
            port.details.get("vhostuser_socket"), "vhostuser_socket in vif_details"
        ),
        "mode": port.details.get("vhostuser_mode") or "server",
        "bridge": port.bridge,
        "interface_id": port.interface_id,
        "ovs_plug": bool(port.details.get("vhostuser_ovs_plug")),
    }


def _dvs(port: _Port) -> dict[str, object]:
    details = port.details
    if details.get("dvs_id") and details.get("pg_id"):
        named = {"switch_uuid": details["dvs_id"], "port_group_key": details["pg_id"]}
    else:
        named = {
            "port_group": port.need(
                details.get("dvs_port_group_name") or port.bridge, "the port group"
            )
        }
    return {
        "type": "dvs",
        **named,
        "port_key": details.get("dvs_port_key"),
        "sriov": port.vnic_type == "direct",
    }


def _hyperv(port: _Port) -> dict[str, object]:
    # Neutron names no switch; its Hyper-V agent maps physical networks to switches of that name.
    switch = port.bridge or port.physical_network
    return {
        "type": "hyperv",
        "switch": port.need(
            switch or port.details.get("physical_network"),
            "the virtual switch",
            "give the network too: its provider:physical_network names the switch",
        ),
        "vlan": vlan_of(port.details.get("vlan") or port.segment),
        "sriov": port.vnic_type == "direct",
    }


_NEUTRON: Mapping[str, Callable[[_Port], dict[str, object]]] = {
    "bridge": _bridge,
    "ovs": _ovs,
    "tap": _tap,
    "macvtap": _macvtap,
    "hw_veb": _hw_veb,
    "hostdev_physical": _pci_device,
    "ib_hostdev": _pci_device,
    "vhostuser": _vhostuser,
    "dvs": _dvs,
    "hyperv": _hyperv,
}


def _port_bridge(kind: str | None, details: Map, network_id: str | None) -> str | None:
    """What Nova writes into ``network.bridge`` for a port of this type."""
    named = text_of(details, "bridge_name")
    if kind == "dvs":
        return network_id
    if kind == "ovs" or (kind == "vhostuser" and details.get("vhostuser_ovs_plug")):
        bridge = named or "br-int"
    elif kind == "bridge":
        bridge = named or f"brq{network_id or ''}"
    else:
        return named
    return bridge[:_NIC_NAME_LENGTH]
