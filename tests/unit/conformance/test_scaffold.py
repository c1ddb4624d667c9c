"""A new driver: the package that is made for it, and the tutorial that fills it in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hvdrivers.contract.driver import CORE_OPERATIONS
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.scaffold import scaffold

from .doors import ROOT, commands_of, environment, pretend_installed, run_pytest, steps_of

PAGE = ROOT / "docs" / "driver-tutorial.md"


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, XDG_CACHE_HOME=str(folder / ".cache")),
        capture_output=True,
        check=False,
        text=True,
        timeout=900,
    )


def _conformance(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, "-m", "hvdrivers", "conformance", *arguments], folder)


# ---- the package -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = scaffold("far-away", tmp_path_factory.mktemp("new") / "there")
    pretend_installed(made.directory)
    return made.directory


def test_static_is_green_at_once(package: Path) -> None:
    done = _conformance(package, "run", "far-away", "--tier", "static", "-o", "json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert {each["status"] for each in report["results"]} == {"passed"}
    assert report["driver_version"] == "0.1.0"


def test_the_rest_is_red_and_says_what_to_write(package: Path) -> None:
    done = run_pytest(package, "-q", "--hv-clause", "LIFE-001", "--hv-clause", "STATIC-001")
    assert done.returncode == 1
    assert "1 passed" in done.stdout
    assert "list_instances() is still to be written" in done.stdout


def test_every_operation_of_core_is_there_and_not_written(package: Path) -> None:
    text = "".join(path.read_text() for path in (package / "hv_far_away").glob("*.py"))
    missing = set(re.findall(r'raise not_written\("(\w+)"\)', text))
    assert missing == CORE_OPERATIONS - {"close"}


def test_the_package_is_in_our_own_style(package: Path) -> None:
    done = _run([sys.executable, "-m", "mypy", "--strict", "hv_far_away", "tests"], package)
    assert done.returncode == 0, done.stdout
    for command in (["check"], ["format", "--check"]):
        config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        done = _run([sys.executable, "-m", "ruff", *command, *config, "."], package)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["Acme", "a_b", "-a", "a-", "1a", "a--b", "", "a/b", "fake"])
def test_names_that_cannot_be(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        scaffold(name, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(InvalidRequest, match="not an empty directory"):
        scaffold("acme", tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


# ---- the tutorial ----------------------------------------------------------------------------


@dataclass
class Followed:
    """What following the tutorial has left."""

    project: Path
    failed: list[str]
    """Commands that did not do what the page shows."""


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """The steps of the page, one after the other."""
    folder = tmp_path_factory.mktemp("tutorial")
    failed = []
    for step in steps_of(PAGE):
        if step.path:
            (folder / step.path).write_text(step.text)
            continue
        for command, shown in commands_of(step.text):
            if command.startswith("cd "):
                folder /= command.removeprefix("cd ")
            elif command == "pip install -e .":
                pretend_installed(folder)
            elif not command.startswith("pip install "):
                # what is drawn by lot is the same in each run of the tests
                seeded = command.replace("conformance run acme", "conformance run acme --seed 1")
                done = _run(["bash", "-c", seeded], folder)
                printed = done.stdout.splitlines()[-len(shown) :] if shown else []
                if done.returncode != 0 or printed != shown:
                    failed.append(f"line {step.line}: {command}\n{done.stdout}{done.stderr}")
    return Followed(folder, failed)


def test_the_tutorial_reaches_core(followed: Followed) -> None:
    assert followed.failed == []
    report = json.loads((followed.project / "acme.json").read_text())
    verdicts = {each["profile"]: each["verdict"] for each in report["profiles"]}
    assert report["complete"]
    assert (report["driver"], report["verdict"], verdicts["core"]) == ("acme", *["success"] * 2)
    assert "Core" in (followed.project / "acme.svg").read_text()


@pytest.mark.parametrize(
    ("path", "before", "after", "clause"),
    [
        ("lifecycle.py", "if uuid not in host.machines:", "if uuid in host.machines:", "LIFE-005"),
        ("lifecycle.py", "host.put(uuid, None)", "pass", "LIFE-003"),
        (
            "power.py",
            'self.link.change("power_off", lambda: self._power_off(uuid), until',
            "str(until",
            "POWER-003",
        ),
        (
            "devices.py",
            "if not self._link.change(operation, remove, timeout):",
            "if False:",
            "NET-010",
        ),
    ],
    ids=["destroy raises", "destroy leaves it", "power_off does nothing", "nothing lets go"],
)
def test_with_one_operation_broken_it_does_not(
    followed: Followed, tmp_path: Path, path: str, before: str, after: str, clause: str
) -> None:
    project = tmp_path / "hv-acme"
    shutil.copytree(followed.project, project)
    file = project / "hv_acme" / path
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))
    done = _conformance(project, "run", "acme", "--seed", "1", "--clause", clause, "-o", "json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert {each["profile"]: each["verdict"] for each in report["profiles"]}["core"] == "failure"
