"""Clauses of ``contract/snapshots.py``: the tree after snapshots come and go."""

from __future__ import annotations

from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.trial import Trial

SNAP_020 = clause(
    "SNAP-020",
    "after create, delete and create again the tree has one snapshot, which is current and has no"
    " parent",
    operation="create_snapshot",
)


@check(SNAP_020)
def deleted_one_is_no_parent(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    first = trial.driver.create_snapshot(uuid, "hvct-one")
    trial.driver.delete_snapshot(uuid, first.id)
    second = trial.driver.create_snapshot(uuid, "hvct-two")
    found = trial.driver.list_snapshots(uuid)
    trial.equal(
        [(each.name, each.parent, each.current) for each in found],
        [("hvct-two", None, True)],
        "the tree",
    )
    trial.driver.revert_snapshot(uuid, second.id)
