"""Fake machines move between fake hosts of one world."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.migration import (
    ColdMigration,
    LiveMigration,
    LiveMigrationAbort,
    LiveMigrationForce,
)
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.records import Machine, Migration
from hvdrivers.fake.steps import Task
from hvdrivers.models.migration import (
    Destination,
    MigrationPhase,
    MigrationPlan,
    MigrationProgress,
)
from hvdrivers.models.progress import Phase, ProgressCallback
from hvdrivers.models.state import POWERED_ON

_SLICES = 4
_ROUND_SECONDS = 1.0
"""How long a round of copying takes for a guest that does not converge."""
_DOWNTIME_MS = 50


class FakeLiveMigration(FakeBase, LiveMigration):
    """Running machines move."""

    def check_live_migration(
        self, uuid: UUID, destination: Destination, *, timeout: float | None = None
    ) -> MigrationPlan:
        """1 call."""
        with self.link.task("check_live_migration", uuid, timeout) as task:
            return task.call(
                "check-migration",
                lambda: self.moving.plan("check_live_migration", uuid, destination),
                changes=False,
            )

    def live_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """4 calls."""
        # its latency is spent in slices between the calls, which an abort can end
        with self.link.task(
            "live_migrate", uuid, timeout, progress=progress, slow="between-the-calls"
        ) as task:
            self.moving.prepare(task, "live_migrate", uuid, destination)
            migration = task.call(
                "start-migration",
                lambda: self._start_copying(task, uuid),
                undo=("stop-migration", lambda: self._stop_copying(uuid)),
            )
            self._copy_memory(task, self.fake_host.machines.get(uuid), migration)
            migration.phase = MigrationPhase.SWITCHING
            task.call(
                "switch-host",
                lambda: self.moving.switch_host("live_migrate", uuid, destination),
            )

    def _start_copying(self, task: Task, uuid: UUID) -> Migration:
        machine = self.machines.checked("live_migrate", uuid)
        total = machine.flavor.memory_mib << 20
        machine.migration = Migration(MigrationPhase.COPYING, total, total, wake=task.wake)
        return machine.migration

    def _stop_copying(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None and machine.migration is not None:
            aborted = machine.migration.aborted
            machine.migration.phase = MigrationPhase.ABORTED if aborted else MigrationPhase.FAILED

    def _copy_memory(self, task: Task, machine: Machine | None, migration: Migration) -> None:
        seconds = self.link.latency("live_migrate")
        total = migration.total_bytes
        part = 0
        while part < _SLICES:
            if machine is None or machine.state not in POWERED_ON:
                raise errors.InstanceNotFound("the instance went away while it moved")
            stuck = part == _SLICES - 1 and not machine.guest.converges and not migration.forced
            task.wait(_ROUND_SECONDS if stuck else seconds / _SLICES)
            task.check_deadline()
            if migration.aborted:
                raise errors.HypervisorFault(
                    "the migration was aborted", vendor_code="FAKE_ABORTED"
                )
            if not stuck:
                part += 1
            done = total * part // _SLICES
            migration.remaining_bytes = total - done
            task.report(Phase.MIGRATE, done, total)

    def migration_progress(self, uuid: UUID, *, timeout: float | None = None) -> MigrationProgress:
        """1 call."""
        with self.link.task("migration_progress", uuid, timeout) as task:
            return task.call("read-migration", lambda: self._where(uuid), changes=False)

    def _where(self, uuid: UUID) -> MigrationProgress:
        migration = self.machines.find(uuid).migration
        if migration is None:
            return MigrationProgress(phase=MigrationPhase.NONE)
        return MigrationProgress(
            phase=migration.phase,
            total_bytes=migration.total_bytes,
            remaining_bytes=migration.remaining_bytes,
            downtime_ms=_DOWNTIME_MS * (20 if migration.forced else 1),
        )


class FakeLiveMigrationAbort(FakeBase, LiveMigrationAbort):
    """Change one's mind."""

    def abort_migration(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("abort_migration", uuid, timeout) as task:
            task.call("abort-migration", lambda: self._abort(uuid))

    def _abort(self, uuid: UUID) -> None:
        migration = self.machines.checked("abort_migration", uuid).migration
        if migration is not None and migration.active:
            migration.aborted = True
            migration.wake.set()


class FakeLiveMigrationForce(FakeBase, LiveMigrationForce):
    """Come to an end."""

    def force_migration(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("force_migration", uuid, timeout) as task:
            task.call("force-migration", lambda: self._force(uuid))

    def _force(self, uuid: UUID) -> None:
        migration = self.machines.checked("force_migration", uuid).migration
        if migration is None or not migration.active:
            raise errors.InvalidState(
                "no migration of this instance is under way", hint="live_migrate() begins one"
            )
        migration.forced = True
        migration.wake.set()


class FakeColdMigration(FakeBase, ColdMigration):
    """Stopped machines move."""

    def cold_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """3 calls."""
        with self.link.task(
            "cold_migrate", uuid, timeout, progress=progress, slow="switch-host"
        ) as task:
            self.moving.prepare(task, "cold_migrate", uuid, destination)
            task.call(
                "switch-host",
                lambda: self.moving.switch_host("cold_migrate", uuid, destination),
            )
