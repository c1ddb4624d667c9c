"""NICs of fake machines."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import declared, provides
from hvdrivers.contract.network import Network, VifQosControl
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.ports import Ports
from hvdrivers.fake.records import Machine
from hvdrivers.hints import ATTACHED, GUEST_KEEPS
from hvdrivers.models.events import DeviceKind
from hvdrivers.models.vif import AttachedVif, Vif, VifQos


class FakeNetwork(FakeBase, Network):
    """The network topic of Core."""

    @provides(*declared(Ports))
    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        """3 calls, 1 if it is there already."""
        with self.link.task("plug_vif", uuid, timeout, slow="plug-nic") as task:
            there = task.call("look-up", lambda: self._check_plug_nic(uuid, vif), changes=False)
            if there is not None:
                return there
            self.ports.create(task, uuid, vif)
            return task.call("plug-nic", lambda: self._plug_nic(uuid, vif))

    def _check_plug_nic(self, uuid: UUID, vif: Vif) -> AttachedVif | None:
        machine = self.machines.checked("plug_vif", uuid)
        port = self.fake_host.ports.get((uuid, vif.id))
        if port is not None and port.plugged:
            return self.ports.shown(machine, port)
        self.ports.check(uuid, vif)
        if port is None:
            self.ports.check_slot(uuid)
        return None

    def _plug_nic(self, uuid: UUID, vif: Vif) -> AttachedVif:
        machine = self.machines.checked("plug_vif", uuid)
        port = self.fake_host.ports[uuid, vif.id]
        if not port.plugged:
            port.plugged = True
            self.fake_host.tell_device(machine, DeviceKind.ADDED, vif.id)
        return self.ports.shown(machine, port)

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        """2 calls, 4 while the machine runs."""
        with self.link.task("unplug_vif", uuid, timeout) as task:
            machine = task.call(
                "look-up", lambda: self.machines.checked("unplug_vif", uuid), changes=False
            )
            port = self.fake_host.ports.get((uuid, vif_id))
            if port is not None and port.plugged:
                if self.machines.asks(machine):
                    task.call("ask-unplug", lambda: self._ask_guest(machine, vif_id), changes=False)
                    if not task.wait_for(machine.guest.detach_seconds):
                        machine.asked_for.add(vif_id)
                        raise errors.DeviceBusy(
                            f"the guest did not let go of {vif_id!r} within the deadline",
                            hint=GUEST_KEEPS,
                        )
                task.call("unplug-nic", lambda: self._unplug_nic(uuid, vif_id))
            task.call(
                "delete-port",
                lambda: self.fake_host.remove_ports(uuid, vif_id=vif_id),
            )

    def _ask_guest(self, machine: Machine, device: str) -> None:
        if machine.guest.refuses_unplug:
            self.fake_host.tell_device(machine, DeviceKind.REMOVAL_FAILED, device)
            raise errors.DeviceBusy(f"the guest refuses to let go of {device!r}", hint=GUEST_KEEPS)

    def _unplug_nic(self, uuid: UUID, vif_id: str) -> None:
        machine = self.machines.checked("unplug_vif", uuid)
        port = self.fake_host.ports.get((uuid, vif_id))
        if port is not None and port.plugged:
            port.plugged = False
            self.fake_host.tell_device(machine, DeviceKind.REMOVED, vif_id)


class FakeVifQos(FakeBase, VifQosControl):
    """Limits of a NIC."""

    def set_vif_qos(
        self, uuid: UUID, vif_id: str, qos: VifQos | None, *, timeout: float | None = None
    ) -> None:
        """1 call."""
        with self.link.task("set_vif_qos", uuid, timeout) as task:
            task.call("limit-nic", lambda: self._limit_nic(uuid, vif_id, qos))

    def _limit_nic(self, uuid: UUID, vif_id: str, qos: VifQos | None) -> None:
        self.machines.checked("set_vif_qos", uuid)
        port = self.fake_host.ports.get((uuid, vif_id))
        if port is None or not port.plugged:
            raise errors.NetworkNotFound(f"the instance has no NIC {vif_id!r}", hint=ATTACHED)
        port.vif = port.vif.model_copy(update={"qos": qos})
