"""The conformance suite on a vCenter with a cluster: all of it but for the two tables that are
crossed with everything, operations with faults and with states, of which a part is tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.runner import selected
from tests.integration.part_of_suite import WHOLE, in_turns
from tests.integration.vmware.conformance_run import Run, running

CONTAINED: Final = "COPY-005/makes_another"
"""What COPY-005/has_what_was_written does too, where the target can write to a guest's disk."""
_EVERY: Final = {"FAULT-READ": 5, "FAULT-TWICE": 3, "STATE-": 2}
"""Of each clause that begins so, one check in how many. Each operation that reads is cut so, and
each state meets most operations."""
_SURVIVES: Final = "FAULT-"
_WHOLE: Final = "FAULT-DEAD"
"""One check for each operation: none says what another does."""


def _table(check: Check) -> str:
    if check.id.startswith(_WHOLE):
        return ""
    return next((name for name in (*_EVERY, _SURVIVES) if check.id.startswith(name)), "")


def _crossed(checks: list[Check]) -> list[Check]:
    """Of each clause every second cell of its table, which has four ways to fail by the states
    before it, as on a chessboard; the next clause begins with the other colour."""
    numbers: dict[str, int] = {}
    chosen = []
    for check in checks:
        at = numbers[check.clause.id] = numbers.get(check.clause.id, -1) + 1
        if (at + 2 * len(numbers)) % 4 in {0, 3}:
            chosen.append(check)
    return chosen


def _of(table: str) -> list[Check]:
    return [each for each in selected() if _table(each) == table]


CHECKS = (
    list(selected())
    if WHOLE
    else [
        *(each for each in _of("") if each.id != CONTAINED),
        *_crossed(_of(_SURVIVES)),
        *(each for name, every in _EVERY.items() for each in in_turns(_of(name), every)),
    ]
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with running("vpx", tmp_path_factory.mktemp("conformance")) as made:
        yield made


def test_what_is_left_out_is_there() -> None:
    assert CONTAINED in {each.id for each in selected()}
    assert {each.clause.id for each in CHECKS} == {each.clause.id for each in selected()}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_check(run: Run, check: Check) -> None:
    run.passes(check)


@pytest.mark.each_time
def test_verdict(run: Run) -> None:
    """Runs last."""
    run.ends_well()
