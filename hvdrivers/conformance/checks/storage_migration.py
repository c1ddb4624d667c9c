"""Clauses about own disks that move to another pool."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from hvdrivers.conformance.checks.host_volumes import (
    ABSENT_POOL,
    ON_AND_OFF,
    STOR_064,
    fill,
    pools_of,
    require_thick,
)
from hvdrivers.conformance.engine.assertions import larger
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.state import InstanceState

STOR_060 = clause(
    "STOR-060",
    "migrate_storage() moves the instance's own disks and leaves nothing behind and the instance"
    " as it was; a repeated one changes nothing",
    operation="migrate_storage",
)
STOR_061 = clause(
    "STOR-061",
    "migrate_storage() to a pool that is not there raises VolumeNotFound and changes nothing",
    operation="migrate_storage",
)
STOR_062 = clause(
    "STOR-062",
    "migrate_storage() to a pool without room raises InsufficientResources and changes nothing",
    operation="migrate_storage",
    level=Level.SHOULD,
)
STOR_063 = clause(
    "STOR-063",
    "the guest finds its data on the disks that migrate_storage() has moved",
    operation="migrate_storage",
)


def _residue(trial: Trial) -> frozenset[str]:
    return trial.observer.residue() if trial.observer is not None else frozenset()


def _two_pools(trial: Trial) -> tuple[str, str]:
    pools = pools_of(trial)
    if len(pools) < 2:
        raise PreconditionMissing("the host has one storage pool: there is nowhere to move to")
    return pools[0], pools[1]


def _move(trial: Trial, uuid: UUID, pool: str) -> frozenset[str]:
    before = trial.driver.get_instance(uuid)
    trial.driver.migrate_storage(uuid, pool)
    trial.equal(trial.other.get_instance(uuid), before, f"the instance after moving to {pool}")
    with trial.unchanged():
        trial.driver.migrate_storage(uuid, pool)
    return _residue(trial)


@check(STOR_060, cases=ON_AND_OFF)
def disks_move(trial: Trial, state: InstanceState) -> None:
    first, second = _two_pools(trial)
    uuid = trial.in_state(state)
    here = _move(trial, uuid, first)
    there = _move(trial, uuid, second)
    if trial.observer is not None:
        trial.check(here != there, "nothing has moved")
        trial.equal(len(there), len(here), "how many things there are on the host")
    trial.equal(_move(trial, uuid, first), here, "what is on the host after moving there and back")


@check(STOR_060, needs=[Capability.EPHEMERAL_DISK])
def every_disk_moves(trial: Trial) -> None:
    if trial.observer is None:
        raise PreconditionMissing("no observer")
    first, second = _two_pools(trial)
    moved = []
    for ephemeral_gib in (0, 1):
        flavor = larger(trial.target.flavor, ephemeral_gib=ephemeral_gib)
        uuid = trial.spawn(start=False, flavor=flavor).uuid
        moved.append(len(_move(trial, uuid, first) - _move(trial, uuid, second)))
    trial.equal(moved[1], moved[0] + 1, "things that move, if there is an ephemeral disk too")


@check(STOR_063)
def data_moves_along(trial: Trial) -> None:
    first, second = _two_pools(trial)
    uuid = trial.spawn().uuid
    trial.target.wait_booted(trial.driver, uuid)
    wanted: list[str] = []
    for pool in (first, second, first):
        trial.target.write_disk(trial.driver, uuid, f"hvct before {pool}")
        wanted.append(f"hvct before {pool}")
        trial.driver.migrate_storage(uuid, pool)
        found = list(trial.target.written(trial.driver, uuid))
        trial.equal(found, wanted, f"what is on the root disk in {pool}")


@check(STOR_061)
def absent_destination_is_refused(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.driver.migrate_storage(uuid, ABSENT_POOL)


@check(STOR_062, needs=[Capability.HOST_VOLUMES])
def full_destination_is_refused(trial: Trial) -> None:
    first, second = _two_pools(trial)
    uuid = trial.spawn(start=False).uuid
    trial.driver.migrate_storage(uuid, first)
    fill(trial, second)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.migrate_storage(uuid, second)


def _grow(trial: Trial, uuid: UUID) -> None:
    flavor = trial.driver.get_instance(uuid).flavor
    trial.driver.resize(uuid, larger(flavor, disk_gib=flavor.disk_gib + 1))


def _rebuild(trial: Trial, uuid: UUID) -> None:
    trial.driver.rebuild(uuid, trial.target.image())


@check(
    STOR_064,
    needs=[Capability.HOST_VOLUMES],
    cases=[
        Case("resize", (_grow,), needs=frozenset({Capability.RESIZE})),
        Case("rebuild", (_rebuild,), needs=frozenset({Capability.REBUILD})),
    ],
)
def lives_where_it_was_moved(trial: Trial, call: Callable[[Trial, UUID], None]) -> None:
    first, second = _two_pools(trial)
    if call is _grow:
        require_thick(trial)
    uuid = trial.spawn(start=False).uuid
    trial.driver.migrate_storage(uuid, second)
    fill(trial, first)
    call(trial, uuid)
    fill(trial, second)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        call(trial, uuid)
