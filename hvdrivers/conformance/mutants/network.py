"""Mutants of plugging."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.ports import Ports
from hvdrivers.fake.records import Machine, Port
from hvdrivers.fake.steps import Task
from hvdrivers.models.instance import InstanceInfo, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import AttachedVif, NicModel, Vif, VifQos, default_mac


@mutant("NET-001")
class PlugTellsAnotherDevice(FakeDriver):
    """plug_vif() returns the name of a host device that is not the NIC's."""

    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        plugged = super().plug_vif(uuid, vif, timeout=timeout)
        return plugged.model_copy(update={"device": "tap-hvct"})


@mutant("NET-001")
class PlugSeenByOneConnection(FakeDriver):
    """plug_vif() changes only what this connection remembers of the machine."""

    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        plugged = super().plug_vif(uuid, vif, timeout=timeout)
        self.__dict__.setdefault("remembered", {})[uuid] = plugged
        self.fake_host.remove_ports(uuid, vif_id=vif.id)
        return plugged

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        info = super().get_instance(uuid, timeout=timeout)
        vif = self.__dict__.get("remembered", {}).get(uuid)
        return info.model_copy(update={"vifs": (*info.vifs, vif)}) if vif else info


class _ForgetsAtPowerOff(FakeDriver):
    """What is said to be of the running machine alone is undone when it is switched off."""

    lost: ClassVar[dict[UUID, set[str]]] = {}

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        super().power_off(uuid, graceful=graceful, timeout=timeout)
        for vif_id in self.lost.pop(uuid, set()):
            self.fake_host.remove_ports(uuid, vif_id=vif_id)


@mutant("NET-002")
class PlugOnlyLive(_ForgetsAtPowerOff):
    """A NIC plugged into a running machine is gone after its next power_off()."""

    def _plug_nic(self, uuid: UUID, vif: Vif) -> AttachedVif:
        if self.fake_host.machines[uuid].state is InstanceState.RUNNING:
            self.lost.setdefault(uuid, set()).add(vif.id)
        return super()._plug_nic(uuid, vif)


@mutant("NET-002")
class AddressChangesAtStart(FakeDriver):
    """A NIC gets another MAC address when the machine is switched on again."""

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        super().power_on(uuid, timeout=timeout)
        for port in self.ports.of(uuid):
            port.vif = port.vif.model_copy(update={"address": "52:54:00:00:00:01"})


@mutant("NET-003")
class PlugNotIdempotent(FakeDriver):
    """Plugging a VIF that is there already raises DeviceBusy."""

    def _check_plug_nic(self, uuid: UUID, vif: Vif) -> AttachedVif | None:
        if super()._check_plug_nic(uuid, vif) is not None:
            raise errors.DeviceBusy("it is plugged already")
        return None


@mutant("NET-003")
class SecondPlugRepliesByRequest(FakeDriver):
    """Plugging a VIF that is there already returns the address of the second request."""

    def _check_plug_nic(self, uuid: UUID, vif: Vif) -> AttachedVif | None:
        there = super()._check_plug_nic(uuid, vif)
        return there and there.model_copy(update={"address": vif.mac})


@mutant("NET-003")
class SecondPlugChangesTheNic(FakeDriver):
    """Plugging a VIF that is there already gives it the address of the second request."""

    def _check_plug_nic(self, uuid: UUID, vif: Vif) -> AttachedVif | None:
        port = self.fake_host.ports.get((uuid, vif.id))
        if port is not None:
            port.vif = vif
        return super()._check_plug_nic(uuid, vif)


@mutant("NET-004")
class PlugMakesUpAddresses(FakeDriver):
    """A NIC without an address gets one of the hypervisor's, which Neutron does not know."""

    def _plug_nic(self, uuid: UUID, vif: Vif) -> AttachedVif:
        if vif.address == default_mac(vif.id, uuid):
            port = self.fake_host.ports[uuid, vif.id]
            port.vif = port.vif.model_copy(update={"address": "52:54:00:00:00:02"})
        return super()._plug_nic(uuid, vif)


@mutant("NET-004")
class PlugIgnoresTheModel(FakeDriver):
    """Every NIC is a virtio one, whatever was asked for."""

    class ports_type(Ports):
        def shown(self, machine: Machine, port: Port) -> AttachedVif:
            shown = super().shown(machine, port)
            return shown.model_copy(update={"model": NicModel.VIRTIO})


