"""Fault rules, latencies, clocks, configuration: the fake as a tool."""

from __future__ import annotations

import gc
import threading

import pytest
from fakery import CIRROS, build, nic, rbd, spec, state_of
from pydantic import ValidationError

import hvdrivers.fake
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.fake import (
    FakeConfig,
    FakeDriver,
    FakeHost,
    FakeImage,
    FakeWorld,
    FaultKind,
    FaultRule,
    Faults,
    HostSize,
    ManualClock,
    RealClock,
    Wake,
    default_world,
    host_of,
)
from hvdrivers.fake.faults import Occasion
from hvdrivers.models.image import HostImage
from hvdrivers.models.progress import Phase
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import NetworkVif
from hvdrivers.models.volume import VolumeSpec

R, S = InstanceState.RUNNING, InstanceState.STOPPED


def hits(rule, occasions):
    with Faults().add(rule) as fault:
        return [fault.strikes(occasion) for occasion in occasions], fault


PING = Occasion("ping", None)


def test_which_occasion():
    assert hits(FaultRule(operation="ping", nth=2), [PING] * 4)[0] == [False, True, False, False]
    assert hits(FaultRule(operation="ping", every=2), [PING] * 4)[0] == [False, True, False, True]
    assert hits(FaultRule(operation="ping", times=2), [PING] * 4)[0] == [True, True, False, False]
    assert hits(FaultRule(operation="ping"), [PING] * 3)[0] == [True] * 3
    chance = FaultRule(operation="ping", probability=0.5, seed=7)
    first, fault = hits(chance, [PING] * 100)
    assert first == hits(chance, [PING] * 100)[0]
    assert 30 < fault.hits < 70
    assert fault.seen == 100
    assert hits(chance.model_copy(update={"seed": 8}), [PING] * 100)[0] != first


def test_whose_occasion():
    uuid, other = spec().uuid, spec().uuid
    rule = FaultRule(operation="*", instance=uuid)
    call = {"operation": "pause", "call": "pause-machine"}
    assert hits(rule, [Occasion(instance=uuid, **call), Occasion(instance=other, **call)])[0] == [
        True,
        False,
    ]
    undo = Occasion("spawn", uuid, call="delete-disk", undoing=True)
    assert hits(FaultRule(operation="delete-disk"), [undo])[0] == [False]
    assert hits(FaultRule(operation="delete-disk", undo=True), [undo])[0] == [True]


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "spwan"},
        {"operation": "create-disk", "step": 1},
        {"operation": "spawn", "when": "mid"},
        {"operation": "spawn", "nth": 0},
        {"operation": "spawn", "probability": 2},
        {"operation": "spawn", "when": "never"},
        {"operation": "spawn", "delay": -1},
        {"unknown": 1},
    ],
)
def test_a_rule_that_makes_no_sense(fields):
    with pytest.raises(ValidationError):
        FaultRule(**fields)


def test_rules_can_be_installed_and_removed(host, driver):
    fault = host.faults.add(FaultRule(operation="ping"))
    assert host.faults.installed == (fault,)
    with pytest.raises(errors.ConnectionFailed):
        driver.ping()
    fault.remove()
    fault.remove()
    driver.ping()
    host.faults.add(FaultRule(operation="ping"))
    host.faults.clear()
    driver.ping()
    assert fault.hits == 1


def test_a_rule_of_a_connection_is_its_own(host):
    rule = FaultRule(operation="*", when=FaultKind.AUTH_EXPIRED, times=1)
    with host.connect(faults=(rule,)) as broken, host.connect() as fine:
        fine.ping()
        with pytest.raises(errors.AuthenticationFailed):
            broken.ping()
        broken.ping()


def test_errors_say_where(host, driver):
    uuid = build(host, driver, R)
    rule = FaultRule(operation="pause")
    with host.faults.add(rule), pytest.raises(errors.ConnectionFailed) as caught:
        driver.pause(uuid)
    error = caught.value
    assert (error.operation, error.host, error.instance) == ("pause", "fake://alpha", uuid)
    assert error.retryable
    assert error.vendor_code == "FAKE_CUT"


def test_every_call_of_the_transcript_has_its_operation(host, driver):
    build(host, driver, R, vifs=(nic(),))
    transcript = host.transcript()
    assert [call.name for call in transcript] == [
        "check-request",
        "find-image",
        "define-machine",
        "create-root-disk",
        "create-port",
        "start-machine",
        "read-machine",
    ]
    assert {call.operation for call in transcript} == {"spawn", "get_instance"}
    assert all("-" in call.name for call in transcript)
    assert host.round_trips == len(transcript)


