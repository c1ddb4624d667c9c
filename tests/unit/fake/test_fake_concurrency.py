"""Many threads at once: parallel where they may, one after another where they must."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakery import CIRROS, build, nic, rbd, spec, state_of

from hvdrivers.contract import errors
from hvdrivers.fake import FakeHost, FakeWorld, FaultRule, HostSize, ManualClock
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState

R, S = InstanceState.RUNNING, InstanceState.STOPPED
TINY = Flavor(vcpus=1, memory_mib=16, disk_gib=1)


def together(count, call):
    """Run ``call(number)`` in so many threads that begin at the same moment."""
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait(30)
        try:
            return call(number)
        except errors.HypervisorError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_a_hundred_instances(host, driver):
    def live(number):
        wanted = spec(name=f"vm-{number}", flavor=TINY, vifs=(nic(f"nic-{number}"),))
        driver.spawn(wanted)
        driver.attach_volume(wanted.uuid, rbd(f"vol-{number}"))
        driver.reboot(wanted.uuid)
        driver.detach_volume(wanted.uuid, f"vol-{number}")
        return wanted.uuid

    host_size = len(driver.list_instances())
    uuids = []
    for batch in range(5):
        uuids += together(20, lambda number, batch=batch: live(batch * 20 + number))
        if batch >= 3:  # CPUs run out at 96
            break
    assert len(set(uuids)) == 80
    summaries = {each.uuid: each for each in driver.list_instances()}
    assert set(summaries) == set(uuids)
    assert host_size == 0
    for uuid in uuids:
        assert driver.get_instance(uuid).summary() == summaries[uuid]
    together(20, lambda number: [driver.destroy(u) for u in uuids[number::20]])
    assert host.inventory().without_cache().items == frozenset()


def test_different_instances_do_not_wait_for_each_other():
    clock = ManualClock(auto=False)
    host = FakeHost(clock=clock)
    with host.connect() as driver:
        uuids = [build(host, driver, R, flavor=TINY) for _ in range(10)]
        host.latency["pause-machine"] = 30
        with ThreadPoolExecutor(10) as pool:
            futures = [pool.submit(driver.pause, uuid) for uuid in uuids]
            clock.until_waiting(10)  # all ten are at work at the same time
            assert {each.state for each in driver.list_instances()} == {R}
            clock.advance(30)
            for future in futures:
                future.result(60)
        assert {each.state for each in driver.list_instances()} == {InstanceState.PAUSED}


@pytest.mark.parametrize("connections", [1, 8])
def test_one_uuid_goes_to_one(host, connections):
    drivers = [host.connect() for _ in range(connections)]
    wanted = spec(vifs=(nic(),), volumes=(rbd(),), flavor=TINY)
    results = together(8, lambda n: drivers[n % connections].spawn(wanted))
    failed = [each for each in results if isinstance(each, Exception)]
    assert len(failed) == 7
    assert {type(each) for each in failed} == {errors.InstanceExists}
    assert state_of(drivers[0], wanted.uuid) is R
    assert len(host.inventory().kind("port")) == 1
    drivers[0].destroy(wanted.uuid)
    assert host.inventory().without_cache().items == frozenset()
    for each in drivers:
        each.close()


def test_one_volume_goes_to_one(host, driver):
    uuids = [build(host, driver, R, flavor=TINY) for _ in range(8)]
    results = together(8, lambda n: driver.attach_volume(uuids[n], rbd("v")))
    assert (
        sorted(type(each).__name__ for each in results) == ["AttachedVolume"] + ["DeviceBusy"] * 7
    )
    assert len(host.inventory().kind("lock")) == 1


def test_one_volume_to_one_machine_from_many_connections(host):
    drivers = [host.connect() for _ in range(8)]
    uuid = build(host, drivers[0], R)
    results = together(8, lambda n: drivers[n].attach_volume(uuid, rbd("v")))
    assert len({repr(each) for each in results}) == 1
    results = together(8, lambda n: drivers[n].detach_volume(uuid, "v"))
    assert {repr(each) for each in results} == {"None"}
    assert not host.inventory().kind("lock")
    for each in drivers:
        each.close()


def test_the_last_memory_goes_to_one():
    host = FakeHost(size=HostSize(memory_mib=512, hugepages={}), clock=ManualClock())
    with host.connect() as driver:
        results = together(8, lambda n: driver.spawn(spec()))
        assert sum(isinstance(each, errors.InsufficientResources) for each in results) == 7
        assert len(driver.list_instances()) == 1
        assert len(host.inventory().kind("disk")) == 1


def test_power_is_linear(host, driver):
    """Whatever the order, each instance ends in a state that one of the calls leaves."""
    uuid = build(host, driver, R)
    calls = [driver.power_on, driver.power_off, driver.pause, driver.unpause, driver.reboot]
    for _ in range(5):
        results = together(10, lambda n: calls[n % 5](uuid))
        assert {type(each) for each in results} <= {type(None), errors.InvalidState}
        assert state_of(driver, uuid) in {R, S, InstanceState.PAUSED}
        driver.power_off(uuid)
        driver.power_on(uuid)


def test_one_image_is_in_the_cache_once(host, tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * (1 << 20))
    image = FileImage(path=path, format=ImageFormat.RAW)
    drivers = [host.connect() for _ in range(4)]
    results = together(8, lambda n: drivers[n % 4].cache_image(image))
    assert len({each.key for each in results}) == 1
    assert len(host.inventory().items) == 1
    for each in drivers:
        each.close()


def test_two_hosts_change_places():
    world, clock = FakeWorld(), ManualClock()
    hosts = [FakeHost(name, world=world, clock=clock) for name in ("alpha", "beta")]
    with hosts[0].connect() as alpha, hosts[1].connect() as beta:
        there = [build(hosts[0], alpha, R, flavor=TINY) for _ in range(4)]
        back = [build(hosts[1], beta, R, flavor=TINY) for _ in range(4)]

        def move(number):
            if number % 2:
                alpha.live_migrate(there[number // 2], Destination(host="beta"))
            else:
                beta.live_migrate(back[number // 2], Destination(host="alpha"))

        assert together(8, move) == [None] * 8
        assert {each.uuid for each in alpha.list_instances()} == set(back)
        assert {each.uuid for each in beta.list_instances()} == set(there)


def test_everything_at_once_with_faults(host):
    """Spawn, look, destroy from many threads while every tenth call is cut: nothing is left."""
    drivers = [host.connect() for _ in range(4)]
    faults = [
        host.faults.add(FaultRule(operation="*", when="before", every=11)),
        host.faults.add(FaultRule(operation="*", when="after", every=13)),
    ]

    def live(number):
        driver = drivers[number % 4]
        for turn in range(3):
            name = f"{number}-{turn}"
            wanted = spec(
                flavor=TINY, vifs=(nic(f"nic-{name}"),), volumes=(rbd(f"vol-{name}"),), image=CIRROS
            )
            for _ in range(50):
                try:
                    driver.spawn(wanted)
                except errors.InstanceExists:
                    break
                except (errors.ConnectionFailed, errors.OutcomeUnknown):
                    continue
                break
            for _ in range(50):
                try:
                    driver.destroy(wanted.uuid)
                except (errors.ConnectionFailed, errors.OutcomeUnknown):
                    continue
                break

    results = together(12, live)
    assert results == [None] * 12
    assert all(fault.hits > 0 for fault in faults)
    host.faults.clear()
    assert list(drivers[0].list_instances()) == []
    assert host.inventory().without_cache().items == frozenset()
    for each in drivers:
        each.close()


def test_events_of_parallel_changes_are_in_order(host, driver):
    uuids = [build(host, driver, R, flavor=TINY) for _ in range(8)]
    with driver.watch() as events:
        together(8, lambda n: [driver.power_off(uuids[n]), driver.power_on(uuids[n])])
        seen = {}
        numbers = []
        while (event := events.next(timeout=0)) is not None:
            numbers.append(event.sequence)
            if event.type == "lifecycle":
                seen.setdefault(event.uuid, []).append(event.kind.value)
        assert numbers == list(range(1, len(numbers) + 1))
        assert seen == {uuid: ["stopped", "started"] for uuid in uuids}
