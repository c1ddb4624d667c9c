"""Events: what happens on the host, whoever does it, in its order and without a gap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from hvdrivers.contract.events import EventStream
from hvdrivers.models.events import (
    DeviceEvent,
    DeviceKind,
    Event,
    LifecycleEvent,
    LifecycleKind,
    ResyncEvent,
)
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.guest import define_guest
from tests.peers.libvirtd import LibvirtPeer

S, K = InstanceState, LifecycleKind
Step = tuple[LifecycleKind, InstanceState | None]


class Watch:
    """A stream that checks the sequence as it reads."""

    def __init__(self, stream: EventStream) -> None:
        self.stream = stream
        self.sequence = 0

    def next(self, timeout: float = 20) -> Event | None:
        event = self.stream.next(timeout)
        if event is not None:
            self.sequence += 1
            assert event.sequence == self.sequence
        return event

    def resync(self) -> dict[UUID, InstanceState]:
        event = self.next()
        assert isinstance(event, ResyncEvent), event
        return event.states

    def steps(self, uuid: UUID, *expected: Step) -> None:
        """The next events of this instance are exactly these; nothing of any other comes."""
        found = []
        for _ in expected:
            event = self.next()
            assert isinstance(event, LifecycleEvent), f"{event} after {found}"
            assert event.uuid == uuid
            found.append((event.kind, event.state))
        assert tuple(found) == expected

    def device(self, uuid: UUID, kind: DeviceKind, device: str) -> None:
        event = self.next()
        assert isinstance(event, DeviceEvent), event
        assert (event.uuid, event.kind, event.device) == (uuid, kind, device)

    def silent(self) -> None:
        """Nothing more comes."""
        assert self.next(0.5) is None


@pytest.fixture
def watch(host: Host) -> Iterator[Watch]:
    with host.driver.watch() as stream:
        yield Watch(stream)


def test_the_life_of_a_machine(host: Host, watch: Watch) -> None:
    """Exactly its changes; a change between watch() and the first next() is delivered too."""
    driver = host.driver
    machine = host.made(host.empty(name="watched"))
    uuid = machine.uuid
    assert watch.resync()[uuid] is S.RUNNING
    watch.steps(uuid, (K.CREATED, S.BUILDING), (K.STARTED, S.RUNNING))
    driver.pause(uuid)
    driver.unpause(uuid)
    watch.steps(uuid, (K.PAUSED, S.PAUSED), (K.RESUMED, S.RUNNING))
    driver.suspend(uuid)
    driver.resume(uuid)
    watch.steps(uuid, (K.PAUSED, S.PAUSED), (K.SUSPENDED, S.SUSPENDED), (K.RESUMED, S.RUNNING))
    driver.suspend(uuid)
    driver.power_off(uuid)
    watch.steps(uuid, (K.PAUSED, S.PAUSED), (K.SUSPENDED, S.SUSPENDED), (K.STOPPED, S.STOPPED))
    driver.power_on(uuid)
    watch.steps(uuid, (K.STARTED, S.RUNNING))
    driver.reboot(uuid)
    watch.steps(uuid, (K.REBOOTED, S.RUNNING))
    with host.volume() as volume:
        machine.attach(volume)
        watch.device(uuid, DeviceKind.ADDED, volume.volume_id)
        driver.power_off(uuid)
        driver.detach_volume(uuid, volume.volume_id)
        watch.steps(uuid, (K.STOPPED, S.STOPPED))
    driver.set_metadata(uuid, {"no": "event"})
    driver.rename(uuid, "neither")
    watch.silent()
    driver.destroy(uuid)
    watch.steps(uuid, (K.DESTROYED, None))
    watch.silent()


def test_a_machine_without_a_definition_that_ends_while_a_stream_begins(host: Host) -> None:
    """The undo of a spawn whose reply was lost ends one. The end of its power is its end, also for
    a stream that has read its state a moment before and cannot find it any more."""
    uuid = host.made(host.empty()).uuid
    host.peer.virsh("undefine", str(uuid))
    calls: list[str] = []

    def seam(name: str, send: Callable[[], Any]) -> Any:
        if name == "Connect.listAllDomains" and "Connect.getAllDomainStats" in calls:
            host.raw.connection.seam = None
            host.peer.virsh("destroy", str(uuid))
        calls.append(name)
        return send()

    try:
        host.raw.connection.seam = seam
        with host.driver.watch() as stream:
            assert host.raw.connection.seam is None, calls
            watch = Watch(stream)
            assert uuid not in watch.resync()
            watch.steps(uuid, (K.DESTROYED, None))
            watch.silent()
    finally:
        host.raw.connection.seam = None
        host.driver.destroy(uuid)


def test_others_cause_it(host: Host, watch: Watch) -> None:
    """virsh, a QEMU that dies, and another connection of ours."""
    watch.resync()
    with host.empty_machine(name="others") as machine:
        uuid = machine.uuid
        watch.steps(uuid, (K.CREATED, S.BUILDING), (K.STARTED, S.RUNNING))
        for command, steps in (
            ("suspend", [(K.PAUSED, S.PAUSED)]),
            # paused when saved: it comes back paused
            ("managedsave", [(K.SUSPENDED, S.SUSPENDED)]),
            ("start", [(K.RESUMED, S.RUNNING), (K.PAUSED, S.PAUSED)]),
            ("resume", [(K.RESUMED, S.RUNNING)]),
            ("reset", [(K.REBOOTED, S.RUNNING)]),
            ("destroy", [(K.STOPPED, S.STOPPED)]),
        ):
            host.peer.virsh(command, str(uuid))
            watch.steps(uuid, *steps)
            assert machine.state is steps[-1][1]
        other = Host(host.peer, host.image)
        try:
            other.driver.power_on(uuid)
            other.driver.suspend(uuid)
            other.driver.power_off(uuid)
        finally:
            other.close()
        watch.steps(
            uuid,
            (K.STARTED, S.RUNNING),
            (K.PAUSED, S.PAUSED),
            (K.SUSPENDED, S.SUSPENDED),
            (K.STOPPED, S.STOPPED),
        )
        host.driver.power_on(uuid)
        from tests.integration.libvirt.test_power import kill

        kill(machine)
        watch.steps(uuid, (K.STARTED, S.RUNNING), (K.CRASHED, S.CRASHED))
        host.driver.power_off(uuid)
        watch.steps(uuid, (K.STOPPED, S.STOPPED))
    watch.steps(uuid, (K.DESTROYED, None))


def test_a_guest_lets_go(host: Host, machine: Machine, watch: Watch) -> None:
    assert watch.resync()[machine.uuid] is S.RUNNING
    with host.volume() as volume:
        machine.attach(volume)
        machine.sees(volume.volume_id)
        host.driver.detach_volume(machine.uuid, volume.volume_id)
        watch.device(machine.uuid, DeviceKind.ADDED, volume.volume_id)
        watch.device(machine.uuid, DeviceKind.REMOVED, volume.volume_id)
    watch.silent()


def test_foreign_machines_are_not_seen(host: Host, watch: Watch, guest_image: Path) -> None:
    watch.resync()
    foreign = define_guest(host.peer, guest_image)
    foreign.start()
    foreign.remove()
    watch.silent()


def test_streams_are_independent_and_cost_no_thread(host: Host) -> None:
    before = threading.active_count()
    streams = [host.driver.watch() for _ in range(20)]
    assert threading.active_count() <= before + 1  # a worker of the guard may have come
    with host.empty_machine(start=False) as machine:
        for stream in streams:
            watch = Watch(stream)
            watch.resync()
            watch.steps(machine.uuid, (K.CREATED, S.STOPPED))
    for stream in streams:
        stream.close()
        stream.close()
        assert stream.closed
        assert stream.next(1) is None
        assert list(stream) == []
    assert not host.raw.hub._sinks


def test_a_slow_consumer_is_resynchronised(host: Host) -> None:
    raw = host.raw
    stream = raw.streams.begin(raw.event_streams.made(limit=3))
    watch = Watch(stream)
    with stream:
        watch.resync()
        with host.empty_machine(start=False) as machine:
            for _ in range(3):
                host.driver.power_on(machine.uuid)
                host.driver.power_off(machine.uuid)
            assert watch.resync()[machine.uuid] is S.STOPPED
            watch.silent()
            host.driver.power_on(machine.uuid)
            watch.steps(machine.uuid, (K.STARTED, S.RUNNING))


def test_close_ends_the_streams(guest_image: Path, libvirt_peer: LibvirtPeer) -> None:
    """Also one whose consumer waits in next()."""
    own = Host(libvirt_peer, guest_image)
    stream = own.driver.watch()
    idle = own.driver.watch()
    with ThreadPoolExecutor(1) as pool:
        events = pool.submit(lambda: list(stream))
        with own.raw.hub.listening() as listener:
            assert listener.wait(lambda _: True, 0.3) is None
        own.close()
        assert [type(each) for each in events.result(60)] == [ResyncEvent]
    assert idle.closed
    assert idle.next(1) is None


def test_the_daemon_dies_and_comes_back(guest_image: Path) -> None:
    """The stream survives it, and tells the truth of afterwards: once, and without a gap."""
    with LibvirtPeer() as peer:
        own = Host(peer, guest_image)
        try:
            first, second = (own.made(own.empty(name=name)) for name in ("first", "second"))
            with own.driver.watch() as stream:
                watch = Watch(stream)
                assert watch.resync() == {first.uuid: S.RUNNING, second.uuid: S.RUNNING}
                peer.kill()
                # nobody is there: the consumer waits, and no error reaches him
                assert watch.next(1) is None
                peer.start()
                peer.virsh("suspend", str(first.uuid))
                peer.virsh("destroy", str(second.uuid))
                expected = {first.uuid: S.PAUSED, second.uuid: S.STOPPED}
                assert watch.resync() == expected
                watch.silent()
                peer.virsh("resume", str(first.uuid))
                watch.steps(first.uuid, (K.RESUMED, S.RUNNING))

                # an operation finds the dead connection and replaces it before the stream knows
                peer.restart()
                own.driver.pause(first.uuid)
                event = watch.next()
                assert isinstance(event, ResyncEvent)
                last = event.states[first.uuid]
                while (event := watch.next(0.5)) is not None:
                    assert isinstance(event, LifecycleEvent)
                    assert event.state is not None
                    last = event.state
                assert last is S.PAUSED
            for each in (first, second):
                own.driver.destroy(each.uuid)
        finally:
            own.close()
