"""The conformance suite: images, disks and snapshots, and a few cuts; one check of each clause.

Each cut that kills PowerShell costs a new one, which takes about a second to start. So the cuts of
most operations are left out here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.runner import selected
from tests.integration.hyperv.conformance_run import Run, first_of_each_clause, running
from tests.integration.part_of_suite import WHOLE

FAMILIES: Final = ("IMG-", "REBUILD-", "RES-", "RESCUE-", "RESIZE-", "SNAP-")
FAULTS: Final = (
    "FAULT-SPAWN/survives[after]",
    "FAULT-REVERT-SNAPSHOT/survives[after]",
    "FAULT-REBUILD/survives[before]",
)
CHECKS: Final[list[Check]] = (
    list(selected())
    if WHOLE
    else [
        *(each for name, each in first_of_each_clause().items() if name.startswith(FAMILIES)),
        *(each for each in selected() if each.id in FAULTS),
    ]
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with running(tmp_path_factory.mktemp("conformance")) as made:
        yield made


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_check(run: Run, check: Check) -> None:
    run.passes(check)


@pytest.mark.each_time
def test_verdict(run: Run) -> None:
    """Runs last."""
    run.ends_well()
