"""Streams over a hub: numbers, order, gaps, and what a resync tells."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from queue import SimpleQueue
from uuid import UUID, uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit import (
    Back,
    Change,
    DeviceChange,
    Feed,
    Hub,
    InstanceStream,
    Lost,
    Streams,
)
from hvdrivers.models.events import (
    DeviceEvent,
    DeviceKind,
    LifecycleEvent,
    LifecycleKind,
    ResyncEvent,
)
from hvdrivers.models.state import InstanceState

S, K = InstanceState, LifecycleKind
Raw = Change | DeviceChange
LONG = 60.0


def translate(
    raw: Raw, seen: Mapping[UUID, InstanceState], at: datetime
) -> Iterator[Change | DeviceChange]:
    """A hypervisor that says what the contract says, and says some things twice."""
    assert at.tzinfo is not None
    if isinstance(raw, DeviceChange) or seen.get(raw.uuid) is not raw.state:
        yield raw


class Rig:
    """A stream over a hub, and a host whose states the test decides."""

    def __init__(self, *, limit: int = 100) -> None:
        self.uuid = uuid4()
        self.hub: Hub[Raw] = Hub()
        self.hub.back()
        self.states: dict[UUID, InstanceState] | errors.HypervisorError = {self.uuid: S.RUNNING}
        self.reads = 0
        self.calls = 0
        self.stream = InstanceStream(
            self.hub, self.read, lambda: translate, limit=limit, talked=lambda: self.calls
        )
        self.stream.begin()

    def read(self) -> dict[UUID, InstanceState]:
        self.reads += 1
        if isinstance(self.states, errors.HypervisorError):
            raise self.states
        return dict(self.states)

    def happens(self, kind: LifecycleKind, state: InstanceState | None) -> None:
        """A change of the host, which its events tell of."""
        assert isinstance(self.states, dict)
        self.states = {} if state is None else {self.uuid: state}
        self.hub.put(Change(self.uuid, kind, state))

    def all(self) -> list[object]:
        """What waits, briefly; the numbers are checked."""
        found: list[object] = []
        before: int | None = None
        while (event := self.stream.next(0.001)) is not None:
            assert before is None or event.sequence == before + 1
            before = event.sequence
            if isinstance(event, ResyncEvent):
                found.append(event.states)
            elif isinstance(event, LifecycleEvent):
                found.append((event.kind, event.state))
            else:
                assert isinstance(event, DeviceEvent)
                found.append((event.kind, event.device))
        return found


# ---- the first resync ----------------------------------------------------------------------------


def test_a_stream_begins_with_what_is_there() -> None:
    rig = Rig()
    first = rig.stream.next(0)
    assert isinstance(first, ResyncEvent)
    assert (first.sequence, first.states) == (1, {rig.uuid: S.RUNNING})
    assert rig.stream.next(0) is None


def test_it_is_read_once_if_the_client_asked_the_host_nothing_since() -> None:
    rig = Rig()
    rig.all()
    assert rig.reads == 1


def test_the_first_resync_tells_no_less_than_the_client_was_told() -> None:
    """The trap: subscribe, spawn, and take the spawned instance for dead, because the first resync
    was older than it. And the event comes all the same, for one who waits for that."""
    rig = Rig()
    rig.calls += 1  # power_off() by the same client, which has returned
    rig.happens(K.STOPPED, S.STOPPED)
    assert rig.all() == [{rig.uuid: S.STOPPED}, (K.STOPPED, S.STOPPED)]
    assert rig.reads == 2


def test_an_event_that_comes_later_than_the_reply_changes_nothing_in_that() -> None:
    rig = Rig()
    rig.calls += 1
    rig.states = {rig.uuid: S.STOPPED}
    assert rig.all() == [{rig.uuid: S.STOPPED}]
    rig.hub.put(Change(rig.uuid, K.STOPPED, S.STOPPED))
    assert rig.all() == [(K.STOPPED, S.STOPPED)]


def test_more_than_the_buffer_holds_before_the_first_one_is_one_resync() -> None:
    rig = Rig(limit=1)
    rig.happens(K.STOPPED, S.STOPPED)
    rig.happens(K.STARTED, S.RUNNING)
    rig.happens(K.STOPPED, S.STOPPED)
    assert rig.all() == [{rig.uuid: S.STOPPED}]


def test_without_a_count_of_calls_the_first_resync_is_read_again() -> None:
    rig = Rig()
    stream = InstanceStream(rig.hub, rig.read, lambda: translate)
    stream.begin()
    rig.states = {}
    first = stream.next(0)
    assert isinstance(first, ResyncEvent)
    assert first.states == {}


def test_a_first_resync_that_cannot_be_read_again_comes_later() -> None:
    rig = Rig()
    rig.calls += 1
    states, rig.states = rig.states, errors.ConnectionFailed("away")
    assert rig.all() == []
    rig.states = states
    assert rig.all() == [states]


def test_a_stream_that_cannot_begin() -> None:
    rig = Rig()
    rig.states = errors.ConnectionFailed("away")
    streams: Streams[Raw] = Streams()
    stream = InstanceStream(rig.hub, rig.read, lambda: translate)
    with pytest.raises(errors.ConnectionFailed):
        streams.begin(stream)
    assert stream.closed


# ---- changes -------------------------------------------------------------------------------------


def test_changes_come_in_their_order() -> None:
    rig = Rig()
    rig.all()
    rig.happens(K.PAUSED, S.PAUSED)
    rig.hub.put(DeviceChange(rig.uuid, DeviceKind.ADDED, "vol-1"))
    rig.happens(K.STOPPED, S.STOPPED)
    rig.happens(K.DESTROYED, None)
    assert rig.all() == [
        (K.PAUSED, S.PAUSED),
        (DeviceKind.ADDED, "vol-1"),
        (K.STOPPED, S.STOPPED),
        (K.DESTROYED, None),
    ]


def test_a_translation_sees_what_was_told_before() -> None:
    rig = Rig()
    rig.all()
    for _ in range(3):
        rig.happens(K.PAUSED, S.PAUSED)
    assert rig.all() == [(K.PAUSED, S.PAUSED)]


def test_one_raw_event_may_be_several_changes() -> None:
    rig = Rig()
    uuid = uuid4()

    def both(raw: Raw, seen: Mapping[UUID, InstanceState], at: datetime) -> list[Change]:
        return [Change(uuid, K.CREATED, S.BUILDING), Change(uuid, K.STARTED, S.RUNNING)]

    stream = InstanceStream(rig.hub, rig.read, lambda: both)
    stream.begin()
    stream.next(0)
    rig.hub.put(Change(uuid, K.STARTED, S.RUNNING))
    found = [stream.next(0) for _ in range(3)]
    assert [each and (each.sequence, each.kind) for each in found] == [  # type: ignore[union-attr]
        (2, K.CREATED),
        (3, K.STARTED),
        None,
    ]


# ---- gaps ----------------------------------------------------------------------------------------


def test_a_gap_is_a_resync() -> None:
    rig = Rig()
    rig.all()
    rig.hub.lost()
    rig.states = errors.ConnectionFailed("away")
    assert rig.all() == []
    rig.states = {rig.uuid: S.PAUSED}
    assert rig.all() == [{rig.uuid: S.PAUSED}]


def test_a_connection_that_was_replaced_unnoticed_is_a_gap_too() -> None:
    rig = Rig()
    rig.all()
    rig.states = {rig.uuid: S.PAUSED}
    rig.hub.back()
    assert rig.all() == [{rig.uuid: S.PAUSED}]


def test_one_gap_is_one_resync() -> None:
    """The reading makes the new connection, which is told as Back while the reading lasts."""
    rig = Rig()
    rig.all()
    rig.hub.lost()
    read = rig.read

    def reconnecting() -> dict[UUID, InstanceState]:
        rig.hub.back()
        return read()

    rig.stream._states = reconnecting
    assert rig.all() == [{rig.uuid: S.RUNNING}]


def test_what_waits_from_before_a_gap_is_older_than_the_resync() -> None:
    rig = Rig()
    rig.all()
    rig.hub.lost()
    rig.hub.put(Change(rig.uuid, K.PAUSED, S.PAUSED))
    rig.states = {rig.uuid: S.STOPPED}
    assert rig.all() == [{rig.uuid: S.STOPPED}]


def test_a_translation_starts_anew_at_a_resync() -> None:
    rig, made = Rig(), []

    def translator() -> object:
        made.append(1)
        return translate

    stream = InstanceStream(rig.hub, rig.read, translator)  # type: ignore[arg-type]
    stream.begin()
    before = len(made)
    rig.hub.lost()
    assert [type(stream.next(LONG)) for _ in range(2)] == [ResyncEvent] * 2
    assert len(made) == before + 1


def test_a_slow_consumer_is_resynchronised() -> None:
    rig = Rig(limit=4)
    rig.all()
    for _ in range(50):
        rig.happens(K.PAUSED, S.PAUSED)
        rig.happens(K.RESUMED, S.RUNNING)
    rig.happens(K.STOPPED, S.STOPPED)
    assert rig.all() == [{rig.uuid: S.STOPPED}]
    rig.happens(K.STARTED, S.RUNNING)
    assert rig.all() == [(K.STARTED, S.RUNNING)]


# ---- the end, and the wait -----------------------------------------------------------------------


def test_a_waiting_consumer_wakes_when_the_stream_is_closed() -> None:
    rig = Rig()
    rig.stream.next(0)
    found: list[object] = [...]
    thread = threading.Thread(target=lambda: found.append(rig.stream.next()))
    thread.start()
    rig.stream.close()
    rig.stream.close()
    thread.join(LONG)
    assert found == [..., None]
    assert rig.stream.closed
    assert rig.hub._sinks == []


def test_a_wait_may_be_longer_than_python_s_longest() -> None:
    rig = Rig()
    rig.stream.next(0)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(rig.stream.next(1e12)))
    thread.start()
    rig.happens(K.PAUSED, S.PAUSED)
    thread.join(LONG)
    assert len(found) == 1


def test_streams_end_with_their_driver() -> None:
    rig = Rig()
    streams: Streams[Raw] = Streams()
    open_, closed = (
        streams.begin(InstanceStream(rig.hub, rig.read, lambda: translate)) for _ in range(2)
    )
    closed.close()
    streams.close()
    assert open_.closed


def test_a_stream_in_a_forked_child_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody brings it events: the threads of the parent are not there."""
    rig = Rig()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(errors.ConnectionFailed, match="forked") as caught:
        rig.stream.next(0)
    assert not caught.value.retryable


