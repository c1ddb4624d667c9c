"""Run the suite against mutants and keep the score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from hvdrivers.conformance.clauses import Check, catalogue
from hvdrivers.conformance.engine import Session, selected
from hvdrivers.conformance.mutants.registry import Mutant, mutants
from hvdrivers.conformance.report import BAD, Status
from hvdrivers.conformance.target import Target
from hvdrivers.models.base import Model


class MutantResult(Model):
    """What became of one mutant."""

    name: str
    topic: str
    fault: str
    intended: str
    """The clause that must kill it."""
    killed: bool
    killed_as_intended: bool
    killers: tuple[str, ...]
    """The checks that did not pass; of the whole suite only where the clause's own let it live."""
    message: str = ""


class MutantScore(Model):
    """The score of the suite."""

    total: int
    killed: int
    killed_as_intended: int
    results: tuple[MutantResult, ...]


def run_mutants(
    target: Callable[[Mutant], Target],
    chosen: Iterable[Mutant] | None = None,
    *,
    on_result: Callable[[MutantResult], None] | None = None,
) -> MutantScore:
    """Run the suite against mutants.

    Args:
        target: makes the target for one mutant: ``lambda mutant: FakeTarget(mutant.driver)``.
        chosen: some of them; None for all.
    """
    results = []
    for each in mutants() if chosen is None else chosen:
        result = _run(each, target)
        results.append(result)
        if on_result is not None:
            on_result(result)
    return MutantScore(
        total=len(results),
        killed=sum(each.killed for each in results),
        killed_as_intended=sum(each.killed_as_intended for each in results),
        results=tuple(results),
    )


def _run(each: Mutant, target: Callable[[Mutant], Target]) -> MutantResult:
    own = catalogue().of(each.killed_by)
    if not own:
        raise ValueError(f"{each.name} names the clause {each.killed_by}, which has no checks")
    # a MAY clause that is declined has noticed what it should; elsewhere the fake itself declines
    killers, message = _killers(each, target, own, BAD | {Status.DECLINED})
    intended = bool(killers)
    if not intended:
        killers, message = _killers(each, target, selected(), BAD)
    return MutantResult(
        name=each.name,
        topic=each.topic,
        fault=each.fault,
        intended=each.killed_by,
        killed=bool(killers),
        killed_as_intended=intended,
        killers=tuple(killers),
        message=message,
    )


def _killers(
    each: Mutant,
    target: Callable[[Mutant], Target],
    checks: Iterable[Check],
    noticed: Collection[Status],
) -> tuple[list[str], str]:
    killers, message = [], ""
    with Session(target(each), seed=1) as session:
        for result in session.run(checks):
            if result.status in noticed:
                killers.append(result.check)
                message = message or result.message
        if not killers and session.report(complete=False).leftovers:
            killers.append("leftovers")
    return killers, message
