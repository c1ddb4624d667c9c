"""os-vif objects: what the hypervisor has to do beside what os-vif does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hvdrivers.contract.errors import InvalidRequest, NotSupported
from hvdrivers.models.vif import Vif
from hvdrivers.openstack._reading import Map, addresses_of, map_of, maps_of, mtu_of, validate


def parse_os_vif(vif: object) -> Vif:
    """Read an os-vif object (any ``VIFBase``), or what its ``obj_to_primitive()`` gives.

    The caller plugs it with os-vif; the result is what the hypervisor has to do beside that, as
    Nova's libvirt driver does it. os-vif itself is not needed here.

    Raises:
        InvalidRequest: not a VIF, or something is missing or malformed.
        NotSupported: ``VIFNestedDPDK``, or a class that nothing here knows.
    """
    to_primitive = getattr(vif, "obj_to_primitive", None)
    primitive = to_primitive() if callable(to_primitive) else vif
    name = primitive.get("versioned_object.name") if isinstance(primitive, Mapping) else None
    data = unwrap(primitive)
    if not isinstance(name, str) or not isinstance(data, dict):
        raise InvalidRequest(
            "not an os-vif object, nor the primitive form of one",
            hint="give the object that Nova has made, or what its obj_to_primitive gave",
        )
    reader = _OS_VIF.get(name)
    if reader is None:
        raise NotSupported(
            f"os-vif class {name} cannot be given to a hypervisor",
            hint=f"known are {', '.join(sorted(_OS_VIF))}",
        )
    network = map_of(data, "network")
    return validate(
        {
            "id": data.get("id"),
            "address": data.get("address"),
            "mtu": mtu_of(network.get("mtu")),
            "addresses": addresses_of(maps_of(network, "subnets")),
            **reader(data, map_of(data, "port_profile")),
        }
    )


def _os_generic(data: Map, _profile: Map) -> dict[str, object]:
    return {"type": "tap", "device": data.get("vif_name"), "exists": False}


def _os_bridge(data: Map, _profile: Map) -> dict[str, object]:
    # Also the hybrid plug: there the bridge is qbr…, made by os-vif, and OVS is behind it.
    return {
        "type": "bridge",
        "bridge": data.get("bridge_name"),
        "device": data.get("vif_name"),
    }


def _os_ovs(data: Map, profile: Map) -> dict[str, object]:
    if profile.get("create_tap") or profile.get("create_port"):
        # os-vif makes the port in the switch; the hypervisor must not make a second one.
        return {
            "type": "tap",
            "device": data.get("vif_name"),
            "exists": bool(profile.get("create_tap")),
        }
    return {
        "type": "ovs",
        "bridge": data.get("bridge_name") or map_of(data, "network").get("bridge"),
        "device": data.get("vif_name"),
        "interface_id": profile.get("interface_id"),
        "profile_id": profile.get("profile_id"),
        "datapath_type": profile.get("datapath_type"),
    }


def _os_direct(data: Map, _profile: Map) -> dict[str, object]:
    return {
        "type": "macvtap",
        "pci_address": data.get("dev_address"),
        "mode": data.get("mode"),
        "physical_interface": data.get("vlan_name"),
    }


def _os_vhostuser(data: Map, profile: Map) -> dict[str, object]:
    return {
        "type": "vhostuser",
        "socket": data.get("path"),
        "mode": data.get("mode"),
        "device": data.get("vif_name"),
        "interface_id": profile.get("interface_id"),
        "bridge": map_of(data, "network").get("bridge"),
    }


def _os_hostdev(data: Map, _profile: Map) -> dict[str, object]:
    # 'ethernet' is <interface type='hostdev'>, 'generic' a plain PCI device. Whatever belongs to
    # a representor (port_profile.datapath_offload) is done by os-vif, so there is no offload here.
    ethernet = data.get("dev_type") == "ethernet"
    return {
        "type": "hw_veb" if ethernet else "hostdev_physical",
        "pci_address": data.get("dev_address"),
    }


_OS_VIF: Mapping[str, Callable[[Map, Map], dict[str, object]]] = {
    "VIFGeneric": _os_generic,
    "VIFBridge": _os_bridge,
    "VIFOpenVSwitch": _os_ovs,
    "VIFDirect": _os_direct,
    "VIFVHostUser": _os_vhostuser,
    "VIFHostDevice": _os_hostdev,
}


_DEPTH = 64
"""Levels of the primitive form of an os-vif object, wrappers included; real ones have a dozen."""


def unwrap(value: object, depth: int = 0) -> object:
    """Take the ``versioned_object.*`` wrappers off, at every depth; lists of objects too."""
    if depth > _DEPTH:
        raise InvalidRequest(
            "the os-vif object is nested too deeply", hint="give one VIF as os-vif itself makes it"
        )
    if isinstance(value, Mapping):
        if "versioned_object.data" in value:
            data = unwrap(value["versioned_object.data"], depth + 1)
            return (
                data["objects"] if isinstance(data, dict) and data.keys() == {"objects"} else data
            )
        return {key: unwrap(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [unwrap(item, depth + 1) for item in value]
    return value
