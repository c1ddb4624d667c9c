"""Migration between two simulated hosts: calls, hints, and whoever dies on the way."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.moving import Move
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Keep
from hvdrivers.models.migration import Blocker, BlockerKind, Destination, MigrationPhase
from hvdrivers.models.progress import Progress
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState
from tests.integration.hyperv.site import Site, held, spec

_YEAR_ONE = 62_135_596_800
"""Seconds between the beginning of .NET's clock and that of Unix."""
HOSTILE = "it's \u2019; $(exit) `n [1] *"


@pytest.fixture(scope="module")
def second(site: Site) -> Iterator[Site]:
    made = Site("HV2", site)
    yield made
    made.close()


def there(second: Site) -> Destination:
    return Destination(host=f"127.0.0.1:{second.service.port}")


def machines(site: Site) -> int:
    return len(site.host.state.machines)


@pytest.mark.parametrize("moves", ["live_migrate", "cold_migrate"])
def test_a_host_that_was_closed_since_it_was_asked(
    site: Site, second: Site, image: FileImage, moves: str
) -> None:
    uuid = site.driver.spawn(spec(image, start=moves == "live_migrate")).uuid
    before = site.driver.get_instance(uuid).state
    try:
        with held(site, "Compare-VM") as release, ThreadPoolExecutor(1) as pool:
            moving = pool.submit(getattr(site.driver, moves), uuid, there(second))
            with release():
                second.driver.enter_maintenance()
            error = moving.exception(60)
        assert isinstance(error, errors.InsufficientResources)
        assert "exit_maintenance" in (error.hint or "")
        assert second.left() == ["index/maintenance"]
        assert site.driver.get_instance(uuid).state is before
    finally:
        second.driver.exit_maintenance()
        site.driver.destroy(uuid)


def test_a_host_does_not_close_while_a_machine_comes(
    site: Site, second: Site, image: FileImage
) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    with held(site, "Move-VM") as release, ThreadPoolExecutor(1) as pool:
        moving = pool.submit(site.driver.live_migrate, uuid, there(second))
        with release():
            with pytest.raises(errors.InvalidState, match="on its way"):
                second.driver.enter_maintenance()
            assert not second.driver.in_maintenance()
        assert moving.exception(60) is None
    assert second.driver.get_instance(uuid).state is InstanceState.RUNNING
    with pytest.raises(errors.InvalidState):
        second.driver.enter_maintenance()
    second.driver.destroy(uuid)


def test_what_moves_and_how_many_calls_it_takes(site: Site, second: Site, image: FileImage) -> None:
    made = spec(
        image,
        name=HOSTILE,
        metadata={"key": HOSTILE},
        cloud_init=CloudInit(user_data="#!/bin/sh\n"),
    )
    info = site.driver.spawn(made)
    told: list[Progress] = []
    with site.inner.session.seam.counting() as calls:
        assert site.driver.check_live_migration(info.uuid, there(second)).possible
    assert calls == ["hyperv.MoveLook", "hyperv.MoveCompare"]
    with site.inner.session.seam.counting() as calls:
        site.driver.live_migrate(info.uuid, there(second), progress=told.append)
    assert calls == ["hyperv.MoveLook", "hyperv.MoveCompare", "hyperv.Move"]
    assert told[0].total == 100
    assert site.left() == []
    assert second.driver.get_instance(info.uuid) == info
    folder = second.host.drive / "hv" / "instances" / str(info.uuid)
    # Move-VM takes no disc along, and the image is not in the cache there
    assert {"root.vhdx", "image.vhdx", "seed.iso"} <= {each.name for each in folder.iterdir()}
    assert list((site.host.drive / "hv" / "images").glob("*.vhdx")), "the source lost its image"
    second.driver.power_off(info.uuid)
    # and back, to a host that has the image: it is not copied again
    second.driver.cold_migrate(info.uuid, there(site))
    assert second.left() == []
    site.driver.power_on(info.uuid)
    assert site.driver.get_instance(info.uuid) == info
    site.driver.destroy(info.uuid)
    assert site.left() == []


