"""Events on libvirt: the hub's raw events, turned into the contract's, resynchronised over gaps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.events import Events, EventStream
from hvdrivers.libvirt.base import Deadline
from hvdrivers.libvirt.devices import vif_in_alias
from hvdrivers.libvirt.hub import Back, Device, EventHub, Lifecycle, Lost, RawEvent, Reboot
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

_S, _K = InstanceState, LifecycleKind
_STOPPED = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: (_K.CRASHED, _S.CRASHED),
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: (_K.MIGRATED, None),
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: (_K.SUSPENDED, _S.SUSPENDED),
}
_STARTED = {
    libvirt.VIR_DOMAIN_EVENT_STARTED_RESTORED: (_K.RESUMED, _S.RUNNING),
    libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED: (_K.MIGRATED, _S.RUNNING),
}
# PAUSED and RESUMED of these details are steps inside another operation, which has its own event
_INNER_PAUSES = {
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_RESTORED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_API_ERROR,
}


def translate(raw: Lifecycle) -> tuple[LifecycleKind, InstanceState | None] | None:  # noqa: PLR0911
    """Kind and new state for libvirt's event and detail; None for what is no change of ours."""
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
            return _STARTED.get(raw.detail, (_K.STARTED, _S.RUNNING))
        case libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
            return None if raw.detail in _INNER_PAUSES else (_K.PAUSED, _S.PAUSED)
        case libvirt.VIR_DOMAIN_EVENT_RESUMED:
            if raw.detail == libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED:
                return None
            return _K.RESUMED, _S.RUNNING
        case libvirt.VIR_DOMAIN_EVENT_STOPPED:
            return _STOPPED.get(raw.detail, (_K.STOPPED, _S.STOPPED))
        case libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED:
            return _K.PAUSED, _S.PAUSED
        case libvirt.VIR_DOMAIN_EVENT_CRASHED:
            return _K.CRASHED, _S.CRASHED
    return None


class LibvirtEventStream(EventStream):
    """One subscription. The consumer's own thread does the work; there is none behind it."""

    def __init__(
        self,
        hub: EventHub,
        states: Callable[[], dict[UUID, InstanceState]],
        forget: Callable[[LibvirtEventStream], None],
    ) -> None:
        self._hub = hub
        self._states = states
        self._forget = forget
        self._queue: SimpleQueue[RawEvent] = SimpleQueue()
        self._closed = threading.Event()
        self._sequence = 0
        self._resync = True
        self._attempt = 0
        self._seen: dict[UUID, InstanceState] = {}
        hub.subscribe(self._queue)

    def next(self, timeout: float | None = None) -> Event | None:
        deadline = Deadline(timeout)
        while not self._closed.is_set():
            if self._resync:
                event: Event | None = self._resynchronise(deadline)
                if event is not None or deadline.passed:
                    return event
                continue
            try:
                left = None if timeout is None else deadline.left
                raw = self._queue.get(timeout=left)
            except Empty:
                return None
            event = self._translated(raw)
            if event is not None:
                return event
            if deadline.passed:
                return None
        return None

    def _translated(self, raw: RawEvent) -> Event | None:
        if isinstance(raw, Lost) or self._queue.qsize() > _BUFFER:
            self._resync = True
            return None
        if isinstance(raw, Back) or label_of(raw.name, raw.uuid) is None:
            return None
        if isinstance(raw, Device):
            return self._device(raw)
        if isinstance(raw, Reboot):
            return self._lifecycle(raw.uuid, _K.REBOOTED, self._seen.get(raw.uuid))
        change = translate(raw)
        if change is None:
            return None
        return self._lifecycle(raw.uuid, *change)

    def _lifecycle(
        self, uuid: UUID, kind: LifecycleKind, state: InstanceState | None
    ) -> LifecycleEvent:
        if state is None:
            self._seen.pop(uuid, None)
        else:
            self._seen[uuid] = state
        return LifecycleEvent(
            sequence=self._count(), at=datetime.now(UTC), uuid=uuid, kind=kind, state=state
        )

    def _device(self, raw: Device) -> DeviceEvent:
        vif = vif_in_alias(raw.alias)
        device = from_alias("volume", raw.alias) or (vif[1] if vif else raw.alias)
        return DeviceEvent(
            sequence=self._count(),
            at=datetime.now(UTC),
            uuid=raw.uuid,
            kind=DeviceKind(raw.kind),
            device=device,
        )

    def _resynchronise(self, deadline: Deadline) -> ResyncEvent | None:
        """Read all states, connecting again if need be; None if that failed for now."""
        # what is queued from before is older than what is read now; what comes meanwhile stays
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                break
        try:
            states = self._states()
        except errors.HypervisorError:
            pause = _RETRY_SECONDS[min(self._attempt, len(_RETRY_SECONDS) - 1)]
            self._attempt += 1
            self._closed.wait(min(pause, deadline.left))
            return None
        self._attempt = 0
        self._resync = False
        self._seen = dict(states)
        return ResyncEvent(sequence=self._count(), at=datetime.now(UTC), states=states)

    def _count(self) -> int:
        self._sequence += 1
        return self._sequence

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._hub.unsubscribe(self._queue)
            self._queue.put(Back())  # wakes a consumer that waits
            self._forget(self)

    @property
    def closed(self) -> bool:
        return self._closed.is_set()


class LibvirtEvents(Listing, Events):
    """Subscribe."""

    _streams: list[LibvirtEventStream]
    _streams_lock: threading.Lock

    def watch(self, *, timeout: float | None = None) -> EventStream:
        """Budget: 1 call (the callbacks are registered with the connection), 2 for each
        resynchronisation."""
        del timeout
        self.connection.remote.getLibVersion()  # connected, so that changes from here on are seen
        stream = LibvirtEventStream(self.hub, self._states, self._forget_stream)
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


__all__ = ["LibvirtEventStream", "LibvirtEvents", "translate"]
