"""What every VIF has, however it is wired."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hvdrivers.addresses import known_zone
from hvdrivers.limits import MOST_KBIT
from hvdrivers.models.base import Identifier, Model, PrintableText
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.vif._text import (
    InterfaceName,
    MacAddress,
    default_mac,
    is_port_id,
    tap_name,
)


def _written(value: object) -> object:
    """Text, or what was read from it: the standard library takes numbers, bytes and tuples too."""
    if isinstance(value, str | IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        return value
    raise ValueError("an address is text")


def _network(value: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    known_zone(value.network_address)
    return value


IpAddress = Annotated[
    IPv4Address | IPv6Address, BeforeValidator(_written), AfterValidator(known_zone)
]
IpNetwork = Annotated[
    IPv4Network | IPv6Network, BeforeValidator(_written), AfterValidator(_network)
]

VlanId = Annotated[int, Field(ge=1, le=4094)]
"""IEEE 802.1Q VLAN. There is no 0: untagged is None."""


class NicModel(StrEnum):
    """What the guest sees. None where it is optional: what the driver prefers."""

    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"
    VMXNET3 = "vmxnet3"
    NETVSC = "netvsc"
    """Hyper-V's synthetic adapter."""


class Bandwidth(Model):
    """Limits of one direction."""

    average: Annotated[int, Field(ge=1, lt=MOST_KBIT)]
    """kbit/s over time."""
    peak: Annotated[int, Field(ge=1, lt=MOST_KBIT)] | None = None
    """kbit/s in a burst."""
    burst: Annotated[int, Field(ge=1, lt=MOST_KBIT)] | None = None
    """kbit that may pass at ``peak``."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.peak is not None and self.peak < self.average:
            raise ValueError("peak is below average")
        return self


class VifQos(Model):
    """Limits of a NIC, from the guest's point of view."""

    inbound: Bandwidth | None = None
    """To the guest."""
    outbound: Bandwidth | None = None
    """From the guest."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.inbound is None and self.outbound is None:
            raise ValueError("no limit given; for no limits say qos=None")
        return self


class FixedIpRoute(Model):
    """A route that a subnet hands out beside its gateway."""

    destination: IpNetwork
    gateway: IpAddress


class FixedIp(Model):
    """An address the guest shall have: for a config drive. Drivers configure no addresses."""

    address: IpAddress
    prefix_length: Annotated[int, Field(ge=0, le=128)] | None = None
    """None: the subnet is not known here (a Neutron port names it only)."""
    gateway: IpAddress | None = None
    dns: tuple[IpAddress, ...] = ()
    routes: tuple[FixedIpRoute, ...] = ()
    dhcp: bool = False
    """The guest gets it by DHCP or router advertisement."""


class OvsOffload(Model):
    """The representor of a virtual function that belongs into an Open vSwitch bridge.

    It needs plugging on the host itself (os-vif does that); no remote hypervisor API can. Drivers
    refuse a VIF with this unless their caller has plugged it.
    """

    bridge: InterfaceName | None = None
    interface_id: Identifier
    """What OVN and Neutron's agent match the port by (``external_ids:iface-id``)."""
    datapath_type: Literal["system", "netdev"] | None = None


class VifBase(Model):
    """One virtual NIC."""

    type: str
    id: Identifier
    """The identity within the instance: unplug and lists use it. Two instances may each have a NIC
    ``eth0``. A UUID is more: it names a port, as Neutron's ids do, which one powered-on machine has
    at a time."""
    address: MacAddress | None = None
    """None: the guard makes one from the instance and ``id``; :meth:`within` tells it."""
    mtu: Annotated[int, Field(ge=68, le=65535)] | None = None
    """Bytes. None: the network's own."""
    model: NicModel | None = None
    vlan: VlanId | None = None
    """Tag for the guest's traffic, where the wiring can do that."""
    qos: VifQos | None = None
    addresses: tuple[FixedIp, ...] = ()
    """For information: config drive."""
    queues: Annotated[int, Field(ge=1, le=256)] | None = None
    """Queue pairs for multiqueue. None: one."""
    active: bool = True
    """Link is up from the start."""
    tag: Annotated[PrintableText, Field(max_length=60)] | None = None
    """Name for the guest's metadata (Nova device tagging)."""

    @property
    def mac(self) -> str:
        """The MAC address: as given, else the one :func:`default_mac` derives from ``id`` alone.
        That of a NIC of an instance is ``within(instance).mac``."""
        return self.address or default_mac(self.id)

    @property
    def port_id(self) -> str | None:
        """The port that it is. None: ``id`` is no UUID, and means nothing outside the instance."""
        return self.id if is_port_id(self.id) else None

    def within(self, instance: UUID) -> Self:
        """The VIF as it is in an instance: with its MAC address, from which the names of devices
        on the host follow too."""
        if self.address is not None or self.port_id is not None:
            return self
        return self.model_copy(update={"address": default_mac(self.id, instance)})

    @property
    def _device_key(self) -> str:
        """What tells its device on the host from those of other machines."""
        if self.address is None or self.port_id is not None:
            return self.id
        return f"{self.address}/{self.id}"

    @property
    def tap(self) -> str:
        """Name of the tap device on the host, where there is one."""
        return tap_name(self._device_key)


VifType = Literal[
    "network",
    "bridge",
    "ovs",
    "tap",
    "macvtap",
    "hw_veb",
    "hostdev_physical",
    "ib_hostdev",
    "vhostuser",
    "vdpa",
    "dvs",
    "hyperv",
    "user",
]
"""How a NIC is wired."""


class AttachedVif(Model):
    """A NIC that an instance has, as the hypervisor shows it."""

    id: Identifier
    address: MacAddress | None = None
    """None: a host device keeps its own, and the hypervisor does not say."""
    type: VifType
    device: PrintableText | None = None
    """Interface on the host (``tap…``) while the machine runs, if there is one."""
    model: NicModel | None = None
    pci_address: PciAddress | None = None
    """Where the guest sees it, if the hypervisor says."""
    host_pci_address: PciAddress | None = None
    """The device of the host that the guest has as this NIC, if it is one and the hypervisor says.
    Of a function that the hypervisor chooses (``sriov``) it is known while the machine runs."""
    sriov: bool = False
    """It has a virtual function of the host's adapter, or gets one at the next start, as the VIF
    has asked (``NetworkVif.sriov``, ``DvsVif.sriov``, ``HypervVif.sriov``)."""
