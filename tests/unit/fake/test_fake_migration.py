"""From one fake host to another."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakery import CIRROS, bridge_nic, build, chap, local, nic, rbd, spec, state_of

from hvdrivers.contract import errors
from hvdrivers.fake import FakeHost, FakePool, FakeWorld, HostSize, ManualClock
from hvdrivers.models.guest import Share
from hvdrivers.models.instance import Firmware, Flavor, PciRequest
from hvdrivers.models.migration import BlockerKind, Destination, MigrationPhase
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeSpec

R, S, P = InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.PAUSED
BETA = Destination(host="beta")


@pytest.fixture
def beta(other):
    with other.connect() as connected:
        yield connected


@pytest.mark.parametrize("state", [R, P, S], ids=str)
def test_everything_moves(host, driver, other, beta, state):
    uuid = build(
        host,
        driver,
        state,
        volumes=(rbd(), chap()),
        vifs=(nic(), bridge_nic()),
        firmware=Firmware.UEFI,
        vtpm=True,
        metadata={"k": "v"},
    )
    host.write_disk(uuid, "data")
    host.write_disk(uuid, "more", disk="vol-1")
    driver.create_snapshot(uuid, "snap")
    console, info = host.console(uuid), driver.get_instance(uuid)
    # the image is not there: what the disk was based on is part of it now
    based = f" {CIRROS.cache_key()})"
    mine = {str(item).replace(based, " None)") for item in host.inventory().of(uuid)}
    if state is S:
        driver.cold_migrate(uuid, BETA)
    else:
        driver.live_migrate(uuid, Destination(host="fake://beta/"))
    assert host.inventory().of(uuid) == frozenset()
    assert beta.get_instance(uuid) == info
    assert {str(item) for item in other.inventory().of(uuid)} == mine
    assert other.disk_content(uuid)[-1] == "write:data"
    assert other.disk_content(uuid, "vol-1")[-1] == "write:more"
    assert other.console(uuid) == console
    assert driver.get_available_resource().memory.used_mib == 0
    with pytest.raises(errors.InstanceNotFound):
        driver.live_migrate(uuid, BETA)
    if state is R:
        assert beta.migration_progress(uuid).phase is MigrationPhase.COMPLETED
        beta.live_migrate(uuid, Destination(host="alpha"))
        assert driver.get_instance(uuid) == info
    for each in (driver, beta):
        each.destroy(uuid)
    assert other.inventory().without_cache().items == frozenset()


def plan_of(driver, uuid, destination=BETA):
    plan = driver.check_live_migration(uuid, destination)
    return plan, {blocker.kind for blocker in plan.blockers}


@pytest.mark.parametrize("on", [True, False])
def test_an_address_is_in_use_where_a_machine_is_on(world, clock, on):
    alpha, beta = (FakeHost(name, world=world, clock=clock) for name in ("alpha", "beta"))
    same = nic(address="52:54:00:00:00:01")
    with alpha.connect() as driver, beta.connect() as second:
        second.spawn(spec(vifs=(same,), start=on))
        uuid = driver.spawn(spec(vifs=(same,))).uuid
        plan, kinds = plan_of(driver, uuid)
        assert (plan.possible, kinds) == (not on, {BlockerKind.NETWORK} if on else set())


def test_all_blockers_at_once(world, clock):
    alpha = FakeHost("alpha", world=world, clock=clock)
    small = HostSize(
        cpu_features=frozenset({"sse4_2"}),
        memory_mib=128,
        hugepages={},
        product_version="0.9",
        networks=frozenset(),
        architecture="aarch64",
        pools=(FakePool(name="fast", total_gib=1),),
    )
    beta = FakeHost("beta", world=world, size=small, clock=clock)
    with alpha.connect() as driver:
        driver.create_volume(VolumeSpec(name="mine", size_gib=1))
        device = PciRequest(address=PciAddress("0000:17:00.0"))
        wanted = spec(
            vifs=(nic(address="52:54:00:00:00:01"),),
            volumes=(local(),),
            image=CIRROS,
            pci_devices=(device,),
            start=False,
        )
        driver.spawn(wanted)
        driver.attach_share(wanted.uuid, Share(tag="t", path="/srv/share"))
        driver.power_on(wanted.uuid)
        with beta.connect() as second:
            second.spawn(
                spec(
                    vifs=(bridge_nic().model_copy(update={"address": "52:54:00:00:00:01"}),),
                    flavor=Flavor(vcpus=1, memory_mib=64),
                    start=False,
                )
            )
            second.enter_maintenance()
        before = alpha.inventory(), beta.inventory()
        plan, kinds = plan_of(driver, wanted.uuid)
        assert not plan.possible
        assert kinds == {
            BlockerKind.CPU,
            BlockerKind.DEVICE,
            BlockerKind.STORAGE,
            BlockerKind.NETWORK,
            BlockerKind.VERSION,
            BlockerKind.RESOURCES,
        }
        assert len(plan.blockers) == 10
        with pytest.raises(errors.InvalidRequest, match="lacks aes"):
            driver.live_migrate(wanted.uuid, BETA)
        assert (alpha.inventory(), beta.inventory()) == before


def test_blockers_of_where_it_goes(host, driver, other):
    uuid = build(host, driver, R)
    for name in ("nowhere", "beta"):
        other.stop_answering()
        _, kinds = plan_of(driver, uuid, Destination(host=name))
        assert kinds == {BlockerKind.CONNECTION}
        other.answer_again()
    assert plan_of(driver, uuid, Destination(host="alpha"))[1] == {BlockerKind.STATE}
    other.add_foreign(uuid)
    assert plan_of(driver, uuid)[1] == {BlockerKind.STATE}
    other.remove_foreign(uuid)
    assert plan_of(driver, uuid, Destination(host="beta", storage="no"))[1] == {BlockerKind.STORAGE}
    plan, _ = plan_of(driver, uuid, Destination(host="beta", storage="fast"))
    assert plan.possible
    assert plan.copy_storage


def test_no_room_at_the_destination(host, driver, world, clock):
    size = HostSize(pools=(FakePool(name="default", total_gib=0),))
    FakeHost("beta", world=world, clock=clock, size=size)
    assert plan_of(driver, build(host, driver, R))[1] == {BlockerKind.STORAGE}


def test_shared_storage_is_not_copied():
    world, clock = FakeWorld(), ManualClock()
    size = HostSize(pools=(FakePool(name="ceph", shared=True),))
    alpha, beta = (FakeHost(n, world=world, size=size, clock=clock) for n in ("alpha", "beta"))
    with alpha.connect() as one, beta.connect() as two:
        one.create_volume(VolumeSpec(name="data", size_gib=1))
        assert [each.volume_id for each in two.list_volumes()] == ["ceph/data"]
        from fakery import pooled

        uuid = build(alpha, one, R, volumes=(pooled("data", pool="ceph"),), image=CIRROS)
        with pytest.raises(errors.DeviceBusy):
            build(beta, two, R, volumes=(pooled("data", pool="ceph"),), image=CIRROS)
        plan, _ = plan_of(one, uuid)
        assert plan.possible
        assert not plan.copy_storage
        one.live_migrate(uuid, BETA)
        assert state_of(two, uuid) is R
        two.destroy(uuid)
        assert [i.kind for i in alpha.inventory().without_cache().items] == ["volume"]


def test_an_image_cache_on_shared_storage_is_in_use_on_both_hosts():
    world = FakeWorld()
    size = HostSize(pools=(FakePool(name="ceph", shared=True),))
    alpha, beta = (FakeHost(n, world=world, size=size) for n in ("alpha", "beta"))
    with alpha.connect() as one, beta.connect() as two:
        build(alpha, one, R)
        with pytest.raises(errors.DeviceBusy):
            two.evict_image(CIRROS.cache_key())


def during(driver, uuid, action, **options):
    """Run ``action`` in another thread while the migration is half way, and wait for it."""
    done = []

    def report(progress):
        if not done and progress.done:
            done.append(progress)
            thread = threading.Thread(target=action)
            thread.start()
            thread.join(60)
            assert not thread.is_alive()

    driver.live_migrate(uuid, BETA, progress=report, **options)


def test_progress_and_abort(host, driver, other):
    uuid = build(host, driver, R)
    before = host.inventory(), other.inventory()
    seen = []

    def abort():
        seen.append(driver.migration_progress(uuid))
        driver.abort_migration(uuid)

    assert driver.migration_progress(uuid).phase is MigrationPhase.NONE
    with pytest.raises(errors.HypervisorFault, match="aborted"):
        during(driver, uuid, abort)
    assert seen[0].phase is MigrationPhase.COPYING
    assert 0 < seen[0].remaining_bytes < seen[0].total_bytes
    assert driver.migration_progress(uuid).phase is MigrationPhase.ABORTED
    assert (host.inventory(), other.inventory()) == before
    driver.abort_migration(uuid)  # nothing is under way: a success


def test_a_guest_that_does_not_converge(host, driver, other, clock):
    uuid = build(host, driver, R)
    host.guest(uuid).converges = False
    before = host.inventory(), other.inventory()
    with pytest.raises(errors.OperationTimeout):
        driver.live_migrate(uuid, BETA, timeout=30)
    assert driver.migration_progress(uuid).phase is MigrationPhase.FAILED
    assert (host.inventory(), other.inventory()) == before

    during(driver, uuid, lambda: driver.force_migration(uuid))
    assert uuid in other.machines


def test_an_abort_ends_a_wait():
    world, clock = FakeWorld(), ManualClock(auto=False)
    alpha, _ = (FakeHost(name, world=world, clock=clock) for name in ("alpha", "beta"))
    with alpha.connect() as driver:
        uuid = build(alpha, driver, R)
        alpha.latency["live_migrate"] = 1000
        failures = []

        def migrate():
            try:
                driver.live_migrate(uuid, BETA)
            except errors.HypervisorError as error:
                failures.append(error)

        thread = threading.Thread(target=migrate)
        thread.start()
        clock.until_waiting()
        driver.abort_migration(uuid)
        thread.join(60)
        assert not thread.is_alive()
        assert len(failures) == 1


def test_whoever_waits_for_a_program_loses_it_with_its_guest():
    """As with a guest that goes off (GUEST-014): this host has it no more."""
    world, clock = FakeWorld(), ManualClock(auto=False)
    alpha, _ = (FakeHost(name, world=world, clock=clock) for name in ("alpha", "beta"))
    with alpha.connect() as driver, ThreadPoolExecutor(1) as pool:
        uuid = build(alpha, driver, R)
        alpha.guest(uuid).endless.add("/bin/true")
        running = pool.submit(driver.guest_exec, uuid, ["/bin/true"])
        clock.until_waiting()
        driver.live_migrate(uuid, BETA)
        assert isinstance(running.exception(60), errors.OutcomeUnknown)


def test_nothing_else_happens_to_an_instance_that_moves(host, driver, other):
    uuid = build(host, driver, R)
    raised = []

    def change():
        with host.connect() as second:
            second.get_instance(uuid)
            try:
                second.pause(uuid)
            except errors.DeviceBusy as error:
                raised.append(error)

    during(driver, uuid, change)
    assert len(raised) == 1
    assert uuid in other.machines


@pytest.mark.parametrize("what", ["destroy", "crash"])
def test_an_instance_that_goes_away_while_it_moves(host, driver, other, what):
    uuid = build(host, driver, R)

    def remove():
        with host.connect() as second:
            if what == "destroy":
                second.destroy(uuid)
            else:
                host.crash(uuid)

    with pytest.raises(errors.InstanceNotFound):
        during(driver, uuid, remove)
    assert other.inventory().without_cache().items == frozenset()
    driver.destroy(uuid)
    assert host.inventory().of(uuid) == frozenset()


def test_a_destination_that_goes_away(host, driver, other):
    uuid = build(host, driver, R)
    before = host.inventory(), other.inventory()
    with pytest.raises(errors.ConnectionFailed):
        during(driver, uuid, other.stop_answering)
    other.answer_again()
    assert (host.inventory(), other.inventory()) == before


def test_the_memory_is_spoken_for_at_both_ends(host, driver, other):
    uuid = build(host, driver, R)
    used = []

    def look():
        with other.connect() as beta:
            used.append(beta.get_available_resource().memory.used_mib)
            with pytest.raises(errors.InstanceExists):
                beta.spawn(spec(uuid=uuid))

    during(driver, uuid, look)
    assert used == [512]
