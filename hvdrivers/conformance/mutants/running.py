"""Run the suite against mutants and keep the score."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from hvdrivers.conformance.engine.clauses import Check, catalogue
from hvdrivers.conformance.engine.report import BAD, Status
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.conformance.engine.target import Target
from hvdrivers.conformance.mutants.registry import Mutant, mutants
from hvdrivers.models.base import Model

_LONGEST_WAIT = 2.0
"""Seconds. A broken driver mostly fails by a wait that ends in vain, hundreds of times in a run."""


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
    processes: int = 1,
    first_killer: bool = False,
) -> MutantScore:
    """Run the suite against mutants.

    Args:
        target: makes the target for one mutant: ``lambda mutant: FakeTarget(mutant.driver)``.
        chosen: some of them; None for all.
        on_result: gets each result, in the order of the mutants.
        processes: how many run at the same time. A broken driver mostly fails by a wait that ends
            in vain, so more than there are cores is right. With more than one ``target`` must be
            the function of a module, which other processes can import.
        first_killer: end the run of a mutant at the first check that does not pass. ``killers``
            names that one alone then; the score is the same.
    """
    wanted = mutants() if chosen is None else list(chosen)
    results = []

    def take(found: Iterable[MutantResult]) -> None:
        for result in found:
            results.append(result)
            if on_result is not None:
                on_result(result)

    if min(processes, len(wanted)) <= 1:
        take(_run(each, target, first_killer) for each in wanted)
    else:
        # in processes, not threads: checks count the threads and descriptors of theirs
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            run = partial(_run, target=target, first_killer=first_killer)
            take(pool.map(run, wanted))
    return MutantScore(
        total=len(results),
        killed=sum(each.killed for each in results),
        killed_as_intended=sum(each.killed_as_intended for each in results),
        results=tuple(results),
    )


def _run(each: Mutant, target: Callable[[Mutant], Target], first_killer: bool) -> MutantResult:
    own = catalogue().of(each.killed_by)
    if not own:
        raise ValueError(f"{each.name} names the clause {each.killed_by}, which has no checks")
    # a MAY clause that is declined has noticed what it should; elsewhere the fake itself declines
    killers, message = _killers(each, target, own, BAD | {Status.DECLINED}, first_killer)
    intended = bool(killers)
    if not intended:
        killers, message = _killers(each, target, selected(), BAD, first_killer)
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
    first_killer: bool,
) -> tuple[list[str], str]:
    killers, message = [], ""
    made = target(each)
    made.at_once = _LONGEST_WAIT
    with Session(made, seed=1) as session:
        for check in checks:
            result = session.run_check(check)
            if result.status in noticed:
                killers.append(result.check)
                message = message or result.message
                if first_killer:
                    break
        if not killers and session.report(complete=False).leftovers:
            killers.append("leftovers")
    return killers, message
