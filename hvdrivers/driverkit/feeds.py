"""Events of a host that must be asked for them.

A :class:`Feed` has a thread that asks the host for events while there are listeners, and puts the
answers into a hub. The question may be a long poll, which blocks until there is an event. Or it
reads a log, which answers at once and is read again after a pause. :class:`Journal` is a question
of the second kind: it reads a numbered log from where it stopped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from hvdrivers.contract import errors
from hvdrivers.driverkit.backoff import Backoff
from hvdrivers.driverkit.hub import Hub

__all__ = ["Feed", "Journal", "Missed"]

_R = TypeVar("_R")
_log = logging.getLogger(__name__)


class Missed(Exception):
    """Raised by a question: events have been lost, and streams must resynchronise. The place where
    the feed stands is gone too: a session has expired, a log was cleared."""


class Feed(Generic[_R]):
    """Asks a host for events in a thread of its own, as long as at least one block of
    :meth:`running` lasts.

    A question that fails (the host is away) is asked again, ever more slowly, and nothing counts
    as lost until it raises :class:`Missed`: a vSphere session and its filters survive a cut.

    Args:
        hub: gets the events.
        begin: finds the place from which on events are wanted: creates the filter, reads the
            number of the newest record.
        ask: the events since the last question. It returns within a bounded time.
        pause: seconds between two questions, for an ``ask`` that does not block.
        interrupt: makes a blocking ``ask`` return. None: the thread ends when ``ask`` does.
        backoff: the pace while questions fail.
    """

    def __init__(
        self,
        hub: Hub[_R],
        *,
        begin: Callable[[], object],
        ask: Callable[[], Iterable[_R]],
        pause: float = 0.0,
        interrupt: Callable[[], object] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._hub = hub
        self._begin = begin
        self._ask = ask
        self._pause = pause
        self._interrupt = interrupt
        self._backoff = backoff or Backoff(first=0.2, longest=5.0)
        self._lock = threading.Lock()
        self._listeners = 0
        self._asking = False
        self._unwanted = threading.Event()
        """Set while there are no listeners. It ends the pause between two questions."""

    def acquire(self) -> None:
        """Add a listener. The first one starts the thread. Each call needs one :meth:`release`.

        Raises:
            HypervisorError: the first ``begin`` failed; nothing was started.
        """
        with self._lock:
            if not self._asking:
                self._begin()
                self._hub.back()
                threading.Thread(target=self._run, name="hvdrivers-events", daemon=True).start()
                self._asking = True
            # otherwise a thread that is about to end goes on, from where it stands
            self._listeners += 1
            self._unwanted.clear()

    def release(self) -> None:
        """Remove a listener that :meth:`acquire` added. After the last one the thread ends."""
        with self._lock:
            self._listeners -= 1
            last = self._listeners == 0
            if last:
                self._unwanted.set()
        if last and self._interrupt is not None:
            self._interrupt()

    @contextmanager
    def running(self) -> Iterator[None]:
        """:meth:`acquire` and :meth:`release` around a block."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _wanted(self) -> bool:
        with self._lock:
            self._asking = self._listeners > 0
            return self._asking

    def _run(self) -> None:
        placed = True
        while self._wanted():
            try:
                if not placed:
                    self._begin()
                    placed = True
                    self._hub.back()
                for event in self._ask():
                    self._hub.put(event)
                self._backoff.succeeded()
                self._unwanted.wait(self._pause)
            except Missed:
                placed = False
                self._hub.lost()
                self._slow_down()
            except errors.HypervisorError:
                self._slow_down()
            except Exception:  # noqa: BLE001 - logged, and told as a gap
                # a fault of the driver: the thread goes on, and the listeners are told of a gap
                _log.exception("reading the events of the host failed")
                placed = False
                self._hub.lost()
                self._slow_down()

    def _slow_down(self) -> None:
        self._backoff.failed()
        self._unwanted.wait(self._backoff.delay)


class Journal(Generic[_R]):
    """A question to a numbered log of a host.

    Args:
        newest: reads the number of the newest record; 0 for an empty log.
        read: reads the records whose number is greater, oldest first, with their numbers. It may
            return a part of them; the rest is read with the next question.
        consecutive: whether numbers count up by one, so that a number that is left out is an
            event that was lost. False for a log that shares its numbers with others.
    """

    def __init__(
        self,
        *,
        newest: Callable[[], int],
        read: Callable[[int], Sequence[tuple[int, _R]]],
        consecutive: bool = True,
    ) -> None:
        self._newest = newest
        self._read = read
        self._consecutive = consecutive
        self._at = 0

    def begin(self) -> None:
        """Go to the end of the log."""
        self._at = self._newest()

    def ask(self) -> list[_R]:
        """The records since the last question.

        Raises:
            Missed: the log was cleared, or has dropped records that were not read yet.
        """
        records = self._read(self._at)
        if not records:
            if self._newest() < self._at:
                raise Missed("the log was cleared")
            return []
        if self._consecutive and records[0][0] != self._at + 1:
            raise Missed(f"the log has dropped records {self._at + 1} to {records[0][0] - 1}")
        self._at = records[-1][0]
        return [record for _, record in records]
