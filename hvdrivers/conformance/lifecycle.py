"""Clauses of ``contract/lifecycle.py``."""

from __future__ import annotations

from uuid import uuid4

from hvdrivers.conformance.clauses import check, clause
from hvdrivers.conformance.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.models.state import InstanceState

LIFE_001 = clause(
    "LIFE-001",
    "spawn() returns the instance RUNNING, and every other connection sees it then",
    operation="spawn",
)
LIFE_002 = clause(
    "LIFE-002", "spawn() with start=False leaves the instance STOPPED", operation="spawn"
)
LIFE_003 = clause(
    "LIFE-003",
    "after destroy() nothing that was made for the instance is left on the host",
    operation="destroy",
)
LIFE_004 = clause(
    "LIFE-004",
    "spawn() of a UUID that exists raises InstanceExists and changes nothing",
    operation="spawn",
)
LIFE_005 = clause("LIFE-005", "destroy() of an absent instance succeeds", operation="destroy")


@check(LIFE_001)
def is_running_and_seen(trial: Trial) -> None:
    other = trial.connect()
    info = trial.spawn()
    trial.equal(info.state, InstanceState.RUNNING, "state that spawn() returned")
    trial.equal(other.get_instance(info.uuid), info, "what another connection sees")
    trial.check(
        info.uuid in {each.uuid for each in other.list_instances()}, "another list lacks it"
    )
    if trial.observer is not None:
        trial.equal(trial.observer.states().get(info.uuid), InstanceState.RUNNING, "observed state")


@check(LIFE_002)
def is_stopped(trial: Trial) -> None:
    info = trial.spawn(start=False)
    trial.equal(info.state, InstanceState.STOPPED, "state that spawn() returned")
    trial.equal(trial.state(info.uuid), InstanceState.STOPPED, "state that get_instance() shows")


@check(LIFE_003)
def leaves_nothing(trial: Trial) -> None:
    everything = trial.everything()
    before = trial.picture()
    info = trial.spawn(**everything)
    trial.driver.destroy(info.uuid)
    trial.equal(trial.picture(), before, "the host after spawn() and destroy()")
    with trial.raises(errors.InstanceNotFound):
        trial.driver.get_instance(info.uuid)


@check(LIFE_004)
def refuses_a_taken_uuid(trial: Trial) -> None:
    info = trial.spawn(start=False)
    with trial.unchanged(), trial.raises(errors.InstanceExists):
        trial.driver.spawn(trial.spec(uuid=info.uuid))


@check(LIFE_005)
def absent_is_a_success(trial: Trial) -> None:
    with trial.unchanged():
        trial.driver.destroy(uuid4())
    info = trial.spawn(start=False)
    trial.driver.destroy(info.uuid)
    trial.driver.destroy(info.uuid)
    trial.check(
        info.uuid not in {each.uuid for each in trial.driver.list_instances()}, "it is still listed"
    )