def test_a_stream_that_was_dropped_costs_nothing() -> None:
    rig = Rig()
    feed = _Feed()
    streams: Streams[Raw] = Streams(feed)  # type: ignore[arg-type]
    kept = streams.begin(InstanceStream(rig.hub, rig.read, lambda: translate))
    dropped = weakref.ref(streams.begin(InstanceStream(rig.hub, rig.read, lambda: translate)))
    gc.collect()
    assert dropped() is None
    assert (feed.acquired, feed.released) == (2, 1)
    rig.hub.put(Change(rig.uuid, K.PAUSED, S.PAUSED))
    assert len(rig.hub._sinks) == 2  # of kept and of the rig
    kept.close()
    assert feed.released == 2


@dataclass
class _Feed:
    acquired: int = 0
    released: int = 0

    def acquire(self) -> None:
        self.acquired += 1

    def release(self) -> None:
        self.released += 1


# ---- one operation's own wait --------------------------------------------------------------------


def test_an_operation_waits_for_its_event() -> None:
    rig = Rig()
    wanted = DeviceChange(rig.uuid, DeviceKind.REMOVED, "vol-1")
    with rig.hub.listening() as listener:
        rig.hub.put(DeviceChange(rig.uuid, DeviceKind.REMOVED, "vol-2"))
        rig.hub.put(wanted)
        assert listener.wait(lambda raw: raw == wanted, float("inf")) == wanted
        assert listener.wait(lambda raw: raw == wanted, 0.0) is None


