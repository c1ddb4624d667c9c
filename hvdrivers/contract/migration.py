"""Migration: to another host, running or not.

The caller holds drivers for both hosts. The source driver runs the migration; ``Destination``
says where to in the hypervisor's own words. Afterwards the instance is on exactly one of them:
gone from this driver, unless this driver's host is a cluster that holds the destination too.
``Destination.volumes`` and ``Destination.vifs`` are connections that it has there and not here.
"""

from __future__ import annotations

from abc import abstractmethod
from uuid import UUID

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Repeat, Scope, operation
from hvdrivers.contract.states import ANY_STATE, C, End, P, R, S, U, X, row
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.migration import Destination, MigrationPlan, MigrationProgress, Move
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
            OutcomeUnknown: a host could not be asked at its end, and the instance may be on either
                host, or on both. The same call, before any other on the instance, leaves one.
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
            OutcomeUnknown: a host could not be asked at its end, and the instance may be on either
                host, or on both. The same call, before any other on the instance, leaves one.
        """


class MoveInSteps(Interface, capability=Capability.MOVE_IN_STEPS):
    """Move a stopped instance, or give it another flavor, in steps that can be taken back.

    ::

        move = source.prepare_move(uuid, destination, flavor=larger)
        destination.finish_move(move)            # it is there, STOPPED; start and check it
        source.confirm_move(uuid)                # or: destination.destroy(uuid)
                                                 #     source.revert_move(uuid)

    Until confirm_move() or revert_move() the source keeps a stopped copy, which has
    ``InstanceInfo.move``. That copy takes only reads, confirm_move(), revert_move() and destroy();
    any other operation raises InvalidState. Without a destination the steps are the same on one
    host: finish_move() gives the instance the new flavor, and keeps what it was beside it.

    If the calling process dies at any step, one complete instance is left. Before finish_move() has
    returned it is the one at the source, which revert_move() gives back. Afterwards it is the one
    at the destination. destroy() at the destination removes what is there: before finish_move()
    the copy alone, and revert_move() gives back the source then too.
    """

    @operation(states=row(same=(S,)), timeout=3600)
    @abstractmethod
    def prepare_move(
        self,
        uuid: UUID,
        destination: Destination | None = None,
        *,
        flavor: Flavor | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> Move:
        """At the source: copy the instance to where it goes. Repeated, it returns the same move.

        Args:
            destination: None: it stays on this host.
            flavor: the flavor that it has afterwards; None: the one that it has now.

        Raises:
            InvalidRequest: a blocker, as for cold_migrate(); or a disk would shrink or be another.
            InvalidState: another move of this instance has begun.
            InsufficientResources: no room for the copy, or not that much on the host.
        """

    @operation(scope=Scope.HOST, timeout=3600)
    @abstractmethod
    def finish_move(
        self,
        move: Move,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        """At the destination: make the instance from the copy that prepare_move() made. It is
        STOPPED, with the flavor and the connections that the move names. Repeated, it returns the
        instance as it is.

        Raises:
            InstanceNotFound: there is no copy here for this move, or destroy() has removed it.
            NetworkNotFound, VolumeNotFound: a network or a volume that the instance is to be
                connected to is not there.
            InsufficientResources: no room for a larger disk.
        """

    @operation(states=row({S: End.DEPENDS}, same=(R, P, U, X, C)), timeout=120)
    @abstractmethod
    def confirm_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """At the source: remove the copy. The instance is GONE from this host; within one host it
        stays as it is now. One that has not moved, or is not there any more, is a success.

        Raises:
            InvalidState: the move is not finished, so that this copy is the only whole one.
        """

    @operation(states=row(same=(S,)), timeout=600)
    @abstractmethod
    def revert_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """At the source: be the instance again, with the flavor and the very bytes that it had.
        What was only prepared at the destination is removed. One that has not moved is a success.

        Raises:
            InvalidState: it is at the destination: destroy() it there first.
            ConnectionFailed: the destination, which holds what was prepared, does not answer.
        """
