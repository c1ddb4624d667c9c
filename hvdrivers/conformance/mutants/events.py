"""Mutants of events."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.event_streams import Change, FakeEventStream, lifecycle
from hvdrivers.models.events import DeviceEvent, Event, LifecycleEvent, LifecycleKind, ResyncEvent
from hvdrivers.models.state import InstanceState


class _Streams(FakeDriver):
    """A driver with streams of another class."""

    stream: ClassVar[type[FakeEventStream]] = FakeEventStream

    def _stream(self, made: list[FakeEventStream]) -> FakeEventStream:
        stream = self.stream(self.fake_host, self.link.event_buffer, self._unsubscribe)
        made.append(stream)
        self.fake_host.streams.add(stream)
        return stream


class _Changed(FakeEventStream):
    """A stream that changes what it delivers."""

    def next(self, timeout: float | None = None) -> Event | None:
        event = super().next(timeout)
        return None if event is None else self.changed(event)

    def changed(self, event: Event) -> Event:
        return event


@mutant("EVENT-001")
class FirstEventIsNoResync(_Streams):
    """A stream begins with the first change; who subscribes must list by himself."""

    class stream(FakeEventStream):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            self._first = False


@mutant("EVENT-001")
class ResyncLeavesOutStopped(_Streams):
    """A resync has only the machines that are powered on."""

    class stream(_Changed):
        def changed(self, event: Event) -> Event:
            if not isinstance(event, ResyncEvent):
                return event
            on = {k: v for k, v in event.states.items() if v is not InstanceState.STOPPED}
            return event.model_copy(update={"states": on})


@mutant("EVENT-002")
class EventsOutOfOrder(_Streams):
    """Events that wait together are delivered newest first."""

    class stream(FakeEventStream):
        def next(self, timeout: float | None = None) -> Event | None:
            with self._ready:
                if self._sequence > 0:
                    self._buffer.reverse()
            return super().next(timeout)


@mutant("EVENT-002")
class ResumeIsToldAsStart(_Streams):
    """unpause() is told as a start."""

    class stream(_Changed):
        def changed(self, event: Event) -> Event:
            if isinstance(event, LifecycleEvent) and event.kind is LifecycleKind.RESUMED:
                return event.model_copy(update={"kind": LifecycleKind.STARTED})
            return event


@mutant("EVENT-002")
class DestroyedHasAState(_Streams):
    """The event of a machine that has gone says that it is STOPPED."""

    class stream(_Changed):
        def changed(self, event: Event) -> Event:
            if isinstance(event, LifecycleEvent) and event.state is None:
                return event.model_copy(update={"state": InstanceState.STOPPED})
            return event


@mutant("EVENT-003")
class SequenceHasGaps(_Streams):
    """Numbers are those of the host: one is left out at each new machine."""

    class stream(_Changed):
        extra = 0

        def changed(self, event: Event) -> Event:
            if isinstance(event, LifecycleEvent) and event.kind is LifecycleKind.CREATED:
                self.extra += 1
            return event.model_copy(update={"sequence": event.sequence + self.extra})


@mutant("EVENT-003")
class SequenceBeginsAgain(_Streams):
    """After a resync the numbers begin at 1 again."""

    class stream(_Changed):
        begun = 0

        def changed(self, event: Event) -> Event:
            if isinstance(event, ResyncEvent):
                self.begun = event.sequence - 1
            return event.model_copy(update={"sequence": event.sequence - self.begun})


@mutant("EVENT-004")
class DropsStopsOfOthers(_Streams):
    """A stop that this connection did not ask for is no event."""

    class stream(FakeEventStream):
        driver: DropsStopsOfOthers

        def deliver(self, change: Change) -> None:
            event = change(0)
            stopped = isinstance(event, LifecycleEvent) and event.kind is LifecycleKind.STOPPED
            if not stopped or self.driver.stopping:
                super().deliver(change)

    stopping = False

    def _stream(self, made: list[FakeEventStream]) -> FakeEventStream:
        stream = super()._stream(made)
        stream.driver = self  # type: ignore[attr-defined]
        return stream

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        self.stopping = True
        try:
            super().power_off(uuid, graceful=graceful, timeout=timeout)
        finally:
            self.stopping = False


@mutant("EVENT-004")
class CrashIsNoEvent(_Streams):
    """The death of a guest is told only by get_instance()."""

    class stream(FakeEventStream):
        def deliver(self, change: Change) -> None:
            event = change(0)
            if not (isinstance(event, LifecycleEvent) and event.kind is LifecycleKind.CRASHED):
                super().deliver(change)


@mutant("EVENT-005")
class ResyncShowsForeignMachines(_Streams):
    """A resync has every machine of the host, whoever made it."""

    class stream(_Changed):
        def changed(self, event: Event) -> Event:
            if not isinstance(event, ResyncEvent):
                return event
            foreign = {m.uuid: m.state for m in self._host.machines.values() if not m.ours}
            return event.model_copy(update={"states": event.states | foreign})


@mutant("EVENT-005")
class TellsOfForeignMachines(_Streams):
    """Before it tells of one of ours, a stream tells of the foreign machines too."""

    class stream(FakeEventStream):
        def deliver(self, change: Change) -> None:
            for machine in self._host.machines.values():
                if not machine.ours:
                    at = self._host.clock.wall()
                    kind, state = LifecycleKind.STARTED, machine.state
                    super().deliver(lifecycle(at, machine.uuid, kind, state))
            super().deliver(change)


@mutant("EVENT-006")
class FirstResyncSwallowsTheChangesBeforeIt(_Streams):
    """The first next() drops the changes since watch(): they are in the resync."""

    class stream(FakeEventStream):
        def next(self, timeout: float | None = None) -> Event | None:
            with self._ready:
                if self._first:
                    self._buffer.clear()
            return super().next(timeout)


@mutant("EVENT-006")
class FirstResyncIsThatOfWatch(_Streams):
    """The first resync is as old as the stream. A client that has spawned an instance since takes
    it for dead."""

    class stream(FakeEventStream):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            self.old = super()._resync_event()

        def _resync_event(self) -> Change:
            return self.old if self._sequence == 1 else super()._resync_event()


@mutant("EVENT-007")
class NoResync(_Streams):
    """After a lost connection the stream goes on with what comes next, and misses the rest."""

    class stream(FakeEventStream):
        def lose_connection(self) -> None:
            pass

        def deliver(self, change: Change) -> None:
            if self._host.reachable:
                super().deliver(change)


@mutant("EVENT-007")
class EventLostOnReconnect(_Streams):
    """What happens while the connection is lost is dropped, and the resync is the old one."""

    class stream(FakeEventStream):
        def _resync_event(self) -> Change:
            made = super()._resync_event()
            if not hasattr(self, "old"):
                self.old = made
            return self.old


@mutant("EVENT-007")
class EndsAtTheFirstError(_Streams):
    """A stream ends when its connection is lost."""

    class stream(FakeEventStream):
        def lose_connection(self) -> None:
            self._closed = True
            self._ready.notify_all()


@mutant("EVENT-007")
class DeafAfterResync(_Streams):
    """After a lost connection the resync comes, and nothing after it."""

    class stream(FakeEventStream):
        deaf = False

        def lose_connection(self) -> None:
            super().lose_connection()
            self.deaf = True

        def deliver(self, change: Change) -> None:
            if not self.deaf:
                super().deliver(change)


@mutant("EVENT-008")
class FullBufferDropsSilently(_Streams):
    """A full buffer drops what comes, without a resync."""

    class stream(FakeEventStream):
        def deliver(self, change: Change) -> None:
            if len(self._buffer) < self._limit:
                super().deliver(change)


@mutant("EVENT-009")
class CloseLetsTheConsumerWait(_Streams):
    """close() does not wake a consumer that waits."""

    class stream(FakeEventStream):
        def close(self) -> None:
            self._closed = True
            self._on_close(self)


@mutant("EVENT-009")
class StreamsOutliveTheDriver(FakeDriver):
    """close() of the driver leaves its streams open."""

    def close(self, *, timeout: float | None = None) -> None:
        self.link.streams.clear()
        super().close(timeout=timeout)


@mutant("EVENT-010")
class SilenceEndsTheStream(_Streams):
    """A next() that times out ends the stream."""

    class stream(FakeEventStream):
        def next(self, timeout: float | None = None) -> Event | None:
            event = super().next(timeout)
            if event is None:
                self.close()
            return event


@mutant("EVENT-011")
class ClosingOneEndsAll(_Streams):
    """Streams share one subscription on the host."""

    def _unsubscribe(self, stream: FakeEventStream) -> None:
        with self.fake_host.world.lock:
            self.fake_host.streams.clear()
            self.link.streams.clear()


@mutant("EVENT-012")
class DevicesByTheirNodeName(_Streams):
    """Device events name the guest's device, not the volume."""

    class stream(_Changed):
        def changed(self, event: Event) -> Event:
            if isinstance(event, DeviceEvent):
                return event.model_copy(update={"device": "vdb"})
            return event


@mutant("EVENT-013")
class EveryCallIsAnEvent(FakeDriver):
    """power_off() of a stopped machine is told as a stop."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        super().power_off(uuid, graceful=graceful, timeout=timeout)
        with self.fake_host.world.lock:
            machine = self.fake_host.machines[uuid]
            self.fake_host.tell_lifecycle(machine, LifecycleKind.STOPPED, InstanceState.STOPPED)


@mutant("EVENT-002")
class MergesInSilence(_Streams):
    """A change that nobody has read yet is replaced by the next, and no limit says so."""

    class stream(FakeEventStream):
        def deliver(self, change: Change) -> None:
            super().deliver(self._merged(change))


@mutant("EVENT-018")
class EventsOfAnotherZone(_Streams):
    """The time of an event is the local one of the host, told as UTC."""

    class stream(_Changed):
        def changed(self, event: Event) -> Event:
            return event.model_copy(update={"at": event.at + timedelta(hours=2)})
