"""NICs on their way into a machine: the network found, the port made on its switch."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.driverkit.checks import Holder, require_port_free
from hvdrivers.fake.capacity import check_device_free, device_at
from hvdrivers.fake.records import Claim, Machine, Port
from hvdrivers.fake.steps import Task
from hvdrivers.hints import UNPLUG_ONE
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.state import POWERED_ON, InstanceState
from hvdrivers.models.vif import (
    AttachedVif,
    BridgeVif,
    DvsVif,
    HostdevVif,
    HypervVif,
    MacvtapVif,
    NetworkVif,
    NicModel,
    OvsVif,
    TapVif,
    UserVif,
    VdpaVif,
    VhostUserVif,
    Vif,
)

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.machines import Machines


class Ports:
    """What spawn, plug and start have in common."""

    def __init__(self, host: FakeHost, machines: Machines) -> None:
        self.host = host
        self.machines = machines

    @provides(
        Capability.VIF_NETWORK,
        Capability.VIF_BRIDGE,
        Capability.VIF_OVS,
        Capability.VIF_TAP,
        Capability.VIF_MACVTAP,
        Capability.VIF_HOSTDEV,
        Capability.VIF_VHOSTUSER,
        Capability.VIF_VDPA,
        Capability.VIF_DVS,
        Capability.VIF_HYPERV,
        Capability.VIF_USER,
    )
    def check_wiring(self, vif: Vif, host: FakeHost | None = None) -> None:
        """Raise NetworkNotFound unless what the NIC is to be plugged into is there.

        Args:
            host: None: this one.

        Raises:
            NotSupported: the NIC wants a virtual function, and the network has none.
        """
        host = host or self.host
        match vif:
            case NetworkVif():
                _check_network(host, "network", vif.network)
            case BridgeVif():
                _check_network(host, "bridge", vif.bridge)
            case OvsVif():
                _check_network(host, "ovs", vif.bridge)
            case MacvtapVif(source=str() as source):
                _check_network(host, "macvtap", source)
            case DvsVif():
                name = vif.port_group_key or vif.port_group or vif.opaque_network_id
                _check_network(host, "dvs", name or "")
            case HypervVif():
                _check_network(host, "hyperv", vif.switch)
            case UserVif():
                pass  # a network of the machine's own
            case TapVif() | VhostUserVif() | MacvtapVif() | HostdevVif() | VdpaVif():
                # a device or a socket, not a network: whoever names it has made it
                if isinstance(vif, HostdevVif) and vif.offload is not None:
                    raise errors.NotSupported(
                        "a representor must be plugged on the host itself", hint="use os-vif there"
                    )
        _check_functions(host, vif)

    def check(self, uuid: UUID, vif: Vif, *, starts: bool = True) -> None:
        """Raise unless this machine can have this NIC now.

        Args:
            starts: False: spawn() leaves it off, so the port may still be another's.
        """
        self.check_wiring(vif)
        if starts:
            self.check_free(uuid, vif)
        self.check_function(uuid, vif)

    def check_free(self, uuid: UUID, vif: Vif) -> None:
        """Raise DeviceBusy if another machine that is powered on has this port, or its address."""
        machines = self.host.machines
        others = [
            Holder(port.owner)
            for port in self.host.ports.values()
            if not port_names(vif).isdisjoint(port_names(port.vif))
            and port.owner != uuid
            and port.owner in machines
            and machines[port.owner].takes_memory
        ]
        require_port_free(vif.id, others)

    def check_function(self, uuid: UUID, vif: Vif) -> None:
        """Raise InsufficientResources if another machine has the device behind the NIC."""
        address = _device_of(vif)
        mine = any(claim.owner == uuid and claim.use == vif.id for claim in self.host.claims)
        if address is not None and not mine:
            check_device_free(self.host, address)

    def of(self, uuid: UUID) -> list[Port]:
        """The NICs in a machine's definition, in their order."""
        return [p for p in self.host.ports.values() if p.owner == uuid and p.plugged]

    def check_slot(self, uuid: UUID) -> None:
        if len(self.of(uuid)) >= self.host.size.nic_slots:
            raise errors.InsufficientResources(
                f"the machine has {self.host.size.nic_slots} NICs, and no slot for another",
                hint=UNPLUG_ONE,
            )

    def create(self, task: Task, uuid: UUID, vif: Vif) -> None:
        """Make a port: 1 call."""
        task.call(
            "create-port",
            lambda: self.make(uuid, vif, task.token),
            undo=(
                "delete-port",
                lambda: self.host.remove_ports(uuid, vif_id=vif.id, token=task.token),
            ),
        )

    def make(self, uuid: UUID, vif: Vif, token: int) -> None:
        machine = self.machines.find(uuid)
        there = self.host.ports.get((uuid, vif.id))
        if there is not None and there.plugged:
            return  # another connection was faster
        building = machine.state is InstanceState.BUILDING
        self.check(uuid, vif, starts=machine.claims or not building)
        self.host.ports[uuid, vif.id] = Port(vif, uuid, token)
        address = _device_of(vif)
        if address is not None and there is None:
            device_at(self.host, address)
            self.host.claims.append(Claim(uuid, address, None, token, use=vif.id))

    def shown(self, machine: Machine, port: Port) -> AttachedVif:
        """A NIC as get_instance() shows it."""
        vif = port.vif
        passthrough = isinstance(vif, HostdevVif | VdpaVif)
        no_device = passthrough or isinstance(vif, UserVif)
        device = vif.tap
        if isinstance(vif, BridgeVif | OvsVif | TapVif | VhostUserVif):
            device = vif.device_name
        on = machine.state in POWERED_ON and not no_device
        return AttachedVif(
            id=vif.id,
            address=vif.mac,
            type=vif.type,
            device=device if on else None,
            model=None if passthrough else vif.model or NicModel.VIRTIO,
            host_pci_address=vif.pci_address if isinstance(vif, HostdevVif) else None,
            sriov=_wants_function(vif),
        )


def port_names(vif: Vif) -> set[str]:
    """What only one powered-on machine has: the port, if its id names one, and the MAC address."""
    return {vif.mac} | ({vif.port_id} if vif.port_id is not None else set())


def _check_network(host: FakeHost, kind: str, name: str) -> None:
    if not host.accept_any_network and name not in host.networks[kind]:
        there = ", ".join(sorted(host.networks[kind])) or "none"
        raise errors.NetworkNotFound(
            f"the host has no {kind} {name!r}",
            hint=f"this fake host has {there}; FakeHost.add_network(), HostSize or"
            " accept_any_network=True give it others",
        )


def _wants_function(vif: Vif) -> bool:
    return isinstance(vif, NetworkVif | DvsVif | HypervVif) and vif.sriov


def _check_functions(host: FakeHost, vif: Vif) -> None:
    if not isinstance(vif, NetworkVif | DvsVif | HypervVif) or not vif.sriov:
        return
    match vif:
        case NetworkVif():
            name: str | None = vif.network
        case HypervVif():
            name = vif.switch
        case DvsVif():
            name = vif.port_group_key or vif.port_group or vif.opaque_network_id
    if not host.accept_any_network and name not in host.size.functions:
        raise errors.NotSupported(
            f"the host has no virtual functions on {name!r}", hint="leave sriov out"
        )


def _device_of(vif: Vif) -> PciAddress | None:
    return vif.pci_address if isinstance(vif, HostdevVif | VdpaVif | MacvtapVif) else None
