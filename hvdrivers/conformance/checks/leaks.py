"""Clauses about what is left in the caller's own process: no threads, no descriptors."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

from hvdrivers.conformance.engine.assertions import absent_network
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors

CONC_006 = clause(
    "CONC-006", "neither calls nor connections leave threads behind", operation="close"
)
CONC_007 = clause(
    "CONC-007", "neither calls nor connections leave open descriptors behind", operation="close"
)


def _threads() -> int:
    return threading.active_count()


def _descriptors() -> int:
    folder = Path("/dev/fd")
    if not folder.is_dir():
        raise PreconditionMissing("this system does not show a process its open descriptors")
    return len(os.listdir(folder))


def _calls(trial: Trial) -> Callable[[], None]:
    uuid = trial.spawn().uuid

    def calls() -> None:
        trial.driver.ping()
        trial.driver.list_instances()
        trial.driver.get_available_resource()
        trial.driver.get_instance(uuid)
        trial.driver.set_metadata(uuid, {"hvct.a": "b"})
        trial.driver.power_on(uuid)
        with trial.raises(errors.InstanceNotFound):
            trial.driver.power_on(uuid4())

    return calls


def _connections(trial: Trial) -> Callable[[], None]:
    def connect() -> None:
        with trial.target.connect() as driver:
            driver.ping()
            driver.list_instances()
            driver.watch()  # close() ends it

    return connect


def _failures(trial: Trial) -> Callable[[], None]:
    changes = absent_network(trial)

    def fail() -> None:
        with trial.raises(errors.NetworkNotFound):
            trial.spawn(**changes)

    return fail


_LOADS = [
    Case("calls", (_calls,)),
    Case("connections", (_connections,)),
    Case("failures", (_failures,)),
]


def _expect_no_growth(
    trial: Trial, load: Callable[[Trial], Callable[[], None]], count: Callable[[], int], what: str
) -> None:
    call = load(trial)
    for _ in range(2):  # what is made once and kept is no leak
        call()
    for seconds in (2.0, 2.0, 10.0):  # nor is a pool that fills: a leak grows each time
        gc.collect()
        before = count()
        for _ in range(6):
            call()
        gc.collect()
        after = count()
        # one may still be on its way out
        gone = trial.becomes(partial(_is_at_most, before, count), seconds)
        if gone:
            break
    trial.check(gone, f"there were {before} {what}, and then {after}")


def _is_at_most(most: int, count: Callable[[], int]) -> bool:
    return count() <= most


@check(CONC_006, cases=_LOADS)
def no_threads_are_left(trial: Trial, load: Callable[[Trial], Callable[[], None]]) -> None:
    _expect_no_growth(trial, load, _threads, "threads")


@check(CONC_007, cases=_LOADS)
def no_descriptors_are_left(trial: Trial, load: Callable[[Trial], Callable[[], None]]) -> None:
    _expect_no_growth(trial, load, _descriptors, "descriptors")
