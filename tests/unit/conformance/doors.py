"""The doors of the suite, opened in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
_FILE = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.M | re.S)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Step:
    """A step of a page: a file to write, or commands to run."""

    line: int
    path: str
    """Of the file; empty for commands."""
    text: str


def steps_of(page: Path) -> list[Step]:
    """The files and console sessions of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    found = [(each.start(), each[2], each[3]) for each in _FILE.finditer(text)]
    found += [(each.start(), "", each[1]) for each in _CONSOLE.finditer(text)]
    return [Step(text.count("\n", 0, start) + 1, *rest) for start, *rest in sorted(found)]


def commands_of(session: str) -> list[tuple[str, list[str]]]:
    """The commands of a console session, each with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return found


def environment(*paths: Path, **more: str) -> dict[str, str]:
    """As of a fresh shell, with this Python first, and these folders on the import path."""
    kept = {key: value for key, value in os.environ.items() if key not in {"CI", "PYTEST_ADDOPTS"}}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": os.pathsep.join(map(str, paths)), **more}


def pretend_installed(project: Path) -> None:
    """What ``pip install -e`` makes, without pip: metadata on the import path."""
    wanted = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = project / f"{wanted['name'].replace('-', '_')}-{wanted['version']}.dist-info"
    info.mkdir(exist_ok=True)
    head = f"Metadata-Version: 2.1\nName: {wanted['name']}\nVersion: {wanted['version']}\n"
    (info / "METADATA").write_text(head)
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in each.items())
        for group, each in wanted["entry-points"].items()
    )
    (info / "entry_points.txt").write_text(points)


def run_pytest(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """pytest in a project of somebody else's, in which every warning is an error."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error"),
            *("--strict-markers", *arguments),
        ],
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