def test_latency_by_operation_call_and_everything(host, driver, clock):
    def took(call):
        began = clock.now()
        call()
        return clock.now() - began

    host.latency["*"] = 1
    assert took(driver.ping) == 1
    host.latency["say-hello"] = 2
    assert took(driver.ping) == 2
    host.latency["ping"] = lambda: 5
    assert took(driver.ping) == 7
    with host.connect(latency={"ping": 100, "say-hello": 0}) as slow:
        assert took(lambda: slow.ping(timeout=1000)) == 100
        with pytest.raises(errors.OperationTimeout):
            slow.ping()


def test_an_operation_reports_how_far_it_is(host, driver):
    host.latency["spawn"] = 60
    seen = []
    driver.spawn(spec(), progress=seen.append)
    assert [(p.phase, p.done, p.unit) for p in seen] == [
        (Phase.COPY, done, "percent") for done in (25, 50, 75, 100)
    ]


def test_a_callback_that_raises_undoes_everything(host, driver):
    host.latency["spawn"] = 60

    def stop(progress):
        raise KeyError("stop")

    with pytest.raises(KeyError):
        driver.spawn(spec(vifs=(nic(),)), progress=stop)
    assert host.inventory().without_cache().items == frozenset()


def test_a_deadline_undoes_everything(host, driver, clock):
    host.latency["spawn"] = 60
    began = clock.now()
    with pytest.raises(errors.OperationTimeout):
        driver.spawn(spec(vifs=(nic(),), volumes=(rbd(),)), timeout=10)
    assert clock.now() - began == pytest.approx(10, abs=1)
    assert host.inventory().without_cache().items == frozenset()


def test_building_is_seen_by_others():
    clock = ManualClock(auto=False)
    host = FakeHost(clock=clock)
    wanted = spec()
    with host.connect() as driver, host.connect() as second:
        host.latency["create-root-disk"] = 60
        thread = threading.Thread(target=driver.spawn, args=(wanted,))
        thread.start()
        clock.until_waiting()
        assert state_of(second, wanted.uuid) is InstanceState.BUILDING
        assert second.get_available_resource().memory.used_mib == 512
        with pytest.raises(errors.InvalidState):
            second.power_on(wanted.uuid)
        clock.advance(60)
        thread.join(60)
        assert not thread.is_alive()
        assert state_of(second, wanted.uuid) is R


def test_clocks():
    manual = ManualClock()
    assert not manual.wait(5)
    assert manual.now() == 5
    assert manual.wall().year == 2026
    woken = Wake()
    woken.set()
    assert manual.wait(5, woken)
    assert manual.now() == 5
    with pytest.raises(TimeoutError):
        manual.until_waiting(1, timeout=0.01)
    real = RealClock()
    assert real.now() <= real.now()
    assert real.wall().tzinfo is not None
    assert not real.wait(0)
    assert real.wait(0, woken)
    assert real.wait(30, woken)
    assert not real.wait(0.001)


def test_urls():
    assert FakeConfig.from_url("fake://").host is None
    assert FakeConfig.from_url("fake://alpha/").host == "alpha"
    assert FakeConfig.from_url("fake://alpha", event_buffer=5).event_buffer == 5
    for url in ("fake://u:p@alpha", "fake://alpha:1", "fake://alpha/x", "fake://alpha?x=1"):
        with pytest.raises(errors.InvalidRequest) as caught:
            FakeConfig.from_url(url)
        assert "u:p" not in str(caught.value)
    with pytest.raises(ValidationError):
        FakeConfig(host="not a name")
    with pytest.raises(ValidationError):
        FakeConfig(unknown=1)


def test_a_configuration_is_plain_data():
    config = FakeConfig.model_validate(
        {
            "host": "alpha",
            "size": {"memory_mib": 1024, "pools": [{"name": "p", "total_gib": 5}]},
            "without": {"pause": "no"},
            "faults": [{"operation": "spawn", "when": "after", "nth": 2}],
            "latency": {"spawn": 1.5},
        }
    )
    assert config.without == {Capability.PAUSE: "no"}
    assert config.size.pools[0].total_gib == 5


def test_named_hosts_are_shared_and_unnamed_are_not():
    from hvdrivers import connect

    with connect("fake", host="shared-by-name") as one, connect("fake://shared-by-name") as two:
        uuid = spec().uuid
        one.spawn(spec(uuid=uuid))
        assert two.get_instance(uuid).uuid == uuid
        assert host_of(one) is host_of(two) is default_world().find("shared-by-name")
    with connect("fake") as one, connect("fake") as two:
        assert host_of(one) is not host_of(two)
        assert one.host_label != two.host_label


