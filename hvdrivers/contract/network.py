"""Network: NICs and what they are plugged into.

*VIF*: one virtual NIC and its wiring, named by ``Vif.id``, the same in plug, in unplug and in
InstanceInfo.vifs. The id is a name within the instance: two machines may each have a NIC ``eth0``,
and those have nothing in common. A driver wires through the hypervisor's own API; networks, bridges
and switches must exist, it never makes them.

*Port*: what a network's control plane (Neutron, OVN) calls a place for one NIC. A VIF whose id is a
UUID is the port of that id. A port is in use by the machine that is powered on with it. Machines
that are powered off may name the same one: which of them has it is decided when one is started.

A VIF without ``address`` gets one that is made of the instance's UUID and the id, or of the id
alone if that is a port's: ``Vif.within(uuid).mac`` tells it. The guard fills it in, so that a
driver always sees one in plug_vif() and spawn().
"""

from __future__ import annotations

from abc import abstractmethod
from uuid import UUID

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, operation
from hvdrivers.contract.states import P, R, S, row
from hvdrivers.models.vif import AttachedVif, Vif, VifQos


class Network(Interface):
    """Core: plug and unplug."""

    @operation(states=row(same=(R, P, S)))
    @abstractmethod
    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        """Give the machine a NIC: at once if it runs, and for every later start.

        Plugging a VIF that this instance already has returns what is there.

        Raises:
            NetworkNotFound: the bridge, network, switch or port group is not there.
            DeviceBusy: the port is in use by another powered-on machine, or its MAC address is,
                where the hypervisor can tell.
            NotSupported: this driver does not do this type of VIF, model or option; or this
                machine takes NICs only while it is STOPPED (Hyper-V generation 1).
            InsufficientResources: no free slot for another NIC, or the virtual function that the
                VIF names is another machine's.
        """

    @operation(
        states=row(same=(R, S)), with_capability={Capability.DETACH_PAUSED: row(same=(R, P, S))}
    )
    @abstractmethod
    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        """Take a NIC away and free its port. Returns when the guest has let go; a VIF that is not
        plugged is a success. A driver with the limit ``detach-unasked`` takes it from the guest at
        once. While PAUSED it needs DETACH_PAUSED.

        Raises:
            DeviceBusy: the guest did not let go within the deadline. It is still plugged.
        """


class VifQosControl(Interface, capability=Capability.VIF_QOS):
    """Limits of a NIC."""

    @operation(states=row(same=(R, P, S)))
    @abstractmethod
    def set_vif_qos(
        self, uuid: UUID, vif_id: str, qos: VifQos | None, *, timeout: float | None = None
    ) -> None:
        """Change the limits of a plugged NIC, at once and for later starts.

        Args:
            qos: None removes all limits.

        Raises:
            NetworkNotFound: no such VIF on this instance.
            NotSupported: the host cannot limit a NIC that is wired like this one, although it
                limits others (a Linux bridge, where the kernel lacks a part of its traffic
                control). plug_vif() and spawn() of a VIF with limits raise it too, and power_on()
                where the limits were set while the machine was STOPPED: some hosts tell only
                when the NIC is really there. Nothing has changed.
        """
