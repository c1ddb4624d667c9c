"""The streams that ``watch()`` returns, over the raw events of a hub.

A driver writes one function, which turns a raw event into changes (:class:`Translate`), and one
that reads the states of all instances. The stream numbers the events, keeps them for a slow
consumer, and resynchronises where some were missed::

    def watch(self, *, timeout=None):
        stream = InstanceStream(self.hub, self._states, translator=lambda: translate)
        return self.streams.begin(stream)
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.events import EventStream
from hvdrivers.driverkit.backoff import Backoff
from hvdrivers.driverkit.deadline import Deadline, bounding, waitable
from hvdrivers.driverkit.feeds import Feed
from hvdrivers.driverkit.hub import Back, Hub, Inbox, Lost
from hvdrivers.models.events import (
    DeviceEvent,
    DeviceKind,
    Event,
    LifecycleEvent,
    LifecycleKind,
    ResyncEvent,
)
from hvdrivers.models.state import InstanceState

__all__ = ["Change", "DeviceChange", "InstanceStream", "Streams", "Translate"]

_R = TypeVar("_R")
_R_contra = TypeVar("_R_contra", contravariant=True)
_BUFFER = 10_000
"""Events a slow consumer may lag behind; beyond that they are dropped and it is resynchronised."""
_LEAST_READ = 1.0
"""Seconds that the reading of all states may take whatever the consumer's own limit is."""


@dataclass(frozen=True)
class Change:
    """The state of an instance changed. A stream makes a LifecycleEvent of it."""

    uuid: UUID
    kind: LifecycleKind
    state: InstanceState | None
    """The state it has now; None once it is gone."""


@dataclass(frozen=True)
class DeviceChange:
    """A device came or went. A stream makes a DeviceEvent of it."""

    uuid: UUID
    kind: DeviceKind
    device: str
    """The volume id or VIF id; the hypervisor's name for a device that is neither."""


class Translate(Protocol[_R_contra]):
    """What a driver writes: it turns a raw event into the changes of the contract."""

    def __call__(
        self, raw: _R_contra, seen: Mapping[UUID, InstanceState], at: datetime, /
    ) -> Iterable[Change | DeviceChange]:
        """The changes that this event tells of; none for a foreign machine or an inner step.

        Args:
            raw: the event.
            seen: what the stream has told of each instance so far. An event may be older than a
                resync and say again what that has said.
            at: when the event arrived.
        """


