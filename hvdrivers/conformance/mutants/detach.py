"""Mutants of devices that are taken from machines that stand still, and of what else is done to
them."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Machine
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import AttachedVolume, VolumeAttachment


@mutant("STOR-071")
class FrozenGuestIsAsked(FakeDriver):
    """detach_volume() of a PAUSED machine waits for a guest that cannot answer."""

    def _check_detach(self, uuid: UUID, volume_id: str) -> Machine:
        machine = super()._check_detach(uuid, volume_id)
        if machine.state is InstanceState.PAUSED and volume_id in machine.volumes:
            raise errors.DeviceBusy("the guest did not let go")
        return machine


@mutant("STOR-071")
class DetachWakesTheGuest(FakeDriver):
    """detach_volume() of a PAUSED machine lets it run."""

    def _unplug_disk(self, uuid: UUID, volume_id: str) -> None:
        super()._unplug_disk(uuid, volume_id)
        machine = self.machines.find(uuid)
        if machine.state is InstanceState.PAUSED:
            self.fake_host.set_state(machine, InstanceState.RUNNING, LifecycleKind.RESUMED)


@mutant("NET-026")
class FrozenGuestKeepsItsNic(FakeDriver):
    """unplug_vif() of a PAUSED machine returns, and the NIC stays."""

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        if self.machines.find(uuid).state is not InstanceState.PAUSED:
            super().unplug_vif(uuid, vif_id, timeout=timeout)


@mutant("STOR-035")
class SwapWakesTheGuest(FakeDriver):
    """swap_volume() of a PAUSED machine lets it run."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        swapped = super()._switch_volume(uuid, volume_id, replacement)
        machine = self.machines.find(uuid)
        if machine.state is InstanceState.PAUSED:
            self.fake_host.set_state(machine, InstanceState.RUNNING, LifecycleKind.RESUMED)
        return swapped


@mutant("POWER-028")
class FrozenGuestLosesTheInterrupt(FakeDriver):
    """inject_nmi() of a PAUSED machine returns, and its guest never gets the interrupt."""

    def _inject(self, uuid: UUID) -> None:
        super()._inject(uuid)
        self.machines.find(uuid).pending_nmi = False


@mutant("POWER-028")
class InterruptWakesTheGuest(FakeDriver):
    """inject_nmi() of a PAUSED machine lets it run."""

    def _inject(self, uuid: UUID) -> None:
        if self.machines.find(uuid).state is InstanceState.PAUSED:
            self._set_paused("unpause", uuid, InstanceState.RUNNING)
        super()._inject(uuid)
