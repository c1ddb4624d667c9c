"""Clauses about a live migration that is under way: its progress, its end, and how it is ended."""

from __future__ import annotations

import threading
from uuid import UUID

from hvdrivers.conformance.checks.migration import Elsewhere, has, movable
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.migration import Destination, MigrationPhase
from hvdrivers.models.progress import Progress
from hvdrivers.models.state import InstanceState

MIGR_006 = clause(
    "MIGR-006",
    "live_migrate() that does not converge raises OperationTimeout; the machine runs at the source"
    " and nothing is at the destination",
    operation="live_migrate",
)
MIGR_007 = clause(
    "MIGR-007",
    "migration_progress() is NONE before a migration, shows it while it runs, and then what became"
    " of it",
    operation="migration_progress",
)
MIGR_008 = clause(
    "MIGR-008",
    "abort_migration() makes live_migrate() raise HypervisorFault; the machine runs at the"
    " source and nothing is at the destination",
    operation="abort_migration",
)
MIGR_009 = clause(
    "MIGR-009",
    "abort_migration() without a migration succeeds and changes nothing",
    operation="abort_migration",
)
MIGR_010 = clause(
    "MIGR-010",
    "force_migration() brings a migration that does not converge to its end",
    operation="force_migration",
)
MIGR_011 = clause(
    "MIGR-011",
    "force_migration() without a migration raises InvalidState and changes nothing",
    operation="force_migration",
)


MIGR_014 = clause(
    "MIGR-014",
    "what a migration's progress callback raises comes back, and stops it: the machine is at the"
    " source alone",
    operation="live_migrate",
)
MIGR_030 = clause(
    "MIGR-030",
    "what another connection changes while a live migration runs holds wherever the instance is"
    " afterwards, or raises DeviceBusy, InvalidState or OperationTimeout and changes nothing; only"
    " OutcomeUnknown leaves open which",
    operation="live_migrate",
)


