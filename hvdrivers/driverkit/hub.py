"""The hub: what a hypervisor says, given to all in this process who listen.

One :class:`Hub` for each driver object takes *raw* events, of a type that the driver chooses. Three
things feed it:

* callbacks of a client library (libvirt): they call :meth:`Hub.put`;
* a long poll (vSphere's WaitForUpdatesEx): a :class:`~hvdrivers.driverkit.feeds.Feed`;
* a numbered log of the host (Hyper-V's event log): a Feed over a
  :class:`~hvdrivers.driverkit.feeds.Journal`.

Two things read it. An operation waits for one event of its own (the guest has released the disk)
with :meth:`Hub.listening`. And ``watch()`` returns streams, see
:class:`~hvdrivers.driverkit.events.InstanceStream`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from hvdrivers.driverkit.deadline import Deadline, waitable

__all__ = ["Back", "Hub", "Inbox", "Listener", "Lost", "Sink", "is_gap"]

_R = TypeVar("_R")
_R_contra = TypeVar("_R_contra", contravariant=True)


@dataclass(frozen=True)
class Lost:
    """From here on events are missed: the connection is gone, or the host has dropped some."""


@dataclass(frozen=True)
class Back:
    """Events come again. A new connection may come without a Lost before it: a call that finds the
    connection dead replaces it at once."""

    generation: int
    """How often events have come again, counted from 1."""


def is_gap(event: object) -> bool:
    """Whether it is a :class:`Lost` or :class:`Back`: events may have been missed."""
    return isinstance(event, Lost | Back)


class Sink(Protocol[_R_contra]):
    """Takes events, in the thread that brings them. It must not block."""

    def put(self, event: _R_contra | Lost | Back, /) -> None:
        """Take one."""


class Inbox(Generic[_R]):
    """Raw events with their time of arrival, for a reader who may be slow."""

    def __init__(self, limit: float = float("inf")) -> None:
        self._limit = limit
        self._queue: SimpleQueue[tuple[datetime, _R | Lost | Back] | None] = SimpleQueue()
        self.overflown = False
        """Events have been dropped since clear()."""

    def put(self, event: _R | Lost | Back) -> None:
        """Add one, or drop it if too many wait already. It never blocks."""
        if self._queue.qsize() >= self._limit:
            self.overflown = True
        else:
            self._queue.put((datetime.now(UTC), event))

    def wake(self) -> None:
        """Let get() return."""
        self._queue.put(None)

    def get(self, timeout: float) -> tuple[datetime, _R | Lost | Back] | None:
        """The next event; None if there was none in time, or after wake(). It may return early."""
        try:
            return self._queue.get(timeout=waitable(timeout))
        except Empty:
            return None

    def clear(self) -> None:
        """Forget what waits."""
        self.overflown = False
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                return


class Hub(Generic[_R]):
    """Takes raw events and gives each to all who listen. Thread-safe; it never blocks.

    A sink that was dropped without unsubscribe() gets nothing any more and costs nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sinks: list[weakref.ref[Sink[_R]]] = []
        self.generation = 0
        """How often events have begun to come."""

    def put(self, event: _R) -> None:
        """An event has come."""
        self._put(event)

    def lost(self) -> None:
        """Events may be missed from here on."""
        self._put(Lost())

    def back(self) -> None:
        """Events come, for the first time or again: what happens from here on is put()."""
        with self._lock:
            self.generation += 1
            event = Back(self.generation)
        self._put(event)

    @contextmanager
    def listening(self) -> Iterator[Listener[_R]]:
        """Collect the events from here on. Enter the block before causing what you wait for."""
        inbox: Inbox[_R] = Inbox()
        self.subscribe(inbox)
        try:
            yield Listener(inbox)
        finally:
            self.unsubscribe(inbox)

    def _put(self, event: _R | Lost | Back) -> None:
        with self._lock:
            found = [reference() for reference in self._sinks]
            if None in found:
                self._sinks = [each for each in self._sinks if each() is not None]
        for sink in found:
            if sink is not None:
                sink.put(event)

    def subscribe(self, sink: Sink[_R]) -> None:
        """Give each event to this one too, as long as it lives."""
        with self._lock:
            self._sinks.append(weakref.ref(sink))

    def unsubscribe(self, sink: Sink[_R]) -> None:
        """No more events for this one."""
        with self._lock:
            self._sinks = [each for each in self._sinks if each() is not sink]


class Listener(Generic[_R]):
    """The events of a hub, collected for one wait. :meth:`Hub.listening` makes it."""

    def __init__(self, inbox: Inbox[_R]) -> None:
        self._inbox = inbox

    def wait(self, matches: Callable[[_R], bool], timeout: float) -> _R | Lost | Back | None:
        """Wait for an event.

        Args:
            matches: whether this is the one.
            timeout: seconds; may be infinite.

        Returns:
            The first event that matches. Or a :class:`Lost` or :class:`Back`: the event may have
            been missed, so look at the host. Or None after ``timeout`` seconds.
        """
        deadline = Deadline(timeout)
        while True:
            found = self._inbox.get(deadline.left)
            if found is None:
                if deadline.passed:
                    return None
                continue
            event = found[1]
            if isinstance(event, Lost | Back) or matches(event):
                return event
