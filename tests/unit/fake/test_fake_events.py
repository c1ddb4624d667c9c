"""Event streams: nothing is missed silently."""

from __future__ import annotations

import threading

import pytest
from fakery import build, nic, rbd, spec, state_of

from hvdrivers.contract import errors
from hvdrivers.contract.driver import state_table
from hvdrivers.fake import FaultRule
from hvdrivers.models.events import DeviceKind, LifecycleKind
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState

R, S = InstanceState.RUNNING, InstanceState.STOPPED
K = LifecycleKind


def drain(stream):
    found = []
    while (event := stream.next(timeout=0)) is not None:
        found.append(event)
    assert [e.sequence for e in found] == list(
        range(found[0].sequence if found else 1, (found[0].sequence if found else 1) + len(found))
    )
    return found


def short(events):
    return [
        (event.kind.value, event.state.value if event.state else None)
        if event.type == "lifecycle"
        else (event.type,)
        for event in events
    ]


def test_the_first_event_is_what_is_there(host, driver):
    running, stopped = build(host, driver, R), build(host, driver, S)
    host.add_foreign()
    with driver.watch() as events:
        driver.power_on(stopped)  # between subscribing and reading
        first, second = drain(events)
        assert (first.type, first.sequence) == ("resync", 1)
        assert first.states == {running: R, stopped: R}  # what power_on() has told
        assert (second.uuid, second.kind) == (stopped, K.STARTED)


def test_a_life_in_events(host, driver):
    with driver.watch() as events:
        uuid = build(host, driver, R)
        driver.pause(uuid)
        driver.unpause(uuid)
        driver.suspend(uuid)
        driver.resume(uuid)
        driver.reboot(uuid)
        driver.rescue(uuid)
        driver.unrescue(uuid)
        host.crash(uuid)
        driver.power_on(uuid)
        driver.power_off(uuid)
        driver.destroy(uuid)
        assert short(drain(events)) == [
            ("resync",),
            ("created", "building"),
            ("started", "running"),
            ("paused", "paused"),
            ("resumed", "running"),
            ("suspended", "suspended"),
            ("resumed", "running"),
            ("rebooted", "running"),
            ("stopped", "stopped"),
            ("started", "rescued"),
            ("stopped", "stopped"),
            ("started", "running"),
            ("crashed", "crashed"),
            ("started", "running"),
            ("stopped", "stopped"),
            ("destroyed", None),
        ]


def test_what_is_asked_for_twice_happens_once(host, driver):
    uuid = build(host, driver, R)
    with driver.watch() as events:
        driver.power_on(uuid)
        driver.pause(uuid)
        driver.pause(uuid)
        assert short(drain(events)) == [("resync",), ("paused", "paused")]


def test_devices(host, driver):
    uuid = build(host, driver, R)
    with driver.watch() as events:
        driver.attach_volume(uuid, rbd())
        driver.plug_vif(uuid, nic())
        host.guest(uuid).refuses_unplug = True
        for call in (
            lambda: driver.detach_volume(uuid, "vol-1"),
            lambda: driver.unplug_vif(uuid, "nic-1"),
        ):
            with pytest.raises(errors.DeviceBusy):
                call()
        host.guest(uuid).refuses_unplug = False
        driver.detach_volume(uuid, "vol-1")
        driver.unplug_vif(uuid, "nic-1")
        found = [(event.kind, event.device) for event in drain(events)[1:]]
        assert found == [
            (DeviceKind.ADDED, "vol-1"),
            (DeviceKind.ADDED, "nic-1"),
            (DeviceKind.REMOVAL_FAILED, "vol-1"),
            (DeviceKind.REMOVAL_FAILED, "nic-1"),
            (DeviceKind.REMOVED, "vol-1"),
            (DeviceKind.REMOVED, "nic-1"),
        ]


def test_a_failed_spawn_is_seen_to_come_and_go(host, driver):
    wanted = spec()
    with driver.watch() as events:
        rule = FaultRule(operation="start-machine")
        with host.faults.add(rule), pytest.raises(errors.ConnectionFailed):
            driver.spawn(wanted)
        assert short(drain(events)) == [
            ("resync",),
            ("created", "building"),
            ("destroyed", None),
        ]


