"""Clauses of faults: a change that is cut, and whose undo is cut too.

FAULT-TWICE cuts one call of the undo; FAULT-DEAD cuts all of them, as when the host has died. There
the driver can take nothing back, and must not say that nothing has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.cutting import CutStruckNothing, chosen_calls, named
from hvdrivers.conformance.engine.fault_plans import PLANS, Plan
from hvdrivers.conformance.engine.fault_runs import Run, same, whole
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS

FAULT_TWICE = clause(
    "FAULT-TWICE",
    "a change that is cut, and cut again while it takes back what it had begun, tears nothing"
    " apart: an instance that is there has all that belongs to it, nothing that was there before"
    " has gone, the same call works or is refused for what get_instance() shows, and destroy()"
    " removes everything",
)
_MOST_CALLS = 64
"""Calls after the first cut of which each is cut in turn."""


def _each_change() -> Iterator[Case]:
    for name, plan in PLANS.items():
        own = OPERATIONS[name].capability
        needs = frozenset(plan.needs) | ({own} if own is not None else frozenset())
        yield Case(name, (name, plan), needs=needs)


@check(FAULT_TWICE, cases=_each_change())
def survives_two_cuts(trial: Trial, name: str, plan: Plan) -> None:
    run, empty, calls, complete = _undisturbed(trial, name, plan)
    thorough = trial.target.thorough
    for number in chosen_calls(calls, len(calls) if thorough else 1):
        # of those that come after the first cut: each, or one of the next, by the seed of the run
        thens = range(1, _MOST_CALLS) if thorough else [1 + chosen_calls("abc", 1)[0]]
        for then in thens:
            if not _cut_twice(run, (*named(calls, number), then), complete):
                break
            run.remove()
            same(trial, run.picture(), empty, f"{name} was cut twice; destroy() leaves something")


def _undisturbed(
    trial: Trial, name: str, plan: Plan
) -> tuple[Run, dict[str, Any], list[str], dict[str, Any]]:
    """The run, the host before it, the calls of the change, and the host after it."""
    run = Run(trial, name, plan)
    trial.after(lambda: plan.reset(trial, run.uuid))
    run.prepare()  # the volume of a trial stays
    if name == "spawn":
        # the first spawn of all may bring the image to the host, with calls that no other makes
        trial.driver.spawn(trial.spec(uuid=run.uuid, start=False))
    run.remove()
    empty = run.picture()
    run.prepare()
    with trial.faults.counting() as calls:
        trial.equal(run.call(), None, f"error of an undisturbed {name}")
    trial.check(bool(calls), f"{name} made no call to the host that passes the seam")
    return run, empty, calls, run.picture()


def _cut_twice(run: Run, place: tuple[str, int, int], complete: dict[str, Any]) -> bool:
    """Whether there was a call to cut a second time."""
    name, occurrence, then = place
    where = f"{run.name} lost the reply of a call ({name}) and was cut {then} calls later"
    before = run.prepare()
    with run.trial.faults.cut_twice(name, occurrence, then) as (first, second):
        error = run.call()
    if not first.struck and occurrence == 1:
        raise CutStruckNothing(f"the seam was to cut {name}, and that call never came")
    if second.struck:
        _judge(run, error, before, complete, where)
    return second.struck


def _judge(
    run: Run,
    error: errors.HypervisorError | None,
    before: dict[str, Any],
    complete: dict[str, Any],
    where: str,
) -> None:
    """What the change has raised is true, and the same call and destroy() work afterwards."""
    trial, uuid = run.trial, run.uuid
    now = run.picture()
    if error is None:
        same(trial, now, complete, f"{where}, and succeeded, but the end is not that of a success")
    elif not isinstance(error, errors.OutcomeUnknown):
        trial.check(
            isinstance(error, errors.ConnectionFailed),
            f"{where}: raised {type(error).__name__} ({error})",
        )
        promise = f"{where}: {type(error).__name__} says that nothing has changed"
        same(trial, now, before, promise)
    whole(run, now, before, complete, where)
    again = run.call()
    shown = uuid in trial.picture()["instances"]
    if isinstance(again, errors.DeviceBusy) and not shown:
        # what the undo could not remove is in the way: destroy() removes it
        trial.driver.destroy(uuid)
        again = run.call()
        trial.equal(again, None, f"{where}; repeated after destroy()")
    elif again is not None:
        trial.check(
            isinstance(again, run.plan.refused),
            f"{where}; repeated, it raised {type(again).__name__} ({again})",
        )
        told = isinstance(again, errors.InstanceExists)
        trial.check(shown or not told, f"{where}; InstanceExists, and get_instance() shows none")


FAULT_DEAD = clause(
    "FAULT-DEAD",
    "a change whose host dies before one of its calls, so that nothing can be taken back, raises"
    " OutcomeUnknown, or ConnectionFailed if nothing has changed; when the host is back, an"
    " instance that is there has all that belongs to it, the same call works or is refused for what"
    " get_instance() shows, and destroy() removes everything",
)


@check(FAULT_DEAD, cases=_each_change())
def tells_what_a_dead_host_keeps(trial: Trial, name: str, plan: Plan) -> None:
    run, empty, calls, complete = _undisturbed(trial, name, plan)
    most = len(calls) if trial.target.thorough else 1
    for number in chosen_calls(calls, most):
        call, occurrence = named(calls, number)
        where = f"{name}: the host died before a call ({call})"
        before = run.prepare()
        with trial.faults.host_dies(call, occurrence) as cut:
            error = run.call()
        if not cut.struck:
            if occurrence == 1:
                raise CutStruckNothing(f"the host was to die before {call}, which never came")
            continue  # a poll, which is made now more and now less often
        _judge(run, error, before, complete, where)
        run.remove()
        same(trial, run.picture(), empty, f"{where}; destroy() leaves something")
