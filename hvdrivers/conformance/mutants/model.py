"""Mutants that only a sequence of operations shows."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.state import InstanceState


@mutant("MODEL-001")
class RenameIsLostAtUnpause(FakeDriver):
    """A name that was given while the machine was paused is lost when it goes on."""

    def pause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        super().pause(uuid, timeout=timeout)
        self.__dict__.setdefault("_names", {}).setdefault(uuid, self.machines.find(uuid).name)

    def unpause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        super().unpause(uuid, timeout=timeout)
        machine = self.machines.find(uuid)
        machine.name = self.__dict__.get("_names", {}).pop(uuid, machine.name)


@mutant("MODEL-001")
class ResumeAfterAChangeIsPaused(FakeDriver):
    """A machine whose metadata were changed while it was suspended comes back paused."""

    def resume(self, uuid: UUID, *, timeout: float | None = None) -> None:
        machine = self.machines.find(uuid)
        changed = machine.state is InstanceState.SUSPENDED and bool(machine.metadata)
        super().resume(uuid, timeout=timeout)
        if changed:
            self.fake_host.set_state(machine, InstanceState.PAUSED, LifecycleKind.PAUSED)


@mutant("MODEL-001")
class RespawnFindsOldMetadata(FakeDriver):
    """A machine that was destroyed while it was stopped leaves its metadata to its successor."""

    def destroy(self, uuid: UUID, **options: object) -> None:
        machine = self.fake_host.machines.get(uuid)
        kept = self.__dict__.setdefault("_kept", {})
        if machine is not None and machine.state is InstanceState.STOPPED:
            kept[uuid] = dict(machine.metadata)
        super().destroy(uuid, **options)  # type: ignore[arg-type]

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        super().power_on(uuid, timeout=timeout)
        self.machines.find(uuid).metadata.update(self.__dict__.get("_kept", {}).pop(uuid, {}))


@mutant("MODEL-001")
class PowerOffWhilePausedLosesANic(FakeDriver):
    """A paused machine that is switched off loses the NIC that was plugged last."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        machine = self.fake_host.machines.get(uuid)
        paused = machine is not None and machine.state is InstanceState.PAUSED
        super().power_off(uuid, graceful=graceful, timeout=timeout)
        ports = list(self.ports.of(uuid))
        if paused and ports:
            self.fake_host.remove_ports(uuid, vif_id=ports[-1].vif.id)
