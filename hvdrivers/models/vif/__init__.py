"""Virtual NICs and what they are plugged into.

A :data:`Vif` is made by hand, or by :mod:`hvdrivers.openstack.vif` from a Neutron port, a Nova VIF
or an os-vif object.

=================================================  ==============  ===============================
``type``                                           class           wired by
=================================================  ==============  ===============================
``network``                                        NetworkVif      ``network``, ``portgroup``
``bridge``                                         BridgeVif       ``bridge``
``ovs``                                            OvsVif          ``bridge``, ``iface_id``
``tap``                                            TapVif          ``device_name``
``macvtap``                                        MacvtapVif      ``source`` or ``pci_address``
``hw_veb``, ``hostdev_physical``, ``ib_hostdev``   HostdevVif      ``pci_address``
``vhostuser``                                      VhostUserVif    ``socket``, ``mode``
``vdpa``                                           VdpaVif         ``device`` or ``pci_address``
``dvs``                                            DvsVif          port group, switch, NSX segment
``hyperv``                                         HypervVif       ``switch``
``user``                                           UserVif         nothing: a network of its own
=================================================  ==============  ===============================
"""

from typing import Annotated

from pydantic import BeforeValidator, Field

from hvdrivers.models._veil import VEILED
from hvdrivers.models.vif._text import (
    InterfaceName,
    MacAddress,
    NetworkName,
    default_mac,
    hybrid_bridge_name,
    is_port_id,
    tap_name,
    vhostuser_name,
)
from hvdrivers.models.vif.common import (
    AttachedVif,
    Bandwidth,
    FixedIp,
    FixedIpRoute,
    NicModel,
    OvsOffload,
    VifBase,
    VifQos,
    VifType,
)
from hvdrivers.models.vif.kinds import (
    BridgeVif,
    DvsVif,
    HostdevVif,
    HypervVif,
    MacvtapVif,
    NetworkVif,
    OvsVif,
    TapVif,
    UserVif,
    VdpaVif,
    VhostUserVif,
)

UNWIRED = {
    "unbound": "the port is not bound to a host: set its binding:host_id and read it again",
    "binding_failed": "Neutron could not bind the port on this host: its agent or OVN controller "
    "there is down, or does not serve the network; see the neutron-server log",
}
"""``vif_type`` values that are no wiring at all, and what to do about them."""


def _refuse_unwired(value: object) -> object:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in UNWIRED:
        raise ValueError(f"{kind}: {UNWIRED[kind]}")
    return value


Vif = Annotated[
    Annotated[
        NetworkVif
        | BridgeVif
        | OvsVif
        | TapVif
        | MacvtapVif
        | HostdevVif
        | VhostUserVif
        | VdpaVif
        | DvsVif
        | HypervVif
        | UserVif,
        Field(discriminator="type"),
    ],
    BeforeValidator(_refuse_unwired),
    VEILED,
]
"""A virtual NIC, told apart by ``type``."""

VIF_TYPES = (
    NetworkVif,
    BridgeVif,
    OvsVif,
    TapVif,
    MacvtapVif,
    HostdevVif,
    VhostUserVif,
    VdpaVif,
    DvsVif,
    HypervVif,
    UserVif,
)
"""The classes behind ``Vif``, for ``isinstance``."""

__all__ = [
    "UNWIRED",
    "VIF_TYPES",
    "AttachedVif",
    "Bandwidth",
    "BridgeVif",
    "DvsVif",
    "FixedIp",
    "FixedIpRoute",
    "HostdevVif",
    "HypervVif",
    "InterfaceName",
    "MacAddress",
    "MacvtapVif",
    "NetworkName",
    "NetworkVif",
    "NicModel",
    "OvsOffload",
    "OvsVif",
    "TapVif",
    "UserVif",
    "VdpaVif",
    "VhostUserVif",
    "Vif",
    "VifBase",
    "VifQos",
    "VifType",
    "default_mac",
    "hybrid_bridge_name",
    "is_port_id",
    "tap_name",
    "vhostuser_name",
]
