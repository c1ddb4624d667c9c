"""The kinds of wiring. ``type`` says which; Neutron's names where Neutron has one."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import StringConstraints, model_validator

from hvdrivers.models.base import Identifier, PrintableText
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.vif._text import (
    InterfaceName,
    NetworkName,
    SocketPath,
    hybrid_bridge_name,
    vhostuser_name,
)
from hvdrivers.models.vif.common import OvsOffload, VifBase

PortProfile = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,39}$")]
"""Name of a port profile. libvirt 9 writes it into XML as it is, without escaping, so nothing that
XML could misread is allowed; 39 characters are its limit (``virnetdevvportprofile.h``)."""


class NetworkVif(VifBase):
    """A network that the hypervisor has by name: a libvirt network, a standard port group. Our
    own kind, for those who run no Neutron."""

    type: Literal["network"] = "network"
    network: NetworkName
    portgroup: NetworkName | None = None
    """libvirt: a ``<portgroup>`` of it."""
    sriov: bool = False
    """Give the guest a virtual function of one of the host's adapters (SR-IOV), which the
    hypervisor chooses at each start. vSphere: as of :class:`DvsVif`. libvirt: the network must be a
    pool of functions (forward mode ``hostdev``), and the machine stays on its host."""


class BridgeVif(VifBase):
    """A Linux bridge of the host."""

    type: Literal["bridge"] = "bridge"
    bridge: InterfaceName
    device: InterfaceName | None = None
    """Name for the tap device. None: :attr:`device_name`."""

    @property
    def device_name(self) -> str:
        """Name of the tap device on the host."""
        return self.device or self.tap


class OvsVif(VifBase):
    """An Open vSwitch bridge, alone or under OVN or Neutron's agent."""

    type: Literal["ovs"] = "ovs"
    bridge: InterfaceName
    interface_id: Identifier | None = None
    """``external_ids:iface-id``. None: ``id``."""
    profile_id: PortProfile | None = None
    """``external_ids:port-profile``."""
    datapath_type: Literal["system", "netdev"] | None = None
    """``netdev``: userspace datapath. None: the bridge's own."""
    hybrid_plug: bool = False
    """A Linux bridge between VM and switch, for iptables security groups. It must be made on the
    host (os-vif does); :attr:`hybrid_bridge` is its name."""
    device: InterfaceName | None = None
    """Name for the tap device. None: :attr:`device_name`."""

    @property
    def iface_id(self) -> str:
        """What the network's control plane matches the port by."""
        return self.interface_id or self.id

    @property
    def device_name(self) -> str:
        """Name of the tap device on the host."""
        return self.device or self.tap

    @property
    def hybrid_bridge(self) -> str:
        """Name of the Linux bridge of the hybrid plug (``qbr…``)."""
        return hybrid_bridge_name(self._device_key)


class TapVif(VifBase):
    """A bare tap device that a network agent connects (Calico, an os-vif plugin)."""

    type: Literal["tap"] = "tap"
    device: InterfaceName | None = None
    """None: :attr:`device_name`."""
    exists: bool = True
    """True: the device exists before the machine starts (libvirt ``managed='no'``). False: the
    hypervisor makes the device, and the network agent connects it."""

    @property
    def device_name(self) -> str:
        """Name of the tap device on the host."""
        return self.device or self.tap


