"""The translation of libvirt's events, and the stream over them, without a daemon."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import libvirt
import pytest

from hvdrivers.driverkit import Change, Hub, InstanceStream
from hvdrivers.libvirt.event_hub import Adopted, Device, Dropped, Lifecycle, RawEvent, Reboot
from hvdrivers.libvirt.translation import Translation, translate
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


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        # with frozen CPUs: revert_snapshot() with memory
        (
            [("STARTED", "BOOTED"), ("SUSPENDED", "PAUSED"), ("RESUMED", "UNPAUSED")],
            [(K.PAUSED, S.PAUSED), (K.RESUMED, S.RUNNING)],
        ),
        # no order of the two loses a start, nor does a definition in between
        (BOOT, [(K.STARTED, S.RUNNING)]),
        (BOOT[::-1], [(K.STARTED, S.RUNNING)]),
        ([BOOT[0], ("DEFINED", "UPDATED"), BOOT[1]], [(K.STARTED, S.RUNNING)]),
        ([BOOT[0], ("STOPPED", "DESTROYED"), *BOOT], [(K.STARTED, S.RUNNING)]),
    ],
)
def test_a_start_has_two_halves(
    events: list[tuple[str, str]], expected: list[tuple[LifecycleKind, InstanceState]]
) -> None:
    uuid, before, translation = uuid4(), S.STOPPED, Translation()
    found: list[tuple[LifecycleKind, InstanceState]] = []
    for event in events:
        for change in translation(raw(uuid, *event), {uuid: before}, datetime.now(UTC)):
            assert isinstance(change, Change)
            assert change.state is not None
            before = change.state
            found.append((change.kind, before))
    assert [each for each in found if each[0] is not K.STOPPED] == expected


@pytest.mark.parametrize("event", EVENTS)
def test_no_detail_is_unknown(event: str) -> None:
    """Of a future libvirt neither."""
    number = E[f"VIR_DOMAIN_EVENT_{event}"]
    for detail in range(20):
        for before in (None, *InstanceState):
            for change in translate(Lifecycle("x", uuid4(), number, detail), before):
                assert change[1] is not before or change[0] is K.MIGRATED


class Rig:
    """A stream over a hub, with libvirt's translation."""

    def __init__(self, *, not_defined: bool = False) -> None:
        self.uuid = uuid4()
        self.hub: Hub[RawEvent] = Hub()
        states = {self.uuid: S.RUNNING}
        translation = partial(Translation, {self.uuid} if not_defined else ())
        self.stream = InstanceStream(self.hub, lambda: states, translation)
        self.stream.begin()

    def happens(self, *events: tuple[str, str]) -> None:
        self.put(*(raw(self.uuid, *event) for event in events))

    def put(self, *events: RawEvent) -> None:
        for event in events:
            self.hub.put(event)

    def all(self) -> list[object]:
        found: list[object] = []
        while (event := self.stream.next(0.01)) is not None:
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
    rig.put(*[Reboot(f"x.{rig.uuid}", rig.uuid)] * 8)
    assert rig.all() == [{rig.uuid: S.RUNNING}, K.REBOOTED]


def test_saved_memory_is_thrown_away() -> None:
    rig = Rig()
    dropped = Dropped(f"x.{rig.uuid}", rig.uuid)
    rig.put(dropped)
    rig.happens(*SAVE)
    rig.put(dropped, dropped)
    assert rig.all() == [{rig.uuid: S.RUNNING}, K.PAUSED, K.SUSPENDED, K.STOPPED]


def test_a_crash_is_forgotten() -> None:
    rig = Rig()
    rig.happens(("STOPPED", "FAILED"))
    rig.put(*[Dropped(f"x.{rig.uuid}", rig.uuid)] * 2)
    assert rig.all() == [{rig.uuid: S.RUNNING}, K.CRASHED, K.STOPPED]


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


def test_an_adopted_machine_tells_of_itself() -> None:
    """Its name is its owner's. What it told before, it told as a machine of others."""
    rig = Rig()
    before, uuid = rig.uuid, uuid4()
    was = [Lifecycle("theirs", uuid, *_numbers(event, detail)) for event, detail in BOOT]
    stopped = Lifecycle("theirs", uuid, *_numbers("STOPPED", "DESTROYED"))
    removed = Lifecycle("theirs", uuid, *_numbers("UNDEFINED", "REMOVED"))
    # it went off between the look of its adopter and the event of the adoption
    rig.put(*was, stopped, Adopted("label", uuid, S.RUNNING), *was, removed)
    rig.put(Lifecycle("theirs", uuid, *_numbers("DEFINED", "ADDED")))  # another one of that UUID
    assert rig.all() == [{before: S.RUNNING}, K.CREATED, K.STARTED, K.DESTROYED]


def _numbers(event: str, detail: str) -> tuple[int, int]:
    return E[f"VIR_DOMAIN_EVENT_{event}"], E[f"VIR_DOMAIN_EVENT_{event}_{detail}"]


def test_devices_and_foreign_machines() -> None:
    rig = Rig()
    ours = f"x.{rig.uuid}"
    rig.put(
        Device(ours, rig.uuid, "added", "ua-volume-a_3cb"),
        Device(ours, rig.uuid, "removal-failed", "ua-vif-ovs-port"),
        Device(ours, rig.uuid, "removed", "balloon0"),
        Device("foreign", uuid4(), "removed", "balloon0"),
        Lifecycle("foreign", uuid4(), 2, 0),
    )
    assert rig.all() == [
        {rig.uuid: S.RUNNING},
        ("added", "a<b"),
        ("removal-failed", "port"),
        ("removed", "balloon0"),
    ]


def test_a_machine_that_an_interrupted_spawn_has_left_ends_with_its_power() -> None:
    rig = Rig(not_defined=True)
    rig.happens(("STOPPED", "DESTROYED"))
    assert rig.all() == [{rig.uuid: S.RUNNING}, K.DESTROYED]
