"""Network on libvirt: the daemon itself plugs bridges, Open vSwitch and its own networks.

An OVN port is an Open vSwitch port with the port's id in ``interfaceid``: OVN's controller on the
host does the rest.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared, provides
from hvdrivers.contract.network import Network, VifQosControl
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.undo import changed
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import (
    attached_vif,
    has_free_port,
    no_free_port,
    no_such_nic,
    vifs_of,
)
from hvdrivers.libvirt.domains import Moved, affecting, require_off, xml_of
from hvdrivers.libvirt.encrypted_memory import fitted, is_encrypted, refuse_nic
from hvdrivers.libvirt.halves import put_back, second_half, whole
from hvdrivers.libvirt.hardware import with_model
from hvdrivers.libvirt.host_nics import HOST_NICS, nic_alias
from hvdrivers.libvirt.metadata import hardware_in
from hvdrivers.libvirt.naming import alias
from hvdrivers.libvirt.network_checks import (
    Networks,
    macvtap_hint,
    macvtap_taken,
    unplugged,
    without_function,
)
from hvdrivers.libvirt.passthrough import Passthrough
from hvdrivers.libvirt.redefining import redefine
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.shared_memory import fit_memory, is_shared
from hvdrivers.libvirt.slots import refuse_one_more
from hvdrivers.libvirt.start import taken
from hvdrivers.libvirt.wiring import kilobytes, tap_of, vif_element, with_interface
from hvdrivers.libvirt.xml import Element, attribute, text
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import (
    AttachedVif,
    Bandwidth,
    MacvtapVif,
    VhostUserVif,
    Vif,
    VifQos,
    VifType,
)

_REFUSALS = (
    errors.InvalidState,
    errors.NotSupported,  # the alias is taken
    errors.InvalidRequest,
    errors.HypervisorFault,
    errors.DeviceBusy,
)
"""What libvirt and the driver answer if the VIF has been plugged meanwhile."""

_LIMITS = ("average", "peak", "burst")


class LibvirtNetwork(Topic, Network, VifQosControl):
    """Core network, and limits."""

    @provides(*declared(Networks), *declared(Passthrough) & {Capability.VIF_HOSTDEV})
    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        """Budget for a machine that is on: 6 calls, 5 for a tap device, 7 for a libvirt network, 4
        if it is there already, 6 if the machine has it and its definition has not; for a stopped
        one 8, 7, 9 and 4, 8 for a function of such a network, and 8 for the first vhost-user port.
        For macvtap as for a bridge, and 1 more for a machine that is on. For a device of the host 5
        more than for a tap device, 4 for a stopped machine, and 1 for each machine of the host, 2
        if it is on. By a PCI address macvtap and vDPA need 1 more, and 1 for each such device of
        the host; 3 where QEMU makes the socket of a vhost-user port."""
        del timeout
        return self.domains.change(
            "plug_vif", uuid, current_deadline(), lambda *at: self._plugged(uuid, vif, *at)
        )

    def _plugged(self, uuid: UUID, vif: Vif, domain: Remote, state: InstanceState) -> AttachedVif:
        stopped = state is InstanceState.STOPPED
        xml = xml_of(domain, inactive=stopped)
        vif = with_model(vif, hardware_in(xml))
        present = vifs_of(xml).get(vif.id)
        if present is not None:
            self.plugging.late.recall(uuid, _alias_of(vif.id, *present))
            if not stopped:
                self._define_vif(uuid, vif, domain, xml)
            return attached_vif(vif.id, *present)
        refuse_one_more(xml)
        self.networks.refuse_emulated([vif], xml.get("type"))
        if is_encrypted(xml):
            refuse_nic(vif)
        (vif,) = self.networks.found([vif])
        self.networks.require([vif], starts=not stopped)
        with self.passthrough.nics([vif]):
            return self._newly_plugged(uuid, vif, domain, state, xml)

    def _newly_plugged(
        self, uuid: UUID, vif: Vif, domain: Remote, state: InstanceState, xml: Element
    ) -> AttachedVif:
        stopped = state is InstanceState.STOPPED
        if not stopped and not has_free_port(xml):
            raise no_free_port()
        if stopped or isinstance(vif, MacvtapVif):
            self.networks.refuse_taken(uuid, tap_of(vif, uuid))
        flags = affecting(domain, state)
        if isinstance(vif, VhostUserVif) and not is_shared(xml):
            if not stopped:
                raise errors.NotSupported(
                    "the running machine does not share its memory, as a vhost-user port needs",
                    hint="power_off() it, plug_vif(), and power_on()",
                )
            redefine(self.hub, uuid, domain, lambda now: fit_memory(with_interface(now, vif, uuid)))
            require_off(domain)
            return attached_vif(vif.id, *vifs_of(xml_of(domain, inactive=True))[vif.id])
        self.plugging.late.forget(uuid, nic_alias(vif))
        try:
            self._plug(domain, vif.id, fitted(vif_element(vif, uuid), xml), flags)
        except _REFUSALS:
            # another client may have plugged this VIF; or the definition alone has it
            present = vifs_of(xml_of(domain, inactive=stopped)).get(vif.id)
            if present is not None:
                return attached_vif(vif.id, *present)
            stored = None if stopped else vifs_of(xml_of(domain, inactive=True)).get(vif.id)
            if stored is None:
                raise
            interface = fitted(vif_element(vif, uuid), xml)
            self._plug(domain, vif.id, interface, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        with changed():
            present = vifs_of(xml_of(domain)).get(vif.id)
        if present is None:
            raise Moved  # started meanwhile, without it; or another client has unplugged it
        return attached_vif(vif.id, *present)

    def _define_vif(self, uuid: UUID, vif: Vif, domain: Remote, xml: Element) -> None:
        """Let the definition have a VIF that the running machine has. One call, three if it had it
        not; more for a device of the host that is named by its PCI address."""
        if vif.id in vifs_of(xml_of(domain, inactive=True)):
            return
        (vif,) = self.networks.found([vif])
        interface = fitted(vif_element(vif, uuid), xml)
        with second_half(domain):
            domain.attachDeviceFlags(text(interface), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        self.plugging.require_kept(domain, partial(_device_in, vif.id))

    def _take_vif_back(self, domain: Remote, vif_id: str) -> bool:
        """Unplug a VIF that the definition has not; False: the machine has it not either."""
        return self.plugging.take_back(domain, partial(_device_in, vif_id))

    def _plug(self, domain: Remote, vif_id: str, interface: Element, flags: int) -> None:
        try:
            with whole(partial(self._take_vif_back, domain, vif_id)):
                domain.attachDeviceFlags(text(interface), flags)
        except errors.HypervisorFault as error:
            remote = self.connection.remote
            reason = unplugged(remote, interface, error)
            reason = reason or without_function(remote, [interface])
            reason = reason or macvtap_taken(remote, [interface], error)
            if reason is None:
                error.hint = macvtap_hint(interface, error) or error.hint
                raise
            raise reason from error
        except errors.InvalidState as error:
            if flags & libvirt.VIR_DOMAIN_AFFECT_LIVE and not domain.isActive():
                raise  # it went off meanwhile
            raise taken(error) from error

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        """Budget: as detach_volume()."""
        del timeout
        deadline = current_deadline()

        def act(domain: Remote, state: InstanceState) -> None:
            stored = vifs_of(xml_of(domain, inactive=True)).get(vif_id)
            live = None
            if state is InstanceState.RUNNING:
                live = vifs_of(xml_of(domain)).get(vif_id)
            there = live or stored
            if there is not None:
                name = _alias_of(vif_id, *there)
                self.plugging.take_out(
                    domain, name, live and live[1], stored and stored[1], deadline
                )

        self.domains.change("unplug_vif", uuid, deadline, act)

    def set_vif_qos(
        self, uuid: UUID, vif_id: str, qos: VifQos | None, *, timeout: float | None = None
    ) -> None:
        """Budget: 4 calls, 5 for a machine that is on, 6 for a stopped one."""
        del timeout
        self.domains.change(
            "set_vif_qos", uuid, current_deadline(), lambda *at: self._limit(vif_id, qos, *at)
        )

    def _limit(self, vif_id: str, qos: VifQos | None, domain: Remote, state: InstanceState) -> None:
        found = vifs_of(xml_of(domain, inactive=state is InstanceState.STOPPED)).get(vif_id)
        if found is None:
            raise no_such_nic(vif_id)
        nic = attached_vif(vif_id, *found)
        if nic.sriov or nic.type in HOST_NICS | {"user", "vhostuser"}:
            if qos is None:
                return  # it has none
            raise errors.NotSupported(
                f"libvirt limits no NIC of type {nic.type}", hint="use one on a bridge"
            )
        parameters: dict[str, int] = {}
        for direction, limits in (
            ("inbound", qos.inbound if qos else None),
            ("outbound", qos.outbound if qos else None),
        ):
            parameters |= _limits(direction, limits)
        # Two calls: libvirt-python first asks for what there is, with the same flags, and that
        # takes only one of them. The running machine first, where it may fail; there by device,
        # as two NICs may have one MAC address, but the definition does not know every device.
        live = affecting(domain, state) & libvirt.VIR_DOMAIN_AFFECT_LIVE
        if live:
            domain.setInterfaceParameters(
                nic.device or nic.address, parameters, libvirt.VIR_DOMAIN_AFFECT_LIVE
            )
        with (
            changed() if live else nullcontext(),
            whole(lambda: self._limit_again(domain, nic, found[1], parameters, live)),
        ):
            domain.setInterfaceParameters(nic.address, parameters, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        if not live:
            require_off(domain)

    @staticmethod
    def _limit_again(
        domain: Remote, nic: AttachedVif, interface: Element, wanted: dict[str, int], live: int
    ) -> bool:
        """Set the limits of a NIC that it had before, where another client has set no others since
        then. Two calls; three, if it is in a machine that runs."""
        found = vifs_of(xml_of(domain)).get(nic.id)
        if found is None or _limits_in(found[1]) != wanted:
            return False
        before = _limits_in(interface)
        if live:
            domain.setInterfaceParameters(nic.device or nic.address, before, live)
        config = libvirt.VIR_DOMAIN_AFFECT_CONFIG
        return put_back(partial(domain.setInterfaceParameters, nic.address, before, config))


def _device_in(vif_id: str, domain: Element) -> Element | None:
    present = vifs_of(domain).get(vif_id)
    return present and present[1]


def _alias_of(vif_id: str, kind: VifType, device: Element) -> str:
    """The alias of a NIC. What an adopted machine brought along has another one while it runs."""
    return attribute(device, "alias", "name") or alias(f"vif-{kind}", vif_id)


def _limits(direction: str, limits: Bandwidth | None) -> dict[str, int]:
    # zero is libvirt's "no limit"
    values = dict.fromkeys(_LIMITS, 0) | (kilobytes(limits) if limits else {})
    return {f"{direction}.{name}": value for name, value in values.items()}


def _limits_in(interface: Element) -> dict[str, int]:
    return {
        f"{direction}.{name}": int(attribute(interface, f"bandwidth/{direction}", name) or 0)
        for direction in ("inbound", "outbound")
        for name in _LIMITS
    }
