"""Clauses of faults: every call of every change is cut in turn.

An operation is a number of calls to the host. The suite counts them on an undisturbed run, and
then cuts each of them: before it is sent, after it took effect (the reply is lost), by a deadline,
by a session that has expired. What must hold is the same for all: a defined error, nothing left
behind, and the same call again comes to the end that it would have had.

Where the target is not thorough only some of the calls are cut, by the seed of the run.

A driver that finds out by itself what became of a lost reply, and then returns as usual, is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.cutting import chosen_calls, named, striking
from hvdrivers.conformance.engine.fault_plans import FROM_OTHER_STATES, PLANS, Plan
from hvdrivers.conformance.engine.fault_runs import Run, same
from hvdrivers.conformance.engine.observer import FaultSeam
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.conformance.engine.watching import watching
from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.contract.operation import Repeat, Scope
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.migration import Destination

_QUICK = 1.0
"""Seconds: of an operation that is prepared and made faster than that on a real host, two lost
replies are tried; of any other, and of other kinds of faults, one."""

Errors = tuple[type[errors.HypervisorError], ...]


@dataclass(frozen=True)
class Kind:
    """One way to fail, and what may come of it."""

    name: str
    words: str
    unchanged: Errors
    """Errors that promise that nothing has changed."""


KINDS = (
    Kind("before", "before it is sent", (errors.ConnectionFailed,)),
    Kind("after", "after it took effect, so that its reply is lost", (errors.ConnectionFailed,)),
    Kind("timeout", "by the deadline", (errors.OperationTimeout,)),
    Kind("expired", "by a session that has expired", (errors.ConnectionFailed,)),
)


def _cases() -> Iterator[Case]:
    for name, plan in PLANS.items():
        rule = clause(
            f"FAULT-{name.upper().replace('_', '-')}",
            f"wherever a call of {name} is cut, it raises a defined error (OutcomeUnknown if it"
            " may have changed something), leaves nothing behind, and converges when repeated",
            operation=name,
            needs=plan.needs,
        )
        for kind in KINDS:
            yield Case(kind.name, (name, plan, kind), clause=rule)
            for state, other in FROM_OTHER_STATES.get(name, {}).items():
                label = f"{state},{kind.name}"
                needs = frozenset(other.needs)
                yield Case(label, (name, other, kind), clause=rule, needs=needs)


@check(cases=_cases())
def survives(trial: Trial, name: str, plan: Plan, kind: Kind) -> None:
    seam = trial.faults
    run = Run(trial, name, plan)
    trial.after(lambda: plan.reset(trial, run.uuid))
    if name == "spawn":
        # the first spawn of all may bring the image to the host, with calls that no other makes
        trial.driver.spawn(trial.spec(uuid=run.uuid, start=False))
    began = time.monotonic()
    run.prepare()
    with seam.counting() as calls:
        error = run.call()
    quick = time.monotonic() - began < _QUICK
    trial.equal(error, None, f"error of an undisturbed {name}")
    complete = run.picture()
    trial.check(bool(calls), f"{name} made no call to the host that passes the seam")
    most = len(calls) if trial.target.thorough else 1 + (quick and kind.name == "after")
    for number in chosen_calls(calls, most):
        _cut(run, _Place(seam, *named(calls, number), kind), complete)


@dataclass(frozen=True)
class _Place:
    """Where and how an operation is cut."""

    seam: FaultSeam
    call: str
    occurrence: int
    kind: Kind


def _cut(run: Run, place: _Place, complete: dict[str, Any]) -> None:
    trial, kind = run.trial, place.kind
    nth = f", number {place.occurrence} of them" if place.occurrence > 1 else ""
    where = f"{run.name} was cut {kind.words} at a call ({place.call}{nth})"
    before = run.prepare()
    with striking(place.seam, place.call, place.occurrence, kind.name):
        error = run.call(place.seam.deadline if kind.name == "timeout" else None)
    now = run.picture()
    if error is None:
        same(trial, now, complete, f"{where} and succeeded, but the end is not that of a success")
    else:
        allowed = (*kind.unchanged, errors.OutcomeUnknown)
        trial.check(isinstance(error, allowed), f"{where}: raised {type(error).__name__} ({error})")
        if not isinstance(error, errors.OutcomeUnknown):
            promise = f"{where}: {type(error).__name__} says that nothing has changed"
            same(trial, now, before, promise)
        elif run.plan.atomic and now != before:
            if now != complete:
                now = run.settled(now)
            same(trial, now, complete, f"{where}: neither nothing nor all of it is there")
        trial.check(
            error.retryable or kind.name == "expired",
            f"{where}: the error does not say that it can be repeated",
        )
    again = run.call()
    if again is not None:
        trial.check(
            isinstance(again, run.plan.refused) and now == complete,
            f"{where}; repeated, it raised {type(again).__name__} ({again})",
        )
    end = run.picture()
    if OPERATIONS[run.name].repeat is Repeat.AGAIN and now == complete and "residue" in end:
        # it was done twice, and an observer may see that; but there is no more of anything
        trial.equal(len(end.pop("residue")), len(complete["residue"]), "things on the host")
        complete = {part: complete[part] for part in end}
    same(trial, end, complete, f"{where}; the end after it was repeated")


FAULT_READ = clause(
    "FAULT-READ",
    "a read that is cut raises ConnectionFailed or OperationTimeout, never OutcomeUnknown, and"
    " works when repeated",
    operation="get_instance",
)
_Read = Callable[[Trial, UUID, float | None], object]


def _of_host(name: str) -> _Read:
    return lambda trial, _uuid, timeout: getattr(trial.driver, name)(timeout=timeout)


def _of_instance(name: str) -> _Read:
    return lambda trial, uuid, timeout: getattr(trial.driver, name)(uuid, timeout=timeout)


def _watch(trial: Trial, _uuid: UUID, timeout: float | None) -> object:
    stream = trial.driver.watch(timeout=timeout)
    trial.after(stream.close)
    return stream


def _check_migration(trial: Trial, uuid: UUID, timeout: float | None) -> object:
    destination = Destination(host="hvct-nowhere")
    return trial.driver.check_live_migration(uuid, destination, timeout=timeout)


_RUNNING = frozenset({"screenshot", "guest_addresses", "check_live_migration"})
"""Reads of a guest that runs."""
_READS: dict[str, _Read] = {
    **{
        name: _of_instance(name) if rules.scope is Scope.INSTANCE else _of_host(name)
        for name, rules in OPERATIONS.items()
        if not rules.changes
    },
    "watch": _watch,
    "check_live_migration": _check_migration,
    "get_volume": lambda trial, _uuid, timeout: trial.driver.get_volume(
        trial.notes["volume"], timeout=timeout
    ),
}
for _unlike in ("close", "get_console"):
    _READS.pop(_unlike, None)  # close() ends the connection; a console's kind has its own checks


_NEVER_REMEMBERED = frozenset({"ping", "get_instance", "list_instances", "get_metrics"})
"""Reads that ask the host each time, whatever the driver knows."""


def _read_cases() -> Iterator[Case]:
    for name in _READS:
        capability = OPERATIONS[name].capability
        needs = frozenset() if capability is None else frozenset({capability})
        for kind in KINDS:
            yield Case(f"{name},{kind.name}", (name, kind), needs=needs)


@check(FAULT_READ, cases=_read_cases())
def read_can_be_repeated(trial: Trial, name: str, kind: Kind) -> None:
    seam = trial.faults
    uuid = trial.spawn(start=name in _RUNNING).uuid
    if name in _RUNNING:
        trial.target.wait_booted(trial.driver, uuid)
    if name == "get_volume":
        trial.notes["volume"] = trial.volume().volume_id
    with seam.counting() as calls:
        expected = _READS[name](trial, uuid, None)
    if not calls:
        trial.check(name not in _NEVER_REMEMBERED, f"{name} made no call that passes the seam")
        # read when the driver connected: no call, so nothing to cut
        trial.check(_READS[name](trial, uuid, None) is not None or expected is None, name)
        return
    with trial.unchanged(), striking(seam, *named(calls, 0), kind.name):
        try:
            _READS[name](trial, uuid, seam.deadline if kind.name == "timeout" else None)
        except errors.HypervisorError as error:
            allowed = (errors.ConnectionFailed, errors.OperationTimeout)
            trial.check(isinstance(error, allowed), f"{name} raised {type(error).__name__}")
            trial.check(
                error.retryable or kind.name == "expired",
                f"{name}: the error does not say that it can be repeated",
            )
    again = _READS[name](trial, uuid, None)
    trial.check(type(again) is type(expected), f"{name} repeated gave {again!r}")


@check(FAULT_READ, cases=[Case(f"watch tells,{kind.name}", (kind,)) for kind in KINDS[:2]])
def stream_after_a_cut_tells_once(trial: Trial, kind: Kind) -> None:
    seam = trial.faults
    with seam.counting() as calls:
        trial.driver.watch().close()
    if calls:
        with striking(seam, *named(calls, 0), kind.name), suppress(errors.ConnectionFailed):
            trial.driver.watch().close()
    watcher = watching(trial)
    watcher.resync()
    uuid = trial.spawn(start=False).uuid
    watcher.made(uuid)
    trial.driver.destroy(uuid)
    seen = watcher.change(uuid, LifecycleKind.DESTROYED, None)
    ends = [each for each in seen if getattr(each, "kind", None) is LifecycleKind.DESTROYED]
    trial.equal(len(ends), 1, "how often the stream tells that the instance was destroyed")
    watcher.quiet("nothing changed any more")
