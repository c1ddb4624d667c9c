"""Mutants of programs that run while other things happen to their instance."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.fake.clock import Wake
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Machine
from hvdrivers.models.guest import ExecResult, GuestCredentials
from hvdrivers.models.instance import Keep, Metadata

_SLICE = 0.05
_ENOUGH = 20.0
"""Seconds; the suite waits for less before it says that a mutant is stuck."""


class _OneAtATime(FakeDriver):
    """Waits for a program, and ends the wait at the deadline."""

    def _until_none_runs(self, uuid: UUID, timeout: float | None) -> None:
        clock = self.fake_host.clock
        end = clock.now() + (60.0 if timeout is None else timeout)
        while uuid in self.fake_host.machines and self.fake_host.runs_programs(uuid):
            if clock.now() > end:
                raise errors.OperationTimeout("a program runs in the guest")
            clock.wait(_SLICE)


@mutant("GUEST-013")
class PowerOffWaitsForTheProgram(_OneAtATime):
    """power_off() waits until no program runs in the guest."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        self._until_none_runs(uuid, timeout)
        super().power_off(uuid, graceful=graceful, timeout=timeout)


@mutant("GUEST-013")
class DestroyIsRefusedMeanwhile(FakeDriver):
    """destroy() is refused while a program runs in the guest."""

    def destroy(
        self, uuid: UUID, *, keep: AbstractSet[Keep] = frozenset(), timeout: float | None = None
    ) -> None:
        if uuid in self.fake_host.machines and self.fake_host.runs_programs(uuid):
            raise errors.DeviceBusy("a program runs in the guest")
        super().destroy(uuid, keep=keep, timeout=timeout)


@mutant("GUEST-013")
class OneProgramAtATime(_OneAtATime):
    """A second guest_exec() waits for the end of the first."""

    def guest_exec(
        self,
        uuid: UUID,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        self._until_none_runs(uuid, timeout)
        return super().guest_exec(
            uuid, command, stdin=stdin, credentials=credentials, timeout=timeout
        )


@mutant("GUEST-013")
class MetadataWaitForTheProgram(_OneAtATime):
    """A change that has nothing to do with the guest waits for the program all the same."""

    def set_metadata(self, uuid: UUID, metadata: Metadata, *, timeout: float | None = None) -> None:
        self._until_none_runs(uuid, timeout)
        super().set_metadata(uuid, metadata, timeout=timeout)


@mutant("GUEST-013")
class SecondProgramEndsTheFirst(FakeDriver):
    """The driver keeps one program for each guest, and forgets it when another is started."""

    def _start_program(
        self,
        uuid: UUID,
        command: Sequence[str],
        credentials: GuestCredentials | None,
        wake: Wake,
    ) -> Machine:
        self.fake_host.end_programs(uuid)
        return super()._start_program(uuid, command, credentials, wake)


@mutant("GUEST-014")
class AsksOnForADeadProgram(FakeDriver):
    """guest_exec() asks on for its program, whatever becomes of the guest."""

    def guest_exec(self, uuid: UUID, command: Sequence[str], **options: Any) -> ExecResult:
        # no test process keeps the thread for a day
        options["timeout"] = min(options.get("timeout") or _ENOUGH, _ENOUGH)
        return super().guest_exec(uuid, command, **options)

    def _start_program(
        self,
        uuid: UUID,
        command: Sequence[str],
        credentials: GuestCredentials | None,
        wake: Wake,
    ) -> Machine:
        return super()._start_program(uuid, command, credentials, Wake())


@mutant("GUEST-014")
class StartedProgramWasNotStarted(FakeDriver):
    """A program whose guest goes off raises InvalidState, as if it had not been started."""

    def guest_exec(self, uuid: UUID, command: Sequence[str], **options: Any) -> ExecResult:
        try:
            return super().guest_exec(uuid, command, **options)
        except errors.OutcomeUnknown as error:
            raise errors.InvalidState(error.message) from error


@mutant("GUEST-014")
class LostProgramHasAnExitCode(FakeDriver):
    """A program whose guest goes off has the exit code of one that was killed."""

    def guest_exec(self, uuid: UUID, command: Sequence[str], **options: Any) -> ExecResult:
        try:
            return super().guest_exec(uuid, command, **options)
        except errors.OutcomeUnknown:
            return ExecResult(exit_code=137, stdout=b"", stderr=b"")


@mutant("GUEST-014")
class ProgramOutlivesAReset(FakeDriver):
    """A guest that is reset runs the programs on that ran before."""

    def _reset(self, uuid: UUID, kind: RebootKind) -> None:
        machine = self.machines.find(uuid)
        running, machine.programs = machine.programs, []
        super()._reset(uuid, kind)
        machine.programs = running
