"""Events on libvirt: the hub's raw events, turned into the contract's, resynchronised over gaps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.events import Events, EventStream
from hvdrivers.libvirt.base import Deadline
from hvdrivers.libvirt.devices import vif_in_alias
from hvdrivers.libvirt.hub import (
    Back,
    Device,
    Dropped,
    EventHub,
    Lifecycle,
    Lost,
    RawEvent,
    Reboot,
)
from hvdrivers.libvirt.listing import Listing
from hvdrivers.libvirt.naming import from_alias, label_of
from hvdrivers.models.events import (
    DeviceEvent,
    DeviceKind,
    Event,
    LifecycleEvent,
    LifecycleKind,
    ResyncEvent,
)
from hvdrivers.models.state import InstanceState

_BUFFER = 10_000
"""Events a slow consumer may lag behind; beyond that they are dropped and it is resynchronised."""
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
_ONE_REBOOT = timedelta(seconds=2)
"""One reset of a machine is two to nine RESET events of QEMU: its BIOS resets it again."""

_S, _K = InstanceState, LifecycleKind
_Change = tuple[LifecycleKind, InstanceState | None]

_CRASHED = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED,
    # QEMU itself has died
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED,
}
# PAUSED and RESUMED of these details are steps inside a migration, which has its own events
_INNER_PAUSES = {
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY,
}


def translate(raw: Lifecycle, before: InstanceState | None) -> tuple[_Change, ...]:
    """Kind and new state for libvirt's event and detail; nothing for what is no change.

    Args:
        before: the state until now; None for a machine that is not known.
    """
    change = _translated(raw, before)
    if change is None:
        return ()
    kind, state = change
    if before is None and kind is _K.STARTED:
        # spawn() starts a machine before it defines it
        return (_K.CREATED, _S.BUILDING), change
    if kind in {_K.DESTROYED, _K.CREATED}:
        # the end of one that is not known was already in a resynchronisation
        return (change,) if (before is None) is (kind is _K.CREATED) else ()
    # An event of before a resynchronisation says again what that had said; and a step inside a
    # longer change (RESUMED after STARTED) says what its main event has said.
    return () if state is before and kind is not _K.MIGRATED else (change,)


def _translated(raw: Lifecycle, before: InstanceState | None) -> _Change | None:  # noqa: PLR0911
    match raw.event:
        case libvirt.VIR_DOMAIN_EVENT_DEFINED:
            if raw.detail == libvirt.VIR_DOMAIN_EVENT_DEFINED_ADDED:
                return _K.CREATED, _S.STOPPED
            return None
        case libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            if raw.detail == libvirt.VIR_DOMAIN_EVENT_UNDEFINED_RENAMED:
                return None
            return _K.DESTROYED, None
        case libvirt.VIR_DOMAIN_EVENT_STARTED:
            return _started(raw.detail)
        case libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
            return None if raw.detail in _INNER_PAUSES else (_K.PAUSED, _S.PAUSED)
        case libvirt.VIR_DOMAIN_EVENT_RESUMED:
            # otherwise the CPUs' first start, which comes before STARTED
            return (_K.RESUMED, _S.RUNNING) if before is _S.PAUSED else None
        case libvirt.VIR_DOMAIN_EVENT_STOPPED:
            return _stopped(raw.detail)
        case libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED:
            return _K.PAUSED, _S.PAUSED
        case libvirt.VIR_DOMAIN_EVENT_CRASHED:
            return _K.CRASHED, _S.CRASHED
    return None


def _started(detail: int) -> _Change:
    if detail == libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED:
        return _K.MIGRATED, _S.RUNNING
    if detail in {
        libvirt.VIR_DOMAIN_EVENT_STARTED_RESTORED,
        libvirt.VIR_DOMAIN_EVENT_STARTED_WAKEUP,
    }:
        return _K.RESUMED, _S.RUNNING
    return _K.STARTED, _S.RUNNING


def _stopped(detail: int) -> _Change:
    if detail in _CRASHED:
        return _K.CRASHED, _S.CRASHED
    if detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED:
        return _K.MIGRATED, None
    if detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED:
        return _K.SUSPENDED, _S.SUSPENDED
    return _K.STOPPED, _S.STOPPED


class Buffer:
    """Raw events with their time of arrival, for a consumer who may be slow, or gone."""

    def __init__(self, limit: int = _BUFFER) -> None:
        self._limit = limit
        self._queue: SimpleQueue[tuple[datetime, RawEvent] | None] = SimpleQueue()
        self.overflown = False
        """Events have been dropped since clear()."""

    def put(self, event: RawEvent) -> None:
        """Add one; drop it if there are too many."""
        if self._queue.qsize() >= self._limit:
            self.overflown = True
        else:
            self._queue.put((datetime.now(UTC), event))

    def wake(self) -> None:
        """Let get() return."""
        self._queue.put(None)

    def get(self, timeout: float | None) -> tuple[datetime, RawEvent] | None:
        """The next event; None if there was none in time, or after wake()."""
        try:
            return self._queue.get(timeout=timeout)
        except Empty:
            return None

    def clear(self) -> None:
        """Forget what is there."""
        self.overflown = False
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                return


class LibvirtEventStream(EventStream):
    """One subscription. The consumer's own thread does the work; there is none behind it.

    What pauses a machine for another purpose shows too: suspend() is PAUSED and then SUSPENDED,
    as libvirt's event does not tell why.
    """

    def __init__(
        self,
        hub: EventHub,
        states: Callable[[], dict[UUID, InstanceState]],
        forget: Callable[[LibvirtEventStream], None],
        buffer: Buffer | None = None,
    ) -> None:
        self._hub = hub
        self._states = states
        self._forget = forget
        self._buffer = buffer or Buffer()
        self._closed = threading.Event()
        self._sequence = 0
        self._gap = True
        self._generation = 0
        self._attempt = 0
        self._seen: dict[UUID, InstanceState] = {}
        self._not_defined: set[UUID] = set()
        """Machines that spawn() has started and not defined yet: they end with their power."""
        self._ready: deque[Event] = deque()
        self._rebooted: dict[UUID, datetime] = {}
        self._first: ResyncEvent | None = None
        hub.subscribe(self._buffer)

    def begin(self) -> None:
        """Read the states that next() delivers first: changes from here on are delivered as such.

        Raises:
            HypervisorError: as the reading does.
        """
        self._first = self._read()

    def next(self, timeout: float | None = None) -> Event | None:
        deadline = Deadline(timeout)
        if self._first is not None:
            first, self._first = self._first, None
            return None if self.closed else first
        while not self._closed.is_set():
            if self._ready:
                return self._ready.popleft()
            event: Event | None
            if self._gap or self._buffer.overflown:
                event = self._resynchronise(deadline)
            else:
                raw = self._buffer.get(None if timeout is None else deadline.left)
                event = self._delivered(*raw) if raw is not None else None
            if event is not None or deadline.passed:
                return event
        return None

    def _delivered(self, at: datetime, raw: RawEvent) -> Event | None:
        if isinstance(raw, Lost):
            self._gap = True
            return None
        if isinstance(raw, Back):
            # somebody replaced a dead connection before its end was told to us
            self._gap = raw.generation > self._generation
            return None
        if label_of(raw.name, raw.uuid) is None:
            return None
        if isinstance(raw, Device):
            return self._device(at, raw)
        before = self._seen.get(raw.uuid)
        changes: tuple[_Change, ...]
        if isinstance(raw, Reboot):
            changes = self._reboot(at, raw.uuid, before)
        elif isinstance(raw, Dropped):
            changes = ((_K.STOPPED, _S.STOPPED),) if before is _S.SUSPENDED else ()
        else:
            changes = self._changes(raw, before)
        self._ready.extend(self._lifecycle(at, raw.uuid, *change) for change in changes)
        return self._ready.popleft() if self._ready else None

    def _changes(self, raw: Lifecycle, before: InstanceState | None) -> tuple[_Change, ...]:
        if raw.event == libvirt.VIR_DOMAIN_EVENT_DEFINED:
            self._not_defined.discard(raw.uuid)
        elif raw.event == libvirt.VIR_DOMAIN_EVENT_STARTED and before is None:
            self._not_defined.add(raw.uuid)
        elif raw.event == libvirt.VIR_DOMAIN_EVENT_STOPPED and raw.uuid in self._not_defined:
            self._not_defined.discard(raw.uuid)
            return ((_K.DESTROYED, None),)
        return translate(raw, before)

    def _reboot(
        self, at: datetime, uuid: UUID, before: InstanceState | None
    ) -> tuple[_Change, ...]:
        last = self._rebooted.get(uuid)
        if before is None or (last is not None and at - last < _ONE_REBOOT):
            return ()
        self._rebooted[uuid] = at
        return ((_K.REBOOTED, before),)

    def _lifecycle(
        self, at: datetime, uuid: UUID, kind: LifecycleKind, state: InstanceState | None
    ) -> LifecycleEvent:
        if state is None:
            self._seen.pop(uuid, None)
            self._rebooted.pop(uuid, None)
        else:
            self._seen[uuid] = state
        return LifecycleEvent(sequence=self._count(), at=at, uuid=uuid, kind=kind, state=state)

    def _device(self, at: datetime, raw: Device) -> DeviceEvent:
        vif = vif_in_alias(raw.alias)
        device = from_alias("volume", raw.alias) or (vif[1] if vif else raw.alias)
        return DeviceEvent(
            sequence=self._count(), at=at, uuid=raw.uuid, kind=DeviceKind(raw.kind), device=device
        )

    def _resynchronise(self, deadline: Deadline) -> ResyncEvent | None:
        """Read all states, connecting again if need be; None if that failed for now."""
        try:
            return self._read()
        except errors.HypervisorError:
            pause = _RETRY_SECONDS[min(self._attempt, len(_RETRY_SECONDS) - 1)]
            self._attempt += 1
            self._closed.wait(min(pause, deadline.left))
            return None

    def _read(self) -> ResyncEvent:
        # what is queued from before is older than what is read now; what comes meanwhile stays
        self._buffer.clear()
        states = self._states()
        self._generation = self._hub.generation
        self._attempt = 0
        self._gap = False
        self._seen = dict(states)
        self._not_defined.clear()
        return ResyncEvent(sequence=self._count(), at=datetime.now(UTC), states=states)

    def _count(self) -> int:
        self._sequence += 1
        return self._sequence

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._hub.unsubscribe(self._buffer)
            self._buffer.wake()  # a consumer that waits
            self._forget(self)

    @property
    def closed(self) -> bool:
        return self._closed.is_set()


class LibvirtEvents(Listing, Events):
    """Subscribe."""

    _streams: list[LibvirtEventStream]
    _streams_lock: threading.Lock

    def watch(self, *, timeout: float | None = None) -> EventStream:
        """Budget: 2 calls (the callbacks are registered with the connection), 2 for each
        resynchronisation later."""
        del timeout
        stream = LibvirtEventStream(self.hub, self._states, self._forget_stream)
        try:
            stream.begin()
        except BaseException:
            stream.close()
            raise
        with self._streams_lock:
            self._streams.append(stream)
        return stream

    def _states(self) -> dict[UUID, InstanceState]:
        return {
            uuid: state for uuid, name, state, _ in self._all() if label_of(name, uuid) is not None
        }

    def _forget_stream(self, stream: LibvirtEventStream) -> None:
        with self._streams_lock, suppress(ValueError):
            self._streams.remove(stream)

    def _close_streams(self) -> None:
        with self._streams_lock:
            streams = list(self._streams)
        for stream in streams:
            stream.close()


__all__ = ["Buffer", "LibvirtEventStream", "LibvirtEvents", "translate"]
