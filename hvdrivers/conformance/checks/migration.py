"""Clauses of ``contract/migration.py``: live and cold, their pre-check, abort and force."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.instance import Firmware
from hvdrivers.models.migration import BlockerKind, Destination, MigrationPhase
from hvdrivers.models.progress import Progress
from hvdrivers.models.resources import HostResources
from hvdrivers.models.state import InstanceState

MIGR_001 = clause(
    "MIGR-001",
    "check_live_migration() finds nothing against a host that is fit, and changes nothing",
    operation="check_live_migration",
)
MIGR_002 = clause(
    "MIGR-002",
    "check_live_migration() lists every reason against a host, not only the first",
    operation="check_live_migration",
)
MIGR_003 = clause(
    "MIGR-003",
    "a destination that does not answer is a blocker of kind CONNECTION, and no error",
    operation="check_live_migration",
)
MIGR_004 = clause(
    "MIGR-004",
    "after live_migrate() the instance is at the destination, in its state and with all that it"
    " had, and nothing of it is left at the source",
    operation="live_migrate",
)
MIGR_005 = clause(
    "MIGR-005",
    "live_migrate() against a blocker raises InvalidRequest and changes nothing on either host",
    operation="live_migrate",
)
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
MIGR_012 = clause(
    "MIGR-012",
    "after cold_migrate() the stopped instance is at the destination with all that it had, and"
    " nothing of it is left at the source",
    operation="cold_migrate",
)
MIGR_013 = clause(
    "MIGR-013",
    "cold_migrate() against a blocker raises InvalidRequest and changes nothing on either host",
    operation="cold_migrate",
)
MIGR_014 = clause(
    "MIGR-014",
    "what a migration's progress callback raises comes back, and stops it: the machine is at the"
    " source alone",
    operation="live_migrate",
)

_Move = Callable[[Trial, UUID, Destination], object]


def _live(trial: Trial, uuid: UUID, destination: Destination) -> object:
    return trial.driver.live_migrate(uuid, destination)


def _cold(trial: Trial, uuid: UUID, destination: Destination) -> object:
    return trial.driver.cold_migrate(uuid, destination)


class Elsewhere:
    """The other host."""

    def __init__(self, trial: Trial) -> None:
        self.destination, self.driver = trial.target.other_host()
        trial.after(self.driver.close)
        self._trial = trial

    def expect(self, uuid: UUID) -> None:
        """The instance may come here: then it is destroyed here."""
        self._trial.after(lambda: self.driver.destroy(uuid))

    def picture(self) -> dict[str, Any]:
        """What can be seen of it."""
        shown = {each.uuid: each for each in self.driver.list_instances()}
        volumes = (
            sorted(each.volume_id for each in self.driver.list_volumes())
            if Capability.HOST_VOLUMES in self.driver.capabilities
            else []
        )
        found = {"instances": shown, "volumes": volumes, "resources": self._resources()}
        observer = self._trial.target.other_observer()
        if observer is not None:
            found["residue"] = observer.residue()
        return found

    def _resources(self) -> HostResources:
        """What there is, and what machines have of it. On a real host other programs take memory,
        hugepages and room too."""
        found = self.driver.get_available_resource()
        if self._trial.target.immediate:
            return found
        return found.model_copy(
            update={
                "memory": found.memory.model_copy(update={"free_mib": None, "hugepages": ()}),
                "numa_cells": tuple(
                    each.model_copy(update={"hugepages": ()}) for each in found.numa_cells
                ),
                "storage": tuple(
                    each.model_copy(update={"used_gib": 0.0}) for each in found.storage
                ),
            }
        )


def has(driver: ComputeDriver, uuid: UUID) -> bool:
    return uuid in {each.uuid for each in driver.list_instances()}


def movable(trial: Trial, **changes: Any) -> UUID:
    changes.setdefault("vifs", (trial.target.movable_vif("hvct-nic"),))
    changes.setdefault("metadata", {"moved": "yes"})
    return trial.spawn(**changes).uuid


def firmware(trial: Trial) -> dict[str, Any]:
    """What has a state of its own beside the disks."""
    changes: dict[str, Any] = {}
    if trial.has(Capability.UEFI):
        changes["firmware"] = Firmware.UEFI
    if trial.has(Capability.VTPM):
        changes["vtpm"] = True
    return changes


def _arrives(trial: Trial, state: InstanceState, move: _Move) -> None:
    there = Elsewhere(trial)
    before = trial.picture()
    uuid = movable(trial, start=state is not InstanceState.STOPPED, **firmware(trial))
    there.expect(uuid)
    if state is InstanceState.PAUSED:
        trial.driver.pause(uuid)
    info = trial.driver.get_instance(uuid)
    move(trial, uuid, there.destination)
    trial.equal(trial.picture(), before, "the source after the instance has left")
    with trial.raises(errors.InstanceNotFound):
        trial.driver.get_instance(uuid)
    trial.equal(there.driver.get_instance(uuid), info, "the instance at the destination")
    there.driver.power_off(uuid)
    there.driver.power_on(uuid)
    trial.equal(there.driver.get_instance(uuid).state, InstanceState.RUNNING, "state there")


@check(MIGR_001)
def fit_host_is_possible(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    before = there.picture()
    with trial.unchanged():
        plan = trial.driver.check_live_migration(uuid, there.destination)
    trial.equal(plan.destination, there.destination, "destination in the plan")
    trial.equal(plan.blockers, (), "blockers")
    trial.check(plan.possible, "the plan is not possible, and has no blockers")
    trial.equal(there.picture(), before, "the destination after the pre-check")


@check(MIGR_002)
def every_reason_is_listed(trial: Trial) -> None:
    destination, kinds = trial.target.unfit_host()
    uuid = movable(trial)
    with trial.unchanged():
        plan = trial.driver.check_live_migration(uuid, destination)
    found = {each.kind for each in plan.blockers}
    trial.check(found >= kinds, f"kinds of blockers: expected {kinds}, found {found}")
    trial.check(not plan.possible, "the plan is possible in spite of blockers")
    trial.check(all(each.reason for each in plan.blockers), "a blocker has no reason")


@check(MIGR_003)
def dead_host_is_a_blocker(trial: Trial) -> None:
    uuid = movable(trial)
    with trial.unchanged():
        plan = trial.driver.check_live_migration(uuid, Destination(host="hvct-nowhere.invalid"))
    kinds = [each.kind for each in plan.blockers]
    trial.equal(kinds, [BlockerKind.CONNECTION], "blockers of a host that is not there")


@check(
    MIGR_004,
    cases=[
        Case("running", (InstanceState.RUNNING,)),
        Case("paused", (InstanceState.PAUSED,), needs=frozenset({Capability.PAUSE})),
    ],
)
def arrives_alive(trial: Trial, state: InstanceState) -> None:
    _arrives(trial, state, _live)


def _refused(trial: Trial, state: InstanceState, move: _Move) -> None:
    there = Elsewhere(trial)
    uuid = trial.in_state(state)
    unfit, _ = trial.target.unfit_host()
    before = there.picture()
    for destination in (unfit, Destination(host="hvct-nowhere.invalid")):
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            move(trial, uuid, destination)
    trial.equal(there.picture(), before, "the other host")


@check(MIGR_005)
def unfit_host_is_refused(trial: Trial) -> None:
    _refused(trial, InstanceState.RUNNING, _live)


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


@check(MIGR_012)
def arrives_stopped(trial: Trial) -> None:
    _arrives(trial, InstanceState.STOPPED, _cold)


@check(MIGR_013)
def unfit_host_is_refused_when_stopped(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = trial.spawn(start=False).uuid
    before = there.picture()
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.cold_migrate(uuid, Destination(host="hvct-nowhere.invalid"))
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.cold_migrate(uuid, trial.target.unfit_host()[0])
    trial.equal(there.picture(), before, "the other host")


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