def test_a_named_host_has_one_size():
    world = FakeWorld()
    small = HostSize(memory_mib=2048)
    FakeDriver.connect(FakeConfig(host="a", world=world, size=small))
    FakeDriver.connect(FakeConfig(host="a", world=world))
    FakeDriver.connect(FakeConfig(host="a", world=world, size=small))
    with pytest.raises(errors.InvalidRequest, match="another size"):
        FakeDriver.connect(FakeConfig(host="a", world=world, size=HostSize()))
    with pytest.raises(errors.InvalidRequest, match="already"):
        FakeHost("a", world=world)
    with pytest.raises(errors.InvalidRequest, match="FakeWorld"):
        FakeDriver.connect(FakeConfig(world=object()))
    assert [host.name for host in world.hosts] == ["a"]
    assert world.host("a") is world.find("fake://a")
    world.reset()
    assert world.hosts == ()


def test_what_is_behind_a_driver(driver, host):
    assert host_of(driver) is host
    assert host_of(FakeDriver(host)) is host
    with pytest.raises(TypeError):
        host_of(object())


def test_a_closed_driver_is_closed(host):
    driver = host.connect()
    driver.close()
    driver.close()
    with pytest.raises(errors.ConnectionFailed):
        driver.ping()
    raw = FakeDriver(host)
    raw.close()
    with pytest.raises(errors.ConnectionFailed):
        raw.ping()
    with host.connect() as other:
        other.ping()


def test_machines_go_on_when_their_driver_is_closed(host):
    with host.connect() as driver:
        uuid = build(host, driver, R)
    with host.connect() as driver:
        assert state_of(driver, uuid) is R


def test_nothing_is_left_running(host):
    before = threading.active_count()
    for _ in range(3):
        with host.connect() as driver:
            driver.watch()
            build(host, driver, R)
    gc.collect()
    assert threading.active_count() <= before


def test_the_public_names():
    assert sorted(hvdrivers.fake.__all__) == hvdrivers.fake.__all__
    for name in hvdrivers.fake.__all__:
        assert getattr(hvdrivers.fake, name).__doc__ is not None or name in {"Latency", "Program"}


def test_reads_change_nothing(host, driver):
    uuid = build(host, driver, R, vifs=(nic(),), volumes=(rbd(),), image=CIRROS)
    made = driver.create_volume(VolumeSpec(size_gib=1))
    before = host.inventory()
    for name, rules in OPERATIONS.items():
        if rules.changes or name in {"watch", "check_live_migration"}:
            continue
        arguments = (uuid,) if rules.states is not None else ()
        if name == "get_volume":
            arguments = (made.volume_id,)
        getattr(driver, name)(*arguments)
        assert host.inventory() == before, name


def test_an_inventory_tells_what_changed(host, driver):
    before = host.inventory()
    uuid = build(host, driver, R)
    difference = host.inventory().difference(before)
    assert any(line.startswith(f"+ machine {uuid}") for line in difference)
    driver.destroy(uuid)
    assert [line[:7] for line in host.inventory().difference(before)] == ["+ image"]


@pytest.mark.parametrize("count", [1, 40])
def test_the_cost_of_bulk_reads_does_not_depend_on_the_number(host, driver, count):
    for _ in range(count):
        build(host, driver, S, vifs=(nic(),), image=CIRROS) if count == 1 else build(
            host, driver, S
        )
    for read in (
        driver.list_instances,
        driver.list_foreign,
        driver.get_metrics,
        driver.get_available_resource,
        driver.placement_inventories,
        driver.list_volumes,
        driver.list_cached_images,
    ):
        before = host.round_trips
        read()
        assert host.round_trips == before + 1


def test_what_is_not_there_names_what_is() -> None:
    size = HostSize(networks=frozenset({"lan"}), images=(FakeImage(name="cirros"),))
    host = FakeHost("small", size=size, world=FakeWorld())
    with host.connect() as driver:
        with pytest.raises(errors.VolumeNotFound) as caught:
            driver.spawn(spec(image=HostImage(name="debian")))
        assert "this fake host has cirros; HostSize(images=...)" in (caught.value.hint or "")
        with pytest.raises(errors.NetworkNotFound) as unwired:
            driver.spawn(spec(vifs=(NetworkVif(id="nic", network="wan"),)))
        assert "this fake host has lan;" in (unwired.value.hint or "")


def test_an_unreachable_host_is_not_connected_to() -> None:
    host = FakeHost("away", world=FakeWorld())
    with host.unreachable(), pytest.raises(errors.ConnectionFailed, match="does not answer"):
        host.connect()
    host.connect().close()
