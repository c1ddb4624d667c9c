"""Migration: to another host, running or not.

The caller holds drivers for both hosts. The source driver runs the migration; ``Destination``
says where to in the hypervisor's own words. Afterwards the instance is on exactly one of them:
gone from this driver, unless this driver's host is a cluster that holds the destination too.
"""

from __future__ import annotations

from abc import abstractmethod
from uuid import UUID

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Repeat, operation
from hvdrivers.contract.states import ANY_STATE, End, P, R, S, row
from hvdrivers.models.migration import Destination, MigrationPlan, MigrationProgress
from hvdrivers.models.progress import ProgressCallback


class LiveMigration(Interface, capability=Capability.LIVE_MIGRATION):
    """The guest runs on while it moves."""

    @operation(changes=False, states=row(same=(R, P)), timeout=60)
    @abstractmethod
    def check_live_migration(
        self, uuid: UUID, destination: Destination, *, timeout: float | None = None
    ) -> MigrationPlan:
        """Find every reason why it could not move; the plan lists them all, not only the first.

        A destination that does not answer (CONNECTION) is the only reason, and so is the host that
        the instance is on already (STATE). A share is always one (DEVICE): its directory is of
        this host. So is a port that a powered-on machine has there (NETWORK).

        Raises:
            ConnectionFailed: the *source* cannot be reached. A dead destination is a blocker.
        """

    @operation(states=row({R: End.DEPENDS, P: End.DEPENDS}), timeout=3600, repeat=Repeat.REFUSED)
    @abstractmethod
    def live_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Move it. A failure, a timeout or an abort leaves it running at the source, and nothing
        at the destination. A destroy() on another connection ends it, and leaves nothing on either
        host.

        Raises:
            InvalidRequest: a blocker, as check_live_migration() would list it.
            OperationTimeout: it did not converge; it runs at the source.
            HypervisorFault: it was aborted, or failed on the way; it runs at the source.
        """

    @operation(changes=False, states=ANY_STATE, timeout=30)
    @abstractmethod
    def migration_progress(self, uuid: UUID, *, timeout: float | None = None) -> MigrationProgress:
        """Where a migration of this instance stands; phase NONE if there is none."""


class LiveMigrationAbort(Interface, capability=Capability.LIVE_MIGRATION_ABORT):
    """Change one's mind."""

    @operation(serialised=False, states=row(same=(R, P)), timeout=30)
    @abstractmethod
    def abort_migration(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Stop a running migration: live_migrate() then raises. Without one it is a success.

        Not serialised with live_migrate(), which it interrupts.
        """


class LiveMigrationForce(Interface, capability=Capability.LIVE_MIGRATION_FORCE):
    """Come to an end."""

    @operation(serialised=False, states=row(same=(R, P)), timeout=30)
    @abstractmethod
    def force_migration(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Make a running migration end soon, at the price of a longer standstill of the guest.

        Raises:
            InvalidState: no migration runs.
        """


class ColdMigration(Interface, capability=Capability.COLD_MIGRATION):
    """A stopped instance moves."""

    @operation(states=row({S: End.DEPENDS}), timeout=3600, repeat=Repeat.REFUSED)
    @abstractmethod
    def cold_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Move definition and disks of a stopped instance. A failure leaves it at the source and
        nothing at the destination.

        Raises:
            InvalidRequest: a blocker: the destination does not answer, lacks what the instance
                needs, or is the host that it is on already; or the instance has a share.
        """
