"""Clauses of ``contract/maintenance.py``: the host as a whole."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from hvdrivers.conformance.engine.assertions import remembered, revert
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.state import InstanceState

MAINT_001 = clause(
    "MAINT-001",
    "in maintenance spawn() and power_on() raise InsufficientResources and change nothing, on every"
    " connection; after exit_maintenance() they work",
    operation="enter_maintenance",
)
MAINT_002 = clause(
    "MAINT-002",
    "enter_maintenance() while machines are powered on raises InvalidState, and they run on outside"
    " of maintenance",
    operation="enter_maintenance",
)
MAINT_003 = clause(
    "MAINT-003",
    "entering twice and leaving twice is once, and in_maintenance() tells which",
    operation="in_maintenance",
)
MAINT_004 = clause(
    "MAINT-004",
    "in maintenance instances can be looked at, changed and destroyed",
    operation="enter_maintenance",
)
MAINT_005 = clause(
    "MAINT-005",
    "in maintenance whatever else would power a machine on (resume(), rescue(), reboot() of a"
    " crashed one, revert_snapshot() with memory) raises InsufficientResources and changes nothing",
    operation="enter_maintenance",
)
HOSTP_001 = clause(
    "HOSTP-001",
    "host_power() while machines of ours are powered on raises InvalidState, and they run on",
    operation="host_power",
)
HOSTP_002 = clause(
    "HOSTP-002",
    "a host that was rebooted answers again, with every stopped instance as it was",
    operation="host_power",
)
HOSTP_003 = clause("HOSTP-003", "a host that was shut down answers no more", operation="host_power")

_ON = {InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.RESCUED}


def _quiet(trial: Trial) -> None:
    """No machine of others is on, and the host is out of maintenance at the end."""
    if any(each.state in _ON for each in trial.driver.list_foreign()):
        raise PreconditionMissing("machines of others are powered on")
    trial.after(trial.driver.exit_maintenance)


@check(MAINT_001)
def nothing_starts(trial: Trial) -> None:
    _quiet(trial)
    uuid = trial.spawn(start=False).uuid
    other = trial.other
    trial.driver.enter_maintenance()
    for who in (trial.driver, other):
        with trial.unchanged(), trial.raises(errors.InsufficientResources):
            who.power_on(uuid)
        spec = trial.spec()
        trial.will_destroy(spec.uuid)
        with trial.unchanged(), trial.raises(errors.InsufficientResources):
            who.spawn(spec)
    trial.driver.exit_maintenance()
    other.power_on(uuid)
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state after maintenance")


@check(MAINT_002)
def machines_are_on(trial: Trial) -> None:
    _quiet(trial)
    uuid = trial.spawn().uuid
    with trial.unchanged(), trial.raises(errors.InvalidState) as caught:
        trial.driver.enter_maintenance()
    trial.check(caught[0].hint, "the error has no hint")
    trial.check(not trial.driver.in_maintenance(), "the host is in maintenance all the same")
    trial.driver.power_off(uuid)
    trial.driver.power_on(uuid)
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state after power_on()")


@check(MAINT_002)
def machines_of_others_are_on(trial: Trial) -> None:
    _quiet(trial)
    with trial.target.foreign_machine() as uuid:
        if uuid not in {each.uuid for each in trial.driver.list_foreign() if each.state in _ON}:
            raise PreconditionMissing("the foreign machine of the target is not powered on")
        with trial.unchanged(), trial.raises(errors.InvalidState):
            trial.driver.enter_maintenance()
        trial.check(not trial.driver.in_maintenance(), "the host is in maintenance all the same")


@check(MAINT_003)
def twice_is_once(trial: Trial) -> None:
    _quiet(trial)
    other = trial.other
    trial.equal(trial.driver.in_maintenance(), False, "in_maintenance() before")
    with trial.unchanged():
        trial.driver.exit_maintenance()
        for _ in range(2):
            trial.driver.enter_maintenance()
            found = (trial.driver.in_maintenance(), other.in_maintenance())
            trial.equal(found, (True, True), "in_maintenance() of two connections")
        for _ in range(2):
            other.exit_maintenance()
            found = (trial.driver.in_maintenance(), other.in_maintenance())
            trial.equal(found, (False, False), "in_maintenance() of two connections")


@check(MAINT_004)
def the_rest_works(trial: Trial) -> None:
    _quiet(trial)
    uuid = trial.spawn(start=False).uuid
    trial.driver.enter_maintenance()
    name = f"{trial.journal.prefix}renamed"
    trial.driver.rename(uuid, name)
    trial.equal(trial.driver.get_instance(uuid).name, name, "name given in maintenance")
    trial.driver.destroy(uuid)
    with trial.raises(errors.InstanceNotFound):
        trial.driver.get_instance(uuid)
    trial.check(trial.driver.in_maintenance(), "a destroy() has ended the maintenance")


@check(
    MAINT_005,
    cases=[
        Case(
            "power_on,suspended",
            (InstanceState.SUSPENDED, lambda t, uuid: t.driver.power_on(uuid)),
            needs=frozenset({Capability.SUSPEND}),
        ),
        Case(
            "resume",
            (InstanceState.SUSPENDED, lambda t, uuid: t.driver.resume(uuid)),
            needs=frozenset({Capability.SUSPEND}),
        ),
        Case(
            "rescue",
            (InstanceState.STOPPED, lambda t, uuid: t.driver.rescue(uuid, t.target.image())),
            needs=frozenset({Capability.RESCUE}),
        ),
        Case("reboot", (InstanceState.CRASHED, lambda t, uuid: t.driver.reboot(uuid))),
        Case(
            "revert_snapshot",
            (None, revert),
            needs=frozenset({Capability.SNAPSHOTS, Capability.SNAPSHOT_MEMORY}),
        ),
    ],
)
def nothing_else_starts(
    trial: Trial, state: InstanceState | None, call: Callable[[Trial, UUID], None]
) -> None:
    _quiet(trial)
    uuid = remembered(trial, memory=True) if state is None else trial.in_state(state)
    trial.driver.enter_maintenance()
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        call(trial, uuid)
    trial.driver.exit_maintenance()
    call(trial, uuid)
    trial.check(trial.state(uuid) in _ON, "after maintenance it does not power the machine on")


def _stopped_one(trial: Trial) -> UUID:
    if any(each.state in _ON for each in trial.driver.list_foreign()):
        raise PreconditionMissing("machines of others are powered on")
    return trial.spawn(start=False).uuid


@check(HOSTP_001)
def machines_of_ours_are_on(trial: Trial) -> None:
    uuid = _stopped_one(trial)
    with trial.target.expendable_host():
        trial.driver.power_on(uuid)
        for action in HostPowerAction:
            with trial.unchanged(), trial.raises(errors.InvalidState):
                trial.driver.host_power(action)


def _answers(trial: Trial) -> bool:
    try:
        trial.driver.ping()
    except errors.ConnectionFailed:
        return False
    return True


@check(HOSTP_002)
def comes_back(trial: Trial) -> None:
    uuid = _stopped_one(trial)
    with trial.target.expendable_host():
        before = trial.picture()
        with trial.driver.watch() as events:
            events.next(5)
            trial.driver.host_power(HostPowerAction.REBOOT)
            lost = events.next(trial.patience(600))
        trial.check(lost is not None, "nobody lost a connection: the host has not rebooted")
        trial.eventually(lambda: _answers(trial), "the host does not come back", timeout=600)
        trial.equal(trial.picture(), before, "the host after it was rebooted")
    trial.driver.power_on(uuid)
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state after a power_on()")


@check(HOSTP_003)
def goes_down(trial: Trial) -> None:
    _stopped_one(trial)
    with trial.target.expendable_host():
        trial.driver.host_power(HostPowerAction.SHUTDOWN)
        trial.eventually(
            lambda: not _answers(trial),
            "the host still answers",
            timeout=600,
        )
    trial.eventually(lambda: _answers(trial), "the host does not come back", timeout=600)
