"""Clauses of ``contract/power.py``.

What is refused in which state stands in the table (``states.py``); here is what an operation does
where it is allowed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.assertions import (
    IMPOSSIBLE_MEMORY_MIB,
    STATE_NEEDS,
    all_that_can_be_had,
    booted,
    expect_boots,
    expect_no_boot,
    expect_only_state,
    expect_state,
    larger,
)
from hvdrivers.conformance.engine.clauses import Case, Clause, Level, check, clause
from hvdrivers.conformance.engine.cutting import chosen_calls, named, striking
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.power import RebootKind
from hvdrivers.models.state import InstanceState

RUNNING, STOPPED = InstanceState.RUNNING, InstanceState.STOPPED
PAUSED, SUSPENDED = InstanceState.PAUSED, InstanceState.SUSPENDED


def _power(number: str, rule: str, operation: str, *needs: Capability) -> Clause:
    return clause(f"POWER-{number}", rule, operation=operation, needs=needs)


POWER_001 = _power(
    "001", "power_on() returns when the machine runs, and changes nothing but the state", "power_on"
)
POWER_002 = _power("002", "power_on() of a running machine does not disturb its guest", "power_on")
POWER_003 = _power(
    "003", "power_off() returns when the machine is STOPPED; its devices stay", "power_off"
)
POWER_004 = _power(
    "004",
    "power_off(graceful=) lets the guest go down by itself, and returns when it has",
    "power_off",
)
POWER_005 = _power(
    "005",
    "power_off(graceful=) cuts the power of a guest that has not gone down by then, and not"
    " earlier",
    "power_off",
)
POWER_006 = _power(
    "006",
    "a hard reboot starts the guest anew, each time it is asked for, and nothing else changes",
    "reboot",
)
POWER_007 = _power(
    "007", "a soft reboot lets the guest go down, and returns when it has come up again", "reboot"
)
POWER_008 = _power(
    "008",
    "a soft reboot of a guest that does not heed it raises DeviceBusy at its deadline, and"
    " the guest runs on",
    "reboot",
)
POWER_012 = _power(
    "012",
    "power_on() beyond what the host has raises InsufficientResources and changes nothing",
    "power_on",
)
POWER_013 = _power(
    "013",
    "power_on() of a machine whose volume a powered-on machine has raises DeviceBusy and"
    " changes nothing",
    "power_on",
    Capability.HOST_VOLUMES,
)
POWER_014 = _power(
    "014", "a machine that went off by itself is STOPPED at once, and can be started", "power_on"
)
POWER_015 = _power(
    "015", "a machine that has crashed can be started, powered off and rebooted", "power_on"
)
POWER_020 = _power(
    "020",
    "power_on() of a machine whose volume has gone raises VolumeNotFound and leaves it STOPPED",
    "power_on",
    Capability.HOST_VOLUMES,
)
POWER_021 = _power(
    "021",
    "power_off(graceful=) waits for the guest of a RUNNING machine alone: one that is PAUSED or"
    " SUSPENDED is STOPPED at once",
    "power_off",
    Capability.PAUSE,
)
POWER_022 = _power(
    "022",
    "power_on() of a machine whose network has gone raises NetworkNotFound and leaves it STOPPED",
    "power_on",
)
POWER_027 = clause(
    "POWER-027",
    "power_on() of what an interrupted destroy() has left starts it with all of its disks, or"
    " raises VolumeNotFound and starts nothing",
    operation="power_on",
    level=Level.SHOULD,
)
_CUTS = 3
"""Of the calls of destroy(), where not all are cut."""


@check(POWER_001)
def runs_when_it_returns(trial: Trial) -> None:
    before = trial.spawn(start=False, **all_that_can_be_had(trial))
    for round_ in ("first", "second"):
        trial.driver.power_on(before.uuid)
        expect_only_state(trial, before, RUNNING, f"after the {round_} power_on()")
        trial.driver.power_off(before.uuid)
        expect_only_state(trial, before, STOPPED, f"after the {round_} power_off()")


@check(POWER_001)
def starts_the_guest(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    trial.driver.power_on(uuid)
    expect_boots(trial, uuid, 1, "after power_on()")
    trial.driver.power_off(uuid)
    trial.driver.power_on(uuid)
    expect_boots(trial, uuid, 2, "after the second power_on()")


@check(POWER_002)
def running_is_not_disturbed(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    with trial.unchanged():
        trial.driver.power_on(uuid)
        trial.other.power_on(uuid)


@check(POWER_002)
def running_is_not_restarted(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    starts = booted(trial, uuid)
    trial.driver.power_on(uuid)
    expect_no_boot(trial, uuid, starts, "after power_on()")


_FROM = [
    Case(
        state.value, (state,), needs=frozenset({STATE_NEEDS[state]} if state in STATE_NEEDS else ())
    )
    for state in (RUNNING, PAUSED, SUSPENDED, STOPPED, InstanceState.RESCUED)
]


@check(POWER_003, cases=_FROM)
def is_off_when_it_returns(trial: Trial, state: InstanceState) -> None:
    before = trial.driver.get_instance(trial.in_state(state, **all_that_can_be_had(trial)))
    trial.driver.power_off(before.uuid)
    expect_only_state(trial, before, STOPPED, f"after power_off() from {state}")
    with trial.unchanged():
        trial.driver.power_off(before.uuid)
        trial.other.power_off(before.uuid, graceful=1.0)


def _timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


@check(POWER_004)
def goes_down_by_itself(trial: Trial) -> None:
    before = trial.spawn()
    trial.target.wait_booted(trial.driver, before.uuid)
    grace = 90.0 * trial.target.time_scale
    took = _timed(lambda: trial.driver.power_off(before.uuid, graceful=grace))
    expect_only_state(trial, before, STOPPED, "after power_off(graceful=)")
    trial.check(took < grace, f"it took {took:.1f} s: the guest was not asked, or not heard")


@check(POWER_005)
def is_cut_in_the_end(trial: Trial) -> None:
    before = trial.spawn()
    # a hypervisor that asks by guest tools cuts the power at once while there are none yet
    trial.target.wait_booted(trial.driver, before.uuid)
    grace = trial.deadline(0.5)
    with trial.target.deaf_guest(trial.driver, before.uuid):
        took = _timed(lambda: trial.driver.power_off(before.uuid, graceful=grace))
        trial.check(took >= grace * 0.99, f"the power was cut after {took:.2f} of {grace:.2f} s")
        expect_only_state(trial, before, STOPPED, "after the grace was over")


@check(POWER_005)
def without_grace_at_once(trial: Trial) -> None:
    before = trial.spawn()
    with trial.target.deaf_guest(trial.driver, before.uuid):
        trial.driver.power_off(before.uuid, timeout=20.0 * trial.target.time_scale)
        expect_only_state(trial, before, STOPPED, "after power_off()")


@check(POWER_006)
def hard_changes_nothing_else(trial: Trial) -> None:
    before = trial.spawn(**all_that_can_be_had(trial))
    trial.driver.reboot(before.uuid)
    expect_only_state(trial, before, RUNNING, "after reboot()")


@check(POWER_006)
def hard_starts_anew(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    expect_boots(trial, uuid, 1, "after spawn()")
    for number in (1, 2):
        trial.driver.reboot(uuid)
        expect_boots(trial, uuid, 1 + number, f"after reboot number {number}")
    trial.equal(trial.state(uuid), RUNNING, "state after the reboots")


@check(POWER_006)
def hard_heeds_no_guest(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    starts = booted(trial, uuid)
    with trial.target.deaf_guest(trial.driver, uuid):
        trial.driver.reboot(uuid, RebootKind.HARD)
    expect_boots(trial, uuid, starts + 1, "after the reboot of a guest that holds on")
    trial.equal(trial.state(uuid), RUNNING, "state after the reboot")


@check(POWER_007)
def soft_starts_anew(trial: Trial) -> None:
    # with the fastest firmware: an emulated guest takes its time through UEFI
    changes = all_that_can_be_had(trial) | {"firmware": None}
    before = trial.spawn(**changes)
    starts = booted(trial, before.uuid)
    trial.driver.reboot(before.uuid, RebootKind.SOFT)
    expect_only_state(trial, before, RUNNING, "after a soft reboot()")
    expect_boots(trial, before.uuid, starts + 1, "after a soft reboot()")


@check(POWER_008)
def soft_asks_in_vain(trial: Trial) -> None:
    before = trial.spawn()
    starts = booted(trial, before.uuid)
    deadline = trial.deadline(0.5)
    with trial.target.deaf_guest(trial.driver, before.uuid):
        with trial.unchanged(), trial.raises(errors.DeviceBusy):
            trial.driver.reboot(before.uuid, RebootKind.SOFT, timeout=deadline)
        expect_only_state(trial, before, RUNNING, "after the deadline")
        trial.equal(trial.target.boots(trial.driver, before.uuid), starts, "starts of the guest")


@check(POWER_012)
def host_has_not_that_much(trial: Trial) -> None:
    flavor = larger(trial.target.flavor, memory_mib=IMPOSSIBLE_MEMORY_MIB)
    before = uuid4()
    try:
        uuid = trial.spawn(start=False, flavor=flavor, uuid=before).uuid
    except errors.InsufficientResources:
        # refused at definition, as it may be: then nothing can be powered on
        trial.check(not _listed(trial, before), "what was refused is there")
        return
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.power_on(uuid)


@check(POWER_013)
def running_machine_keeps_its_volume(trial: Trial) -> None:
    attachment = trial.attachment()
    first = trial.spawn(start=False, volumes=(attachment,)).uuid
    second = trial.spawn(start=False).uuid
    trial.driver.attach_volume(second, attachment)
    trial.driver.power_on(first)
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.power_on(second)
    trial.driver.power_off(first)
    trial.driver.power_on(second)
    expect_state(trial, second, RUNNING, "after the first was powered off")


@check(POWER_014)
def went_off_by_itself(trial: Trial) -> None:
    observer = trial.observer
    if observer is None:
        raise PreconditionMissing("there is no observer to switch the machine off")
    before = trial.spawn()
    trial.equal(trial.state(before.uuid), RUNNING, "state after spawn()")
    observer.power_off(before.uuid)
    expect_only_state(trial, before, STOPPED, "after it went off")
    trial.driver.power_on(before.uuid)
    expect_only_state(trial, before, RUNNING, "after power_on()")


_AFTER_CRASH: list[tuple[str, Callable[[Trial, UUID], object], InstanceState]] = [
    ("power_on", lambda t, uuid: t.driver.power_on(uuid), RUNNING),
    ("power_off", lambda t, uuid: t.driver.power_off(uuid), STOPPED),
    ("reboot", lambda t, uuid: t.driver.reboot(uuid), RUNNING),
]


@check(POWER_015, cases=[Case(name, (call, end)) for name, call, end in _AFTER_CRASH])
def recovers(trial: Trial, call: Callable[[Trial, UUID], object], end: InstanceState) -> None:
    before = trial.driver.get_instance(trial.in_state(InstanceState.CRASHED))
    call(trial, before.uuid)
    expect_only_state(trial, before, end, "after the crash and that")


@check(POWER_020)
def its_volume_has_gone(trial: Trial) -> None:
    attachment = trial.attachment()
    uuid = trial.spawn(start=False, volumes=(attachment,)).uuid
    trial.target.lose_volume(trial.driver, attachment.volume_id)
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.driver.power_on(uuid)
    expect_state(trial, uuid, InstanceState.STOPPED, "after power_on() without its volume")
    trial.driver.detach_volume(uuid, attachment.volume_id)
    trial.driver.power_on(uuid)
    expect_state(trial, uuid, InstanceState.RUNNING, "after the volume was detached")


@check(POWER_021)
def who_cannot_heed_is_not_waited_for(trial: Trial) -> None:
    before = trial.spawn()
    grace = trial.patience(60.0)
    for state, stand_still in ((PAUSED, "pause"), (SUSPENDED, "suspend")):
        if not trial.has(STATE_NEEDS[state]):
            continue
        trial.driver.power_on(before.uuid)
        getattr(trial.driver, stand_still)(before.uuid)
        took = _timed(lambda: trial.driver.power_off(before.uuid, graceful=grace))
        trial.check(took < grace, f"a {state} guest, which hears nothing, was given {took:.1f} s")
        expect_only_state(trial, before, STOPPED, f"after power_off(graceful=) from {state}")


@check(POWER_022)
def its_network_has_gone(trial: Trial) -> None:
    with trial.target.passing_network("hvct-nic") as vif:
        uuid = trial.spawn(start=False, vifs=(vif,)).uuid
    with trial.unchanged(), trial.raises(errors.NetworkNotFound):
        trial.driver.power_on(uuid)
    expect_state(trial, uuid, STOPPED, "after power_on() without its network")
    trial.driver.unplug_vif(uuid, vif.id)
    trial.driver.power_on(uuid)
    expect_state(trial, uuid, RUNNING, "after the NIC was unplugged")


@check(POWER_027)
def half_destroyed(trial: Trial) -> None:
    seam, observer = trial.faults, trial.observer
    if observer is None:
        raise PreconditionMissing("no observer")
    uuid = trial.spawn(start=False).uuid
    with seam.counting() as calls:
        trial.driver.destroy(uuid)
    most = len(calls) if trial.target.thorough else _CUTS
    for number in chosen_calls(calls, most):
        uuid = trial.spawn(start=False).uuid
        disks = observer.own_disks(uuid)
        name, occurrence = named(calls, number)
        with striking(seam, name, occurrence, "before"):
            try:
                trial.driver.destroy(uuid)
            except (errors.ConnectionFailed, errors.OutcomeUnknown):
                pass
            else:
                # it was done before that call, or the driver has made the call again
                trial.check(not _listed(trial, uuid), "a destroyed instance is listed")
                continue
        where = f"after destroy() was cut before call {number + 1} ({name})"
        try:
            trial.driver.power_on(uuid)
        except errors.InstanceNotFound:
            trial.check(not _listed(trial, uuid), f"there and not there {where}")
        except errors.VolumeNotFound:
            expect_state(trial, uuid, STOPPED, where)
        else:
            expect_state(trial, uuid, RUNNING, where)
            trial.equal(observer.own_disks(uuid), disks, f"disks of what runs {where}")
        trial.driver.destroy(uuid)


def _listed(trial: Trial, uuid: UUID) -> bool:
    return uuid in {each.uuid for each in trial.driver.list_instances()}
