"""The suite itself: green on the fake, whole, and able to fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import iter_modules
from typing import ClassVar
from uuid import UUID

import pytest

from hvdrivers.conformance import checks
from hvdrivers.conformance.engine.clauses import catalogue
from hvdrivers.conformance.engine.journal import unfinished
from hvdrivers.conformance.engine.observer import Cut, FaultSeam, NotShown
from hvdrivers.conformance.engine.refusals import IN_A_STATE, REQUESTS
from hvdrivers.conformance.engine.report import BAD, CheckResult, ProfileVerdict, Status
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.conformance.engine.target import Target
from hvdrivers.conformance.engine.topics import TOPICS
from hvdrivers.conformance.engine.verifying import verify
from hvdrivers.conformance.mutants import mutants, run_mutants
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.limits import Limit
from hvdrivers.fake.config import HostSize
from hvdrivers.fake.conformance import FakeTarget, mutant_target
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.observer import FakeSeam

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


def test_every_file_of_checks_is_a_topic() -> None:
    """One that is not imported is a check that never runs."""
    assert sorted(TOPICS) == sorted(each.name for each in iter_modules(checks.__path__))


def test_every_clause_has_a_check() -> None:
    found = catalogue()
    assert {each.clause.id for each in found.checks.values()} == set(found.clauses)


def test_every_capability_can_be_refused() -> None:
    assert set(REQUESTS) == set(Capability) - IN_A_STATE.keys()


@pytest.mark.parametrize("capability", sorted(Capability))
def test_a_capability_that_is_switched_off_is_refused(capability: Capability) -> None:
    with Session(FakeTarget(without={capability: "switched off"})) as session:
        checks = [each for each in selected() if capability in each.all_needs]
        results = session.run(checks[:3])
    assert {each.status for each in results} <= {Status.REFUSED}


def test_every_mutant_is_killed_by_its_clause() -> None:
    score = run_mutants(mutant_target, processes=4, first_killer=True)
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


LIMITED = HostSize(limits=frozenset(Limit), directories=frozenset({"/srv/share", "/srv/other"}))


def test_a_driver_with_every_limit_keeps_the_contract() -> None:
    """What vSphere and Hyper-V cannot do of Core is refused as declared, and breaks nothing."""
    target = FakeTarget(size=LIMITED)
    wanted = [each for each in selected() if each.clause.profile in {"core", "power", "storage"}]
    wanted += selected(clauses=["HOTCPU-003"])
    with Session(target, seed=1) as session:
        results = session.run(each for each in wanted if not each.clause.id.startswith("FAULT"))
        report = session.report(complete=False)
    assert [each for each in results if each.status in BAD] == []
    refused = {each.check: each.limit for each in results if each.status is Status.REFUSED}
    assert refused["STATE-POWER-ON/obeys_its_row[power_on,crashed]"] == "never-crashed"
    assert refused["NET-012/guest_that_holds_on_keeps_it[nic]"] == "detach-unasked"
    assert refused["HOTCPU-003/guest_that_refuses_keeps_its_size[vcpus]"] == "growth-unasked"
    assert refused["EVENT-002/keeps_the_order"] == "events-merged"
    assert set(refused.values()) == set(report.limits) == set(Limit)
    assert verify(report) == []


def test_a_limit_that_the_report_does_not_name_is_found() -> None:
    with Session(FakeTarget(size=LIMITED), seed=1) as session:
        session.run(selected(clauses=["NET-012"]))
        report = session.report(complete=False)
    lying = report.model_copy(update={"limits": {}})
    assert any("detach-unasked, which is not declared" in each for each in verify(lying))


def test_a_machine_ten_times_slower_keeps_the_bounds() -> None:
    """Spawns take longer than the suite slows them, and a NIC longer than its short deadline."""
    target = FakeTarget(latency={"spawn": 1.5, "unplug_vif": 0.8, "list_instances": 0.15})
    with Session(target, seed=1) as session:
        results = session.run(selected(clauses=["CONC-003", "NET-012"]))
    assert [each.status for each in results] == [Status.PASSED] * 2
    assert target.at_once >= 10 * 2.0, "what is told within two seconds is waited for"


_CHECK = "POWER-001/runs_when_it_returns"


class Simulator(FakeTarget):
    """A simulator that cannot power machines on."""

    not_shown: ClassVar = {_CHECK: "the simulator starts no machine"}


class Incapable(FakeDriver):
    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""


def test_what_a_simulator_cannot_show_is_no_pass() -> None:
    with Session(Simulator(Incapable), seed=1) as session:
        (result,) = session.run(selected(clauses=[_CHECK]))
        report = session.report(complete=False)
    assert (result.status, result.message) == (Status.NOT_SHOWN, "the simulator starts no machine")
    assert (report.verdict, report.profiles[0].not_shown) == (ProfileVerdict.PARTIAL, 1)
    assert verify(report) == []
    live = report.model_copy(update={"simulated": False})
    assert any("the host is no simulator" in each for each in verify(live))


def test_what_a_simulator_shows_after_all_is_a_failure() -> None:
    with Session(Simulator(), seed=1) as session:
        (result,) = session.run(selected(clauses=[_CHECK]))
    assert (result.status, result.message[:6]) == (Status.FAILED, "passes")


def test_a_live_target_shows_everything() -> None:
    class Live(Simulator):
        simulated = False

    with Session(Live(Incapable), seed=1) as session:
        (result,) = session.run(selected(clauses=[_CHECK]))
    assert result.status is Status.ERROR


def test_a_hook_can_say_that_it_cannot_show_something() -> None:
    class Blind(FakeTarget):
        def crash(self, driver: ComputeDriver, uuid: UUID) -> None:
            raise NotShown("the simulator's guests do not die")

    with Session(Blind(), seed=1) as session:
        (result,) = session.run(selected(clauses=["LIMIT-002"]))
    assert (result.status, result.message) == (
        Status.NOT_SHOWN,
        "the simulator's guests do not die",
    )


def test_a_cut_that_strikes_nothing_is_an_error() -> None:
    class Missing(FakeSeam):
        @contextmanager
        def cut(self, name: str, occurrence: int, kind: str) -> Iterator[Cut]:
            yield Cut()

    class Target(FakeTarget):
        def faults(self, driver: ComputeDriver) -> FaultSeam:
            return Missing(self.host)

    with Session(Target(), seed=1) as session:
        results = session.run(selected(clauses=["FAULT-RENAME", "POWER-027"]))
    assert {each.status for each in results} == {Status.ERROR}
    assert all("never came" in each.message for each in results)


def _of_seam(seam: type[FakeSeam], *clauses: str) -> list[CheckResult]:
    class Target(FakeTarget):
        def faults(self, driver: ComputeDriver) -> FaultSeam:
            return seam(self.host)

    with Session(Target(), seed=1) as session:
        return session.run(selected(clauses=list(clauses)))


def test_two_cuts_that_strike_nothing_are_an_error() -> None:
    class Missing(FakeSeam):
        @contextmanager
        def cut_twice(self, name: str, occurrence: int, then: int) -> Iterator[Sequence[Cut]]:
            yield Cut(), Cut()

    (result,) = _of_seam(Missing, "FAULT-TWICE/survives_two_cuts[rename]")
    assert result.status is Status.ERROR
    assert "never came" in result.message


@pytest.mark.parametrize(
    "check",
    [
        "FAULT-RENAME/survives[before]",
        "FAULT-TWICE/survives_two_cuts[rename]",
        "FAULT-DEAD/tells_what_a_dead_host_keeps[rename]",
        "FAULT-READ/read_can_be_repeated[get_instance,before]",
    ],
)
def test_a_seam_that_no_call_passes_lets_no_check_of_faults_pass(check: str) -> None:
    """It is that of another connection, say: nothing would be cut, and everything would be well."""

    class Elsewhere(FakeSeam):
        @contextmanager
        def counting(self) -> Iterator[list[str]]:
            yield []

    (result,) = _of_seam(Elsewhere, check)
    assert result.status is Status.FAILED
    assert "passes the seam" in result.message
