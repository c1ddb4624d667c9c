"""Clauses of ``contract/snapshots.py``: the tree after snapshots come and go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.concurrency_tools import together
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.snapshot import Snapshot

SNAP_020 = clause(
    "SNAP-020",
    "after create, delete and create again the tree has one snapshot, which is current and has no"
    " parent",
    operation="create_snapshot",
)

SNAP_021 = clause(
    "SNAP-021",
    "create_snapshot(), revert_snapshot() and delete_snapshot() of two connections on one instance"
    " at the same moment have the outcome of one after the other, and both connections list the"
    " tree of that order",
    operation="create_snapshot",
)
Change = Callable[[ComputeDriver, UUID], object]


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


_SNAPSHOTS = ("hvct-one", "hvct-two")


@check(SNAP_021)
def snapshots_come_one_after_the_other(trial: Trial) -> None:
    """Two that come, also of one name; one that comes beside one that goes."""
    uuid = trial.spawn(start=False).uuid

    def create(name: str) -> Change:
        return lambda driver, uuid: driver.create_snapshot(uuid, name)

    _both(trial, uuid, create("hvct-one"), create("hvct-two"))
    first, second = _chain(trial, uuid, set(_SNAPSHOTS))
    taken = together(
        trial, [partial(create("hvct-same"), each, uuid) for each in (trial.driver, trial.other)]
    )
    refused = [each for each in taken if isinstance(each, errors.InvalidRequest)]
    made = [each for each in taken if isinstance(each, Snapshot)]
    trial.check(
        len(refused) == len(made) == 1, f"two of one name: {taken!r}, and one of them is to be made"
    )
    last = _chain(trial, uuid, {*_SNAPSHOTS, "hvct-same"})[-1]
    trial.equal(last.id, made[0].id, "the one that is current")

    def delete(driver: ComputeDriver, uuid: UUID) -> None:
        driver.delete_snapshot(uuid, last.id)

    _both(trial, uuid, create("hvct-next"), delete)
    _chain(trial, uuid, {*_SNAPSHOTS, "hvct-next"})
    # a revert beside the deletion of its snapshot, and that of one that stays
    for gone in (second, first):
        reverted, deleted = together(
            trial,
            [
                partial(trial.driver.revert_snapshot, uuid, first.id),
                partial(trial.other.delete_snapshot, uuid, gone.id),
            ],
        )
        what = f"the one who reverts got {reverted!r}, the one who deletes {deleted!r}"
        late = gone is first and isinstance(reverted, errors.VolumeNotFound)
        trial.check((reverted is None or late) and deleted is None, what)
        tree = _tree(trial, uuid)
        trial.check(gone.id not in {each.id for each in tree}, f"it is there still: {what}")
        if gone is second:
            trial.equal([each.id for each in tree if each.current], [first.id], "the current one")
    for each in _tree(trial, uuid):
        trial.driver.revert_snapshot(uuid, each.id)  # its data is there


def _both(trial: Trial, uuid: UUID, one: Change, two: Change) -> None:
    results = together(trial, [partial(one, trial.driver, uuid), partial(two, trial.other, uuid)])
    for each in results:
        trial.check(not isinstance(each, Exception), f"one of two got {each!r}")


def _chain(trial: Trial, uuid: UUID, names: set[str]) -> Sequence[Snapshot]:
    """The snapshots, which are these, each below the one before it and the last one current."""
    tree = _tree(trial, uuid)
    trial.equal({each.name for each in tree}, names, "the snapshots")
    above = [None, *(each.id for each in tree)]
    trial.equal([each.parent for each in tree], above[:-1], "each one's parent")
    trial.equal([each.current for each in tree][-1], True, "that the last one is current")
    return tree


def _tree(trial: Trial, uuid: UUID) -> Sequence[Snapshot]:
    """What both connections list."""
    one, two = (each.list_snapshots(uuid) for each in (trial.driver, trial.other))
    trial.equal(list(two), list(one), "the tree on the other connection")
    trial.check(sum(each.current for each in one) <= 1, f"more than one is current: {one}")
    return one
