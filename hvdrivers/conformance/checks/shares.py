"""Clauses of ``contract/shares.py``.

The contract shows a share to nobody but the guest. What can be seen without an observer is that
its tag is taken: by that the checks tell that there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.models.guest import Share
from hvdrivers.models.state import InstanceState

SHARE_001 = clause(
    "SHARE-001",
    "attach_share() gives the instance the directory, read-only if it was asked for so (or"
    " refuses that with NotSupported), at every later start",
    operation="attach_share",
)
SHARE_002 = clause(
    "SHARE-002",
    "attaching the same share again succeeds and changes nothing",
    operation="attach_share",
)
SHARE_003 = clause(
    "SHARE-003",
    "attach_share() with a tag that another path has raises InvalidRequest and changes nothing",
    operation="attach_share",
)
SHARE_004 = clause(
    "SHARE-004",
    "attach_share() of a directory that is not there raises VolumeNotFound and changes nothing",
    operation="attach_share",
)
SHARE_005 = clause(
    "SHARE-005",
    "detach_share() takes the share away, that one alone, and frees its tag",
    operation="detach_share",
)
SHARE_006 = clause(
    "SHARE-006",
    "detach_share() of a share that this instance does not have succeeds and changes nothing",
    operation="detach_share",
)

_TAG = "hvct"


def _takes_read_only(trial: Trial) -> bool:
    return "read_only" in trial.driver.takes.get(Share, frozenset())


def _expect(trial: Trial, uuid: UUID, shares: Mapping[str, Share], when: str) -> None:
    if trial.observer is not None:
        trial.equal(dict(trial.observer.shares(uuid)), dict(shares), f"shares {when}")


@check(SHARE_001)
def is_there_at_every_start(trial: Trial) -> None:
    path, other = trial.target.shared_directories()
    uuid = trial.spawn(start=False).uuid
    read_only = Share(tag=f"{_TAG}2", path=other, read_only=True)
    shares = {_TAG: Share(tag=_TAG, path=path)}
    if _takes_read_only(trial):
        shares[read_only.tag] = read_only
    else:
        with trial.unchanged(), trial.raises(errors.NotSupported):
            trial.driver.attach_share(uuid, read_only)
        shares[read_only.tag] = Share(tag=read_only.tag, path=other)
    for share in shares.values():
        trial.driver.attach_share(uuid, share)
    _expect(trial, uuid, shares, "after attach_share()")
    for state, step in (
        (InstanceState.RUNNING, trial.driver.power_on),
        (InstanceState.STOPPED, trial.driver.power_off),
        (InstanceState.RUNNING, trial.driver.power_on),
        (InstanceState.STOPPED, trial.driver.power_off),
    ):
        step(uuid)
        trial.equal(trial.state(uuid), state, "state with shares")
        _expect(trial, uuid, shares, f"once it is {state}")
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.other.attach_share(uuid, Share(tag=_TAG, path=other))


@check(SHARE_002)
def again_changes_nothing(trial: Trial) -> None:
    path, _ = trial.target.shared_directories()
    uuid = trial.spawn(start=False).uuid
    for read_only in (False, True) if _takes_read_only(trial) else (False,):
        share = Share(tag=f"{_TAG}{read_only}", path=path, read_only=read_only)
        trial.driver.attach_share(uuid, share)
        with trial.unchanged():
            trial.driver.attach_share(uuid, share)
            trial.other.attach_share(uuid, share)


@check(SHARE_003)
def taken_tag_is_refused(trial: Trial) -> None:
    path, other = trial.target.shared_directories()
    uuid = trial.spawn(start=False).uuid
    trial.driver.attach_share(uuid, Share(tag=_TAG, path=path))
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.attach_share(uuid, Share(tag=_TAG, path=other))
    # a tag is an instance's own
    second = trial.spawn(start=False).uuid
    share = Share(tag=_TAG, path=other)
    trial.driver.attach_share(second, share)
    _expect(trial, second, {_TAG: share}, "of another instance with the same tag")


@check(SHARE_004)
def absent_directory_is_refused(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.driver.attach_share(uuid, Share(tag=_TAG, path="/hvct-nowhere"))


@check(SHARE_005)
def is_taken_away(trial: Trial) -> None:
    path, other = trial.target.shared_directories()
    uuid = trial.spawn(start=False).uuid
    going, staying = Share(tag=_TAG, path=path), Share(tag=f"{_TAG}2", path=path)
    before = trial.picture()
    trial.driver.attach_share(uuid, going)
    trial.driver.detach_share(uuid, going.tag)
    trial.equal(trial.picture(), before, "the host after attach_share() and detach_share()")
    trial.driver.attach_share(uuid, going)
    trial.driver.attach_share(uuid, staying)
    trial.driver.detach_share(uuid, going.tag)
    _expect(trial, uuid, {staying.tag: staying}, "after detach_share()")
    with trial.raises(errors.InvalidRequest):
        trial.driver.attach_share(uuid, Share(tag=staying.tag, path=other))
    moved = Share(tag=going.tag, path=other)
    trial.other.attach_share(uuid, moved)
    trial.driver.power_on(uuid)
    _expect(trial, uuid, {going.tag: moved, staying.tag: staying}, "at the next start")


@check(SHARE_006)
def absent_is_a_success(trial: Trial) -> None:
    path, _ = trial.target.shared_directories()
    owner, other = trial.spawn(start=False).uuid, trial.spawn(start=False).uuid
    share = Share(tag=_TAG, path=path)
    trial.driver.attach_share(owner, share)
    with trial.unchanged():
        trial.driver.detach_share(owner, "hvct-absent")
        trial.driver.detach_share(other, share.tag)
    _expect(trial, owner, {share.tag: share}, "after another was told to detach it")
    trial.driver.detach_share(owner, share.tag)
    with trial.unchanged():
        trial.driver.detach_share(owner, share.tag)
