"""Ctrl-C during a long operation: ask it to stop and undo, wait a little, then say what is known.

The library's call blocks its caller's thread. So the call is made in a thread of its own, while the
main thread, which gets the signals, waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import typer

from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.progress import progress
from hvdrivers.cli.report import say

if TYPE_CHECKING:
    from hvdrivers.models.progress import Progress, ProgressCallback

_T = TypeVar("_T")

GRACE = 20.0
"""Seconds that an interrupted operation has to undo what it began."""


class Interrupted(Exception):
    """Ctrl-C.

    Attributes:
        finished: the operation came back, with a result or an error.
        completed: with a result.
    """

    def __init__(self, *, finished: bool, completed: bool) -> None:
        super().__init__("interrupted")
        self.finished = finished
        self.completed = completed


class _Stop(Exception):
    """Raised in the progress callback: that is how a caller stops an operation."""


class Interruptible(Generic[_T]):
    """One operation that Ctrl-C can stop."""

    def __init__(self, operation: Callable[[ProgressCallback], _T]) -> None:
        self._operation = operation
        self._stop = threading.Event()
        self._done = threading.Event()
        self._result: list[_T] = []
        self._error: BaseException | None = None

    def run(self, progress: ProgressCallback) -> _T:
        """Do it.

        Raises:
            Interrupted: Ctrl-C came first.
            Exception: what the operation raised.
        """

        def report(value: Progress) -> None:
            if self._stop.is_set():
                raise _Stop
            progress(value)

        # daemon: a host that never answers must not keep the command from ending
        threading.Thread(target=self._work, args=(report,), daemon=True).start()
        try:
            self._done.wait()
        except KeyboardInterrupt:
            self._stop.set()
            try:
                say(
                    "interrupted: waiting for the host to stop and undo (Ctrl-C again: do not wait)"
                )
                finished = self._done.wait(GRACE)
            except KeyboardInterrupt:
                finished = False
            raise Interrupted(finished=finished, completed=bool(self._result)) from None
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _work(self, report: ProgressCallback) -> None:
        try:
            self._result.append(self._operation(report))
        except BaseException as error:  # noqa: BLE001 - raised again where run() waits
            self._error = error
        finally:
            self._done.set()


def long_operation(operation: Callable[[ProgressCallback], _T], *, unfinished: str) -> _T:
    """Do it, with progress on standard error. Ctrl-C stops it and ends the command.

    Args:
        unfinished: what to say if the operation has not come back even so.
    """
    with progress() as report:
        try:
            return Interruptible(operation).run(report)
        except Interrupted as interrupted:
            outcome = interrupted
    if outcome.completed:
        say("it was done by then")
    else:
        say("it has stopped" if outcome.finished else unfinished)
    raise typer.Exit(ExitCode.INTERRUPTED)
