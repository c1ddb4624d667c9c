"""Clauses of ``contract/lifecycle.py``: pools that are full. Only what is simulated is filled."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from hvdrivers.conformance.clauses import Case, Clause, Level, check, clause
from hvdrivers.conformance.hostvolumes import fill_all
from hvdrivers.conformance.seeing import larger
from hvdrivers.conformance.trial import Trial
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
    uuid = trial.spawn(start=False).uuid
    fill_all(trial)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        call(trial, uuid)
