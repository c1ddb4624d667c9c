"""The translation of libvirt's events, and the stream over them, without a daemon."""

from __future__ import annotations

import threading
from uuid import UUID, uuid4

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.events import Buffer, LibvirtEventStream, translate
from hvdrivers.libvirt.hub import Back, Device, Dropped, Lifecycle, Lost, RawEvent, Reboot, Sink
from hvdrivers.models.events import DeviceEvent, LifecycleEvent, LifecycleKind, ResyncEvent
from hvdrivers.models.state import InstanceState

S, K = InstanceState, LifecycleKind
E = {name: value for name, value in vars(libvirt).items() if name.startswith("VIR_DOMAIN_EVENT_")}
EVENTS = (
    "DEFINED",
    "UNDEFINED",
    "STARTED",
    "SUSPENDED",
    "RESUMED",
    "STOPPED",
    "SHUTDOWN",
    "PMSUSPENDED",
    "CRASHED",
)


def raw(uuid: UUID, event: str, detail: str) -> Lifecycle:
    return Lifecycle(
        f"x.{uuid}",
        uuid,
        E[f"VIR_DOMAIN_EVENT_{event}"],
        E[f"VIR_DOMAIN_EVENT_{event}_{detail}"],
    )


# sequences recorded from libvirt 9.0 with QEMU 7.2
BOOT = [("RESUMED", "UNPAUSED"), ("STARTED", "BOOTED")]
SAVE = [("SUSPENDED", "PAUSED"), ("STOPPED", "SAVED")]
RESTORE = [("STARTED", "RESTORED"), ("RESUMED", "FROM_SNAPSHOT")]
SEQUENCES = [
    (None, [("DEFINED", "ADDED"), *BOOT], [(K.CREATED, S.STOPPED), (K.STARTED, S.RUNNING)]),
    # spawn() starts a machine first
    (None, [*BOOT, ("DEFINED", "ADDED")], [(K.CREATED, S.BUILDING), (K.STARTED, S.RUNNING)]),
    (S.RUNNING, SAVE, [(K.PAUSED, S.PAUSED), (K.SUSPENDED, S.SUSPENDED)]),
    (S.PAUSED, [("STOPPED", "SAVED")], [(K.SUSPENDED, S.SUSPENDED)]),
    (S.SUSPENDED, RESTORE, [(K.RESUMED, S.RUNNING)]),
    (
        S.SUSPENDED,
        [("STARTED", "RESTORED"), ("SUSPENDED", "RESTORED")],
        [(K.RESUMED, S.RUNNING), (K.PAUSED, S.PAUSED)],
    ),
    (
        S.RUNNING,
        [("SHUTDOWN", "HOST"), ("STOPPED", "DESTROYED"), ("UNDEFINED", "REMOVED")],
        [(K.STOPPED, S.STOPPED), (K.DESTROYED, None)],
    ),
    (S.RUNNING, [("STOPPED", "FAILED")], [(K.CRASHED, S.CRASHED)]),
    (S.RUNNING, [("CRASHED", "PANICKED")], [(K.CRASHED, S.CRASHED)]),
    (S.RUNNING, [("PMSUSPENDED", "MEMORY")], [(K.PAUSED, S.PAUSED)]),
    (S.PAUSED, [("STARTED", "WAKEUP")], [(K.RESUMED, S.RUNNING)]),
    (S.STOPPED, [("UNDEFINED", "RENAMED"), ("DEFINED", "RENAMED")], []),
    (S.STOPPED, [("DEFINED", "UPDATED")], []),
    # a step of before a resynchronisation that had said so
    (S.PAUSED, [("SUSPENDED", "PAUSED")], []),
    (None, [("UNDEFINED", "REMOVED")], []),
]


@pytest.mark.parametrize(("before", "events", "expected"), SEQUENCES)
def test_sequences(
    before: InstanceState | None,
    events: list[tuple[str, str]],
    expected: list[tuple[LifecycleKind, InstanceState | None]],
) -> None:
    uuid, found = uuid4(), []
    for event in events:
        for change in translate(raw(uuid, *event), before):
            found.append(change)
            before = change[1]
    assert found == expected


@pytest.mark.parametrize("event", EVENTS)
def test_no_detail_is_unknown(event: str) -> None:
    """Of a future libvirt neither."""
    number = E[f"VIR_DOMAIN_EVENT_{event}"]
    for detail in range(20):
        for before in (None, *InstanceState):
            for change in translate(Lifecycle("x", uuid4(), number, detail), before):
                assert change[1] is not before or change[0] is K.MIGRATED


class Hub:
    """What the stream needs of one."""

    def __init__(self) -> None:
        self.generation = 1
        self.sinks: list[Sink] = []

    def subscribe(self, sink: Sink) -> None:
        self.sinks.append(sink)

    def unsubscribe(self, sink: Sink) -> None:
        self.sinks.remove(sink)

    def put(self, *events: RawEvent) -> None:
        for event in events:
            for sink in self.sinks:
                sink.put(event)


