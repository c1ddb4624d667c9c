"""What a terminal of 80 columns shows, and questions that are left by Ctrl-C and Ctrl-D."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable

import pytest
import typer
from rich.table import Table

from hvdrivers.cli.ask import confirm
from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.output import rendered, table
from hvdrivers.cli.report import CommandError

KEY = f"qcow2-sha256-{'0a' * 32}"
UUID = "f55ba54d-d8fa-4509-92ca-5b91c059a93e"
COUNTERS = ("UUID", "STATE", "CPU TIME", "MEMORY", "READ", "WRITTEN", "RECEIVED", "SENT")
COUNTED = (UUID, "running", "7.3 s", "2048 MiB", "18.2 MiB", "3 KiB", "5.6 KiB", "2.8 KiB")


def plain(what: Table) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", rendered(what))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Width = Callable[[int], None]


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch) -> Width:
    """Let standard output be a terminal of so many columns: within the test, as pytest has one of
    its own until then."""
    monkeypatch.setenv("TERM", "xterm")

    def narrow(columns: int) -> None:
        monkeypatch.setattr(sys, "stdout", Terminal())
        monkeypatch.setenv("COLUMNS", str(columns))

    return narrow


def test_columns_that_do_not_fit_become_lines(width: Width) -> None:
    width(80)
    rows = [COUNTED, (UUID[::-1], *COUNTED[1:])]
    lines = plain(table(COUNTERS, rows)).splitlines()
    assert [line.rstrip() for line in lines[: len(COUNTERS) + 1]] == [
        *(f"{name:<8}  {cell}" for name, cell in zip(COUNTERS, COUNTED, strict=True)),
        "",
    ]
    assert len(lines) == 2 * len(COUNTERS) + 1
    width(120)
    wide = plain(table(COUNTERS, rows)).splitlines()
    assert [len(wide), wide[0].split()[0], wide[1].split()[-2:]] == [3, "UUID", ["2.8", "KiB"]]


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_an_identity_is_whole_at_any_width(
    width: Width, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TERM", kind)
    for columns in (20, 80, 92, 120):
        width(columns)
        shown = plain(table(("KEY", "FORMAT", "VIRTUAL SIZE"), [(KEY, "qcow2", "64 MiB")]))
        assert KEY in shown
        assert "64 MiB" in shown


def test_long_cells_are_wrapped(width: Width) -> None:
    """As those of ``doctor``: they are no reason to give up the columns."""
    width(80)
    told = "hint: " + "switch on VT-x or AMD-V in the firmware " * 5
    lines = plain(table(("STATE", "CHECK", "DETAIL"), [("warn", "acceleration", told)]))
    assert lines.splitlines()[0].split() == ["STATE", "CHECK", "DETAIL"]
    assert len(lines.splitlines()) > 3
    assert max(map(len, lines.splitlines())) <= 80


@pytest.mark.parametrize(
    ("pressed", "code"), [(KeyboardInterrupt, ExitCode.INTERRUPTED), (EOFError, ExitCode.FAILED)]
)
def test_a_question_that_is_left(
    monkeypatch: pytest.MonkeyPatch, pressed: type[BaseException], code: ExitCode
) -> None:
    def leave(prompt: str = "") -> str:
        raise pressed

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys.modules[typer.confirm.__module__], "visible_prompt_func", leave)
    with pytest.raises(CommandError, match="nothing was done") as caught:
        confirm("to be destroyed: web1", yes=False)
    assert caught.value.code == code
