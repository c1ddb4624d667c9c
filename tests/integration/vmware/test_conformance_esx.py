"""The conformance suite on an ESXi host: one check of each clause. On a vCenter all are tried."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.runner import selected
from tests.integration.part_of_suite import in_turns, part
from tests.integration.vmware.conformance_run import Run, running


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with running("esx", tmp_path_factory.mktemp("conformance")) as made:
        yield made


_CUT = ("SPAWN", "DESTROY", "ATTACH-VOLUME", "CREATE-SNAPSHOT", "REBUILD", "POWER-ON")


def _chosen(check: Check) -> bool:
    """Without what takes minutes and goes through the same code as on a vCenter: large images, and
    the cuts of most operations. ``hvdrivers conformance run vmware`` tries all."""
    kind, _, rest = check.id.partition("-")
    if kind == "FAULT":
        return rest.partition("/")[0] in _CUT
    return kind != "COPY" and not check.id.startswith("IMG-013")


_CHOSEN = [each for each in selected() if _chosen(each)]
CHECKS = [
    *part([each for each in _CHOSEN if not each.id.startswith("STATE-")], every=0),
    *in_turns([each for each in _CHOSEN if each.id.startswith("STATE-")], every=8),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_check(run: Run, check: Check) -> None:
    run.passes(check)


@pytest.mark.each_time
def test_verdict(run: Run) -> None:
    """Runs last."""
    run.ends_well()
