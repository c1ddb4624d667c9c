"""Mutants that break a law common to all operations."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.resources import HostResources
from hvdrivers.models.state import InstanceState


@mutant("LAW-001")
class ReadingWrites(FakeDriver):
    """get_available_resource() leaves a temporary file on the host."""

    def get_available_resource(self, *, timeout: float | None = None) -> HostResources:
        found = super().get_available_resource(timeout=timeout)
        for machine in self._host.ours():
            machine.passwords.setdefault("probe", "")  # type: ignore[arg-type]
        return found


@mutant("LAW-002")
class SecondResumeStarts(FakeDriver):
    """The second power_on() in a row starts the guest anew, if another connection asks."""

    def _power_on(self, uuid: UUID) -> None:
        running = self._checked("power_on", uuid).state is InstanceState.RUNNING
        super()._power_on(uuid)
        if running:
            self._host.boot(self._machine(uuid))


@mutant("LAW-002")
class SecondSuspendSavesAgain(FakeDriver):
    """suspend() of a suspended machine writes an empty memory image over the saved one."""

    def _save(self, uuid: UUID, token: int) -> bool:
        saved = super()._save(uuid, token)
        memory = self._host.disk(uuid, "memory")
        if not saved and memory is not None:
            memory.content = ()
        return saved
