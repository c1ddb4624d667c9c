"""Clauses about snapshots that are deleted."""

from __future__ import annotations

from hvdrivers.conformance.checks.snapshots import current, grown, tree
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.models.state import InstanceState

SNAP_010 = clause(
    "SNAP-010",
    "delete_snapshot() forgets that one alone: its children move to its parent, the instance and"
    " its disks do not change",
    operation="delete_snapshot",
)
SNAP_011 = clause(
    "SNAP-011",
    "delete_snapshot() with children forgets all that descend from it, and nothing else",
    operation="delete_snapshot",
)
SNAP_012 = clause(
    "SNAP-012", "delete_snapshot() of one that is not there succeeds", operation="delete_snapshot"
)


@check(SNAP_010)
def children_move_up(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    before = trial.driver.get_instance(uuid)
    made = grown(trial, uuid)
    trial.driver.delete_snapshot(uuid, made["b"].id)
    trial.equal(tree(trial, uuid), {"a": None, "c": "a", "d": "a"}, "the tree without b")
    trial.driver.delete_snapshot(uuid, made["d"].id)
    trial.equal(current(trial, uuid), "a", "the current snapshot without d")
    trial.driver.delete_snapshot(uuid, made["a"].id)
    trial.equal(tree(trial, uuid), {"c": None}, "the tree without a")
    trial.equal(trial.driver.get_instance(uuid), before, "the instance")
    trial.driver.revert_snapshot(uuid, made["c"].id)
    trial.equal(current(trial, uuid), "c", "the current snapshot after a revert to what is left")


@check(SNAP_010)
def data_stays(trial: Trial) -> None:
    driver, target = trial.driver, trial.target
    uuid = trial.spawn().uuid
    target.wait_booted(driver, uuid)
    snapshot = driver.create_snapshot(uuid, "hvct")
    target.write_disk(driver, uuid, "since")
    driver.delete_snapshot(uuid, snapshot.id)
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state")
    trial.equal(list(target.written(driver, uuid)), ["since"], "what the guest wrote since then")


@check(SNAP_010)
def leaves_nothing(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    with trial.unchanged():
        made = [trial.driver.create_snapshot(uuid, name) for name in ("a", "b")]
        for each in made:
            trial.driver.delete_snapshot(uuid, each.id)


@check(SNAP_011)
def descendants_go_too(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    made = grown(trial, uuid)
    trial.driver.delete_snapshot(uuid, made["b"].id, children=True)
    trial.equal(tree(trial, uuid), {"a": None, "d": "a"}, "the tree without b and what is below")
    trial.driver.delete_snapshot(uuid, made["a"].id, children=True)
    trial.equal(tree(trial, uuid), {}, "the tree without a and what is below")
    trial.equal(current(trial, uuid), None, "the current snapshot")


@check(SNAP_012)
def gone_is_a_success(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    made = trial.driver.create_snapshot(uuid, "hvct")
    kept = trial.driver.create_snapshot(uuid, "kept")
    with trial.unchanged():
        trial.driver.delete_snapshot(uuid, "hvct-absent")
        trial.driver.delete_snapshot(uuid, "hvct-absent", children=True)
    trial.driver.delete_snapshot(uuid, made.id)
    with trial.unchanged():
        trial.driver.delete_snapshot(uuid, made.id)
    trial.equal([each.id for each in trial.driver.list_snapshots(uuid)], [kept.id], "what is left")
