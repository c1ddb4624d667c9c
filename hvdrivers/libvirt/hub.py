"""Libvirt's events, inside this process: registered once a connection, given to whoever waits.

``events.py`` builds the contract's streams on it; detach, unplug, shutdown and reboot wait on it
instead of asking again and again. All callbacks run in libvirt's one event thread, so they only
put things into queues.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.connection import Connection, Remote
from hvdrivers.libvirt.record import STATE_NAMESPACE

_LONGEST_WAIT = 3600.0
"""Seconds: Python's own waits refuse infinity."""


@dataclass(frozen=True)
class Lifecycle:
    """VIR_DOMAIN_EVENT_ID_LIFECYCLE."""

    name: str
    uuid: UUID
    event: int
    detail: int


@dataclass(frozen=True)
class Reboot:
    """VIR_DOMAIN_EVENT_ID_REBOOT: the guest was reset, by itself or on request."""

    name: str
    uuid: UUID


@dataclass(frozen=True)
class Dropped:
    """The saved memory of a suspended machine was thrown away (see ``power.py``)."""

    name: str
    uuid: UUID


@dataclass(frozen=True)
class Device:
    """A device was added, removed, or could not be removed; named by its alias."""

    name: str
    uuid: UUID
    kind: str
    alias: str


@dataclass(frozen=True)
class Lost:
    """The connection is gone: events have been missed from here on."""


@dataclass(frozen=True)
class Back:
    """A new connection is there, and events come again. It may come without a Lost before it:
    whoever finds a connection dead replaces it at once."""

    generation: int
    """Which connection it is, counted from 1."""


RawEvent = Lifecycle | Reboot | Dropped | Device | Lost | Back


def is_gap(event: RawEvent | None) -> bool:
    """Whether events have been missed before or after it."""
    return isinstance(event, Lost | Back)


class Sink(Protocol):
    """Whatever takes events. It is called in libvirt's event thread and must not block."""

    def put(self, event: RawEvent, /) -> None:
        """Take one."""


class EventHub:
    """One per driver object. It costs 6 calls at each new connection."""

    def __init__(self, connection: Connection) -> None:
        self._lock = threading.Lock()
        self._sinks: list[Sink] = []
        self.generation = 0
        connection.on_open.append(self._register)
        connection.on_lost.append(lambda: self._put(Lost()))
        connection.on_close.append(self._deregister)
        self._ids: list[int] = []

    def _register(self, remote: Remote) -> None:
        callbacks: dict[int, Callable[..., None]] = {
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: self._on_lifecycle,
            libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: self._on_reboot,
            libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: self._on_metadata,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: self._on_added,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: self._on_removed,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: self._on_failed,
        }
        # a hypervisor without one of these events (libvirt's test driver) has no such thing
        # happening to its machines either
        self._ids = []
        for event, callback in callbacks.items():
            with suppress(errors.NotSupported):
                self._ids.append(remote.domainEventRegisterAny(None, event, callback, None))
        self.generation += 1
        self._put(Back(self.generation))

    def _deregister(self, connect: Any) -> None:
        for each in self._ids:
            with suppress(libvirt.libvirtError):
                connect.domainEventDeregisterAny(each)
        self._ids = []

    def _on_lifecycle(self, _c: Any, domain: Any, event: int, detail: int, _o: Any) -> None:
        self._put(Lifecycle(domain.name(), UUID(domain.UUIDString()), event, detail))

    def _on_reboot(self, _c: Any, domain: Any, _o: Any) -> None:
        self._put(Reboot(domain.name(), UUID(domain.UUIDString())))

    def _on_metadata(self, _c: Any, domain: Any, _kind: int, namespace: str, _o: Any) -> None:
        if namespace == STATE_NAMESPACE:
            self._put(Dropped(domain.name(), UUID(domain.UUIDString())))

    def _on_added(self, _c: Any, domain: Any, alias: str, _o: Any) -> None:
        self._put(Device(domain.name(), UUID(domain.UUIDString()), "added", alias))

    def _on_removed(self, _c: Any, domain: Any, alias: str, _o: Any) -> None:
        self._put(Device(domain.name(), UUID(domain.UUIDString()), "removed", alias))

    def _on_failed(self, _c: Any, domain: Any, alias: str, _o: Any) -> None:
        self._put(Device(domain.name(), UUID(domain.UUIDString()), "removal-failed", alias))

    def _put(self, event: RawEvent) -> None:
        with self._lock:
            sinks = list(self._sinks)
        for sink in sinks:
            sink.put(event)

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Collect the events from here on: enter it before causing what you wait for."""
        listener = Listener(SimpleQueue())
        self.subscribe(listener.queue)
        try:
            yield listener
        finally:
            self.unsubscribe(listener.queue)

    def subscribe(self, sink: Sink) -> None:
        """Give every event to this one too."""
        with self._lock:
            self._sinks.append(sink)

    def unsubscribe(self, sink: Sink) -> None:
        """No more events for this one."""
        with self._lock:
            self._sinks = [each for each in self._sinks if each is not sink]


@dataclass(frozen=True)
class Listener:
    """Events collected for one wait."""

    queue: SimpleQueue[RawEvent]

    def wait(self, matches: Callable[[RawEvent], bool], timeout: float) -> RawEvent | None:
        """The first event that matches, or one that ``is_gap``; None after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            try:
                event = self.queue.get(timeout=min(max(0.0, left), _LONGEST_WAIT))
            except Empty:
                if left > _LONGEST_WAIT:
                    continue
                return None
            if is_gap(event) or matches(event):
                return event