class MacvtapVif(VifBase):
    """A macvtap device over a host interface, or over an SR-IOV virtual function."""

    type: Literal["macvtap"] = "macvtap"
    source: InterfaceName | None = None
    """The interface below."""
    pci_address: PciAddress | None = None
    """The virtual function below, if that is how it is known."""
    mode: Literal["bridge", "vepa", "private", "passthrough"] = "bridge"
    physical_interface: InterfaceName | None = None
    """The interface that ``source``, a VLAN interface, is made on."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.source is None) == (self.pci_address is None):
            raise ValueError("give source or pci_address, one of them")
        return self


class HostdevVif(VifBase):
    """A network device of the host handed to the guest.

    ``hw_veb``: a virtual function, with MAC address and VLAN set by the host.
    ``hostdev_physical``: a whole device, nothing set. ``ib_hostdev``: InfiniBand.
    """

    type: Literal["hw_veb", "hostdev_physical", "ib_hostdev"] = "hw_veb"
    pci_address: PciAddress
    physical_network: PrintableText | None = None
    trusted: bool = False
    """The guest may change its MAC address and use promiscuous mode."""
    offload: OvsOffload | None = None

    @model_validator(mode="after")
    def _vlan_needs_host(self) -> Self:
        if self.vlan is not None and self.type != "hw_veb":
            raise ValueError(f"{self.type} cannot have a vlan: the host sets nothing on it")
        return self


class VhostUserVif(VifBase):
    """A vhost-user socket of a userspace switch (OVS-DPDK, VPP). The guest's memory must be
    shareable for it."""

    type: Literal["vhostuser"] = "vhostuser"
    socket: SocketPath
    mode: Literal["client", "server"]
    """What the *hypervisor* does: ``server`` makes the socket, ``client`` connects to it."""
    bridge: InterfaceName | None = None
    """The switch's bridge, for the agent that plugs the port."""
    interface_id: Identifier | None = None
    """None: ``id``."""
    ovs_plug: bool = False
    """The socket's port must be added to ``bridge`` on the host (os-vif does)."""
    device: InterfaceName | None = None

    @property
    def device_name(self) -> str:
        """Name of the switch's port (``vhu…``)."""
        return self.device or vhostuser_name(self._device_key)


class VdpaVif(VifBase):
    """A vDPA device: the guest's virtio queues are the hardware's own."""

    type: Literal["vdpa"] = "vdpa"
    device: SocketPath | None = None
    """``/dev/vhost-vdpa-0``."""
    pci_address: PciAddress | None = None
    """The virtual function, from which the host knows the device."""
    offload: OvsOffload | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.device is None and self.pci_address is None:
            raise ValueError("give device or pci_address")
        return self


class DvsVif(VifBase):
    """vSphere: a port group, distributed or standard, or an NSX segment.

    Named by ``switch_uuid`` with ``port_group_key`` (exact), by ``port_group`` (a name, which may
    not be unique), or by ``opaque_network_id``.
    """

    type: Literal["dvs"] = "dvs"
    port_group: NetworkName | None = None
    port_group_key: Identifier | None = None
    """``dvportgroup-123``."""
    switch_uuid: Identifier | None = None
    """UUID of the distributed switch, in VMware's own spelling."""
    port_key: Identifier | None = None
    """A port reserved in the port group."""
    opaque_network_id: Identifier | None = None
    """NSX logical switch or segment."""
    opaque_network_type: PrintableText = "nsx.LogicalSwitch"
    sriov: bool = False
    """Give the guest a virtual function of one of the host's adapters (SR-IOV). vSphere chooses it
    at each start, and its port group says the VLAN. The machine has all of its memory reserved, and
    stays on its host."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.port_group_key is None) != (self.switch_uuid is None):
            raise ValueError("port_group_key and switch_uuid belong together")
        if not (self.port_group or self.port_group_key or self.opaque_network_id):
            raise ValueError(
                "give port_group, switch_uuid and port_group_key, or opaque_network_id"
            )
        if self.opaque_network_id and (self.port_group or self.port_group_key):
            raise ValueError("a port group and an opaque network exclude each other")
        return self


class HypervVif(VifBase):
    """A virtual switch of Hyper-V; ``vlan`` is the access VLAN."""

    type: Literal["hyperv"] = "hyperv"
    switch: NetworkName
    sriov: bool = False
    """Give the guest a virtual function of the host's adapter (SR-IOV), as long as one is free and
    the guest has a driver for it. Hyper-V chooses which. Otherwise, and while the machine moves to
    another host, its traffic goes through the switch. The switch must have been made for it."""


class UserVif(VifBase):
    """A network of the machine's own, behind the account that runs the hypervisor (QEMU's user-mode
    network). It needs no privilege and no network of the host, so it is what a session host has.

    The guest gets an address by DHCP and reaches what the host reaches; nothing outside reaches the
    guest, and two guests do not see each other. There is no device on the host for it, so it takes
    no limits, no VLAN, no MTU and no queues.
    """

    type: Literal["user"] = "user"
