"""Clauses of ``contract/guest.py`` about a program that runs while something else happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from uuid import UUID

from hvdrivers.conformance.checks.guest import booted, run_program
from hvdrivers.conformance.engine.assertions import expect_state
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.models.guest import ExecResult
from hvdrivers.models.state import InstanceState

GUEST_013 = clause(
    "GUEST-013",
    "while guest_exec() waits for a program, no other operation on the instance waits for that:"
    " another guest_exec(), set_metadata(), power_off() and destroy() go ahead",
    operation="guest_exec",
)
GUEST_014 = clause(
    "GUEST-014",
    "guest_exec() of a program that runs when its instance is powered off, rebooted or destroyed"
    " raises OutcomeUnknown, and does not wait for its deadline",
    operation="guest_exec",
)

_FOR_LONG = 86400.0
"""Seconds that a program may run: whatever waits for its end is stuck."""


@contextmanager
def _waited_for(trial: Trial, uuid: UUID) -> Iterator[Future[ExecResult]]:
    """A program runs in the guest and comes to no end, and guest_exec() waits for it."""
    found: Future[ExecResult] = Future()

    def run(command: Sequence[str]) -> None:
        try:
            found.set_result(run_program(trial, uuid, command, timeout=_FOR_LONG))
        except Exception as error:  # noqa: BLE001 - the check judges it
            found.set_exception(error)

    with trial.target.endless_program(trial.driver, uuid) as command:
        threading.Thread(target=run, args=(command,), daemon=True).start()
        trial.eventually(
            lambda: found.done() or trial.target.program_runs(trial.driver, uuid),
            "guest_exec() did not start the program",
            timeout=120,
        )
        if found.done():
            trial.check(False, f"guest_exec() has ended before its program: {_outcome(found)}")
        yield found


def _outcome(found: Future[ExecResult]) -> str:
    return repr(found.exception() or found.result())


def _power_off(trial: Trial, uuid: UUID) -> None:
    trial.driver.power_off(uuid, timeout=trial.patience(120))
    expect_state(trial, uuid, InstanceState.STOPPED, "after power_off()")


def _reboot(trial: Trial, uuid: UUID) -> None:
    trial.driver.reboot(uuid, RebootKind.HARD, timeout=trial.patience(120))


def _destroy(trial: Trial, uuid: UUID) -> None:
    trial.driver.destroy(uuid, timeout=trial.patience(120))
    with trial.raises(errors.InstanceNotFound):
        trial.driver.get_instance(uuid)


_Ends = Callable[[Trial, UUID], None]
_POWER_OFF = Case("power-off", (_power_off,))
_DESTROY = Case("destroy", (_destroy,))


@check(GUEST_013, cases=[_POWER_OFF, _DESTROY])
def program_holds_nobody_back(trial: Trial, end: _Ends) -> None:
    """What waits for the program waits for a day, and the deadlines below are minutes."""
    uuid = booted(trial)
    with _waited_for(trial, uuid) as found:
        beside = run_program(trial, uuid, ["/bin/echo", "beside"], timeout=trial.patience(120))
        trial.equal(beside.stdout, b"beside\n", "output of a second program")
        metadata = {"hvct.beside": "yes"}
        trial.driver.set_metadata(uuid, metadata, timeout=trial.patience(120))
        trial.equal(dict(trial.driver.get_instance(uuid).metadata), metadata, "metadata")
        if found.done():
            trial.check(False, f"guest_exec() has ended before its program: {_outcome(found)}")
        end(trial, uuid)


@check(GUEST_014, cases=[_POWER_OFF, Case("reboot", (_reboot,)), _DESTROY])
def program_ends_with_its_guest(trial: Trial, end: _Ends) -> None:
    uuid = booted(trial)
    with _waited_for(trial, uuid) as found:
        end(trial, uuid)
        try:
            error = found.exception(trial.patience(120))
        except TimeoutError:
            trial.check(False, "guest_exec() still waits for a program whose guest is gone")
        else:
            unknown = isinstance(error, errors.OutcomeUnknown)
            trial.check(unknown, f"guest_exec() of the program that ran: {_outcome(found)}")
