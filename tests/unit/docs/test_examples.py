"""What the README and the pages show is what happens."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.docs.blocks import blocks_of, run_block, write_empty_qcow2
from tests.unit.docs.page import DOCS, ROOT

PAGES = [
    ROOT / "README.md",
    DOCS / "index.md",
    DOCS / "quick-start.md",
    DOCS / "concepts.md",
    DOCS / "guides" / "debian-image.md",
    DOCS / "guides" / "logging.md",
    DOCS / "hyperv-simulator.md",
    DOCS / "libvirt.md",
    DOCS / "security.md",
    DOCS / "driver-checklist.md",
    DOCS / "reference" / "fake.md",
]
EXAMPLES = ["ci_runner_pool.py", "fault_injection.py", "inventory_report.py", "runner_pool.py"]

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+00:00")


def _ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _on_the_fake(text: str) -> str:
    """The same block against the fake: only the address, and what the product is called."""
    return text.replace('"qemu:///system"', '"fake"').replace("QEMU\n", "hvdrivers fake\n")


@pytest.mark.parametrize("path", PAGES, ids=_ids)
def test_python_blocks_run_and_print_what_the_page_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_empty_qcow2(tmp_path / "debian-12-genericcloud-amd64.qcow2")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(path):
        if block.language == "python":
            printed = run_block(replace(block, code=_on_the_fake(block.code)), path, namespace)
            assert printed == _on_the_fake(block.output or ""), f"{path.name}:{block.line}"


def test_every_page_with_python_is_run() -> None:
    with_python = {
        path
        for path in [ROOT / "README.md", *DOCS.rglob("*.md")]
        if any(block.language == "python" for block in blocks_of(path))
    }
    assert with_python <= set(PAGES)


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}


@pytest.mark.parametrize("path", [ROOT / "README.md"], ids=_ids)
def test_commands_print_what_the_page_says(path: Path) -> None:
    sessions = [block.code for block in blocks_of(path) if block.language == "console"]
    assert sessions
    for session in sessions:
        command, _, expected = session.partition("\n")
        result = subprocess.run(
            shlex.split(command.removeprefix("$ ")),
            env=_environment(),
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        printed = [line.rstrip() for line in result.stdout.splitlines()]
        assert [_TIME.sub("NOW", line) for line in printed] == [
            _TIME.sub("NOW", line) for line in expected.splitlines()
        ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run_on_the_fake(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
        env=_environment(),
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, "")
    if name == "ci_runner_pool.py":
        lines = result.stdout.splitlines()
        assert [line.partition(" ")[2] for line in lines[:-1]] == ["stopped"] * 5
        assert lines[-1] == "0 instances are left"
    elif name == "fault_injection.py":
        struck, _, rest = result.stdout.partition(" ")
        assert rest == "faults, each ended with one machine and one volume\n"
        assert int(struck) >= 8
    elif name == "runner_pool.py":
        assert result.stdout == "3 runners, 2 replaced\n"
    else:
        assert result.stdout.startswith("hvdrivers fake 1.0, x86_64\n")


def test_report_names_a_host_that_cannot_be_reached() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "inventory_report.py"), "no-such-host", "fake"],
        env=_environment(),
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0
    assert result.stdout.startswith("no-such-host: ")
    assert "hvdrivers fake" in result.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_say_what_they_are(name: str) -> None:
    module = ast.parse((ROOT / "examples" / name).read_text())
    assert f"python examples/{name}" in (ast.get_docstring(module) or "")


def test_first_success_within_sixty_lines() -> None:
    blocks = [block for block in blocks_of(ROOT / "README.md") if block.language == "python"]
    assert blocks
    assert blocks[0].output
    assert blocks[0].line + blocks[0].code.count("\n") + blocks[0].output.count("\n") < 60
