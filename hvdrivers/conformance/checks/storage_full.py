"""Clauses of ``contract/lifecycle.py``: pools that are full. Only what is simulated is filled."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from hvdrivers.conformance.checks.host_volumes import fill_all, require_thick
from hvdrivers.conformance.engine.assertions import larger
from hvdrivers.conformance.engine.clauses import Case, Clause, Level, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability


def _full(id_: str, operation: str) -> Clause:
    return clause(
        id_,
        f"{operation}() for whose disk there is no room raises InsufficientResources and changes"
        " nothing",
        operation=operation,
        level=Level.SHOULD,
        needs=[Capability.HOST_VOLUMES],
    )


LIFE_023 = _full("LIFE-023", "spawn")
RESCUE_007 = _full("RESCUE-007", "rescue")
RESIZE_008 = _full("RESIZE-008", "resize")
REBUILD_008 = _full("REBUILD-008", "rebuild")

RESIZE_012 = clause(
    "RESIZE-012",
    "resize() grows a root disk where there is just enough room for what it grows by",
    operation="resize",
    level=Level.SHOULD,
    needs=[Capability.HOST_VOLUMES],
)
STOR_066 = clause(
    "STOR-066",
    "migrate_storage() to the pool that the disks are in succeeds, however little room is left",
    operation="migrate_storage",
    level=Level.SHOULD,
    needs=[Capability.HOST_VOLUMES],
)


def _spawn(trial: Trial, _uuid: UUID) -> None:
    trial.spawn(start=False)


def _rescue(trial: Trial, uuid: UUID) -> None:
    trial.driver.rescue(uuid, trial.target.image())


def _resize(trial: Trial, uuid: UUID) -> None:
    flavor = trial.target.flavor
    trial.driver.resize(uuid, larger(flavor, disk_gib=flavor.disk_gib + 1))


def _rebuild(trial: Trial, uuid: UUID) -> None:
    trial.driver.rebuild(uuid, trial.target.image())


@check(
    cases=[
        Case("spawn", (_spawn,), LIFE_023),
        Case("rescue", (_rescue,), RESCUE_007),
        Case("resize", (_resize,), RESIZE_008),
        Case("rebuild", (_rebuild,), REBUILD_008),
    ],
)
def no_room_for_a_disk(trial: Trial, call: Callable[[Trial, UUID], None]) -> None:
    if call is _resize:
        require_thick(trial)
    uuid = trial.spawn(start=False).uuid
    fill_all(trial)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        call(trial, uuid)


@check(RESIZE_012)
def grows_into_what_is_left(trial: Trial) -> None:
    flavor = larger(trial.target.flavor, disk_gib=2)
    uuid = trial.spawn(start=False, flavor=flavor).uuid
    fill_all(trial, leaving=1 << 30)
    trial.driver.resize(uuid, larger(flavor, disk_gib=3))
    found = trial.other.get_instance(uuid).flavor
    trial.equal(found.disk_gib, 3, "GiB of the root disk")


@check(STOR_066)
def disks_that_are_there_need_no_room(trial: Trial) -> None:
    pool = trial.driver.get_available_resource().storage[0].name
    uuid = trial.spawn(start=False).uuid
    trial.driver.migrate_storage(uuid, pool)
    fill_all(trial)
    with trial.unchanged():
        trial.driver.migrate_storage(uuid, pool)