def test_a_root_disk_that_is_kept_stands_without_the_image_that_came_along(
    site: Site, second: Site, image: FileImage
) -> None:
    uuid = site.driver.spawn(spec(image, start=False)).uuid
    site.driver.cold_migrate(uuid, there(second))
    second.driver.destroy(uuid, keep=frozenset({Keep.ROOT_DISK}))
    (kept,) = second.driver.list_volumes()
    file = second.host.state.disks.look(f"C:\\hv\\volumes\\v-{uuid}-root.vhdx")
    assert file.parent is None
    second.driver.delete_volume(kept.volume_id)
    assert second.left() == []


def test_reasons_name_their_cause(site: Site, second: Site, image: FileImage) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    state = site.host.state
    state.delegation = False
    try:
        plan = site.driver.check_live_migration(uuid, there(second))
        (blocker,) = plan.blockers
        assert blocker.kind is BlockerKind.CONNECTION
        assert "double hop" in (blocker.hint or "")
        with pytest.raises(errors.InvalidRequest, match="does not reach") as refused:
            site.driver.live_migrate(uuid, there(second))
        assert "credssp" in (refused.value.hint or "")
    finally:
        state.delegation = True
    second.host.state.settings.migration = False
    try:
        (blocker,) = site.driver.check_live_migration(uuid, there(second)).blockers
        assert "Enable-VMMigration" in (blocker.hint or "")
    finally:
        second.host.state.settings.migration = True
    point = site.driver.create_snapshot(uuid, "a")
    (blocker,) = site.driver.check_live_migration(uuid, there(second)).blockers
    assert (blocker.kind, blocker.reason) == (BlockerKind.STORAGE, "it has snapshots")
    site.driver.delete_snapshot(uuid, point.id)
    for host in (HOSTILE, "-ComputerName", "127.0.0.1:99999", "[::1"):
        plan = site.driver.check_live_migration(uuid, Destination(host=host))
        assert [each.kind for each in plan.blockers] == [BlockerKind.CONNECTION]
    for wrong in ({"storage": "second"}, {"address": "10.0.0.1"}):
        with pytest.raises(errors.NotSupported):
            site.driver.live_migrate(uuid, there(second).model_copy(update=wrong))
    site.driver.destroy(uuid)
    assert site.left() == second.left() == []


def test_a_deadline_that_passes_before_the_destination_answers_is_no_reason_against_it(
    site: Site, second: Site, image: FileImage
) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    silent = FaultRule(Strike.STALL, nth=None, seconds=3600.0)
    with second.service.faults.add(silent):
        for ask in (site.driver.live_migrate, site.driver.check_live_migration):
            with pytest.raises(errors.OperationTimeout):
                ask(uuid, there(second), timeout=3.0)
        silent.over.set()
    assert site.driver.get_instance(uuid).state is InstanceState.RUNNING
    site.driver.destroy(uuid)
    assert site.left() == second.left() == []


@pytest.mark.parametrize("dies", ["on the way", "in the end"])
def test_a_shell_that_dies_leaves_one_whole_machine(
    site: Site, second: Site, image: FileImage, dies: str
) -> None:
    """The host goes on by itself; the driver waits for what comes of it."""
    info = site.driver.spawn(spec(image))
    timing = site.host.state.timing
    usual, timing.migration = timing.migration, 1.0
    state, before = site.host.state, len(site.host.state.migrations)
    wanted = 4  # running
    if dies == "in the end":  # the machine is there already, and nobody was told
        timing.migration, wanted = 0.0, 7
        state.faults.slow("Move-VM", after=1.0)

    def kill() -> None:
        with site.host.world.lock:
            state.wait_for(lambda: [m.state for m in state.migrations[before:]] == [wanted], 120)
        site.service.kill_shells()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        site.driver.live_migrate(info.uuid, there(second))
    finally:
        killer.join()
        timing.migration = usual
        state.faults.clear()
    assert second.driver.get_instance(info.uuid) == info
    assert site.left() == []
    second.driver.destroy(info.uuid)
    assert second.left() == []


