"""What a stream tells when the server's answers come late.

The property collector tells the newest value, so what lies between two answers may be merged. A
gate in front of each poll makes that certain: nothing is asked while it is shut.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from pyVmomi import vmodl

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.events import EventStream
from hvdrivers.contract.limits import Limit
from hvdrivers.models.events import (
    DeviceEvent,
    DeviceKind,
    LifecycleEvent,
    LifecycleKind,
    ResyncEvent,
)
from hvdrivers.models.image import ImageRef
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import NetworkVif
from hvdrivers.vmware.event_feed import EventFeed, Raw
from tests.integration.vmware.conftest import SpecFactory
from tests.peers.vcsim import VcsimPeer

_K, _S = LifecycleKind, InstanceState
_STOPPED, _STARTED = (_K.STOPPED, _S.STOPPED), (_K.STARTED, _S.RUNNING)
_PATIENCE = 60.0
_COLLECTOR = vmodl.query.PropertyCollector
Told = tuple[LifecycleKind, InstanceState | None]


@pytest.fixture(autouse=True)
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set: polls pass. Clear, as at first: they wait before they are sent."""
    opened = threading.Event()
    ask = EventFeed.ask

    def late(feed: EventFeed) -> list[Raw]:
        opened.wait(_PATIENCE)
        return ask(feed)

    monkeypatch.setattr(EventFeed, "ask", late)
    yield opened
    opened.set()