class Rig:
    """A stream over a hub and states that the test decides."""

    def __init__(self, *, limit: int = 100) -> None:
        self.uuid = uuid4()
        self.hub = Hub()
        self.states: dict[UUID, InstanceState] | errors.HypervisorError = {self.uuid: S.RUNNING}
        self.stream = LibvirtEventStream(
            self.hub,  # type: ignore[arg-type]
            self._read,
            lambda _: None,
            Buffer(limit),
        )
        self.stream.begin()

    def _read(self) -> dict[UUID, InstanceState]:
        if isinstance(self.states, errors.HypervisorError):
            raise self.states
        return dict(self.states)

    def happens(self, *events: tuple[str, str]) -> None:
        self.hub.put(*(raw(self.uuid, *event) for event in events))

    def all(self) -> list[object]:
        found: list[object] = []
        while (event := self.stream.next(0.01)) is not None:
            assert event.sequence == len(found) + 1 or found == [] or event.sequence > 1
            if isinstance(event, ResyncEvent):
                found.append(event.states)
            elif isinstance(event, LifecycleEvent):
                found.append(event.kind)
            else:
                assert isinstance(event, DeviceEvent)
                found.append((event.kind, event.device))
        return found


def test_what_happens_before_the_first_next_is_delivered() -> None:
    rig = Rig()
    rig.happens(("SUSPENDED", "PAUSED"), ("RESUMED", "UNPAUSED"))
    assert rig.all() == [{rig.uuid: S.RUNNING}, K.PAUSED, K.RESUMED]


def test_one_reset_is_one_reboot() -> None:
    rig = Rig()
    rig.hub.put(*[Reboot(f"x.{rig.uuid}", rig.uuid)] * 8)
    assert rig.all() == [{rig.uuid: S.RUNNING}, K.REBOOTED]


def test_saved_memory_is_thrown_away() -> None:
    rig = Rig()
    dropped = Dropped(f"x.{rig.uuid}", rig.uuid)
    rig.hub.put(dropped)
    rig.happens(*SAVE)
    rig.hub.put(dropped, dropped)
    assert rig.all() == [{rig.uuid: S.RUNNING}, K.PAUSED, K.SUSPENDED, K.STOPPED]


def test_a_spawn_and_one_that_is_undone() -> None:
    """Both start a machine that is not defined; one of them is defined then."""
    for end, expected in (
        ([("DEFINED", "ADDED"), ("STOPPED", "DESTROYED")], K.STOPPED),
        ([("STOPPED", "DESTROYED")], K.DESTROYED),
    ):
        rig = Rig()
        rig.uuid = uuid4()  # not in what the stream begins with
        rig.happens(*BOOT, *end)
        assert rig.all()[-3:] == [K.CREATED, K.STARTED, expected]


def test_devices_and_foreign_machines() -> None:
    rig = Rig()
    ours = f"x.{rig.uuid}"
    rig.hub.put(
        Device(ours, rig.uuid, "added", "ua-volume-a_3cb"),
        Device(ours, rig.uuid, "removal-failed", "ua-vif-ovs-port"),
        Device(ours, rig.uuid, "removed", "balloon0"),
        Device("foreign", rig.uuid, "removed", "balloon0"),
        Lifecycle("foreign", uuid4(), 2, 0),
    )
    assert rig.all() == [
        {rig.uuid: S.RUNNING},
        ("added", "a<b"),
        ("removal-failed", "port"),
        ("removed", "balloon0"),
    ]


def test_a_connection_is_lost_and_back() -> None:
    rig = Rig()
    assert len(rig.all()) == 1
    rig.hub.put(Lost())
    rig.states = errors.ConnectionFailed("dead")
    assert rig.all() == []
    rig.states = {rig.uuid: S.PAUSED}
    rig.hub.generation = 2
    assert rig.all() == [{rig.uuid: S.PAUSED}]
    rig.hub.put(Back(2))  # of the connection over which the states were read
    assert rig.all() == []
    rig.hub.put(Back(3))  # somebody else found the dead connection, and replaced it
    rig.hub.generation = 3
    assert rig.all() == [{rig.uuid: S.PAUSED}]


def test_a_full_buffer() -> None:
    rig = Rig(limit=4)
    rig.happens(*[("SUSPENDED", "PAUSED"), ("RESUMED", "UNPAUSED")] * 50)
    rig.states = {rig.uuid: S.STOPPED}
    assert rig.stream._buffer._queue.qsize() == 4
    assert rig.all() == [{rig.uuid: S.RUNNING}, {rig.uuid: S.STOPPED}]
    rig.happens(*BOOT)
    assert rig.all() == [K.STARTED]


def test_a_waiting_consumer_wakes_when_the_stream_is_closed() -> None:
    rig = Rig()
    rig.stream.next(0)
    found: list[object] = [...]
    thread = threading.Thread(target=lambda: found.append(rig.stream.next()))
    thread.start()
    rig.stream.close()
    thread.join(10)
    assert found == [..., None]
    assert rig.hub.sinks == []


def test_a_stream_that_cannot_begin() -> None:
    hub = Hub()

    def fail() -> dict[UUID, InstanceState]:
        raise errors.ConnectionFailed("dead")

    stream = LibvirtEventStream(hub, fail, lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(errors.ConnectionFailed):
        stream.begin()
    stream.close()
    assert hub.sinks == []
