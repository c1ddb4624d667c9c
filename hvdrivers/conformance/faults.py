"""Clauses of faults: every call of every change is cut in turn.

An operation is a number of calls to the host. The suite counts them on an undisturbed run, and
then cuts each of them: before it is sent, after it took effect (the reply is lost), by a deadline,
by a session that has expired. What must hold is the same for all: a defined error, nothing left
behind, and the same call again comes to the end that it would have had.

On a host that is not simulated only some of the calls are cut, by the seed of the run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from hvdrivers.conformance.clauses import Case, check, clause
from hvdrivers.conformance.faultplans import PLANS, Plan
from hvdrivers.conformance.target import FaultSeam
from hvdrivers.conformance.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.contract.operation import Repeat
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.snapshot import Snapshot

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


@dataclass
class _Run:
    """One operation, tried again and again with the same UUID and the same names."""

    trial: Trial
    name: str
    plan: Plan
    uuid: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        self.trial.will_destroy(self.uuid)

    def prepare(self) -> dict[str, Any]:
        self.plan.reset(self.trial, self.uuid)
        self.trial.driver.destroy(self.uuid)
        self.plan.prepare(self.trial, self.uuid)
        return self.picture()

    def call(self, timeout: float | None = None) -> errors.HypervisorError | None:
        try:
            self.plan.call(self.trial, self.uuid, timeout)
        except errors.HypervisorError as error:
            return error
        return None

    def picture(self) -> dict[str, Any]:
        return {part: _timeless(value) for part, value in self.trial.picture().items()}


def _timeless(value: Any) -> Any:
    """Without the times of creation, which differ from one attempt to the next."""
    if isinstance(value, InstanceInfo | Snapshot):
        return value.model_copy(update={"created_at": None})
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    return value


@check(cases=_cases())
def survives(trial: Trial, name: str, plan: Plan, kind: Kind) -> None:
    seam = trial.faults
    run = _Run(trial, name, plan)
    trial.after(lambda: plan.reset(trial, run.uuid))
    began = time.monotonic()
    run.prepare()
    with seam.counting() as calls:
        error = run.call()
    quick = time.monotonic() - began < _QUICK
    trial.equal(error, None, f"error of an undisturbed {name}")
    complete = run.picture()
    trial.check(bool(calls), f"{name} made no call to the host")
    most = len(calls) if trial.target.simulated else 1 + (quick and kind.name == "after")
    # the engine has seeded it, so that the same seed cuts the same calls
    chosen = sorted(random.sample(range(len(calls)), min(most, len(calls))))
    cuts = [_Cut(seam, number, calls[number], kind) for number in chosen]
    found = [_cut(run, cut, complete) for cut in cuts]
    if kind.name == "after" and len(chosen) == len(calls):
        trial.check(
            any(type(each) is errors.OutcomeUnknown for each in found),
            "whichever reply was lost, nobody was told that the outcome is unknown",
        )


@dataclass(frozen=True)
class _Cut:
    """Where and how."""

    seam: FaultSeam
    number: int
    call: str
    kind: Kind


def _cut(run: _Run, cut: _Cut, complete: dict[str, Any]) -> errors.HypervisorError | None:
    trial, kind = run.trial, cut.kind
    where = f"{run.name} was cut {kind.words} at call {cut.number + 1} ({cut.call})"
    before = run.prepare()
    with cut.seam.cut(cut.number, kind.name):
        error = run.call(cut.seam.deadline if kind.name == "timeout" else None)
    now = run.picture()
    if error is None:
        _same(trial, now, complete, f"{where} and succeeded, but the end is not that of a success")
    else:
        allowed = (*kind.unchanged, errors.OutcomeUnknown)
        trial.check(isinstance(error, allowed), f"{where}: raised {type(error).__name__} ({error})")
        if not isinstance(error, errors.OutcomeUnknown):
            promise = f"{where}: {type(error).__name__} says that nothing has changed"
            _same(trial, now, before, promise)
        elif run.plan.atomic and now != before:
            _same(trial, now, complete, f"{where}: neither nothing nor all of it is there")
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
    _same(trial, end, complete, f"{where}; the end after it was repeated")
    return error


def _same(trial: Trial, found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    for part, value in expected.items():
        if isinstance(value, frozenset):
            extra, gone = sorted(found[part] - value), sorted(value - found[part])
            trial.check(not extra and not gone, f"{what}: left {extra}, gone {gone}")
        else:
            trial.equal(found[part], value, f"{what}: {part}")


FAULT_READ = clause(
    "FAULT-READ",
    "a read that is cut raises ConnectionFailed or OperationTimeout, never OutcomeUnknown, and"
    " works when repeated",
    operation="get_instance",
)
_READS: dict[str, Callable[[Trial, UUID, float | None], object]] = {
    "get_instance": lambda t, uuid, s: t.driver.get_instance(uuid, timeout=s),
    "list_instances": lambda t, _, s: t.driver.list_instances(timeout=s),
    "list_foreign": lambda t, _, s: t.driver.list_foreign(timeout=s),
    "get_available_resource": lambda t, _, s: t.driver.get_available_resource(timeout=s),
    "ping": lambda t, _, s: t.driver.ping(timeout=s),
    "get_metrics": lambda t, _, s: t.driver.get_metrics(timeout=s),
}


@check(
    FAULT_READ,
    cases=[Case(f"{name},{kind.name}", (name, kind)) for name in _READS for kind in KINDS],
)
def read_can_be_repeated(trial: Trial, name: str, kind: Kind) -> None:
    assert not OPERATIONS[name].changes  # noqa: S101 - the table above
    seam = trial.faults
    uuid = trial.spawn(start=False).uuid
    expected = _READS[name](trial, uuid, None)
    with trial.unchanged(), seam.cut(0, kind.name):
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
