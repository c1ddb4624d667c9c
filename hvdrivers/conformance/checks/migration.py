"""Clauses of ``contract/migration.py``: live and cold, their pre-check, abort and force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.instance import Firmware
from hvdrivers.models.migration import BlockerKind, Destination
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
