"""Clauses of ``contract/power.py``: pause and suspend."""

from __future__ import annotations

from hvdrivers.conformance.checks.host_volumes import fill_all
from hvdrivers.conformance.engine.assertions import (
    all_that_can_be_had,
    booted,
    expect_boots,
    expect_no_boot,
    expect_only_state,
    expect_state,
    some_slice,
)
from hvdrivers.conformance.engine.clauses import Case, Clause, Level, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.state import InstanceState

RUNNING, STOPPED = InstanceState.RUNNING, InstanceState.STOPPED
PAUSED, SUSPENDED = InstanceState.PAUSED, InstanceState.SUSPENDED


def _power(number: str, rule: str, operation: str, *needs: Capability) -> Clause:
    return clause(f"POWER-{number}", rule, operation=operation, needs=needs)


POWER_009 = _power(
    "009", "pause() stops the machine's clock, unpause() lets it go on where it was", "pause"
)
POWER_010 = _power(
    "010",
    "a suspended machine goes on where it was, by resume() or power_on(), and what was saved"
    " is gone then",
    "suspend",
)
POWER_011 = _power(
    "011", "power_off() of a suspended machine drops its memory: the guest starts anew", "suspend"
)
POWER_017 = _power(
    "017",
    "unpause() of a running machine and resume() of one succeed and disturb nothing",
    "unpause",
)
POWER_018 = _power(
    "018",
    "suspend() of a machine with a device that cannot be saved raises NotSupported and changes"
    " nothing",
    "suspend",
    Capability.VGPU,
)
POWER_019 = clause(
    "POWER-019",
    "suspend() without room for the memory raises InsufficientResources, and the machine runs on",
    operation="suspend",
    level=Level.SHOULD,
    needs=[Capability.HOST_VOLUMES],
)


@check(POWER_009)
def pauses_and_goes_on(trial: Trial) -> None:
    before = trial.spawn(**all_that_can_be_had(trial))
    for _ in range(2):
        trial.driver.pause(before.uuid)
        expect_only_state(trial, before, PAUSED, "after pause()")
        with trial.unchanged():
            trial.other.pause(before.uuid)
        trial.driver.unpause(before.uuid)
        expect_only_state(trial, before, RUNNING, "after unpause()")


@check(POWER_009)
def guest_notices_no_pause(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    starts = booted(trial, uuid)
    trial.driver.pause(uuid)
    trial.driver.unpause(uuid)
    expect_no_boot(trial, uuid, starts, "after pause() and unpause()")


@check(POWER_010, cases=[Case("resume", ("resume",)), Case("power_on", ("power_on",))])
def comes_back(trial: Trial, name: str) -> None:
    before = trial.spawn(**all_that_can_be_had(trial))
    things = trial.observer.residue() if trial.observer is not None else None
    for round_ in ("first", "second"):
        trial.driver.suspend(before.uuid)
        expect_only_state(trial, before, SUSPENDED, f"after the {round_} suspend()")
        with trial.unchanged():
            trial.other.suspend(before.uuid)
        getattr(trial.driver, name)(before.uuid)
        expect_only_state(trial, before, RUNNING, f"back for the {round_} time")
    if trial.observer is not None:
        trial.equal(trial.observer.residue(), things, "what is on the host")


@check(POWER_010)
def guest_notices_no_suspend(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    starts = booted(trial, uuid)
    for name in ("resume", "power_on"):
        trial.driver.suspend(uuid)
        getattr(trial.driver, name)(uuid)
        expect_no_boot(trial, uuid, starts, f"after suspend() and {name}()")


@check(POWER_010, needs=[Capability.PAUSE])
def paused_is_saved_too(trial: Trial) -> None:
    uuid = trial.in_state(PAUSED)
    trial.driver.suspend(uuid)
    expect_state(trial, uuid, SUSPENDED, "after pause() and suspend()")
    trial.driver.resume(uuid)
    expect_state(trial, uuid, RUNNING, "after resume()")


@check(POWER_011)
def saved_memory_is_dropped(trial: Trial) -> None:
    before = trial.spawn(start=False)
    things = trial.observer.residue() if trial.observer is not None else frozenset()
    trial.driver.power_on(before.uuid)
    trial.driver.suspend(before.uuid)
    trial.driver.power_off(before.uuid)
    expect_only_state(trial, before, STOPPED, "after suspend() and power_off()")
    if trial.observer is not None:
        trial.equal(len(trial.observer.residue()), len(things), "how much is on the host")


@check(POWER_011)
def guest_starts_anew(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    expect_boots(trial, uuid, 1, "after spawn()")
    trial.driver.suspend(uuid)
    trial.driver.power_off(uuid)
    trial.driver.power_on(uuid)
    expect_boots(trial, uuid, 2, "after suspend(), power_off() and power_on()")


@check(
    POWER_017,
    cases=[
        Case("unpause", ("unpause",)),
        Case("resume", ("resume",), needs=frozenset({Capability.SUSPEND})),
    ],
)
def running_goes_on(trial: Trial, name: str) -> None:
    uuid = trial.spawn().uuid
    with trial.unchanged():
        getattr(trial.driver, name)(uuid)
        getattr(trial.other, name)(uuid)


@check(POWER_018)
def device_cannot_be_saved(trial: Trial) -> None:
    uuid = trial.spawn(vgpus=(some_slice(trial),)).uuid
    with trial.unchanged(), trial.raises(errors.NotSupported):
        trial.driver.suspend(uuid)
    expect_state(trial, uuid, RUNNING, "after suspend() was refused")


@check(POWER_019)
def no_room_for_its_memory(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    fill_all(trial)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.suspend(uuid)
    expect_state(trial, uuid, RUNNING, "after suspend() was refused")
