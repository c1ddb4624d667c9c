"""Migration on Hyper-V: to another host, with the guest running or off, with all its own disks.

The driver talks to both hosts. The destination gets the claim and the record first, then the source
runs ``Move-VM``. From the moment at which Hyper-V has the machine at the destination it is an
instance there, whoever dies. See ``scripts/migration.ps1``.

The source logs on to the destination with the credentials that it was given: NTLM gives it none
(the "double hop").
"""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract.migration import ColdMigration, LiveMigration, LiveMigrationAbort
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.moving import Move, end, percent_of
from hvdrivers.models.migration import (
    Destination,
    MigrationPhase,
    MigrationPlan,
    MigrationProgress,
)
from hvdrivers.models.progress import ProgressCallback


class HypervMigration(Topic, LiveMigration, LiveMigrationAbort, ColdMigration):
    """Live and cold migration with Move-VM. Every disk of the machine's own moves along."""

    def check_live_migration(
        self, uuid: UUID, destination: Destination, *, timeout: float | None = None
    ) -> MigrationPlan:
        """Budget: 2 calls here; there those of a connection, and 1."""
        deadline = Deadline(timeout)
        with Move(self, "check_live_migration", uuid, destination, deadline) as move:
            blockers = tuple(move.blockers())
        return MigrationPlan(destination=destination, copy_storage=True, blockers=blockers)

    def live_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: that of check_live_migration(), 1 call here and 2 there; with ``progress`` one
        more for each half second that it takes."""
        deadline = Deadline(timeout)
        with Move(self, "live_migrate", uuid, destination, deadline) as move:
            move.run(progress)

    def cold_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: that of live_migrate()."""
        deadline = Deadline(timeout)
        with Move(self, "cold_migrate", uuid, destination, deadline) as move:
            move.run(progress)

    def migration_progress(self, uuid: UUID, *, timeout: float | None = None) -> MigrationProgress:
        """Budget: 1 call. What became of a migration is not remembered: it is NONE then."""
        percent = percent_of(self.session, uuid, Deadline(timeout))
        if percent is None:
            return MigrationProgress(phase=MigrationPhase.NONE)
        return MigrationProgress(phase=MigrationPhase.COPYING, percent=percent)

    def abort_migration(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        end(self.session, uuid, timeout)
