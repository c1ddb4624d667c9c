"""NICs on vSphere: hot and cold."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.network import Network, VifQosControl
from hvdrivers.hints import ATTACHED, TAKEN_ADDRESS
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import AttachedVif, Vif, VifQos
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.devices import by_mac, editing, removing
from hvdrivers.vmware.functions import refuse_growth
from hvdrivers.vmware.host_devices import refuse_hot_plug, refuse_with_functions
from hvdrivers.vmware.listing import attached_vif, attached_vifs
from hvdrivers.vmware.machines import HARDWARE, Machine
from hvdrivers.vmware.moved import Devices
from hvdrivers.vmware.record import RECORD, devices_in, path_of, record_in
from hvdrivers.vmware.specs import Plan, nic, nic_limits, wants_function
from hvdrivers.vmware.wiring import backings_of


class VmwareNetwork(Topic, Network, VifQosControl):
    """Plug and unplug."""

    @provides(Capability.VIF_NETWORK, Capability.VIF_DVS)
    @timed
    @rereading
    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        """Budget: 2 reads, 1 more if the machine runs, and 1 reconfiguration. 3 calls more for a
        NIC with a virtual function."""
        del timeout
        found = self.machines.checked("plug_vif", uuid, *HARDWARE, path_of(RECORD))
        hardware = found.row.get("config.hardware.device") or ()
        devices = devices_in(found.row)
        for each in attached_vifs(devices, hardware):
            if each.id == vif.id:
                return each
        refuse_hot_plug(hardware, found.state)
        if wants_function(vif):
            _require_stopped(found)
        backings = backings_of([vif], self.places.surroundings())
        functions = self.functions.of(uuid, [vif], backings, starts=False)
        mac = vif.mac.lower()
        self.usage.require_free(uuid, vifs=[vif.id], macs=[mac])
        cards = by_mac(hardware)
        if mac in cards:
            raise errors.DeviceBusy(
                f"the instance has a NIC with the MAC address {mac} already",
                retryable=False,
                hint=TAKEN_ADDRESS,
            )
        plan = Plan(self.room.slots(hardware))
        nic(plan, vif, backings[vif.id], function=functions.get(vif.id))
        kept = {key: each for key, each in devices.vifs.items() if key in cards}
        changed = devices.model_copy(update={"vifs": {**kept, **plan.vifs}})
        reserve = bool(functions)
        self.changes.change_devices(found, plan.device_changes(), changed, reserve=reserve)
        return attached_vif(mac, plan.vifs[mac], plan.changes[-1].device)

    @timed
    @rereading
    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        """Budget: 1 read and 1 reconfiguration."""
        del timeout
        found = self.machines.checked("unplug_vif", uuid, *HARDWARE)
        devices = devices_in(found.row)
        mac = _mac_of(devices, vif_id)
        if mac is None:
            return
        cards = by_mac(found.row.get("config.hardware.device") or ())
        changes = [removing(cards[mac])] if mac in cards else []
        if changes:
            refuse_hot_plug(found.row.get("config.hardware.device"), found.state)
        vifs = {key: each for key, each in devices.vifs.items() if key != mac}
        self.changes.change_devices(found, changes, devices.model_copy(update={"vifs": vifs}))

    @timed
    @rereading
    def set_vif_qos(
        self, uuid: UUID, vif_id: str, qos: VifQos | None, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 read and 1 reconfiguration."""
        del timeout
        found = self.machines.checked("set_vif_qos", uuid, *HARDWARE)
        devices = devices_in(found.row)
        mac = _mac_of(devices, vif_id)
        card = by_mac(found.row.get("config.hardware.device") or ()).get(mac or "")
        if card is None:
            raise errors.NetworkNotFound("the instance has no such VIF", hint=ATTACHED)
        refuse_with_functions([card], "limits a NIC of")
        card.resourceAllocation = nic_limits(qos)
        self.changes.change_devices(found, [editing(card)], devices)


def _require_stopped(found: Machine) -> None:
    if found.state is not InstanceState.STOPPED:
        raise errors.NotSupported(
            "vSphere plugs a NIC with a virtual function into a stopped machine only",
            hint="power_off() first, or leave sriov out",
        )
    refuse_growth(
        record_in(found.row).flavor,
        "resize() it without max_vcpus and max_memory_mib, or leave sriov out",
    )


def _mac_of(devices: Devices, vif_id: str) -> str | None:
    return next((mac for mac, each in devices.vifs.items() if each.id == vif_id), None)