@pytest.mark.parametrize("gap", [Lost, Back])
def test_a_gap_ends_the_wait_so_that_the_operation_looks_at_the_host(gap: type) -> None:
    rig = Rig()
    with rig.hub.listening() as listener:
        if gap is Lost:
            rig.hub.lost()
        else:
            rig.hub.back()
        assert isinstance(listener.wait(lambda _: False, LONG), gap)


def test_what_comes_before_the_block_is_not_heard() -> None:
    rig = Rig()
    rig.hub.put(Change(rig.uuid, K.PAUSED, S.PAUSED))
    with rig.hub.listening() as listener:
        assert listener.wait(lambda _: True, 0.0) is None


def test_a_stream_over_a_feed() -> None:
    """From the question to the consumer."""
    rig = Rig()
    answers: SimpleQueue[list[Raw]] = SimpleQueue()
    feed: Feed[Raw] = Feed(
        rig.hub, begin=lambda: None, ask=answers.get, interrupt=lambda: answers.put([])
    )
    streams: Streams[Raw] = Streams(feed)
    stream = streams.begin(InstanceStream(rig.hub, rig.read, lambda: translate))
    answers.put([Change(rig.uuid, K.PAUSED, S.PAUSED)])
    try:
        first, second = stream.next(LONG), stream.next(LONG)
    finally:
        streams.close()
    assert isinstance(first, ResyncEvent)
    assert isinstance(second, LifecycleEvent)
    assert second.kind is K.PAUSED
