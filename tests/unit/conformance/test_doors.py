"""Three doors, one engine: the command, the pytest plug-in, and the subclass."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from hvdrivers.cli.app import app
from hvdrivers.conformance.engine.clauses import Tier, catalogue
from hvdrivers.conformance.engine.journal import Journal, unfinished
from hvdrivers.conformance.engine.report import Status
from hvdrivers.conformance.engine.runner import selected
from hvdrivers.conformance.engine.trial import METADATA_KEY
from hvdrivers.conformance.engine.verifying import read_report, verify
from hvdrivers.conformance.mutants import Mutant, mutants
from hvdrivers.contract.errors import HypervisorFault
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.world import default_world
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.volume import VolumeSpec

from .doors import ROOT, run_pytest, steps_of

SOME = ("LIFE-001", "LIFE-004", "STATE-PAUSE")
SOME_CHECKS = sorted(each.id for each in selected(clauses=SOME))

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``hvdrivers conformance …`` in this process."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("HVDRIVERS_HOST", "HVDRIVERS_CONFIG", "HVDRIVERS_OUTPUT"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["conformance", *map(str, arguments)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    return call


def some() -> list[str]:
    return [word for name in SOME for word in ("--clause", name)]


# ---- the command -----------------------------------------------------------------------------


def test_run_gives_the_report(command: Command) -> None:
    code, out, err = command("run", "fake", "-o", "json", "--seed", 7, *some())
    report = json.loads(out)
    assert code == 0
    assert sorted(each["check"] for each in report["results"]) == SOME_CHECKS
    assert (report["seed"], report["verdict"], report["complete"]) == (7, "success", False)
    assert "error" not in err


def test_run_says_the_verdict(command: Command) -> None:
    code, out, _ = command("run", "fake", "--clause", "LIFE-005/absent_is_a_success")
    assert code == 0
    assert re.search(r"^verdict: success \(clauses 1/1 · only in part · simulated", out, re.M)


def test_static_tier_asks_no_host(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr("hvdrivers.fake.conformance.FakeTarget.connect", no)
    code, out, _ = command("run", "fake", "--tier", "static", "-o", "json")
    report = json.loads(out)
    assert code == 0
    assert report["host"] is None
    assert len(report["results"]) == len(selected(tiers=[Tier.STATIC])) > 0


def test_a_broken_clause_fails_the_run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvdrivers.fake.driver.FakeDriver.power_off", lambda *_, **__: None)
    code, out, err = command("run", "fake", "--clause", "POWER-003")
    assert code == 1
    assert "failed (MUST) POWER-003/" in err
    assert "verdict: failure" in out


def test_a_should_that_is_not_met_says_what_it_means(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed check beside ``verdict: success`` is no riddle."""

    def cache_image(*_: object, **__: object) -> None:
        raise HypervisorFault("the disk is on fire")

    monkeypatch.setattr("hvdrivers.fake.driver.FakeDriver.cache_image", cache_image)
    code, out, err = command("run", "fake", "--clause", "IMG-005")
    assert code == 0
    assert "failed (SHOULD) IMG-005/" in err
    assert re.search(r"^SHOULD +failed", out, re.M)
    assert re.search(
        r"^verdict: success .*\nwarning: .* 1 failed. A SHOULD is a warning", out, re.M
    )


def test_a_missing_package_of_the_suite_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hvdrivers.cli.conformance.find_spec", lambda name: None)
    for words in (["run", "fake"], ["list"], ["explain", "LIFE-003"], ["mutants"]):
        code, _, err = command(*words)
        assert code == 1
        assert "oslo_utils" in err
        assert "pip install '.[cli,conformance]'" in err