def test_a_client_that_dies_leaves_an_instance_that_is_found(
    site: Site, second: Site, image: FileImage
) -> None:
    """Everything after Move-VM is missing: neither host was told."""
    info = site.driver.spawn(spec(image))
    calls = second.service.faults.add(
        FaultRule(Strike.CUT_BEFORE, action="Send", contains=b" MoveSettle ", nth=None)
    )
    with calls, pytest.raises(errors.OutcomeUnknown):
        site.driver.live_migrate(info.uuid, there(second))
    assert list((second.host.drive / "hv" / "index").glob("*.incoming"))
    assert second.driver.get_instance(info.uuid) == info
    assert [each.uuid for each in second.driver.list_instances()] == [info.uuid]
    second.driver.power_off(info.uuid)
    assert not list((second.host.drive / "hv" / "index").glob("*.incoming"))
    second.driver.destroy(info.uuid)
    assert site.left() == second.left() == []


def test_an_abort_ends_it(site: Site, second: Site, image: FileImage) -> None:
    info = site.driver.spawn(spec(image))
    timing = site.host.state.timing
    usual, timing.migration = timing.migration, 3600.0
    try:
        failed: list[BaseException] = []

        def move() -> None:
            try:
                site.driver.live_migrate(info.uuid, there(second))
            except errors.HypervisorError as error:
                failed.append(error)

        thread = threading.Thread(target=move)
        thread.start()
        while site.driver.migration_progress(info.uuid).phase is not MigrationPhase.COPYING:
            assert thread.is_alive()
        with site.inner.session.seam.counting() as calls:
            site.driver.abort_migration(info.uuid)
        assert calls == ["hyperv.MoveAbort"]
        thread.join()
        assert isinstance(failed[0], errors.HypervisorFault)
    finally:
        timing.migration = usual
    assert site.driver.get_instance(info.uuid).state is InstanceState.RUNNING
    assert second.left() == []
    site.driver.destroy(info.uuid)
    assert site.left() == []


def test_disks_that_move_to_another_pool_go_with_their_machine(
    site: Site, second: Site, image: FileImage
) -> None:
    driver, pool = site.driver, site.host.drive / "hv-second"
    uuid = driver.spawn(spec(image)).uuid
    info = driver.get_instance(uuid)
    with site.inner.session.seam.counting() as calls:
        driver.migrate_storage(uuid, "second")
    assert calls == ["hyperv.Relocate"]
    assert [each.name for each in pool.rglob("*.vhdx")] == ["root.vhdx"]
    assert driver.get_instance(uuid) == info
    with pytest.raises(errors.VolumeNotFound):
        driver.migrate_storage(uuid, HOSTILE)
    # whoever dies in the middle: the host goes on by itself
    state, before = site.host.state, len(site.host.state.migrations)
    usual, state.timing.migration = state.timing.migration, 1.0

    def kill() -> None:
        with site.host.world.lock:
            state.wait_for(lambda: len(state.migrations) > before, 120)
        site.service.kill_shells()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(errors.OutcomeUnknown):
            driver.migrate_storage(uuid, "default")
    finally:
        killer.join()
        state.timing.migration = usual
    with site.host.world.lock:
        assert state.wait_for(lambda: state.migrations[-1].state == 7, 120)
    driver.migrate_storage(uuid, "second")
    driver.rebuild(uuid, image)
    assert [each.name for each in pool.rglob("*.vhdx")] == ["root.vhdx"]
    driver.power_off(uuid)
    driver.cold_migrate(uuid, there(second))
    assert site.left() == []
    second.driver.migrate_storage(uuid, "second")
    second.driver.destroy(uuid)
    assert second.left() == []


def test_who_destroys_at_the_destination_before_it_comes_makes_no_machine_without_an_owner(
    site: Site, second: Site, image: FileImage
) -> None:
    info = site.driver.spawn(spec(image))
    with held(site, "Move-VM") as release, ThreadPoolExecutor(1) as pool:
        moving = pool.submit(site.driver.live_migrate, info.uuid, there(second))
        with release():
            second.driver.destroy(info.uuid)
            assert second.left() == []
        moving.result()
    assert second.driver.get_instance(info.uuid) == info
    assert [each.uuid for each in second.driver.list_instances()] == [info.uuid]
    second.driver.destroy(info.uuid)
    assert site.left() == second.left() == []


