"""Migration to another libvirt host, of a machine that runs or is stopped.

``Destination.host`` is the libvirt URI of the other host as the caller sees it: the caller's
process steers both daemons, and the two QEMUs talk to each other directly, without encryption, at
``Destination.address`` or the name by which the destination knows itself. Disks that the hosts do
not share are copied by QEMU while the guest runs. A caller that dies on the way leaves the machine
at the source: its daemon ends the migration with the connection.

A stopped machine is moved in the same way, started with its CPUs frozen: libvirt hands the state of
a TPM to another host in no other way.
"""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.migration import (
    ColdMigration,
    LiveMigration,
    LiveMigrationAbort,
    LiveMigrationForce,
)
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.driverkit.undo import changed
from hvdrivers.libvirt.adopted import adoption_in
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.encrypted_memory import is_encrypted
from hvdrivers.libvirt.leaving import Leaving, abort, bytes_of, cut_in, job_of, leaving_in
from hvdrivers.libvirt.moving import Call, Move
from hvdrivers.libvirt.moving_checks import MovingChecks
from hvdrivers.libvirt.moving_plan import Plan
from hvdrivers.libvirt.other_host import reached
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.migration import (
    Blocker,
    BlockerKind,
    Destination,
    MigrationPhase,
    MigrationPlan,
    MigrationProgress,
)
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.models.state import InstanceState

_NO_LIMIT = 8796093022207
"""MiB per second: the most that libvirt takes."""
_STANDSTILL = 60_000
"""Milliseconds that the guest may stand still when a migration is forced."""


class LibvirtMigration(Topic, LiveMigration, LiveMigrationAbort, LiveMigrationForce, ColdMigration):
    """Live and cold migration."""

    def check_live_migration(
        self, uuid: UUID, destination: Destination, *, timeout: float | None = None
    ) -> MigrationPlan:
        """Budget: 7 calls and 3 for each disk here; there those of a connection, 10, and 2 for each
        disk and NIC, 4 for a NIC on a libvirt network."""
        del timeout
        domain, _ = self.domains.checked("check_live_migration", uuid, current_deadline())
        with reached(self, destination) as there:
            if isinstance(there, Blocker):
                found = Plan(xml_of(domain), blockers=[there])
            else:
                found = MovingChecks(self, there).plan(uuid, domain, destination, running=True)
                _look_at_memory(found)
        return MigrationPlan(
            destination=destination,
            copy_storage=bool(found.disks) and not found.shared,
            blockers=tuple(found.blockers),
        )

    def live_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: that of check_live_migration() and 7 calls, and 2 for each disk that is copied;
        one more for each tenth of a second until it has begun, and with ``progress`` for each half
        second from then on. 2 there if another client sets metadata at that moment. Of an adopted
        machine 4 more, and for each disk that is copied 4 and those of delete_volume(); 8 more
        there."""
        del timeout
        deadline = current_deadline()
        domain, state = self.domains.checked("live_migrate", uuid, deadline)
        call = Call(uuid, domain, destination, running=True)
        self._moved(call, deadline, progress, maybe_gone=state is InstanceState.PAUSED)

    def cold_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: that of live_migrate() and 3 calls. Both hosts need room for the machine's
        memory: it is PAUSED meanwhile."""
        del timeout
        deadline = current_deadline()
        domain, _ = self.domains.checked("cold_migrate", uuid, deadline)
        self.rescues.leave(uuid, domain)
        self._moved(Call(uuid, domain, destination, running=False), deadline, progress)

    def migration_progress(self, uuid: UUID, *, timeout: float | None = None) -> MigrationProgress:
        """Budget: 2 calls. What became of a migration is not remembered: it is NONE then."""
        del timeout
        found = job_of(self.domains.find(uuid))
        if not found:
            return MigrationProgress(phase=MigrationPhase.NONE)
        total, remaining = bytes_of(found)
        if not total:  # it has just begun
            return MigrationProgress(phase=MigrationPhase.COPYING, percent=0)
        return MigrationProgress(
            phase=MigrationPhase.COPYING,
            total_bytes=total,
            remaining_bytes=min(remaining, total),
            downtime_ms=int(found["downtime"]) if "downtime" in found else None,
        )

    def abort_migration(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 4 calls, 3 without a migration."""
        del timeout
        domain, _ = self.domains.checked("abort_migration", uuid, current_deadline())
        if job_of(domain):
            abort(domain)

    def force_migration(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 5 calls. The guest may stand still for a minute, and the speed has no limit any
        more; a copy of disks that is under way keeps the speed that it began with."""
        del timeout
        domain, _ = self.domains.checked("force_migration", uuid, current_deadline())
        if not job_of(domain):
            raise errors.InvalidState(
                "no migration of this instance runs", hint="live_migrate() begins one"
            )
        domain.migrateSetMaxDowntime(_STANDSTILL, 0)
        with changed():
            domain.migrateSetMaxSpeed(_NO_LIMIT, 0)

    def _moved(
        self,
        call: Call,
        deadline: Deadline,
        progress: ProgressCallback | None,
        *,
        maybe_gone: bool = False,
    ) -> None:
        with reached(self, call.destination) as there:
            if isinstance(there, Blocker):
                raise errors.InvalidRequest(there.reason, hint=there.hint)
            if maybe_gone and self._settled(call, there):
                return
            plan = self._plan(call, there)
            note = leaving_in(plan.xml) if plan.blockers else None
            if note is not None and self._as_noted(call, there, plan.xml, note).leave_one(note):
                plan = self._plan(call, there)
            if plan.blockers:
                raise errors.InvalidRequest(
                    "; ".join(each.reason for each in plan.blockers),
                    hint="check_live_migration() lists each of them",
                )
            if progress is not None:
                progress(Progress(phase=Phase.MIGRATE, done=0))
            Move(self, there, call, plan).make(deadline, progress)

    def _plan(self, call: Call, there: Topic) -> Plan:
        plan = MovingChecks(self, there).plan(
            call.uuid, call.domain, call.destination, running=call.running
        )
        _look_at_memory(plan)
        return plan

    def _as_noted(self, call: Call, there: Topic, xml: Element, note: Leaving) -> Move:
        """An earlier migration."""
        plan = Plan(xml, shared=note.shared, log_shared=note.log_shared, adoption=adoption_in(xml))
        return Move(self, there, call, plan)

    def _settled(self, call: Call, there: Topic) -> bool:
        """Whether a migration that was cut at its end has brought the machine there."""
        note = cut_in(call.domain)
        if note is None:
            return False
        return self._as_noted(call, there, xml_of(call.domain), note).settle(note)


def _look_at_memory(plan: Plan) -> None:
    if is_encrypted(plan.xml):
        plan.add(
            BlockerKind.DEVICE,
            "QEMU hands no encrypted memory (SEV) to another host",
            hint="power_off() it, and move it in steps: prepare_move()",
        )