def test_the_same_words_are_shown_once(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fault of a driver fails many checks."""

    def pause(self: object, uuid: UUID, **_: object) -> None:
        raise HypervisorFault(f"a long sentence about {uuid}, and what the host has said of it")

    monkeypatch.setattr("hvdrivers.fake.driver.FakeDriver.pause", pause)
    code, out, _ = command("run", "fake", "--clause", "STATE-PAUSE")
    assert code == 1
    # once where it should have worked, and once where it should have been refused
    assert out.count("a long sentence") == 2
    assert out.count("as STATE-PAUSE/") == 4


@pytest.mark.parametrize("broken", ["__init__", "close", "observer"])
def test_a_target_that_fails_is_named_and_no_report_is_lost(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("the lab is closed")

    monkeypatch.setattr(f"hvdrivers.fake.conformance.FakeTarget.{broken}", fail)
    report = tmp_path / "report.json"
    code, out, err = command("run", "fake", "--clause", "CONN-001", "--report", report)
    if broken != "__init__":
        assert "verdict: success" in out
        assert [each.status for each in read_report(report).results] == [Status.PASSED]
    if broken != "observer":
        assert code != 0
        assert "the lab is closed" in err
        assert "target" in err
        assert "bug in hvdrivers" not in err


def test_options_reach_the_target(command: Command, tmp_path: Path) -> None:
    config = tmp_path / "target.toml"
    config.write_text('without = { pause = "not today" }\n')
    code, out, _ = command("run", "fake", "--config", config, "-o", "json", *some())
    report = json.loads(out)
    assert code == 0
    assert report["absent"]["pause"] == "not today"
    refused = [each for each in report["results"] if each["status"] == Status.REFUSED]
    assert {each["clause"] for each in refused} == {"STATE-PAUSE"}
    code, _, err = command("run", "fake", "--option", "nonsense=1", *some())
    assert code == 2
    assert "nonsense" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nope"), "registers the driver 'nope'"),
        (("run", "fake", "--clause", "LIFE-3"), "there is no 'LIFE-3'"),
        (("run", "fake", "--profile", "cor"), "did you mean|there are"),
        (("run", "fake", "--profile", "power", "--tier", "static"), "no check is"),
        (("run", "fake", "--report", "report.doc"), "does not say what kind"),
        (("run", "fake", "--config", "absent.toml"), "cannot be read"),
        (("run", "fake", "--option", "secret"), "key=value"),
        (("run", "fake", "--image", "disk"), "format of 'disk' is not known"),
        (("run", "fake", "--known-issues", "absent.toml"), "no list of known issues"),
        (("explain", "LIFE-3"), "there is no clause"),
        (("list", "--needs", "wings"), "no capability"),
        (("mutants", "--topic", "none"), "there is no 'none'"),
        (("verify", "absent.json"), "cannot be read"),
        (("reap", "fake", "--journal", "absent.jsonl"), "is not a file"),
    ],
)
def test_wrong_arguments(
    command: Command, arguments: tuple[str, ...], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert re.search(message, err)


def test_known_issues(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvdrivers.fake.driver.FakeDriver.power_off", lambda *_, **__: None)
    failing = "POWER-003/is_off_when_it_returns[running]"
    passing = "LIFE-005/absent_is_a_success"
    known = tmp_path / "known.toml"

    def run(check: str, expires: str) -> tuple[int, str]:
        known.write_text(f'[[issue]]\ncheck = "{check}"\nbug = "#17"\nexpires = {expires}\n')
        code, out, err = command(
            "run", "fake", "--clause", failing, "--clause", passing, "--known-issues", known
        )
        return code, out + err

    code, text = run(failing, "2999-01-01")
    assert code == 5
    assert re.search(rf"known-issue +{re.escape(failing)} +#17", text)
    code, text = run(failing, "2001-01-01")
    assert code == 1
    assert "#17 has expired" in text
    code, text = run(passing, "2999-01-01")
    assert code == 1
    assert "passes although #17" in text
    code, text = run("LIFE-999/nothing", "2999-01-01")
    assert code == 2
    assert "do not exist: LIFE-999/nothing" in text


def test_list_and_explain(command: Command) -> None:
    code, out, _ = command("list", "-o", "json")
    assert code == 0
    assert {each["id"] for each in json.loads(out)} == set(catalogue().clauses)
    code, out, _ = command("list", "--needs", "pause", "--profile", "power", "-o", "json")
    assert {"STATE-PAUSE"} <= {each["id"] for each in json.loads(out)}
    assert all("pause" in each["needs"] for each in json.loads(out))
    mutant = mutants()[0]
    code, out, _ = command("explain", mutant.killed_by, "-o", "json")
    explained = json.loads(out)
    assert explained["rule"] == catalogue().clauses[mutant.killed_by].rule
    assert mutant.name in explained["mutants"]
    assert list(explained["checks"]) == [each.id for each in catalogue().of(mutant.killed_by)]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("qemu+ssh://user:secret@lab1/system", "conformance run libvirt --option uri=URL"),
        ("nope://lab1", "there are: fake"),
        ("libvrt", "did you mean 'libvirt'?"),
    ],
)
def test_a_url_is_no_driver(command: Command, wanted: str, words: str) -> None:
    code, _, err = command("run", wanted)
    assert code == 2
    assert words in err
    assert "secret" not in err


class PowerOffDoesNothing(FakeDriver):
    """power_off() does nothing."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        pass


def test_mutants(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = Mutant(PowerOffDoesNothing, killed_by="POWER-003", topic="power")
    monkeypatch.setattr("hvdrivers.conformance.mutants.mutants", lambda: [mutant])
    code, out, _ = command("mutants", "--topic", "power", "-o", "json")
    score = json.loads(out)
    assert (code, score["total"], score["killed"], score["killed_as_intended"]) == (0, 1, 1, 1)
    weak = Mutant(PowerOffDoesNothing, killed_by="LIFE-005", topic="power")
    monkeypatch.setattr("hvdrivers.conformance.mutants.mutants", lambda: [weak])
    monkeypatch.setattr(
        "hvdrivers.conformance.mutants.running.selected", lambda: selected(clauses=["POWER-003"])
    )
    code, _, err = command("mutants")
    assert code == 1
    assert "PowerOffDoesNothing is killed only by POWER-003/" in err
    assert "not by LIFE-005: power_off() does nothing." in err


# ---- leftovers -------------------------------------------------------------------------------


@pytest.fixture
def littered(tmp_path: Path) -> Any:
    """A host with an interrupted run on it, and what nobody may touch."""
    host = default_world().host(f"reap-{uuid4().hex[:8]}")
    with host.connect() as driver:

        def make(name: str, **metadata: str) -> str:
            return str(
                driver.spawn(
                    InstanceSpec(
                        name=name,
                        flavor=Flavor(vcpus=1, memory_mib=64),
                        image=HostImage(name="cirros"),
                        metadata=metadata,
                        start=False,
                    )
                ).uuid
            )

        ours = {make("hvct-1-a"), make("renamed", **{METADATA_KEY: "1"})}
        written = make("plain")
        theirs = make("web1")
        foreign = host.add_foreign()
        for name in ("hvct-1-v", "data"):
            driver.create_volume(VolumeSpec(name=name, size_gib=1))
    path = tmp_path / "run.jsonl"
    journal = Journal(path)
    for uuid in (written, str(uuid4())):
        journal._write({"make": "instance", "id": uuid})
    yield host, ours, written, theirs, foreign, path
    default_world().reset()


def _names(host: FakeHost) -> tuple[set[str], set[str]]:
    with host.connect() as driver:
        return (
            {str(each.uuid) for each in driver.list_instances()},
            {each.name for each in driver.list_volumes()},
        )


def test_reap_removes_what_is_the_suites_and_nothing_else(command: Command, littered: Any) -> None:
    host, ours, written, theirs, foreign, journal = littered
    url = f"fake://{host.name}"
    before = _names(host)
    code, out, _ = command("reap", url, "--dry-run", "--journal", journal, "-o", "json")
    assert code == 0
    assert {each["id"] for each in json.loads(out) if each["kind"] == "instance"} >= {
        *ours,
        written,
    }
    assert _names(host) == before
    code, out, _ = command("reap", url, "-o", "json")
    assert code == 0
    assert _names(host) == ({written, theirs}, {"data"})
    code, out, _ = command("reap", url, "--journal", journal, "-o", "json")
    assert code == 0
    assert _names(host) == ({theirs}, {"data"})
    assert list(unfinished(journal)) == []
    assert foreign in host.machines


def test_reap_tells_what_it_could_not_remove(command: Command, littered: Any) -> None:
    from hvdrivers.fake.faults import FaultRule

    host, *_ = littered
    with host.faults.add(FaultRule(operation="destroy", times=1)):
        code, out, _ = command("reap", f"fake://{host.name}", "-o", "json")
    assert code == 5
    assert sum(each["outcome"] != "removed" for each in json.loads(out)) == 1


def test_run_refuses_leftovers(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from hvdrivers.fake.conformance import FakeTarget

    made = FakeTarget.__init__

    def littering(self: FakeTarget, **options: object) -> None:
        made(self, **options)
        with self.host.connect() as driver:
            driver.spawn(
                InstanceSpec(
                    name="hvct-old",
                    flavor=Flavor(vcpus=1, memory_mib=64),
                    image=HostImage(name="cirros"),
                )
            )

    monkeypatch.setattr(FakeTarget, "__init__", littering)
    code, _, err = command("run", "fake", *some())
    assert code == 5
    assert "conformance reap" in err


# ---- pytest ----------------------------------------------------------------------------------


def _outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    line = r"^(?:.*::)([A-Z][A-Z0-9-]*/\S+(?:\[[^\]]*\])?) ([A-Z ]+?) +\["
    return dict(re.findall(line, done.stdout, re.M))


def test_pytest_runs_the_same_checks(tmp_path: Path) -> None:
    clauses = [word for name in SOME for word in ("--hv-clause", name)]
    done = run_pytest(
        tmp_path, "-v", "--hv-driver", "fake", "--hv-option", "accept_any_network=true", *clauses,
        "--hv-report", "report.json", "--hv-report", "report.xml",
        "--pyargs", "hvdrivers.conformance",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hvdrivers.conformance::LIFE-001/" in done.stdout
    assert sorted(_outcomes(done)) == SOME_CHECKS
    assert set(_outcomes(done).values()) == {"PASSED"}
    report = read_report(tmp_path / "report.json")
    assert verify(report) == []
    assert sorted(each.check for each in report.results) == SOME_CHECKS
    assert "verdict: success (clauses" in done.stdout
    assert (tmp_path / "report.xml").exists()


SUBCLASS = """
from hvdrivers.conformance import ConformanceSuite, PreconditionMissing
from hvdrivers.conformance.engine.clauses import catalogue
from hvdrivers.fake.conformance import FakeTarget
from hvdrivers.fake.driver import FakeDriver


class TestMine(ConformanceSuite):
    target = FakeTarget


class Broken(FakeDriver):
    def pause(self, uuid, *, timeout=None):
        pass


class Poor(FakeTarget):
    def __init__(self):
        super().__init__(Broken, without={"suspend": "not here"})

    def crash(self, driver, uuid):
        raise PreconditionMissing("nobody can crash it")


class TestPoor(ConformanceSuite):
    target = Poor


def test_of_their_own():
    assert True
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "test_mine.py").write_text(SUBCLASS)
    return folder


def test_a_subclass_is_the_same_door(theirs: Path) -> None:
    clauses = [word for name in SOME for word in ("--hv-clause", name)]
    done = run_pytest(theirs, "-v", *clauses, "--hv-report", "report.json")
    assert done.returncode == 1
    own = read_report(theirs / "report-TestMine.json")
    assert sorted(each.check for each in own.results) == SOME_CHECKS
    poor = {each.check: each for each in read_report(theirs / "report-TestPoor.json").results}
    failed = "STATE-PAUSE/obeys_its_row[pause,running]"
    missing = "STATE-PAUSE/obeys_its_row[pause,crashed]"
    refused = "STATE-PAUSE/obeys_its_row[pause,suspended]"
    assert poor[failed].status is Status.FAILED
    assert poor[missing].status is Status.PRECONDITION_MISSING
    assert poor[refused].status is Status.REFUSED
    # the last one wins: TestPoor's
    shown = _outcomes(done)
    assert (shown[failed], shown[missing], shown[refused]) == ("FAILED", "PRECONDITION", "REFUSED")
    assert "1 precondition missing" in done.stdout
    assert "precondition-missing STATE-PAUSE" in done.stdout
    assert "skipped" not in done.stdout
    assert catalogue().clauses["STATE-PAUSE"].rule in done.stdout
    assert "items.py" not in done.stdout


def test_strict_fails_what_could_not_be_tried(theirs: Path) -> None:
    missing = "STATE-PAUSE/obeys_its_row[pause,crashed]"
    arguments = ("test_mine.py", "-k", "TestPoor", "--hv-clause", missing)
    done = run_pytest(theirs, *arguments, CI="true")
    assert done.returncode == 1
    assert "precondition-missing: nobody can crash it" in done.stdout


def test_what_is_declined_fails_nothing(theirs: Path) -> None:
    name = "POWER-026/runs_larger_than_the_host"
    arguments = ("-v", "test_mine.py", "-k", "TestMine", "--hv-clause", name, "--hv-strict")
    done = run_pytest(theirs, *arguments)
    assert done.returncode == 0, done.stdout
    assert _outcomes(done) == {name: "DECLINED"}
    assert "1 declined" in done.stdout


def test_one_check_by_its_id(theirs: Path) -> None:
    name = "test_mine.py::TestMine::LIFE-003/leaves_nothing[paused]"
    done = run_pytest(theirs, "-v", name)
    assert done.returncode == 0, done.stdout
    assert list(_outcomes(done)) == ["LIFE-003/leaves_nothing[paused]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pyargs", "hvdrivers.conformance"), "add --hv-driver"),
        (("--pyargs", "hvdrivers.conformance", "--hv-driver", "nope"), "the driver 'nope'"),
        (("--hv-report", "report.doc"), "does not say what kind"),
    ],
)
def test_pytest_tells_wrong_arguments(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run_pytest(tmp_path, *arguments)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_projects_that_only_have_hvdrivers_pay_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import sys\n"
        "class Suite:\n    pass\n"
        "class TestOwn(Suite):\n"
        "    def test_it(self):\n"
        "        heavy = {'pydantic', 'hvdrivers.contract', 'hvdrivers.conformance.checks'}\n"
        "        assert not heavy & set(sys.modules)\n"
    )
    done = run_pytest(tmp_path, "-p", "no:hypothesispytest")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_fixtures_do_what_the_page_says(tmp_path: Path) -> None:
    files = [each for each in steps_of(ROOT / "docs" / "reference" / "fake.md") if each.path]
    assert files
    for each in files:
        (tmp_path / each.path).write_text(each.text)
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"{len(files)} passed" in done.stdout


def test_the_plug_in_is_registered() -> None:
    from importlib.metadata import entry_points

    (found,) = [each for each in entry_points(group="pytest11") if each.name == "hvdrivers"]
    assert found.value == "hvdrivers.conformance.engine.pytest_plugin"
    assert "fake" in entry_points(group="hvdrivers.conformance").names
    assert sys.modules[found.value]
