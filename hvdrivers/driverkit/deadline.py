"""The time at which an operation must be over.

An operation gets ``timeout`` seconds for all of its remote calls together. It makes one
:class:`Deadline` when it begins, passes it to each step that waits, and asks it how long the step
may wait.

A driver whose calls are made far below its operations puts ``with bounding(deadline):`` around the
operation; the session asks :func:`current_deadline` at each call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hvdrivers.contract.errors import OperationTimeout

__all__ = ["Deadline", "bounding", "current_deadline", "waitable"]

_LONGEST_WAIT = 100 * 365 * 24 * 3600.0
"""Seconds. Python's locks and queues refuse infinity, and more than ``threading.TIMEOUT_MAX``: 292
years on Linux, 49 days on Windows."""


def waitable(seconds: float) -> float:
    """So many seconds, as one of Python's own waits takes them: not negative, and not more than a
    hundred years, where a caller gave 1e12 or infinity.

    Every wait whose length a caller's ``timeout`` decides gets its seconds through this.
    """
    return max(0.0, min(seconds, _LONGEST_WAIT, threading.TIMEOUT_MAX))


class Deadline:
    """``timeout`` seconds from now.

    Args:
        timeout: seconds; None: there is no deadline.
        now: the clock, in seconds. It must never go back. A simulated host gives its own.
    """

    def __init__(self, timeout: float | None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._timeout = float("inf") if timeout is None else timeout
        self._now = now
        self.at = now() + self._timeout

    @property
    def bounded(self) -> bool:
        """Whether there is a deadline."""
        return self._timeout != float("inf")

    @property
    def left(self) -> float:
        """Seconds until the deadline, never negative; infinite without one."""
        return max(0.0, self.at - self._now())

    @property
    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return self._now() >= self.at

    def pass_now(self) -> None:
        """Let a deadline pass at once. So a test of what an operation does then waits for nothing,
        and a machine that is busy does not let it pass earlier."""
        if self.bounded:
            self.at = min(self.at, self._now())

    def within(self, longest: float) -> float:
        """Seconds that one step may take: ``longest``, or what is left if that is less."""
        return min(longest, self.left)

    def check(self, doing: str) -> None:
        """Raise OperationTimeout if the deadline has passed.

        Args:
            doing: what the operation was doing, for the message: ``"the disks were made"``.

        Raises:
            OperationTimeout: the deadline has passed.
        """
        if self.passed:
            # a step may have been given what was left: its caller gave the whole
            whole = current_deadline()
            given = whole._timeout if whole.bounded and whole.passed else self._timeout
            about = round(given, 1) or given  # the guard takes off what it has waited itself
            raise OperationTimeout(f"the deadline of {about:g} seconds passed while {doing}")

    def pause(self, seconds: float, doing: str, *, wake: threading.Event | None = None) -> bool:
        """Wait between two attempts, at most until the deadline.

        Args:
            seconds: how long.
            doing: as for :meth:`check`.
            wake: ends the wait early when it is set.

        Returns:
            Whether ``wake`` ended the wait.

        Raises:
            OperationTimeout: the deadline passed.
        """
        woken = (wake or threading.Event()).wait(waitable(self.within(seconds)))
        if not woken:
            self.check(doing)
        return woken


_current: ContextVar[Deadline | None] = ContextVar("hvdrivers-deadline", default=None)
_NONE = Deadline(None)


def current_deadline() -> Deadline:
    """The deadline of the operation that this thread is in; one without a limit outside of any."""
    return _current.get() or _NONE


@contextmanager
def bounding(deadline: Deadline) -> Iterator[Deadline]:
    """Make it the current deadline for the length of the block."""
    token = _current.set(deadline)
    try:
        yield deadline
    finally:
        _current.reset(token)
