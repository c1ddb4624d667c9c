"""A run in several processes says what a run in one says; and what no process can say, it says."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import date
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from hvdrivers.conformance.engine.clauses import Check, Tier
from hvdrivers.conformance.engine.jobs import Jobs, longest_first
from hvdrivers.conformance.engine.journal import unfinished
from hvdrivers.conformance.engine.report import CheckResult, ProfileVerdict, Report, Status
from hvdrivers.conformance.engine.runner import KnownIssue, LeftoversFound, Session, selected
from hvdrivers.conformance.engine.target import Target
from hvdrivers.conformance.engine.verifying import read_report, verify
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.fake.conformance import FakeTarget
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.instance import InstanceSpec, Keep
from tests.peers.janitor import processes_of

from .doors import environment

SOME = ("STATIC-001", "LIFE-001", "LIFE-004", "STATE-PAUSE", "POWER-003")
KILLER = "LIFE-008"
"""A clause whose checks end the process, or hang, with the targets below."""


def checks(*clauses: str) -> list[Check]:
    return selected(clauses=clauses or SOME)


# ---- targets: processes import them ----------------------------------------------------------


class PowersNothingOff(FakeDriver):
    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        """A fault."""


class Asking(FakeDriver):
    """Asks before it destroys."""

    def may_destroy(self, keep: AbstractSet[Keep]) -> bool:
        raise NotImplementedError

    def destroy(
        self,
        uuid: UUID,
        *,
        keep: AbstractSet[Keep] = frozenset(),
        timeout: float | None = None,
    ) -> None:
        if self.may_destroy(keep):
            super().destroy(uuid, timeout=timeout)


class Fatal(Asking):
    """To keep a disk ends the process."""

    def may_destroy(self, keep: AbstractSet[Keep]) -> bool:
        if keep:
            os.kill(os.getpid(), signal.SIGKILL)
        return True


class Hanging(Asking):
    """To keep a disk never ends."""

    def may_destroy(self, keep: AbstractSet[Keep]) -> bool:
        if keep:
            threading.Event().wait()
        return True


class Leaking(Asking):
    """Nothing is destroyed."""

    def may_destroy(self, keep: AbstractSet[Keep]) -> bool:
        return False


class Marking(FakeTarget):
    """Leaves a file for each host that is there."""

    def __init__(self, folder: Path, driver: type[FakeDriver] = FakeDriver) -> None:
        super().__init__(driver)
        self._mark = folder / f"{os.getpid()}"
        self._mark.write_text(str(os.environ["TMPDIR"]))

    def close(self) -> None:
        super().close()
        self._mark.unlink()


class Shared(FakeTarget):
    makes_host = False


class Unreachable(FakeTarget):
    def connect(self) -> ComputeDriver:
        raise errors.ConnectionFailed("nobody is there", hint="switch it on") from OSError("no")


class Unclosable(FakeTarget):
    def close(self) -> None:
        raise RuntimeError("it stays")


class Littered(FakeTarget):
    """Its host has a machine of an earlier run."""

    def connect(self) -> ComputeDriver:
        driver = super().connect()
        driver.spawn(InstanceSpec(name="hvct-old", image=self.image(), flavor=self.flavor))
        return driver


def uneven(folder: Path) -> Target:
    """Both hang, so that the other has time to begin, and the second has no console."""
    try:
        (folder / "first").mkdir()
    except FileExistsError:
        return FakeTarget(Hanging, without={Capability.CONSOLE_LOG: "it is another"})
    return FakeTarget(Hanging)


def nothing() -> Target:
    """The process ends before there is a target."""
    os._exit(3)


# ---- the same report -------------------------------------------------------------------------


def in_processes(
    make: Callable[[], Target], wanted: list[Check], jobs: int = 2, **options: object
) -> Report:
    with Jobs(make, jobs, seed=1, **options) as engine:  # type: ignore[arg-type]
        engine.run(wanted)
        return engine.report(complete=False)


def in_one(target: Target, wanted: list[Check], **options: object) -> Report:
    with Session(target, seed=1, **options) as engine:  # type: ignore[arg-type]
        engine.run(wanted)
        return engine.report(complete=False)


def without_times(report: Report) -> Report:
    results = [each.model_copy(update={"seconds": 0.0}) for each in report.results]
    told = {"seconds": 0.0, "started_at": None, "latencies": (), "results": tuple(results)}
    return report.model_copy(update=told)


def calls_of(report: Report) -> dict[str, int]:
    """The calls of each operation; each process looks around, so lists are out of the count."""
    calls = {each.operation: each.calls for each in report.latencies}
    return {name: count for name, count in calls.items() if not name.startswith(("list", "host"))}


def test_report_is_that_of_one_process() -> None:
    wanted = checks()
    told: list[CheckResult] = []
    with Jobs(FakeTarget, 2, seed=1) as engine:
        results = engine.run(wanted, on_result=told.append)
        several = engine.report(complete=True)
    with Session(FakeTarget(), seed=1) as session:
        session.run(wanted)
        one = session.report(complete=True)
    assert [each.check for each in results] == [each.id for each in wanted]
    assert sorted(told, key=results.index) == results
    assert without_times(several) == without_times(one)
    assert calls_of(several) == calls_of(one)
    assert several.verdict is ProfileVerdict.SUCCESS
    assert several.host is not None
    assert all(each.seconds > 0 for each in several.results)


def test_fault_is_found_in_a_process() -> None:
    make = partial(FakeTarget, PowersNothingOff)
    several, one = in_processes(make, checks()), in_one(make(), checks())
    assert [each.message for each in several.results] == [each.message for each in one.results]
    assert several.verdict is one.verdict is ProfileVerdict.FAILURE
    broken = [each for each in several.results if each.status is Status.FAILED]
    assert broken
    assert all("Traceback" in each.detail for each in broken)


def test_known_issue_is_one_in_a_process() -> None:
    wanted = checks("POWER-003")
    issues = [KnownIssue(each.id, "bug 17", date(2999, 1, 1)) for each in wanted]
    make = partial(FakeTarget, PowersNothingOff)
    several = in_processes(make, wanted, known_issues=issues)
    one = in_one(make(), wanted, known_issues=issues)
    assert Counter(each.status for each in several.results)[Status.KNOWN_ISSUE]
    assert without_times(several).results == without_times(one).results


def test_static_tier_asks_no_host() -> None:
    wanted = selected(tiers=[Tier.STATIC])
    several = in_processes(Unreachable, wanted)
    assert several.host is None
    assert without_times(several) == without_times(in_one(Unreachable(), wanted))


def test_leftovers_of_each_host_are_told() -> None:
    report = in_processes(partial(FakeTarget, Leaking), checks("STATE-PAUSE"))
    assert report.verdict is ProfileVerdict.FAILURE
    alone = in_one(FakeTarget(Leaking), checks("STATE-PAUSE"))
    assert len(report.leftovers) == len(alone.leftovers) > 2


def test_journal_has_what_all_of_them_make(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    in_processes(FakeTarget, checks(), journal=journal)
    assert len(journal.read_text().splitlines()) >= 2 * len(checks("STATE-PAUSE"))
    assert list(unfinished(journal)) == []


def test_longest_come_first() -> None:
    wanted = checks("LIFE-001", "POWER-003", "MODEL-001")
    known = {each.id: 0.1 for each in wanted if each.clause.id == "LIFE-001"}
    order = [each.clause.id for each in longest_first(wanted, known)]
    assert order == sorted(order, key=["MODEL-001", "POWER-003", "LIFE-001"].index)
    known = {each.id: 99.0 for each in wanted if each.clause.id == "LIFE-001"}
    assert longest_first(wanted, known)[0].clause.id == "LIFE-001"


# ---- what a process cannot say ---------------------------------------------------------------


def test_process_that_is_killed_fails_its_check(tmp_path: Path) -> None:
    wanted = checks(*SOME, KILLER)
    said: list[str] = []
    report = in_processes(partial(Marking, tmp_path, Fatal), wanted, on_trouble=said.append)
    lost = [each for each in report.results if each.clause == KILLER]
    assert [each.check for each in report.results] == [each.id for each in wanted]
    assert {(each.status, each.message) for each in lost} == {
        (Status.ERROR, "the process that tried it was killed by SIGKILL")
    }
    # another has taken its place
    assert {each.status for each in report.results if each not in lost} == {Status.PASSED}
    assert report.verdict is ProfileVerdict.FAILURE
    assert {f"a process was killed by SIGKILL at {each.check}" for each in lost} == set(said)
    assert len(report.leftovers) == len(lost)
    assert verify(report) == []
    for mark in tmp_path.iterdir():  # of those that were killed: the others have ended their host
        assert not Path(mark.read_text()).exists()
    assert len(list(tmp_path.iterdir())) == len(lost)


def test_process_that_hangs_fails_its_check(tmp_path: Path) -> None:
    wanted = checks(KILLER)[:1]  # no other process begins, which might have no time to
    report = in_processes(partial(Marking, tmp_path, Hanging), wanted, patience=1.0)
    assert [each.status for each in report.results] == [Status.ERROR]
    assert "had not answered for" in report.results[0].message
    assert {is_there(int(each.name)) for each in tmp_path.iterdir()} == {False}


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_interrupted_run_leaves_no_host(tmp_path: Path) -> None:
    def interrupt(_: CheckResult) -> None:
        started.extend(int(each.name) for each in tmp_path.iterdir())
        raise KeyboardInterrupt

    started: list[int] = []
    with (
        pytest.raises(KeyboardInterrupt),
        Jobs(partial(Marking, tmp_path), 2, seed=1) as engine,
    ):
        engine.run(checks(), on_result=interrupt)
    assert started
    assert list(tmp_path.iterdir()) == []
    assert {is_there(each) for each in started} == {False}


# ---- refused ---------------------------------------------------------------------------------


def test_target_that_is_given_its_host_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest, match="makes no host of its own") as caught:
        in_processes(Shared, checks())
    assert "makes_host" in (caught.value.hint or "")


def test_host_that_is_not_there_is_no_broken_clause() -> None:
    with pytest.raises(errors.ConnectionFailed, match="nobody is there") as caught:
        in_processes(Unreachable, checks())
    assert caught.value.hint == "switch it on"
    assert isinstance(caught.value.__cause__, OSError)


def test_leftovers_of_an_earlier_run_are_refused() -> None:
    with pytest.raises(LeftoversFound, match="of an earlier run"):
        in_processes(Littered, checks())


def test_hosts_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvdrivers.conformance.engine.processes.GRACE_SECONDS", 0.5)
    with pytest.raises(errors.PluginError, match="not each has console-log"):
        in_processes(partial(uneven, tmp_path), checks(KILLER))


def test_process_that_never_begins_is_told() -> None:
    with pytest.raises(errors.PluginError, match="ended by itself with status 3 before"):
        in_processes(nothing, checks())


def test_target_that_cannot_be_ended_is_told() -> None:
    with pytest.raises(errors.PluginError, match="RuntimeError: it stays"):
        in_processes(Unclosable, checks("LIFE-001", "POWER-003"))


# ---- the command -----------------------------------------------------------------------------


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """``hvdrivers conformance run fake --jobs 2``, whose processes are known by their folder."""
    folder.mkdir()
    # what a shell runs in the background ignores Ctrl-C, and so would its children
    listens = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    runs = f"{listens}\nfrom hvdrivers.cli.app import app\napp()"
    return subprocess.Popen(
        [sys.executable, *("-c", runs, "conformance", "run", "fake"), *arguments],
        env=environment(TMPDIR=str(folder)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WORKER = {"--multiprocessing-fork"}


def of_clauses(*clauses: str) -> list[str]:
    return [word for each in clauses for word in ("--clause", each)]


def test_command_makes_one_report(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    for _ in range(2):  # the second run reads how long each check took
        arguments = ("--jobs", "2", "--seed", "7", "--report", str(report), *of_clauses(*SOME))
        with command(tmp_path / uuid4().hex, *arguments) as run:
            out, err = run.communicate()
        assert run.returncode == 0, err
        assert "verdict: success" in out
        found = read_report(report)
        assert [each.check for each in found.results] == [each.id for each in checks()]
        assert (found.seed, found.complete, verify(found)) == (7, False, [])


def test_command_does_not_mind_what_is_no_report(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text("no report")
    arguments = ("--jobs", "2", "--report", str(report), *of_clauses("LIFE-001"))
    with command(tmp_path / "it", *arguments) as run:
        _, err = run.communicate()
    assert run.returncode == 0, err
    assert len(read_report(report).results) == len(checks("LIFE-001"))


def test_command_refuses_a_target_that_is_given_its_host(tmp_path: Path) -> None:
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "hvdrivers", "conformance", "run", "libvirt", "--jobs", "2"),
            *("--option", "uri=test:///default"),
        ],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        _, err = run.communicate()
    assert run.returncode == 2
    assert "makes no host of its own" in err
    assert "hint: leave --jobs out" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_command_that_is_ended_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "it"
    with command(folder, "--jobs", "2") as run:
        assert run.stderr is not None
        first = run.stderr.readline()
        assert re.fullmatch(r"[0-9]+ of [0-9]+ checks\n", first)
        started = processes_of(None, str(folder))
        assert len(started) > 2
        ends = [os.pidfd_open(each) for each in started]
        run.send_signal(number)
        err = run.stderr.read()
        run.wait()
    if number is signal.SIGINT:
        assert run.returncode == 130
        assert err.splitlines()[-1] == "interrupted"
        assert "Traceback" not in err
        assert list(folder.iterdir()) == []
        assert [each for each in processes_of(None, str(folder)).values() if WORKER & {*each}] == []
    for each in ends:  # if nobody tells them, they see that nobody gives orders any more
        select.select([each], [], [])
        os.close(each)
    assert processes_of(None, str(folder)) == {}
