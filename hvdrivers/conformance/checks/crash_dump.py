"""Clauses of ``contract/power.py``: inject_nmi()."""

from __future__ import annotations

from hvdrivers.conformance.engine.assertions import booted, expect_no_boot, expect_state
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.state import InstanceState

RUNNING, PAUSED = InstanceState.RUNNING, InstanceState.PAUSED

POWER_016 = clause(
    "POWER-016",
    "inject_nmi() reaches a running guest and restarts nothing",
    operation="inject_nmi",
)
POWER_028 = clause(
    "POWER-028",
    "inject_nmi() of a PAUSED machine leaves it PAUSED; its guest gets the interrupt when it goes"
    " on, and once",
    operation="inject_nmi",
    needs=[Capability.NMI_PAUSED, Capability.PAUSE],
)


@check(POWER_016)
def interrupts(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    starts = booted(trial, uuid)
    state, told = trial.state(uuid), None
    if trial.has(Capability.CONSOLE_LOG):
        told = trial.driver.get_console_log(uuid).data
    trial.driver.inject_nmi(uuid)
    now = trial.state(uuid)
    trial.check(now in {state, InstanceState.CRASHED}, "state after inject_nmi()")
    if now is not InstanceState.CRASHED:
        expect_no_boot(trial, uuid, starts, "after inject_nmi()")
    if told is not None:
        trial.eventually(
            lambda: trial.driver.get_console_log(uuid).data != told,
            "the guest's kernel has said nothing of an interrupt",
        )


@check(POWER_028, needs=[Capability.CONSOLE_LOG])
def interrupts_what_stands_still(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    starts = booted(trial, uuid)
    trial.driver.pause(uuid)
    told = trial.driver.get_console_log(uuid).data
    trial.driver.inject_nmi(uuid)
    expect_state(trial, uuid, PAUSED, "after inject_nmi()")
    trial.equal(trial.driver.get_console_log(uuid).data, told, "what a paused guest has said")
    trial.driver.unpause(uuid)
    trial.eventually(
        lambda: trial.driver.get_console_log(uuid).data != told,
        "the guest's kernel has said nothing of an interrupt",
    )
    if trial.state(uuid) is not InstanceState.CRASHED:
        expect_no_boot(trial, uuid, starts, "after the interrupt")
    trial.driver.reboot(uuid)
    expect_state(trial, uuid, RUNNING, "after a reboot")