@mutant("NET-005")
class AbsentNetworkLeavesAPort(FakeDriver):
    """The right error for an absent network, after the port was made."""

    def _check_plug_nic(self, uuid: UUID, vif: Vif) -> AttachedVif | None:
        try:
            return super()._check_plug_nic(uuid, vif)
        except errors.NetworkNotFound:
            self.fake_host.ports[uuid, vif.id] = Port(vif, uuid, 0)
            raise


@mutant("NET-005")
class AbsentNetworkIsInvalid(FakeDriver):
    """An absent network is an InvalidRequest."""

    class ports_type(Ports):
        def check(self, uuid: UUID, vif: Vif, *, starts: bool = True) -> None:
            try:
                super().check(uuid, vif, starts=starts)
            except errors.NetworkNotFound as error:
                raise errors.InvalidRequest("no such network") from error


@mutant("NET-005")
class AbsentNetworkIsFoundAtStart(FakeDriver):
    """A stopped machine gets a NIC on an absent network; it fails when it is started."""

    class ports_type(Ports):
        def check(self, uuid: UUID, vif: Vif, *, starts: bool = True) -> None:
            machine = self.host.machines.get(uuid)
            if machine is None or machine.state is not InstanceState.STOPPED:
                super().check(uuid, vif, starts=starts)


@mutant("NET-006")
class PortIsTakenFromItsOwner(FakeDriver):
    """plug_vif() of a port that another machine has takes it away there."""

    class ports_type(Ports):
        def check(self, uuid: UUID, vif: Vif, *, starts: bool = True) -> None:
            for port in list(self.host.ports.values()):
                if port.owner != uuid and port.vif.id == vif.id:
                    self.host.remove_ports(port.owner, vif_id=vif.id)
            super().check(uuid, vif, starts=starts)


@mutant("NET-008")
class AddressesAreNotCompared(FakeDriver):
    """Two machines get the same MAC address on one network."""

    class ports_type(Ports):
        def check(self, uuid: UUID, vif: Vif, *, starts: bool = True) -> None:
            other = vif.model_copy(update={"address": "52:54:00:00:00:03"})
            super().check(uuid, other, starts=starts)


@mutant("NET-007")
class FullMachineLeavesAPort(FakeDriver):
    """The right error for a machine without a free slot, after the port was made."""

    class ports_type(Ports):
        def check_slot(self, uuid: UUID) -> None:
            try:
                super().check_slot(uuid)
            except errors.InsufficientResources:
                vif = next(iter(self.host.ports.values())).vif
                extra = vif.model_copy(update={"id": "hvct-left-behind"})
                self.host.ports[uuid, extra.id] = Port(extra, uuid, 0)
                raise


@mutant("NET-010")
class UnplugOnlyLive(FakeDriver):
    """unplug_vif() changes only the running machine: at the next start the NIC is back."""

    taken: ClassVar[dict[UUID, Port]] = {}

    def _unplug_nic(self, uuid: UUID, vif_id: str) -> None:
        if self.fake_host.machines[uuid].state is InstanceState.RUNNING:
            self.taken[uuid] = self.fake_host.ports[uuid, vif_id]
        super()._unplug_nic(uuid, vif_id)

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        super().power_off(uuid, graceful=graceful, timeout=timeout)
        port = self.taken.pop(uuid, None)
        if port is not None:
            port.plugged = True
            self.fake_host.ports[uuid, port.vif.id] = port


@mutant("NET-010")
class UnplugByPrefix(FakeDriver):
    """unplug_vif() takes every NIC away whose id begins like the one that is meant."""

    def _unplug_nic(self, uuid: UUID, vif_id: str) -> None:
        for port in self.ports.of(uuid):
            if port.vif.id.startswith(vif_id):
                self.fake_host.remove_ports(uuid, vif_id=port.vif.id)


@mutant("NET-011")
class UnplugKeepsThePort(FakeDriver):
    """The port of an unplugged NIC stays on the switch."""

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        port = self.fake_host.ports.get((uuid, vif_id))
        super().unplug_vif(uuid, vif_id, timeout=timeout)
        if port is not None:
            self.fake_host.ports[uuid, vif_id] = port


@mutant("NET-012")
class UnplugDoesNotWait(FakeDriver):
    """unplug_vif() returns when the guest was asked, not when it has let go."""

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        guest = self.machines.find(uuid).guest
        seconds, guest.detach_seconds = guest.detach_seconds, 0.0
        try:
            super().unplug_vif(uuid, vif_id, timeout=timeout)
        finally:
            guest.detach_seconds = seconds


@mutant("NET-012")
class FailedUnplugIsForLater(_ForgetsAtPowerOff):
    """The right error, but the definition was changed before the guest was asked."""

    def _ask_guest(self, machine: Machine, device: str) -> None:
        self.lost.setdefault(machine.uuid, set()).add(device)
        super()._ask_guest(machine, device)


