"""Time, as the fake host sees it: real, or moved by a test.

Latency, slow guests and deadlines inside the fake all go through a :class:`Clock`, so that a test
of a ten-minute timeout takes no time and no test has to sleep.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from hvdrivers.driverkit.deadline import waitable


class Wake:
    """Ends a wait early: an event that also tells a :class:`ManualClock`."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def set(self) -> None:
        """End the waits, those under way and those to come."""
        self._event.set()
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def is_set(self) -> bool:
        """Whether set() was called."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait in real time; True if it was woken."""
        return self._event.wait(waitable(seconds))

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call ``listener`` on set(), while the block lasts."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)


class Clock(ABC):
    """What the fake asks for the time, and waits with."""

    @abstractmethod
    def now(self) -> float:
        """Seconds since some moment; never goes back."""

    @abstractmethod
    def wall(self) -> datetime:
        """The time of day, with its zone."""

    @abstractmethod
    def wait(self, seconds: float, wake: Wake | None = None) -> bool:
        """Let ``seconds`` pass.

        Returns:
            True if ``wake`` ended it early.
        """


class RealClock(Clock):
    """The time that everybody has."""

    def now(self) -> float:
        """The monotonic clock, seconds."""
        return time.monotonic()

    def wall(self) -> datetime:
        """Now, in UTC."""
        return datetime.now(UTC)

    def wait(self, seconds: float, wake: Wake | None = None) -> bool:
        """Wait in real time."""
        return (wake or Wake()).wait(seconds) if seconds > 0 else bool(wake and wake.is_set())


class ManualClock(Clock):
    """Time that passes only when somebody waits, or when a test says so.

    Args:
        auto: True: a wait takes no real time, the clock jumps over it. False: a wait blocks until
            a test has called :meth:`advance` far enough; :meth:`until_waiting` tells the test when
            a thread has come that far.
    """

    def __init__(self, *, auto: bool = True) -> None:
        self._auto = auto
        self._changed = threading.Condition()
        self._now = 0.0
        self._waiting = 0
        self._start = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> float:
        """Seconds that have passed since it was made."""
        with self._changed:
            return self._now

    def wall(self) -> datetime:
        """The first of January 2026, and what has passed since."""
        return self._start + timedelta(seconds=self.now())

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._changed:
            self._now += seconds
            self._changed.notify_all()

    def until_waiting(self, count: int = 1, timeout: float = 10.0) -> None:
        """Block until ``count`` threads wait on this clock (``auto=False``).

        Raises:
            TimeoutError: they did not within ``timeout`` real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting >= count, timeout):
                raise TimeoutError(f"{self._waiting} threads wait, not {count}")

    def wait(self, seconds: float, wake: Wake | None = None) -> bool:
        """Wait in this clock's time."""
        wake = wake or Wake()
        if self._auto:
            if seconds > 0 and not wake.is_set():
                self.advance(seconds)
            return wake.is_set()
        with wake.listening(self._notify), self._changed:
            end = self._now + seconds
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._now >= end or wake.is_set())
            self._waiting -= 1
        return wake.is_set()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