def test_a_migration_is_seen_at_both_ends(host, driver, other):
    uuid = build(host, driver, R)
    with other.connect() as beta, driver.watch() as here, beta.watch() as there:
        driver.live_migrate(uuid, Destination(host="beta"))
        told = [("resync",), ("switching", "running"), ("migrated", None)]
        assert short(drain(here)) == told
        assert short(drain(there)) == [("resync",), ("migrated", "running")]


def test_an_adopted_machine_appears(host, driver):
    foreign = host.add_foreign()
    with driver.watch() as events:
        driver.adopt(foreign)
        assert short(drain(events)) == [("resync",), ("created", "running")]


def test_after_a_cut_comes_the_whole_truth(host, driver):
    uuid = build(host, driver, R)
    with driver.watch() as events:
        drain(events)
        driver.pause(uuid)
        host.disconnect()
        driver.unpause(uuid)
        driver.power_off(uuid)
        (resync,) = drain(events)
        assert resync.type == "resync"
        assert resync.sequence == 2
        assert resync.states == {uuid: S}
        driver.power_on(uuid)
        assert short(drain(events)) == [("started", "running")]


def test_nothing_comes_from_a_host_that_cannot_be_reached(host, driver):
    with driver.watch() as events:
        drain(events)
        with host.unreachable():
            assert events.next(timeout=0) is None
            with pytest.raises(errors.ConnectionFailed):
                driver.watch()
        assert events.next(timeout=0).type == "resync"


def test_a_slow_consumer_loses_nothing_silently(host):
    with host.connect(event_buffer=3) as driver, driver.watch() as events:
        uuid = build(host, driver, R)
        for _ in range(5):
            driver.reboot(uuid)
        driver.pause(uuid)
        (resync,) = drain(events)
        assert resync.states == {uuid: InstanceState.PAUSED}
        driver.unpause(uuid)
        assert short(drain(events)) == [("resumed", "running")]


def test_the_restart_of_the_host_is_a_resync(host, driver):
    uuid = build(host, driver, R)
    with driver.watch() as events:
        drain(events)
        host.restart_host()
        assert [event.states for event in drain(events)] == [{uuid: S}]


def test_streams_are_independent_and_end(host, driver):
    with host.connect() as second:
        one, two = driver.watch(), second.watch()
        one.close()
        one.close()
        assert one.closed
        assert one.next() is None
        assert list(one) == []
        assert not two.closed
        assert two.next(timeout=0).type == "resync"
    assert two.closed
    assert not host.streams


def test_a_waiting_consumer_is_woken(host, driver):
    events = driver.watch()
    seen = []
    ready = threading.Event()

    def consume():
        for event in events:
            seen.append(event.type)
            ready.set()

    thread = threading.Thread(target=consume)
    thread.start()
    assert ready.wait(60)
    uuid = build(host, driver, R)
    driver.close()
    thread.join(60)
    assert not thread.is_alive()
    assert events.closed
    assert uuid in host.machines


def test_the_reply_to_watch_is_lost(host, driver):
    rule = FaultRule(operation="watch", step=1, when="after")
    with host.faults.add(rule), pytest.raises(errors.ConnectionFailed):
        driver.watch()
    assert not host.streams


@pytest.mark.parametrize(
    "row", sorted(row for row in state_table() if not row.startswith(("adopt", "force")))
)
def test_following_the_events_gives_the_states(host, driver, other, tmp_path, row):
    """Whatever is done, a consumer who only adds up the events knows every state."""
    from test_fake_states import ARGUMENTS, prepare

    arguments = (tmp_path / "out",) if row == "snapshot_to_image" else ARGUMENTS.get(row, ())
    with driver.watch() as events:
        drain(events)  # the resync: the rest is told by events alone
        for state in InstanceState:
            if not state_table()[row][state].legal:
                continue
            uuid = prepare(host, driver, row, state)
            getattr(driver, row.partition("[")[0])(uuid, *arguments)
            known = {}
            for event in drain(events):
                if event.type == "resync":
                    known = dict(event.states)
                elif event.type == "lifecycle":
                    known[event.uuid] = event.state
            assert uuid in known  # or there was nothing to add up
            for each, told in known.items():
                if told is None:
                    assert each not in host.machines
                else:
                    assert state_of(driver, each) is told
            with other.connect() as beta:
                beta.destroy(uuid)
            driver.destroy(uuid)
            (tmp_path / "out").unlink(missing_ok=True)
            drain(events)
