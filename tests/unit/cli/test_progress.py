"""Progress: a bar on a terminal, lines elsewhere, nothing on standard output."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvdrivers.cli.progress import progress
from hvdrivers.models.progress import Phase, Progress

from .conftest import Runner
from .test_terminal import in_terminal, without_colours


def test_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as report:
        for done in range(0, 1001):
            report(Progress(phase=Phase.UPLOAD, done=done << 20, total=1000 << 20))
        for done in range(0, 101, 50):
            report(Progress(phase=Phase.MIGRATE, done=done, total=100, unit="percent"))
        report(Progress(phase=Phase.COPY, done=1 << 30))
        report(Progress(phase=Phase.COPY, done=2 << 30))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "upload: 0% (0 B of 1000 MiB)"
    assert [line.split()[1] for line in lines if line.startswith("upload")] == [
        f"{percent}%" for percent in range(0, 101, 10)
    ]
    assert lines[-4:] == ["migrate: 0%", "migrate: 50%", "migrate: 100%", "copy: 1 GiB"]


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    body = """
from hvdrivers.cli import interrupt
from hvdrivers.models.progress import Phase, Progress
real = interrupt.Interruptible.run
def run(self, report):
    for done in range(0, 101, 10):
        report(Progress(phase=Phase.UPLOAD, done=done, total=100))
    return real(self, report)
interrupt.Interruptible.run = run
"""
    call = ["spawn", "fake://box", "--name", "a", "--image", "host:cirros"]
    code, shown = in_terminal(call, body=body)
    assert code == 0, shown
    assert "upload" in without_colours(shown)


def test_lines_in_a_pipe(process: Runner, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    done = process("spawn", "fake://box", "--name", "a", "--image", str(image), "-o", "json")
    assert done.code == 0, done.err
    assert done.data["name"] == "a"
    assert "\x1b" not in done.err
