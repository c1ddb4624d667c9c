"""Mutants of migration."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.moving import Moving
from hvdrivers.fake.records import Disk, Machine, Migration
from hvdrivers.fake.steps import Task
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.migration import (
    Blocker,
    BlockerKind,
    Destination,
    MigrationPhase,
    MigrationPlan,
    MigrationProgress,
)
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState


@mutant("MIGR-001")
class AlwaysOneBlocker(FakeDriver):
    """The plan warns of a copy of the disks as if that were a blocker."""

    def check_live_migration(
        self, uuid: UUID, destination: Destination, *, timeout: float | None = None
    ) -> MigrationPlan:
        plan = super().check_live_migration(uuid, destination, timeout=timeout)
        warning = Blocker(kind=BlockerKind.STORAGE, reason="the disks are copied")
        return plan.model_copy(update={"blockers": plan.blockers or (warning,)})


@mutant("MIGR-001")
class CheckMakesRoom(FakeDriver):
    """The pre-check prepares the destination, and leaves that there."""

    def check_live_migration(
        self, uuid: UUID, destination: Destination, *, timeout: float | None = None
    ) -> MigrationPlan:
        plan = super().check_live_migration(uuid, destination, timeout=timeout)
        there = self.fake_host.world.find(destination.host)
        if there is not None and plan.possible:
            there.incoming[uuid] = replace(self.machines.find(uuid), token=-1)
        return plan


@mutant("MIGR-002")
class OnlyTheFirstBlocker(FakeDriver):
    """The plan lists the first reason, and stops."""

    class moving_type(Moving):
        def plan(self, operation: str, uuid: UUID, destination: Destination) -> MigrationPlan:
            plan = super().plan(operation, uuid, destination)
            return plan.model_copy(update={"blockers": plan.blockers[:1]})


@mutant("MIGR-003")
class DeadDestinationIsAnError(FakeDriver):
    """The pre-check raises ConnectionFailed where the destination does not answer."""

    class moving_type(Moving):
        def plan(self, operation: str, uuid: UUID, destination: Destination) -> MigrationPlan:
            if self.host.world.find(destination.host) is None:
                raise errors.ConnectionFailed("the destination does not answer")
            return super().plan(operation, uuid, destination)


@mutant("MIGR-004")
class CopyStaysAtTheSource(FakeDriver):
    """A migration leaves the disk at the source."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            super().switch_host(operation, uuid, destination)
            disk = Disk(uuid, "root", 1 << 30, ("old",), token=0)
            self.host.default_pool.disks[disk.name] = disk


@mutant("MIGR-004")
class PausedRunsAfterwards(FakeDriver):
    """A paused machine runs when it has arrived."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            machine = self.machines.find(uuid)
            super().switch_host(operation, uuid, destination)
            if machine.state is InstanceState.PAUSED:
                machine.state = InstanceState.RUNNING


@mutant("MIGR-004")
class MetadataStayBehind(FakeDriver):
    """The metadata do not move."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            machine = self.machines.find(uuid)
            super().switch_host(operation, uuid, destination)
            machine.metadata = {}