class InstanceStream(EventStream, Generic[_R]):
    """One subscription. The consumer's own thread does the work; there is none behind it.

    A resync never tells less than the driver has told the same client by then. The first one is
    read again if the client has talked to the host since :meth:`begin`: an instance that it has
    spawned meanwhile is in the resync, and the events of the spawn follow all the same.

    Args:
        hub: where raw events come from.
        states: reads the state of every instance of ours.
        translator: makes a translation for this stream. It is called at each resync, after
            ``states``, so that a translation may remember things about instances; it may ask the
            host, and raise what ``states`` may.
        limit: raw events that may wait for a slow consumer.
        talked: a number that differs once the client has talked to the host; the number of calls
            of the driver, say. None: the first resync is always read again.
    """

    def __init__(
        self,
        hub: Hub[_R],
        states: Callable[[], Mapping[UUID, InstanceState]],
        translator: Callable[[], Translate[_R]],
        *,
        limit: int = _BUFFER,
        talked: Callable[[], int] | None = None,
    ) -> None:
        self._hub = hub
        self._states = states
        self._translator = translator
        self._talked = talked
        self.on_close: list[Callable[[], object]] = []
        """Called once, when the stream is closed."""
        self._inbox: Inbox[_R] = Inbox(limit)
        self._closed = threading.Event()
        self._backoff = Backoff(first=0.2, longest=5.0)
        self._sequence = 0
        self._missed = True
        self._generation = 0
        self._seen: dict[UUID, InstanceState] = {}
        self._translate: Translate[_R] | None = None
        self._ready: deque[Event] = deque()
        self._begun_after: int | None = None
        self._first = False
        self._pid = os.getpid()
        """No event comes to a child of this process: threads do not survive fork()."""
        hub.subscribe(self._inbox)

    def begin(self) -> None:
        """Read what is there: changes from here on are delivered as events.

        Raises:
            HypervisorError: as ``states`` does.
        """
        self._look()
        self._begun_after = self._talked() if self._talked is not None else None
        self._first = True

    def next(self, timeout: float | None = None) -> Event | None:
        """See :meth:`EventStream.next`. It waits in real time."""
        if os.getpid() != self._pid:
            raise errors.ConnectionFailed(
                "this stream was opened in the process that this one was forked from",
                hint="connect and watch() after the fork, in each process",
                retryable=False,
            )
        deadline = Deadline(timeout)
        while not self._closed.is_set():
            if self._ready:
                return self._ready.popleft()
            if self._missed or self._inbox.overflown:
                self._ready.extend(self._resynchronised(deadline))
            elif self._first:
                self._ready.extend(self._first_resync(deadline))
            else:
                found = self._inbox.get(deadline.left)
                if found is not None:
                    self._ready.extend(self._delivered(*found))
            if not self._ready and deadline.passed:
                return None
        return None

    def close(self) -> None:
        """See :meth:`EventStream.close`."""
        if not self._closed.is_set():
            self._closed.set()
            self._hub.unsubscribe(self._inbox)
            self._inbox.wake()  # a consumer that waits
            for callback in self.on_close:
                callback()

    @property
    def closed(self) -> bool:
        """See :meth:`EventStream.closed`."""
        return self._closed.is_set()

    # ---- resyncs --------------------------------------------------------------------------------

    def _first_resync(self, deadline: Deadline) -> list[Event]:
        found: dict[UUID, InstanceState] = dict(self._seen)

        def read() -> None:
            found.clear()
            found.update(self._states())

        talked = self._talked is None or self._talked() != self._begun_after
        if talked and not self._done(read, deadline):
            return []
        self._first = False
        return [self._resync(found)]

    def _resynchronised(self, deadline: Deadline) -> list[Event]:
        self._first = False
        return [self._resync(self._seen)] if self._done(self._look, deadline) else []

    def _done(self, read: Callable[[], None], deadline: Deadline) -> bool:
        """Read from the host, connecting again if need be; False, after a pause, if that failed
        for now."""
        try:
            # a consumer that polls with very short waits gets its resync, too
            with bounding(Deadline(max(deadline.left, _LEAST_READ))):
                read()
        except errors.HypervisorError:
            self._backoff.failed()
            self._closed.wait(waitable(deadline.within(self._backoff.delay)))
            return False
        self._backoff.succeeded()
        return True

    def _look(self) -> None:
        # Events in the inbox are older than the states that are read next, so they are dropped.
        # Events that arrive during the reading are kept.
        self._inbox.clear()
        states = self._states()
        self._translate = self._translator()
        # If the reading made a new connection, its Back is in the inbox already. It has no later
        # generation than this one, so it does not count as a gap.
        self._generation = self._hub.generation
        self._missed = False
        self._seen = dict(states)

    def _resync(self, states: Mapping[UUID, InstanceState]) -> ResyncEvent:
        return ResyncEvent(sequence=self._count(), at=datetime.now(UTC), states=dict(states))

    # ---- events ---------------------------------------------------------------------------------

    def _delivered(self, at: datetime, raw: _R | Lost | Back) -> Iterator[Event]:
        if isinstance(raw, Lost):
            self._missed = True
        elif isinstance(raw, Back):
            self._missed = raw.generation > self._generation
        else:
            assert self._translate is not None  # noqa: S101 - nothing is delivered before _look()
            for change in self._translate(raw, self._seen, at):
                yield self._event(at, change)

    def _event(self, at: datetime, change: Change | DeviceChange) -> Event:
        if isinstance(change, DeviceChange):
            return DeviceEvent(
                sequence=self._count(),
                at=at,
                uuid=change.uuid,
                kind=change.kind,
                device=change.device,
            )
        if change.state is None:
            self._seen.pop(change.uuid, None)
        else:
            self._seen[change.uuid] = change.state
        return LifecycleEvent(
            sequence=self._count(),
            at=at,
            uuid=change.uuid,
            kind=change.kind,
            state=change.state,
        )

    def _count(self) -> int:
        self._sequence += 1
        return self._sequence


class Streams(Generic[_R]):
    """The open streams of one driver object. They end with it.

    Args:
        feed: runs while a stream is open. None: the hub is fed by callbacks.
    """

    def __init__(self, feed: Feed[_R] | None = None) -> None:
        self._feed = feed
        self._lock = threading.Lock()
        # weak: a stream that was dropped without close() lets go of the feed and its buffer
        self._open: weakref.WeakSet[InstanceStream[_R]] = weakref.WeakSet()

    def begin(self, stream: InstanceStream[_R]) -> InstanceStream[_R]:
        """Begin a stream, for ``watch()`` to return.

        Raises:
            HypervisorError: the host cannot be asked; the stream is closed.
        """
        try:
            if self._feed is not None:
                self._feed.acquire()
                stream.on_close.append(weakref.finalize(stream, self._feed.release))
            stream.begin()
        except BaseException:
            stream.close()
            raise
        with self._lock:
            self._open.add(stream)
        return stream

    def close(self) -> None:
        """End them all: the driver is closed."""
        with self._lock:
            streams = list(self._open)
        for stream in streams:
            stream.close()