@check(MIGR_006)
def does_not_converge(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    before = there.picture()
    with trial.target.restless_guest(trial.driver, uuid):
        with trial.unchanged(), trial.raises(errors.OperationTimeout):
            timeout = trial.deadline(1 if trial.target.immediate else 10)
            trial.driver.live_migrate(uuid, there.destination, timeout=timeout)
        trial.equal(there.picture(), before, "the destination after a migration that failed")
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state at the source")
    trial.driver.live_migrate(uuid, there.destination)
    trial.check(has(there.driver, uuid), "a later attempt does not arrive")


class UnderWay:
    """A migration in a thread of its own, that does not end by itself."""

    def __init__(self, trial: Trial, uuid: UUID, destination: Destination) -> None:
        self.error: BaseException | None = None
        self._trial = trial
        self._thread = threading.Thread(target=self._run, args=(uuid, destination), daemon=True)
        self._thread.start()
        trial.eventually(
            lambda: trial.driver.migration_progress(uuid).phase is MigrationPhase.COPYING,
            "migration_progress() does not show a migration that runs",
            timeout=60,
        )

    def _run(self, uuid: UUID, destination: Destination) -> None:
        try:
            self._trial.driver.live_migrate(uuid, destination)
        except BaseException as error:  # noqa: BLE001 - the thread that waits looks at it
            self.error = error

    def ended(self) -> BaseException | None:
        """Wait for its end; the error."""
        self._thread.join(self._trial.patience(120) + 3)
        self._trial.check(not self._thread.is_alive(), "live_migrate() does not come back")
        return self.error


@check(MIGR_007)
def shows_where_it_stands(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    phase = trial.driver.migration_progress(uuid).phase
    trial.equal(phase, MigrationPhase.NONE, "phase before any migration")
    trial.need(Capability.LIVE_MIGRATION_ABORT)
    with trial.target.restless_guest(trial.driver, uuid):
        move = UnderWay(trial, uuid, there.destination)
        found = trial.driver.migration_progress(uuid)
        trial.driver.abort_migration(uuid)
        move.ended()
    trial.check(
        found.percent is not None or found.total_bytes,
        "the progress tells neither bytes nor percent",
    )
    if found.total_bytes is not None and found.remaining_bytes is not None:
        within = 0 <= found.remaining_bytes <= found.total_bytes
        trial.check(within, f"{found.remaining_bytes} of {found.total_bytes} bytes remain")
    phase = trial.driver.migration_progress(uuid).phase
    over = {MigrationPhase.ABORTED, MigrationPhase.FAILED, MigrationPhase.NONE}
    trial.check(phase in over, f"phase after the abort: {phase}")


@check(MIGR_008)
def abort_keeps_it_here(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    before = there.picture()
    with trial.target.restless_guest(trial.driver, uuid):
        with trial.unchanged():
            move = UnderWay(trial, uuid, there.destination)
            trial.driver.abort_migration(uuid)
            error = move.ended()
        trial.check(
            isinstance(error, errors.HypervisorFault), f"live_migrate() ended with {error!r}"
        )
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state at the source")
    if trial.observer is not None:
        observed = trial.observer.states().get(uuid)
        trial.equal(observed, InstanceState.RUNNING, "observed state at the source")
    trial.equal(there.picture(), before, "the destination after the abort")
    trial.driver.live_migrate(uuid, there.destination)
    trial.check(has(there.driver, uuid), "a later attempt does not arrive")


@check(MIGR_009)
def nothing_to_abort(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    with trial.unchanged():
        trial.driver.abort_migration(uuid)
        trial.driver.abort_migration(uuid)


@check(MIGR_010)
def force_brings_it_to_an_end(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    with trial.target.restless_guest(trial.driver, uuid):
        move = UnderWay(trial, uuid, there.destination)
        trial.driver.force_migration(uuid)
        error = move.ended()
        trial.equal(error, None, "error of a migration that was forced")
    trial.check(not has(trial.driver, uuid), "the instance is still at the source")
    state = there.driver.get_instance(uuid).state
    trial.equal(state, InstanceState.RUNNING, "state at the destination")


@check(MIGR_011)
def nothing_to_force(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    with trial.unchanged(), trial.raises(errors.InvalidState):
        trial.driver.force_migration(uuid)


class _Enough(Exception):
    pass


@check(MIGR_014)
def callback_stops_it(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    before = there.picture()

    def stop(_progress: Progress) -> None:
        raise _Enough

    try:
        with trial.unchanged():
            try:
                trial.driver.live_migrate(uuid, there.destination, progress=stop)
            except _Enough:
                came_back = True
            else:
                came_back = False
    finally:
        trial.equal(there.picture(), before, "the destination")
    trial.check(came_back, "the callback's own exception did not come back")


_REFUSED = (errors.DeviceBusy, errors.InvalidState, errors.OperationTimeout)


class _Told:
    """Metadata that another connection sets while a migration runs."""

    def __init__(self, trial: Trial, uuid: UUID, before: dict[str, str]) -> None:
        told = {**before, "hvct": "meanwhile"}
        self._trial = trial
        self._uuid = uuid
        try:
            trial.other.set_metadata(uuid, told, timeout=trial.deadline(5))
            self.may_be = [told]
        except (*_REFUSED, errors.InstanceNotFound):
            self.may_be = [before]
        except errors.OutcomeUnknown:
            self.may_be = [before, told]

    def expect(self, host: ComputeDriver) -> None:
        for when in ("after the migration", "after a restart"):
            found = dict(host.get_instance(self._uuid).metadata)
            allowed = found in self.may_be
            self._trial.check(allowed, f"metadata {when}: {found}, not {self.may_be}")
            host.power_off(self._uuid)
            host.power_on(self._uuid)


@check(MIGR_030, needs=[Capability.LIVE_MIGRATION_ABORT])
def change_before_an_abort(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    before = dict(trial.driver.get_instance(uuid).metadata)
    with trial.target.restless_guest(trial.driver, uuid):
        move = UnderWay(trial, uuid, there.destination)
        told = _Told(trial, uuid, before)
        trial.driver.abort_migration(uuid)
        move.ended()
    told.expect(trial.driver)


@check(MIGR_030)
def change_before_the_switch(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    before = dict(trial.driver.get_instance(uuid).metadata)
    error: list[BaseException] = []

    def move() -> None:
        try:
            trial.driver.live_migrate(uuid, there.destination)
        except errors.DeviceBusy:
            pass  # the change was first: the instance has not moved
        except BaseException as found:  # noqa: BLE001 - the thread that waits looks at it
            error.append(found)

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    told = _Told(trial, uuid, before)
    thread.join(trial.patience(120) + 3)
    trial.check(not thread.is_alive(), "live_migrate() does not come back")
    trial.equal(error, [], "errors of a migration meanwhile")
    told.expect(there.driver if has(there.driver, uuid) else trial.driver)
