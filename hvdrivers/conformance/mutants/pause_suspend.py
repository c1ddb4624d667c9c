"""Mutants of pause and suspend."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Machine
from hvdrivers.fake.starting import Starting
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.state import InstanceState


@mutant("POWER-009")
class PauseStops(FakeDriver):
    """pause() switches the machine off."""

    def _set_paused(self, operation: str, uuid: UUID, state: InstanceState) -> None:
        self.machines.checked(operation, uuid)
        if state is InstanceState.PAUSED:
            self._power_off(uuid)
        else:
            super()._set_paused(operation, uuid, state)


@mutant("POWER-009")
class PauseIsNotSupported(FakeDriver):
    """pause() is declared, and raises NotSupported."""

    def pause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        raise errors.NotSupported("not yet implemented")


@mutant("POWER-009")
class UnpauseBoots(FakeDriver):
    """unpause() starts the guest anew."""

    def _set_paused(self, operation: str, uuid: UUID, state: InstanceState) -> None:
        paused = self.machines.find(uuid).state is InstanceState.PAUSED
        super()._set_paused(operation, uuid, state)
        if paused and state is InstanceState.RUNNING:
            self.fake_host.boot(self.machines.find(uuid))


@mutant("POWER-010")
class SuspendLosesMemory(FakeDriver):
    """resume() starts the guest anew: what was saved is lost."""

    def _resume(self, uuid: UUID) -> None:
        suspended = self.machines.find(uuid).state is InstanceState.SUSPENDED
        super()._resume(uuid)
        if suspended:
            self.fake_host.boot(self.machines.find(uuid))


@mutant("POWER-010")
class PowerOnDropsMemory(FakeDriver):
    """power_on() of a suspended machine starts it anew."""

    def _power_on(self, uuid: UUID) -> None:
        suspended = self.machines.find(uuid).state is InstanceState.SUSPENDED
        super()._power_on(uuid)
        if suspended:
            self.fake_host.boot(self.machines.find(uuid))


@mutant("POWER-010")
class ResumeKeepsMemoryFile(FakeDriver):
    """resume() leaves the memory image on the disk."""

    def _resume(self, uuid: UUID) -> None:
        kept = [each for each in self.fake_host.disks_of(uuid) if each[1].role == "memory"]
        super()._resume(uuid)
        for pool, disk in kept:
            pool.disks[disk.name] = disk


@mutant("POWER-010")
class SuspendOnlyPauses(FakeDriver):
    """suspend() pauses the machine and calls it suspended on this connection."""

    def _suspended(self, uuid: UUID) -> None:
        machine = self.machines.checked("suspend", uuid)
        self.fake_host.set_state(machine, InstanceState.PAUSED, LifecycleKind.PAUSED)


@mutant("POWER-011")
class PowerOffKeepsMemoryFile(FakeDriver):
    """power_off() of a suspended machine leaves the memory image on the disk."""

    def _power_off(self, uuid: UUID) -> None:
        kept = [each for each in self.fake_host.disks_of(uuid) if each[1].role == "memory"]
        super()._power_off(uuid)
        for pool, disk in kept:
            pool.disks[disk.name] = disk


@mutant("POWER-017")
class UnpauseOfRunningFails(FakeDriver):
    """unpause() of a running machine raises InvalidState."""

    def _set_paused(self, operation: str, uuid: UUID, state: InstanceState) -> None:
        machine: Machine = self.machines.checked(operation, uuid)
        if machine.state is state is InstanceState.RUNNING:
            raise errors.InvalidState("it is not paused", hint="pause() it first")
        super()._set_paused(operation, uuid, state)


@mutant("POWER-017")
class ResumeOfRunningBoots(FakeDriver):
    """resume() of a running machine starts its guest anew."""

    def _resume(self, uuid: UUID) -> None:
        running = self.machines.checked("resume", uuid).state is InstanceState.RUNNING
        super()._resume(uuid)
        if running:
            self.fake_host.boot(self.machines.find(uuid))


@mutant("POWER-018")
class SuspendForgetsTheDevice(FakeDriver):
    """suspend() saves the memory of a machine with a GPU, and what was in the GPU is lost."""

    class starting_type(Starting):
        def refuse_devices(self, uuid: UUID) -> None:
            pass


@mutant("POWER-019")
class NoRoomIsSuspendedToNothing(FakeDriver):
    """suspend() without room for the memory stops the machine all the same."""

    def _save(self, uuid: UUID, token: int) -> bool:
        try:
            return super()._save(uuid, token)
        except errors.InsufficientResources:
            return True