def test_a_change_that_comes_between_look_and_move_is_not_lost(
    site: Site, second: Site, image: FileImage
) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    # one driver would do one after the other
    other = guarded(HypervDriver.connect(site.config))
    with other, held(site, "Compare-VM") as release, ThreadPoolExecutor(1) as pool:
        moving = pool.submit(site.driver.live_migrate, uuid, there(second))
        with release():
            other.set_metadata(uuid, {"key": HOSTILE})
        with pytest.raises(errors.DeviceBusy) as busy:
            moving.result()
    assert busy.value.retryable
    assert second.left() == []
    site.driver.live_migrate(uuid, there(second))
    assert second.driver.get_instance(uuid).metadata == {"key": HOSTILE}
    second.driver.destroy(uuid)
    assert site.left() == second.left() == []


@pytest.mark.parametrize("what", ["machine", "disks"])
def test_a_change_waits_for_a_move_whose_client_has_died(
    site: Site, second: Site, image: FileImage, what: str
) -> None:
    """The host moves it still. A change of the record would be lost, a change of the machine be
    refused for a state that the caller does not see."""
    uuid = site.driver.spawn(spec(image)).uuid
    state, before = site.host.state, len(site.host.state.migrations)
    usual, state.timing.migration = state.timing.migration, 2.0
    cut = FaultRule(Strike.CUT_BEFORE, action="Send", contains=b" MoveLeave ", nth=None)
    try:
        with site.service.faults.add(cut), ThreadPoolExecutor(1) as pool:
            if what == "machine":
                moving = pool.submit(site.driver.live_migrate, uuid, there(second))
            else:
                moving = pool.submit(site.driver.migrate_storage, uuid, "second")
            with site.host.world.lock:
                assert state.wait_for(lambda: len(state.migrations) > before, 120)
            site.service.kill_shells()
            with pytest.raises(errors.OutcomeUnknown):
                moving.result()
        if what == "machine":
            with pytest.raises(errors.InstanceNotFound):
                site.driver.set_metadata(uuid, {"a": "b"})
            assert site.left() == []
        else:
            site.driver.power_off(uuid)
            assert not list((site.host.drive / "hv" / "index").glob("*.storage"))
    finally:
        state.timing.migration = usual
    for each in (site, second):
        each.driver.destroy(uuid)
    assert site.left() == second.left() == []


def test_a_rescued_machine_that_is_off_moves_without_the_disks_of_its_rescue(
    site: Site, second: Site, image: FileImage, tmp_path: Path
) -> None:
    path = tmp_path / "other.raw"
    path.write_bytes(b"other" + bytes((1 << 20) - 5))
    other = FileImage(path=path, format=ImageFormat.RAW)
    uuid = site.driver.spawn(spec(image)).uuid
    second.driver.cache_image(other)  # the destination has the image of the rescue only
    disc = SeedDisc(content=bytes(32768) + b"\x01CD001\x01" + bytes(4096))
    site.driver.rescue(uuid, other, seed=disc)
    site.driver.power_off(uuid)
    site.driver.cold_migrate(uuid, there(second))
    second.driver.power_on(uuid)
    assert second.driver.get_instance(uuid).state is InstanceState.RUNNING
    second.driver.destroy(uuid)
    assert site.left() == second.left() == []


def test_migrations_leave_room_for_what_is_short(
    site: Site, second: Site, image: FileImage
) -> None:
    """Two migrations and the calls that they wait for took all four runspaces of two workers."""
    driver = guarded(HypervDriver.connect(site.config.model_copy(update={"workers": 2})))
    timing = site.host.state.timing
    usual, timing.migration = timing.migration, 3600.0
    state, before = site.host.state, len(site.host.state.migrations)
    with driver, ThreadPoolExecutor(3) as pool:
        first, other, more, third = (driver.spawn(spec(image)).uuid for _ in range(4))
        moves = []
        try:
            # the first goes to the runspace of requests that come alone: nothing else is asked
            # until the host has it. The others fill the two for what takes long
            for uuid in (first, other, more):
                move = pool.submit(driver.live_migrate, uuid, there(second), timeout=3600)
                moves.append(move)
                with site.host.world.lock:
                    assert state.wait_for(lambda: len(state.migrations) == before + len(moves), 120)
            # one more waits for a runspace, and its deadline passes there
            with pytest.raises(errors.OperationTimeout):
                driver.create_snapshot(third, "a", timeout=2)
            assert driver.list_snapshots(third) == []
            assert len(driver.list_instances()) == 4
            driver.destroy(other)
            driver.destroy(more)
            driver.abort_migration(first)
        finally:
            timing.migration = usual
            for uuid in (first, other, more):
                # whatever has failed above, nothing is left to wait for
                site.driver.destroy(uuid)
        for each in moves:
            with pytest.raises(errors.HypervisorError):
                each.result()
        assert driver.get_instance(third).state is InstanceState.RUNNING
        driver.destroy(third)
    assert site.left() == second.left() == []


