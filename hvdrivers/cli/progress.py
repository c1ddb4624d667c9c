"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hvdrivers.cli.output import size
from hvdrivers.cli.report import say

if TYPE_CHECKING:
    from hvdrivers.models.progress import Progress, ProgressCallback


class _Plain:
    """One line when a phase begins, and one per tenth of it."""

    def __init__(self) -> None:
        self._phase: object = None
        self._tenths = -1

    def __call__(self, report: Progress) -> None:
        if report.phase != self._phase:
            self._phase, self._tenths = report.phase, -1
        # a little more than nothing: 0.6 is six tenths in decimal only
        tenths = int((report.fraction or 0.0) * 10 + 1e-9)
        if tenths > self._tenths:
            self._tenths = tenths
            say(f"{report.phase}: {_amount(report)}")


def _amount(report: Progress) -> str:
    """How much of what; with the percentage, which a bar shows by itself."""
    fraction = report.fraction
    parts = _parts(report)
    if fraction is None:
        return parts or str(report.done)
    return f"{fraction:.0%} ({parts})" if parts else f"{fraction:.0%}"


def _parts(report: Progress) -> str:
    if report.unit == "percent":
        return ""
    done, total = (
        (size(report.done), size(report.total))
        if report.unit == "bytes"
        else (str(report.done), None if report.total is None else str(report.total))
    )
    return f"{done}" if total is None else f"{done} of {total}"


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """A callback for an operation's ``progress=``."""
    if not sys.stderr.isatty():
        yield _Plain()
        return
    from rich import progress as bars
    from rich.console import Console

    shown = bars.Progress(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TextColumn("{task.fields[amount]}", markup=False),
        bars.TimeElapsedColumn(),
        console=Console(file=sys.stderr, highlight=False, markup=False, emoji=False),
        transient=True,
    )
    tasks: dict[str, bars.TaskID] = {}
    lock = threading.Lock()  # reports come from whatever thread does the work

    def update(report: Progress) -> None:
        with lock:
            if report.phase not in tasks:
                tasks[report.phase] = shown.add_task(report.phase, total=None, amount="")
            shown.update(
                tasks[report.phase],
                completed=report.done,
                total=report.total,
                amount=_parts(report),
            )

    with shown:
        yield update