@mutant("MIGR-004")
class MachineStaysInBothPlaces(FakeDriver):
    """The definition stays at the source, stopped."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            machine = self.machines.find(uuid)
            super().switch_host(operation, uuid, destination)
            if operation == "live_migrate":
                self.host.machines[uuid] = replace(machine, state=InstanceState.STOPPED)


@mutant("MIGR-005")
class BlockersAreAFault(FakeDriver):
    """A migration against a blocker fails as a fault of the hypervisor."""

    def live_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        try:
            super().live_migrate(uuid, destination, timeout=timeout, progress=progress)
        except errors.InvalidRequest as error:
            raise errors.HypervisorFault(error.message) from error


class _NoCancel(Moving):
    def cancel(self, task: Task, uuid: UUID, destination: Destination) -> None:
        pass


@mutant("MIGR-006")
class TimeoutLeavesACopyThere(FakeDriver):
    """A migration that fails leaves what it has prepared at the destination."""

    moving_type = _NoCancel


@mutant("MIGR-006")
class TimeoutStopsTheMachine(FakeDriver):
    """A migration that does not converge ends with the machine paused."""

    def _stop_copying(self, uuid: UUID) -> None:
        super()._stop_copying(uuid)
        machine = self.machines.find(uuid)
        if machine.migration is not None and not machine.migration.aborted:
            self.fake_host.set_state(machine, InstanceState.PAUSED, LifecycleKind.PAUSED)


@mutant("MIGR-007")
class ProgressIsAlwaysNone(FakeDriver):
    """migration_progress() knows of no migration."""

    def _where(self, uuid: UUID) -> MigrationProgress:
        self.machines.find(uuid)
        return MigrationProgress(phase=MigrationPhase.NONE)


@mutant("MIGR-007")
class ProgressNeverEnds(FakeDriver):
    """An aborted migration is shown as one that runs."""

    def _where(self, uuid: UUID) -> MigrationProgress:
        found = super()._where(uuid)
        if found.phase is MigrationPhase.ABORTED:
            return found.model_copy(update={"phase": MigrationPhase.COPYING})
        return found


@mutant("MIGR-008")
class AbortStopsTheMachine(FakeDriver):
    """abort_migration() switches the machine off."""

    def _stop_copying(self, uuid: UUID) -> None:
        super()._stop_copying(uuid)
        machine = self.machines.find(uuid)
        if machine.migration is not None and machine.migration.aborted:
            self.fake_host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)


@mutant("MIGR-008")
class AbortIsSilent(FakeDriver):
    """live_migrate() returns when it was aborted, as if it had worked."""

    def live_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        try:
            super().live_migrate(uuid, destination, timeout=timeout, progress=progress)
        except errors.HypervisorFault:
            return


@mutant("MIGR-009")
class NothingToAbortIsAnError(FakeDriver):
    """abort_migration() without a migration raises InvalidState."""

    def _abort(self, uuid: UUID) -> None:
        if self.machines.find(uuid).migration is None:
            raise errors.InvalidState("no migration of this instance is under way")
        super()._abort(uuid)


@mutant("MIGR-010")
class ForceDoesNothing(FakeDriver):
    """force_migration() returns, and changes nothing."""

    def _force(self, uuid: UUID) -> None:
        migration = self.machines.checked("force_migration", uuid).migration
        if migration is None or not migration.active:
            raise errors.InvalidState("no migration of this instance is under way")


@mutant("MIGR-010")
class ForceGivesUp(FakeDriver):
    """force_migration() ends the migration by aborting it."""

    def _force(self, uuid: UUID) -> None:
        super()._force(uuid)
        self._abort(uuid)


@mutant("MIGR-011")
class NothingToForceIsASuccess(FakeDriver):
    """force_migration() without a migration returns."""

    def _force(self, uuid: UUID) -> None:
        machine: Machine = self.machines.checked("force_migration", uuid)
        migration: Migration | None = machine.migration
        if migration is not None and migration.active:
            super()._force(uuid)


@mutant("MIGR-012")
class ColdMigrationLosesTheNics(FakeDriver):
    """NICs stay at the source."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            if operation == "cold_migrate":
                self.host.remove_ports(uuid)
            super().switch_host(operation, uuid, destination)


@mutant("MIGR-013")
class ColdMigrationTriesFirst(FakeDriver):
    """cold_migrate() finds out at the end that the host is unfit, and names it a fault."""

    class moving_type(Moving):
        def prepare(self, task: Task, operation: str, uuid: UUID, destination: Destination) -> None:
            try:
                super().prepare(task, operation, uuid, destination)
            except errors.InvalidRequest as error:
                if operation == "cold_migrate":
                    raise errors.ConnectionFailed(error.message) from error
                raise


@mutant("MIGR-014")
class CallbackLeavesACopyThere(FakeDriver):
    """A migration that its callback stops leaves what it has prepared at the destination."""

    def live_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        try:
            super().live_migrate(uuid, destination, timeout=timeout, progress=progress)
        except errors.HypervisorError:
            raise
        except Exception:
            there = self.fake_host.world.find(destination.host)
            if there is not None:
                there.incoming[uuid] = replace(self.machines.find(uuid), token=-1)
            raise


@mutant("MIGR-008")
class AbortLooksLikeADeadline(FakeDriver):
    """A migration that was aborted raises OperationTimeout."""

    def _copy_memory(self, task: Task, machine: Machine | None, migration: Migration) -> None:
        try:
            super()._copy_memory(task, machine, migration)
        except errors.HypervisorFault as error:
            raise errors.OperationTimeout("it did not converge") from error
