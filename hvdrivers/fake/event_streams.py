"""Streams of events of a fake host: numbered, with a buffer, and a resync over what was lost."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract.events import EventStream
from hvdrivers.contract.limits import Limit
from hvdrivers.driverkit.deadline import waitable
from hvdrivers.models.events import (
    DeviceEvent,
    DeviceKind,
    Event,
    LifecycleEvent,
    LifecycleKind,
    ResyncEvent,
)
from hvdrivers.models.state import InstanceState

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost


Change = Callable[[int], Event]
"""A change that has no number yet: each stream counts for itself."""


class FakeEventStream(EventStream):
    """One subscription, with a bounded buffer."""

    def __init__(
        self, host: FakeHost, limit: int, on_close: Callable[[FakeEventStream], None]
    ) -> None:
        self._host = host
        self._on_close = on_close
        # the world's lock: a resync and the changes after it are in one order with all changes
        self._ready = threading.Condition(host.world.lock)
        self._buffer: deque[Change] = deque()
        self._limit = limit
        self._first = True
        """The first resync is to come. It is made when it is read, so that it tells no less than
        the client was told by then; the changes since the beginning follow it."""
        self._lost = False
        self._closed = False
        self._sequence = 0

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event; the wait is in real time, whatever the host's clock."""
        with self._ready:
            self._ready.wait_for(
                self._has_something, None if timeout is None else waitable(timeout)
            )
            if self._closed or not self._has_something():
                return None
            self._sequence += 1
            if self._lost:
                self._buffer.clear()
            if self._first or self._lost:
                self._first = self._lost = False
                return self._resync_event()(self._sequence)
            return self._buffer.popleft()(self._sequence)

    def _resync_event(self) -> Change:
        at = self._host.clock.wall()
        states = {machine.uuid: machine.state for machine in self._host.ours()}
        return lambda sequence: ResyncEvent(sequence=sequence, at=at, states=states)

    def _has_something(self) -> bool:
        # while the host cannot be reached there is nothing to resynchronise with
        resync = self._first or self._lost
        return self._closed or (self._host.reachable and (resync or bool(self._buffer)))

    def deliver(self, change: Change) -> None:
        """Take a change. The caller holds the world's lock."""
        if Limit.EVENTS_MERGED in self._host.size.limits:
            change = self._merged(change)
        if len(self._buffer) >= self._limit:
            self._lost = True
        if not self._lost:
            self._buffer.append(change)
            self._ready.notify_all()

    def _merged(self, change: Change) -> Change:
        """The change together with those of the same instance that nobody has read yet."""
        event = change(0)
        if not isinstance(event, LifecycleEvent):
            return change
        mine = [
            each
            for each in self._buffer
            if isinstance(told := each(0), LifecycleEvent) and told.uuid == event.uuid
        ]
        kinds = [told.kind for each in mine if isinstance(told := each(0), LifecycleEvent)]
        for each in mine:
            self._buffer.remove(each)
        if LifecycleKind.CREATED in kinds and event.state is not None:
            return lifecycle(event.at, event.uuid, LifecycleKind.CREATED, event.state)
        return change

    def lose_connection(self) -> None:
        """Whatever comes before the next resync is not seen one by one."""
        self._lost = True
        self._ready.notify_all()

    def wake(self) -> None:
        """Look again: the host can be reached."""
        self._ready.notify_all()

    def close(self) -> None:
        """End it."""
        with self._ready:
            self._closed = True
            self._buffer.clear()
            self._ready.notify_all()
        self._on_close(self)

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed


def lifecycle(at: datetime, uuid: UUID, kind: LifecycleKind, state: InstanceState | None) -> Change:
    """A change of an instance's state."""
    return lambda sequence: LifecycleEvent(
        sequence=sequence, at=at, uuid=uuid, kind=kind, state=state
    )


def device(at: datetime, uuid: UUID, kind: DeviceKind, name: str) -> Change:
    """A device that came or went."""
    return lambda sequence: DeviceEvent(sequence=sequence, at=at, uuid=uuid, kind=kind, device=name)
