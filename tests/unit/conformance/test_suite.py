"""The suite itself: green on the fake, whole, and able to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvdrivers.conformance.clauses import catalogue
from hvdrivers.conformance.engine import Session, selected
from hvdrivers.conformance.journal import unfinished
from hvdrivers.conformance.mutants import mutants, run_mutants
from hvdrivers.conformance.refusals import REQUESTS
from hvdrivers.conformance.report import ProfileVerdict, Status
from hvdrivers.conformance.target import Target
from hvdrivers.contract.capabilities import Capability
from hvdrivers.fake.conformance import FakeTarget

DECLINED = {
    "RESIZE-007/grows_with_snapshots",
    "POWER-026/runs_larger_than_the_host",
    "STOR-065/volumes_are_promises",
    "MIGR-021/moves_with_its_volume",
}
"""What the fake is free to do, and does not."""


@pytest.mark.parametrize("seed", [1, 2])
def test_the_fake_passes(seed: int, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Session(FakeTarget(), seed=seed, journal=journal) as session:
        results = session.run(selected())
        report = session.report(complete=True)
    assert [
        (each.check, each.message)
        for each in results
        if each.status is not (Status.DECLINED if each.check in DECLINED else Status.PASSED)
    ] == []
    assert report.verdict is ProfileVerdict.SUCCESS
    assert list(unfinished(journal)) == []


def test_every_clause_has_a_check() -> None:
    found = catalogue()
    assert {each.clause.id for each in found.checks.values()} == set(found.clauses)


def test_every_capability_can_be_refused() -> None:
    assert set(REQUESTS) == set(Capability) - {Capability.HOT_RENAME}


@pytest.mark.parametrize("capability", sorted(Capability))
def test_a_capability_that_is_switched_off_is_refused(capability: Capability) -> None:
    with Session(FakeTarget(without={capability: "switched off"})) as session:
        checks = [each for each in selected() if capability in each.all_needs]
        results = session.run(checks[:3])
    assert {each.status for each in results} <= {Status.REFUSED}


def test_every_mutant_is_killed_by_its_clause() -> None:
    score = run_mutants(lambda mutant: FakeTarget(mutant.driver))
    assert [each.name for each in score.results if not each.killed_as_intended] == []
    assert score.killed == score.total == len(mutants())


def test_starts_are_counted_by_what_the_guest_says_first() -> None:
    """For a target that names its guest's mark, and has no better way."""

    class Marked(FakeTarget):
        boot_mark = b"Booting (start "
        boots = Target.boots

    with Session(Marked(), seed=1) as session:
        results = session.run(selected(clauses=["POWER-001", "POWER-002"]))
    assert {each.status for each in results} == {Status.PASSED}