def test_an_image_that_is_evicted_at_the_destination_before_the_machine_comes(
    site: Site, second: Site, image: FileImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without its image is of no use: the move fails clean, or the eviction does."""
    uuid = site.driver.spawn(spec(image)).uuid
    key = second.driver.cache_image(image).key
    looked = Move.blockers

    def then_evicted(move: Move, *, seed: bool = False) -> list[Blocker]:
        found = looked(move, seed=seed)
        second.driver.evict_image(key)
        return found

    with monkeypatch.context() as between:
        between.setattr(Move, "blockers", then_evicted)
        with pytest.raises(errors.DeviceBusy) as busy:
            site.driver.live_migrate(uuid, there(second))
    assert busy.value.retryable
    assert second.left() == []
    assert site.driver.get_instance(uuid).state is InstanceState.RUNNING
    second.driver.cache_image(image)
    with held(site, "Move-VM") as release, ThreadPoolExecutor(1) as pool:
        moving = pool.submit(site.driver.live_migrate, uuid, there(second))
        with release(), pytest.raises(errors.DeviceBusy):
            second.driver.evict_image(key)
        moving.result()
    disks = second.host.state.disks
    path = f"C:\\hv\\instances\\{uuid}\\root.vhdx"
    assert disks.look(path).parent == f"C:\\hv\\images\\{key}.vhdx"
    second.driver.destroy(uuid)
    second.driver.evict_image(key)
    assert site.left() == second.left() == []


def test_what_a_dead_client_has_prepared_keeps_no_image_for_ever(
    site: Site, second: Site, image: FileImage
) -> None:
    """Nobody knows at the destination whether the machine comes still: the host's clock decides."""
    uuid = site.driver.spawn(spec(image, start=False)).uuid
    key = second.driver.cache_image(image).key
    rules = [
        host.service.faults.add(
            FaultRule(Strike.CUT_BEFORE, action="Send", contains=text, nth=None)
        )
        for host, text in ((site, b" Move "), (site, b" MoveLeave "), (second, b" MoveSettle "))
    ]
    with rules[0], rules[1], rules[2], pytest.raises(errors.HypervisorError):
        site.driver.cold_migrate(uuid, there(second))
    (incoming,) = (second.host.drive / "hv" / "index").glob("*.incoming")
    # what a source has sent before it died, too
    disk = second.host.drive / "hv" / "instances" / str(uuid) / "root.vhdx"
    disk.write_bytes((site.host.drive / "hv" / "instances" / str(uuid) / "root.vhdx").read_bytes())
    base, deadline, power = incoming.read_text().splitlines()
    now = int((time.time() + _YEAR_ONE) * 10**7)
    assert now < int(deadline)
    for ticks in (int(deadline), now - 590 * 10**7):
        incoming.write_text(f"{base}\n{ticks}\n{power}")
        with pytest.raises(errors.DeviceBusy):
            second.driver.evict_image(key)
    incoming.write_text(f"{base}\n{now - 610 * 10**7}\n{power}")
    with disk.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # the host has it open: it comes still
        with pytest.raises(errors.DeviceBusy):
            second.driver.evict_image(key)
    assert not {each.key: each for each in second.driver.list_cached_images()}[key].in_use
    second.driver.evict_image(key)
    assert second.left() == []
    site.driver.cold_migrate(uuid, there(second))
    second.driver.destroy(uuid)
    assert site.left() == second.left() == []
