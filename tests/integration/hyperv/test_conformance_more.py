"""The conformance suite: one check of each clause that ``test_conformance.py`` does not try, and
a third of the table of states and operations, in turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.runner import selected
from tests.integration.hyperv.conformance_run import Run, first_of_each_clause, running
from tests.integration.hyperv.test_conformance import FAMILIES
from tests.integration.part_of_suite import WHOLE, in_turns

LONG: Final = frozenset(
    {
        *("CONC-001", "CONC-002", "CONC-010", "CONC-011", "CONC-012", "CONN-003", "CONN-007"),
        *("EVENT-007", "EVENT-008", "HOSTILE-001", "HOSTILE-002", "HOSTILE-004", "HOSTILE-005"),
        *("HOSTILE-009", "HOTMEMORY-001", "LAW-007", "LIFE-014", "LIFE-016", "MODEL-001"),
        *("MIGR-001", "MIGR-005", "MIGR-006", "MIGR-007", "MIGR-009", "MIGR-013", "MIGR-014"),
        *("MIGR-016", "MIGR-017", "MIGR-018", "MIGR-023", "MIGR-024", "MIGR-025", "MIGR-026"),
        *("MIGR-027", "MIGR-028", "EVENT-014"),
        *("NET-006", "NET-010", "POWER-009", "POWER-010", "STOR-008", "STOR-010"),
    }
)
"""Clauses whose checks take longest: ``hvdrivers conformance run hyperv`` tries them."""
CHECKS: Final[list[Check]] = (
    []
    if WHOLE  # test_conformance.py has them all
    else [
        *(
            each
            for name, each in first_of_each_clause().items()
            if not name.startswith((*FAMILIES, "FAULT-", "STATE-")) and name not in LONG
        ),
        *in_turns([each for each in selected() if each.clause.id.startswith("STATE-")], every=3),
    ]
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with running(tmp_path_factory.mktemp("conformance")) as made:
        yield made


def test_what_takes_long_is_there() -> None:
    assert set(first_of_each_clause()) >= LONG


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_check(run: Run, check: Check) -> None:
    run.passes(check)


@pytest.mark.each_time
def test_verdict(run: Run) -> None:
    """Runs last."""
    run.ends_well()