@mutant("NET-028")
class LateUnplugOfNicComesBack(FakeDriver):
    """What a guest lets go of late is back at the next start."""

    asked: ClassVar[dict[UUID, Port]] = {}

    def _ask_guest(self, machine: Machine, device: str) -> None:
        self.asked[machine.uuid] = self.fake_host.ports[machine.uuid, device]
        super()._ask_guest(machine, device)

    def _unplug_nic(self, uuid: UUID, vif_id: str) -> None:
        self.asked.pop(uuid, None)
        super()._unplug_nic(uuid, vif_id)

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        port = self.asked.pop(uuid, None)
        if port is not None:
            self.fake_host.ports[uuid, port.vif.id] = port
        super().power_on(uuid, timeout=timeout)


@mutant("NET-013")
class UnplugOfAbsentRaises(FakeDriver):
    """unplug_vif() of a VIF that is not plugged raises NetworkNotFound."""

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        self.get_instance(uuid)
        if (uuid, vif_id) not in self.fake_host.ports:
            raise errors.NetworkNotFound("no such NIC")
        super().unplug_vif(uuid, vif_id, timeout=timeout)


@mutant("NET-013")
class UnplugOfAnothersPort(FakeDriver):
    """unplug_vif() looks for the port and not for the instance."""

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        super().unplug_vif(uuid, vif_id, timeout=timeout)
        for owner, name in list(self.fake_host.ports):
            if name == vif_id:
                self.fake_host.remove_ports(owner, vif_id=vif_id)


@mutant("NET-020")
class VifQosIgnored(FakeDriver):
    """set_vif_qos() accepts limits and sets none."""

    def _limit_nic(self, uuid: UUID, vif_id: str, qos: VifQos | None) -> None:
        port = self.fake_host.ports.get((uuid, vif_id))
        super()._limit_nic(uuid, vif_id, port.vif.qos if port is not None else None)


@mutant("NET-020")
class VifQosAddsUp(FakeDriver):
    """set_vif_qos() leaves the limit of a direction that the new ones do not name."""

    def _limit_nic(self, uuid: UUID, vif_id: str, qos: VifQos | None) -> None:
        port = self.fake_host.ports.get((uuid, vif_id))
        before = port.vif.qos if port is not None else None
        if qos is not None and before is not None:
            qos = VifQos(
                inbound=qos.inbound or before.inbound, outbound=qos.outbound or before.outbound
            )
        super()._limit_nic(uuid, vif_id, qos)


@mutant("NET-020")
class VifQosLosesTheBurst(FakeDriver):
    """set_vif_qos() sets the average alone, and forgets peak and burst."""

    def _limit_nic(self, uuid: UUID, vif_id: str, qos: VifQos | None) -> None:
        if qos is not None and qos.inbound is not None:
            plain = qos.inbound.model_copy(update={"peak": None, "burst": None})
            qos = qos.model_copy(update={"inbound": plain})
        super()._limit_nic(uuid, vif_id, qos)


@mutant("NET-021")
class VifQosOfAbsentIsInvalid(FakeDriver):
    """set_vif_qos() of a VIF that is not plugged raises InvalidRequest."""

    def _limit_nic(self, uuid: UUID, vif_id: str, qos: VifQos | None) -> None:
        try:
            super()._limit_nic(uuid, vif_id, qos)
        except errors.NetworkNotFound as error:
            raise errors.InvalidRequest("no such NIC") from error


@mutant("NET-021")
class VifQosOfAnothersPort(FakeDriver):
    """set_vif_qos() limits the port in whatever machine has it."""

    def _limit_nic(self, uuid: UUID, vif_id: str, qos: VifQos | None) -> None:
        owners = [owner for owner, name in self.fake_host.ports if name == vif_id]
        super()._limit_nic((owners or [uuid])[0], vif_id, qos)


@mutant("NET-022")
class PlugIgnoresQos(FakeDriver):
    """A NIC is plugged without the limits that its VIF names."""

    class ports_type(Ports):
        def create(self, task: Task, uuid: UUID, vif: Vif) -> None:
            super().create(task, uuid, vif.model_copy(update={"qos": None}))


@mutant("NET-022")
class SpawnIgnoresQos(FakeDriver):
    """A NIC that a machine is spawned with has no limits."""

    def _finish(self, task: Task, spec: InstanceSpec) -> InstanceInfo:
        for port in self.fake_host.ports.values():
            if port.owner == spec.uuid:
                port.vif = port.vif.model_copy(update={"qos": None})
        return super()._finish(task, spec)
