"""Which checks of the conformance suite ``make test`` tries on a slow host: some of each clause.

All of them take more than half an hour on two cores. ``make test-whole`` tries them all, and so
does ``hvdrivers conformance run``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Final

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.journal import unfinished
from hvdrivers.conformance.engine.report import ProfileVerdict
from hvdrivers.conformance.engine.runner import Session, selected

WHOLE: Final = os.environ.get("HVDRIVERS_CONFORMANCE") == "whole"
SEED: Final = None if os.environ.get("HVDRIVERS_FUZZ") else 1
"""Of the runs: it chooses the calls that are cut and the sequences of MODEL-001. The same in each
run, so that what was green stays so; ``HVDRIVERS_FUZZ=1`` looks for others."""


def part(checks: Iterable[Check], every: int, *, instead: Collection[str] = ()) -> list[Check]:
    """Of each clause the first check, and each further one of which the number in its clause is a
    multiple of ``every``; 0: the first alone. All, where the whole suite is asked for.

    Args:
        instead: ids of checks that are chosen in place of the first one of their clause.
    """
    if WHOLE:
        return list(checks)
    chosen = []
    for row in _by_clause(checks):
        first = next((each for each in row if each.id in instead), row[0])
        more = row[every::every] if every else []
        chosen += [first, *(each for each in more if each is not first)]
    return chosen


def in_turns(checks: Iterable[Check], every: int) -> list[Check]:
    """Of each clause one check in ``every``, at least one; each clause begins at the next number,
    so that of the table of states and operations each state comes up. All, where the whole suite
    is asked for."""
    if WHOLE:
        return list(checks)
    chosen = []
    for turn, row in enumerate(_by_clause(checks)):
        chosen += row[turn % every :: every] or [row[turn % len(row)]]
    return chosen


def _by_clause(checks: Iterable[Check]) -> list[list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in checks:
        found.setdefault(check.clause.id, []).append(check)
    return list(found.values())


def ends_well(session: Session) -> None:
    """What all the checks that ran come to together."""
    ran = {each.check for each in session.results}
    report = session.report(complete=ran == {each.id for each in selected()})
    assert report.leftovers == ()
    assert report.verdict is ProfileVerdict.SUCCESS
    assert session.journal.path is not None
    assert list(unfinished(session.journal.path)) == []