class Polls:
    """Lets polls pass one by one."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.answered = threading.Event()


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Polls:
    """Stands before the driver in a test's arguments: the driver's feed keeps what it has."""
    made, ask = Polls(), EventFeed.ask

    def one_by_one(feed: EventFeed) -> list[Raw]:
        made.permits.acquire(timeout=_PATIENCE)
        found = ask(feed)
        made.answered.set()
        return found

    monkeypatch.setattr(EventFeed, "ask", one_by_one)
    return made


@pytest.fixture
def machine(guarded_driver: ComputeDriver, spec: SpecFactory) -> Iterator[UUID]:
    uuid = guarded_driver.spawn(spec()).uuid
    yield uuid
    guarded_driver.destroy(uuid)


@pytest.fixture
def stream(guarded_driver: ComputeDriver, gate: threading.Event) -> Iterator[EventStream]:
    """A stream behind the gate; the tests take its first resync."""
    del gate
    with guarded_driver.watch() as made:
        yield made


def until(stream: EventStream, uuid: UUID, last: Told) -> dict[UUID, list[object]]:
    """What comes up to this change: of each instance, kinds with states, and devices."""
    found: dict[UUID, list[object]] = {}
    while (event := stream.next(_PATIENCE)) is not None:
        if isinstance(event, DeviceEvent):
            found.setdefault(event.uuid, []).append((event.kind, event.device))
        elif isinstance(event, LifecycleEvent):
            found.setdefault(event.uuid, []).append((event.kind, event.state))
            if (event.uuid, event.kind, event.state) == (uuid, *last):
                return found
    raise AssertionError(f"{last} never came; what came: {found}")


def told(stream: EventStream, uuid: UUID, last: Told) -> list[object]:
    """The same, of one instance."""
    return until(stream, uuid, last)[uuid]


def test_changes_between_two_answers_are_merged_as_the_driver_says(
    guarded_driver: ComputeDriver, machine: UUID, gate: threading.Event, stream: EventStream
) -> None:
    assert isinstance(stream.next(_PATIENCE), ResyncEvent)
    assert Limit.EVENTS_MERGED in guarded_driver.limits
    for _ in range(3):
        guarded_driver.power_on(machine)
        guarded_driver.power_off(machine)
    guarded_driver.set_metadata(machine, {"last": "of this answer"})
    gate.set()
    assert stream.next(0.5) is None, "three times on and off became nothing"
    guarded_driver.power_on(machine)
    assert told(stream, machine, _STARTED) == [_STARTED]


def test_reboot_of_a_machine_that_was_off_before_the_answer_is_merged_into_the_stop(
    guarded_driver: ComputeDriver, machine: UUID, gate: threading.Event
) -> None:
    guarded_driver.power_on(machine)
    with guarded_driver.watch() as stream:
        assert isinstance(stream.next(_PATIENCE), ResyncEvent)
        guarded_driver.reboot(machine)
        guarded_driver.power_off(machine)
        gate.set()
        assert told(stream, machine, _STOPPED) == [_STOPPED]
        guarded_driver.power_on(machine)
        assert told(stream, machine, _STARTED) == [_STARTED]


@pytest.mark.parametrize("cause", ["power", "rebuild"])
def test_restart_between_two_answers_is_not_merged_into_nothing(
    guarded_driver: ComputeDriver,
    machine: UUID,
    gate: threading.Event,
    image: ImageRef,
    cause: str,
) -> None:
    guarded_driver.power_on(machine)
    with guarded_driver.watch() as stream:
        assert isinstance(stream.next(_PATIENCE), ResyncEvent)
        if cause == "rebuild":
            guarded_driver.rebuild(machine, image)
        else:
            guarded_driver.power_off(machine)
            guarded_driver.power_on(machine)
        gate.set()
        # merged it would be no change at all: RUNNING before and after
        assert told(stream, machine, _STARTED) == [_STOPPED, _STARTED]


def test_restart_of_which_an_answer_saw_the_time_unset_is_told(
    polls: Polls,
    guarded_driver: ComputeDriver,
    machine: UUID,
    peer: VcsimPeer,
    gate: threading.Event,
) -> None:
    """The power state and the time of the start change one after the other. An answer between them
    shows a machine that runs and was never started."""
    guarded_driver.power_on(machine)
    gate.set()
    with guarded_driver.watch() as stream:
        assert isinstance(stream.next(_PATIENCE), ResyncEvent)
        polls.permits.release()
        with peer.slow_task("PowerOff", 2):
            stop = threading.Thread(target=lambda: guarded_driver.power_off(machine))
            stop.start()
            assert polls.answered.wait(_PATIENCE)
            stop.join()
        guarded_driver.power_on(machine)
        polls.permits.release(1000)
        assert told(stream, machine, _STARTED) == [_STOPPED, _STARTED]


def test_what_a_resync_has_told_is_not_merged_away(
    guarded_driver: ComputeDriver,
    spec: SpecFactory,
    image: ImageRef,
    machine: UUID,
    gate: threading.Event,
    stream: EventStream,
) -> None:
    """The later of two streams reads what the feed has not seen, and what is not there any more at
    the next answer."""
    assert isinstance(stream.next(_PATIENCE), ResyncEvent)
    passing, again = (guarded_driver.spawn(spec(start=True)).uuid for _ in range(2))
    guarded_driver.power_on(machine)
    with guarded_driver.watch() as later:
        first = later.next(_PATIENCE)
        assert isinstance(first, ResyncEvent)
        assert {first.states[each] for each in (passing, again, machine)} == {_S.RUNNING}
        guarded_driver.destroy(passing)
        guarded_driver.rebuild(again, image)
        guarded_driver.plug_vif(again, NetworkVif(id="new", network="VM Network"))
        guarded_driver.power_off(machine)
        gate.set()
        seen = until(later, machine, _STOPPED)
        guarded_driver.power_on(machine)
        for uuid, told in until(later, machine, _STARTED).items():
            seen[uuid] = seen.get(uuid, []) + told
    gone, added = (_K.DESTROYED, None), (DeviceKind.ADDED, "new")
    assert seen == {
        passing: [gone],
        again: [_STOPPED, _STARTED, added],
        machine: [_STOPPED, _STARTED],
    }
    made = [(_K.CREATED, _S.BUILDING), _STARTED]
    # the earlier stream was told of nothing in between, so for it that is merged
    assert until(stream, machine, _STARTED) == {again: made, machine: [_STARTED]}
    guarded_driver.destroy(again)


class HeldAnswers:
    """Holds answers that the server has written already. Clear: they wait before they are read."""

    def __init__(self) -> None:
        self.passing = threading.Event()
        self.passing.set()
        self.written = threading.Event()
        """An answer with news waits."""


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldAnswers]:
    held, wait = HeldAnswers(), _COLLECTOR.WaitForUpdatesEx

    def late(*args: Any) -> Any:
        answer = wait(*args)
        if answer is not None and not held.passing.is_set():
            held.written.set()
            held.passing.wait(_PATIENCE)
        return answer

    monkeypatch.setattr(_COLLECTOR, "WaitForUpdatesEx", late)
    yield held
    held.passing.set()


@pytest.mark.parametrize("news", ["made", "started"])
def test_answer_that_is_older_than_a_resync_is_not_told_after_it(
    answers: HeldAnswers,
    guarded_driver: ComputeDriver,
    spec: SpecFactory,
    machine: UUID,
    gate: threading.Event,
    news: str,
) -> None:
    """The server has written that a machine is there, or runs. Then it goes, or stops, and a new
    stream reads that, before the answer comes."""
    gate.set()
    with guarded_driver.watch() as first:
        assert isinstance(first.next(_PATIENCE), ResyncEvent)
        guarded_driver.power_on(machine)
        assert told(first, machine, _STARTED) == [_STARTED]
        guarded_driver.power_off(machine)
        assert told(first, machine, _STOPPED) == [_STOPPED]
        answers.passing.clear()
        if news == "made":
            passing = guarded_driver.spawn(spec()).uuid
            assert answers.written.wait(_PATIENCE)
            guarded_driver.destroy(passing)
        else:
            guarded_driver.power_on(machine)
            assert answers.written.wait(_PATIENCE)
            guarded_driver.power_off(machine)
        with guarded_driver.watch() as later:
            resync = later.next(_PATIENCE)
            assert isinstance(resync, ResyncEvent)
            assert resync.states[machine] is _S.STOPPED
            answers.passing.set()
            last = guarded_driver.spawn(spec(start=True)).uuid
            found = until(later, last, _STARTED)
            del found[last]
            assert found == {}
    guarded_driver.destroy(last)
