"""Many threads on one driver, many processes on one host."""

from __future__ import annotations

import faulthandler
import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.libvirt.children import driver_on, race_to_cache, race_to_spawn
from tests.integration.libvirt.conftest import SpecFactory, connect, residue
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until

_GUESTS = 20


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A deadlock ends the run, with the stacks of all threads."""
    faulthandler.dump_traceback_later(180, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def host(peer: LibvirtPeer) -> Iterator[LibvirtDriver]:
    made = connect(peer)
    yield made
    made.close()


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            continue
    return found


def empty_image(peer: LibvirtPeer) -> FileImage:
    """Nothing to boot from: the firmware waits, and leaves the processor to the others."""
    path = peer.root / "empty.raw"
    path.write_bytes(b"\0" * (1 << 20))
    return FileImage(path=path, format=ImageFormat.RAW)


def test_twenty_guests_from_eight_threads(peer: LibvirtPeer, spec: SpecFactory) -> None:
    with closing(connect(peer)) as first:  # the event thread and its descriptors stay for good
        image = empty_image(peer)
        first.cache_image(image)
    gc.collect()
    before, threads, files = residue(peer), set(threading.enumerate()), descriptors()
    raw = connect(peer)
    specs = [
        spec(start=True, image=image, name=f"p{number}", cloud_init=CloudInit(hostname="h"))
        for number in range(_GUESTS)
    ]
    uuids = {each.uuid for each in specs}
    with guarded(raw) as driver, ThreadPoolExecutor(8) as pool:
        seen: list[int] = []

        def spawn(each: InstanceSpec) -> InstanceState:
            state = driver.spawn(each).state
            seen.append(len(driver.list_instances()))
            return state

        assert set(pool.map(spawn, specs)) == {InstanceState.RUNNING}
        assert len(seen) == _GUESTS
        listed = {each.uuid: each.state for each in driver.list_instances()}
        assert listed == dict.fromkeys(uuids, InstanceState.RUNNING)
        # twice each: changes of one instance wait for each other, and destroy is idempotent
        list(pool.map(driver.destroy, [*uuids, *uuids]))
        assert driver.list_instances() == []
    assert residue(peer) == before
    wait_until(lambda: set(threading.enumerate()) == threads, timeout=120, what="no thread is left")
    gc.collect()
    wait_until(lambda: descriptors() == files, timeout=120, what="no descriptor is left")


def test_many_changes_of_volumes_and_machines_at_once(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    """Defined only, so that there are many: what meets here is libvirt's storage pool."""
    host.cache_image(spec().image)
    before = residue(peer)
    driver = guarded(host)

    def life(number: int) -> None:
        made = spec(cloud_init=CloudInit(hostname="h"))
        driver.spawn(made)
        volume = driver.create_volume(VolumeSpec(name=f"v{number}", size_bytes=1 << 20))
        driver.attach_volume(made.uuid, VolumeAttachment(volume=volume))
        assert [each.volume_id for each in driver.get_instance(made.uuid).volumes] == [f"v{number}"]
        driver.detach_volume(made.uuid, f"v{number}")
        driver.delete_volume(f"v{number}")
        driver.destroy(made.uuid)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(life, range(60)))
    assert residue(peer) == before


def test_one_driver_makes_the_pools_once(spec: SpecFactory) -> None:
    """Eight first operations at the same moment on a host without pools."""
    with LibvirtPeer() as peer, closing(driver_on(peer.uri)) as driver:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: driver.list_cached_images(), range(8)))
        assert peer.virsh("pool-list", "--name").split() == ["default", "hvdrivers"]


def test_two_processes_spawn_one_uuid(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    host.cache_image(spec().image)
    before = residue(peer)
    for _ in range(3):
        uuid = uuid4()
        specs = [
            spec(uuid=uuid, name=f"racer-{number}", cloud_init=CloudInit(hostname="racer"))
            for number in range(3)
        ]
        results = race_to_spawn(peer.uri, specs)
        assert sorted(results) == ["InstanceExists", "InstanceExists", "spawned"]
        winner = specs[results.index("spawned")]
        assert host.get_instance(uuid).name == winner.name
        host.destroy(uuid)
        assert residue(peer) == before


def test_two_processes_spawn_one_uuid_from_a_volume(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    """No disk of its own: nothing but the claim can decide."""
    before = residue(peer)
    volume = host.create_volume(VolumeSpec(name="root", size_bytes=1 << 20))
    for _ in range(3):
        uuid = uuid4()
        specs = [
            spec(
                uuid=uuid,
                name="racer",
                image=None,
                volumes=(VolumeAttachment(volume=volume, boot_index=0),),
            )
            for _ in range(3)
        ]
        results = race_to_spawn(peer.uri, specs)
        assert sorted(results) == ["InstanceExists", "InstanceExists", "spawned"]
        assert host.get_instance(uuid).name == "racer"
        host.destroy(uuid)
    host.delete_volume("root")
    assert residue(peer) == before


def test_one_image_is_loaded_by_many_at_once(host: LibvirtDriver, peer: LibvirtPeer) -> None:
    path = peer.root / "raced.raw"
    path.write_bytes(os.urandom(3_000_000))
    image = FileImage(path=path, format=ImageFormat.RAW)
    keys = race_to_cache(peer.uri, image, 3)
    assert len(set(keys)) == 1, keys
    (cached,) = [each for each in host.list_cached_images() if each.key == keys[0]]
    volumes = [
        line for line in peer.residue() if "volume" in line and IMAGE_PREFIX + keys[0] in line
    ]
    assert len(volumes) == 2, volumes  # the record and one content
    content = peer.path(host.images.cached(cached.key).path)
    assert content.read_bytes() == path.read_bytes()
    host.evict_image(cached.key)


def test_evicting_and_spawning_at_once(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    """Whoever comes first: never a machine whose image is gone."""
    path = peer.root / "evicted.raw"
    path.write_bytes(os.urandom(100_000))
    image = FileImage(path=path, format=ImageFormat.RAW)
    key = host.cache_image(image).key
    outcomes = set()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(30):
            made = spec(image=image)
            spawning = pool.submit(host.spawn, made)
            evicting = pool.submit(host.evict_image, key)
            try:
                spawning.result()
            except errors.HypervisorError as error:
                outcomes.add(type(error))
                with suppress(errors.DeviceBusy):  # it saw the disk that spawn has taken back
                    evicting.result()
            else:
                try:
                    evicting.result()
                    outcomes.add("loaded again")
                except errors.DeviceBusy:
                    outcomes.add("busy")
                base = host.images.cached(key)
                assert base is not None
                assert peer.path(base.path).exists()
                used = peer.virsh("vol-dumpxml", f"{made.uuid}.root", "--pool", "hvdrivers")
                assert base.path in used
                host.destroy(made.uuid)
    assert outcomes <= {"busy", "loaded again", errors.DeviceBusy, errors.HypervisorFault}
    host.evict_image(key)
