"""Network on libvirt: the daemon itself plugs bridges, Open vSwitch and its own networks.

An OVN port is an Open vSwitch port with the port's id in ``interfaceid``: OVN's controller on the
host does the rest.
"""

from __future__ import annotations

from contextlib import nullcontext
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.network import Network, VifQosControl
from hvdrivers.libvirt.base import Deadline, affecting, changed
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.devices import (
    attached_vif,
    has_free_port,
    no_free_port,
    tap_of,
    vif_element,
    vifs_of,
)
from hvdrivers.libvirt.naming import alias
from hvdrivers.libvirt.plugging import Plugging
from hvdrivers.libvirt.starting import taken
from hvdrivers.libvirt.wiring import Wiring, missing_network
from hvdrivers.libvirt.xml import Element, text
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import (
    AttachedVif,
    Bandwidth,
    Vif,
    VifQos,
)


class LibvirtNetwork(Wiring, Plugging, Network, VifQosControl):
    """Core network, and limits."""

    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        """Budget: 6 calls, 5 for a tap device, 7 for a network of libvirt's own; 1 more for a
        stopped machine; 3 if it is there already."""
        del timeout
        domain, state = self._checked("plug_vif", uuid)
        stopped = state is InstanceState.STOPPED
        xml = self._xml(domain, inactive=stopped)
        present = vifs_of(xml).get(vif.id)
        if present is None:
            self._require_networks([vif])
            if stopped:
                self._refuse_taken_port(uuid, vif)
            elif not has_free_port(xml):
                raise no_free_port()
            self._plug(domain, vif_element(vif), state)
            with changed():
                present = vifs_of(self._xml(domain, inactive=stopped)).get(vif.id)
        if present is None:
            raise errors.OutcomeUnknown("the NIC was plugged and is not there any more")
        return attached_vif(vif.id, *present)

    def _refuse_taken_port(self, uuid: UUID, vif: Vif) -> None:
        """For a stopped machine libvirt looks only when it starts whether another one has the
        device. (Not so the MAC address: libvirt tells those of each machine apart.)"""
        device = tap_of(vif)
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
        flags |= libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        for other, stats in self.connection.remote.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_INTERFACE, flags
        ):
            names = {stats.get(f"net.{number}.name") for number in range(stats.get("net.count", 0))}
            if device in names and other.UUIDString() != str(uuid):
                raise errors.DeviceBusy(
                    f"machine {other.UUIDString()} has this port ({device})",
                    hint="unplug_vif() it there, or power_off() that machine",
                )

    def _plug(self, domain: Remote, interface: Element, state: InstanceState) -> None:
        try:
            domain.attachDeviceFlags(text(interface), affecting(domain, state))
        except errors.HypervisorFault as error:
            missing = missing_network(self.connection.remote, interface)
            if missing is None:
                raise
            raise missing from error
        except errors.InvalidState as error:
            if state is not InstanceState.STOPPED and not domain.isActive():
                raise  # it went off meanwhile
            raise taken(error) from error

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        """Budget: as detach_volume()."""
        deadline = Deadline(timeout)
        domain, state = self._checked("unplug_vif", uuid)
        stored = vifs_of(self._xml(domain, inactive=True)).get(vif_id)
        live = None
        if state is InstanceState.RUNNING:
            live = vifs_of(self._xml(domain)).get(vif_id)
        if live is not None:
            self._unplug(uuid, domain, alias(f"vif-{live[0]}", vif_id), deadline)
        if stored is not None:
            with changed() if live is not None else nullcontext():
                domain.detachDeviceFlags(text(stored[1]), libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def set_vif_qos(
        self, uuid: UUID, vif_id: str, qos: VifQos | None, *, timeout: float | None = None
    ) -> None:
        """Budget: 4 calls, 5 for a machine that is on."""
        del timeout
        domain, state = self._checked("set_vif_qos", uuid)
        found = vifs_of(self._xml(domain, inactive=state is InstanceState.STOPPED)).get(vif_id)
        if found is None:
            raise errors.NetworkNotFound(f"the instance has no VIF {vif_id}")
        nic = attached_vif(vif_id, *found)
        parameters: dict[str, int] = {}
        for direction, limits in (
            ("inbound", qos.inbound if qos else None),
            ("outbound", qos.outbound if qos else None),
        ):
            parameters |= _limits(direction, limits)
        # Two calls: libvirt-python first asks for what there is, with the same flags, and that
        # takes only one of them. The running machine first, where it may fail; there by device,
        # as two NICs may have one MAC address, but the definition does not know every device.
        if affecting(domain, state) & libvirt.VIR_DOMAIN_AFFECT_LIVE:
            domain.setInterfaceParameters(
                nic.device or nic.address, parameters, libvirt.VIR_DOMAIN_AFFECT_LIVE
            )
        domain.setInterfaceParameters(nic.address, parameters, libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def _limits(direction: str, limits: Bandwidth | None) -> dict[str, int]:
    # zero is libvirt's "no limit"; its unit is kilobytes, the model's kilobits
    values = {
        "average": limits.average if limits else 0,
        "peak": (limits.peak or 0) if limits else 0,
        "burst": (limits.burst or 0) if limits else 0,
    }
    return {f"{direction}.{name}": -(-value // 8) for name, value in values.items()}
