"""Round trips of destroy(), rescue() and others, in each case that their words tell apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.image import ImageFormat, ImageRef
from hvdrivers.models.instance import Flavor, Keep
from hvdrivers.models.migration import Destination
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.vif import Bandwidth, NetworkVif, VifQos
from hvdrivers.models.volume import DiskQos, VolumeAttachment, VolumeSpec
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.integration.vmware.test_budgets import READ, calls
from tests.integration.vmware.test_by_hand import foreign
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer
from tests.peers.vcsim.array import VcsimArray

PLAIN = {READ: 3, "Destroy_Task": 1, "DeleteDatastoreFile_Task": 1}
"""One read, and of each task another one."""
GROWS = Flavor(vcpus=1, memory_mib=64, max_vcpus=4, max_memory_mib=256)


@pytest.fixture(autouse=True)
def tidy(driver: VmwareDriver, spec: SpecFactory) -> Iterator[None]:
    driver.destroy(driver.spawn(spec()).uuid)  # the image is cached, and there are folders
    yield
    for each in driver.list_instances():
        driver.destroy(each.uuid)
    for volume in driver.list_volumes():
        driver.delete_volume(volume.volume_id)


def with_volume(driver: VmwareDriver, uuid: UUID) -> str:
    volume = driver.create_volume(VolumeSpec(size_bytes=1 << 20))
    driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    return volume.volume_id


def plus(one: dict[str, int], **more: int) -> Counter[str]:
    return Counter(one) + Counter({READ if key == "reads" else key: n for key, n in more.items()})


def test_destroy(peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory) -> None:
    def destroyed(
        before: Callable[[UUID], object] = str,
        keep: frozenset[Keep] = frozenset(),
        **changes: Any,
    ) -> Counter[str]:
        uuid = driver.spawn(spec(**changes)).uuid
        before(uuid)
        return calls(driver, lambda: driver.destroy(uuid, keep=keep))

    clone = peer.mode == "vpx"
    assert destroyed() == PLAIN
    off = {"reads": 1, "PowerOffVM_Task": 1}
    taken = {"reads": 1, "ReconfigVM_Task": 1}
    assert destroyed(start=True) == plus(PLAIN, **off)
    assert destroyed(lambda uuid: with_volume(driver, uuid)) == plus(PLAIN, **taken)
    assert destroyed(lambda uuid: with_volume(driver, uuid), start=True) == plus(
        plus(PLAIN, **off), **taken
    )
    frozen = destroyed(lambda uuid: driver.create_snapshot(uuid, "s"))
    if clone:  # its files are in a folder that vCenter has named
        assert frozen == plus(PLAIN, reads=3, RemoveAllSnapshots_Task=1)
    else:
        assert frozen == {READ: 3, "UnregisterVM": 1, "DeleteDatastoreFile_Task": 1}
    look = Counter(["HEAD /folder"])
    kept = plus(PLAIN, reads=2, ReconfigVM_Task=1, MoveVirtualDisk_Task=1) + look
    whole = plus(kept, reads=1, PromoteDisks_Task=1) if clone else kept
    root = frozenset({Keep.ROOT_DISK})
    assert destroyed(keep=root) == whole
    with_snapshot = plus(whole, reads=3, RemoveAllSnapshots_Task=1) + look
    for volume in driver.list_volumes():
        driver.delete_volume(volume.volume_id)
    assert destroyed(lambda uuid: driver.create_snapshot(uuid, "s"), keep=root) == with_snapshot
    gone = calls(driver, lambda: driver.destroy(uuid4()))
    assert gone == {"FindAllByUuid": 2, READ: 3, "DeleteDatastoreFile_Task": 2}


def strange(driver: VmwareDriver) -> UUID:
    """A machine of others with a disk of its own."""
    server = RawServer(driver.config)
    driver.files.make_folder("[LocalDS_0] theirs", parents=True)
    path = f"[LocalDS_0] theirs/{uuid4()}.vmdk"
    driver.files.create_disk(path, 1 << 20)
    machine = foreign(server, driver, path)
    uuid = UUID(server.of(machine, "config.instanceUuid")["config.instanceUuid"])
    server.drop()
    return uuid


def test_destroy_of_an_adopted_machine(driver: VmwareDriver) -> None:
    uuid = strange(driver)
    adopted = calls(driver, lambda: driver.adopt(uuid, name="adopted"))
    assert adopted == {"FindAllByUuid": 1, READ: 3, "ReconfigVM_Task": 1}
    assert calls(driver, lambda: driver.adopt(uuid)) == {"FindAllByUuid": 1, READ: 1}
    assert calls(driver, lambda: driver.destroy(uuid)) == plus(PLAIN, reads=1)


def test_the_folder_of_an_adopted_machine(
    driver: VmwareDriver, image: ImageRef, tmp_path: Path
) -> None:
    """Whoever puts a file into it makes it first: 1 call more than of a machine of spawn()."""
    uuid = strange(driver)
    driver.adopt(uuid, name="adopted")
    driver.cache_image(image)
    home = {"MakeDirectory": 1}
    copied = {"CopyVirtualDisk_Task": 1, "GET /folder": 1, "DeleteVirtualDisk_Task": 1}
    target = tmp_path / "image"
    told = calls(driver, lambda: driver.snapshot_to_image(uuid, target, ImageFormat.RAW))
    assert told == {READ: 3, **copied, **home}
    tasks = {"CopyVirtualDisk_Task": 1, "ReconfigVM_Task": 2, "PowerOnVM_Task": 1}
    assert calls(driver, lambda: driver.rescue(uuid, image)) == {READ: 7, **tasks, **home}
    driver.unrescue(uuid)
    driver.power_off(uuid)
    made = driver.create_snapshot(uuid, "one")
    driver.set_metadata(uuid, {"a": "b"})
    back = calls(driver, lambda: driver.revert_snapshot(uuid, made.id))
    assert back["MakeDirectory"] == 1
    assert driver.get_instance(uuid).metadata == {"a": "b"}
    driver.destroy(uuid)


@pytest.mark.parametrize("kind", [Capability.VOLUME_ISCSI, Capability.VOLUME_FC])
def test_a_running_machine_and_a_lun(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, kind: Capability
) -> None:
    """All machines are read once before the attachment and once after it."""
    hosts = 2 if peer.mode == "vpx" else 1
    iscsi = kind is Capability.VOLUME_ISCSI
    with VcsimArray(peer).export(kind) as volume:
        attachment = VolumeAttachment(volume=volume)
        uuid = driver.spawn(spec(start=True)).uuid
        attached = calls(driver, lambda: driver.attach_volume(uuid, attachment))
        login = {"AddInternetScsiStaticTargets": hosts} if iscsi else {}
        look = {"RescanHba": hosts, "MakeDirectory": 1 + iscsi, "ReconfigVM_Task": 1}
        assert attached == {READ: 7, **look, **login}
        logout = {"RemoveInternetScsiStaticTargets": hosts, "RescanHba": hosts} if iscsi else {}
        ended = calls(driver, lambda: driver.destroy(uuid))
        notes = {"SearchDatastore_Task": 1, "DeleteDatastoreFile_Task": 1} if iscsi else {}
        ends = plus(PLAIN, reads=5, PowerOffVM_Task=1, ReconfigVM_Task=1, **logout)
        assert ended == plus(ends, reads=3 * iscsi, **notes)
        uuid = driver.spawn(spec(volumes=(attachment,))).uuid
        started = calls(driver, lambda: driver.power_on(uuid))
        assert started == {READ: 5, "HEAD /folder": 2, "PowerOnVM_Task": 1}


def test_rescue(driver: VmwareDriver, spec: SpecFactory, image: ImageRef) -> None:
    uuid = driver.spawn(spec()).uuid
    tasks = {"CopyVirtualDisk_Task": 1, "ReconfigVM_Task": 2, "PowerOnVM_Task": 1}
    stopped = {READ: 7, **tasks}
    assert calls(driver, lambda: driver.rescue(uuid, image)) == stopped
    driver.power_off(uuid)
    again = calls(driver, lambda: driver.rescue(uuid, image))
    assert again == plus(stopped, reads=2, ReconfigVM_Task=1)
    driver.unrescue(uuid)
    running = calls(driver, lambda: driver.rescue(uuid, image))
    assert running == plus(stopped, reads=3, ReconfigVM_Task=1, PowerOffVM_Task=1)
    back = calls(driver, lambda: driver.unrescue(uuid))
    assert back == {READ: 8, "ReconfigVM_Task": 3, "PowerOffVM_Task": 1, "PowerOnVM_Task": 1}
    driver.power_off(uuid)
    disc = SeedDisc(content=bytes(1024))
    seeded = calls(driver, lambda: driver.rescue(uuid, image, seed=disc))
    assert seeded == Counter(stopped) + Counter(["PUT /folder"])


def test_size_and_limits(driver: VmwareDriver, spec: SpecFactory) -> None:
    vif = NetworkVif(id="n", network="VM Network")
    uuid = driver.spawn(spec(start=True, flavor=GROWS, vifs=(vif,))).uuid
    one = {READ: 3, "ReconfigVM_Task": 1}
    assert calls(driver, lambda: driver.hot_resize_cpu(uuid, 2)) == one
    assert calls(driver, lambda: driver.hot_resize_memory(uuid, 128)) == one
    volume = with_volume(driver, uuid)
    limited = calls(driver, lambda: driver.set_disk_qos(uuid, volume, DiskQos(total_iops_sec=99)))
    assert limited == {READ: 2, "ReconfigVM_Task": 1}
    larger = calls(driver, lambda: driver.extend_volume(uuid, volume, 8 << 20))
    assert larger == {READ: 2, "ReconfigVM_Task": 1}
    slow = VifQos(outbound=Bandwidth(average=1000))
    shaped = calls(driver, lambda: driver.set_vif_qos(uuid, "n", slow))
    assert shaped == {READ: 2, "ReconfigVM_Task": 1}
    assert calls(driver, lambda: driver.get_console_log(uuid)) == {READ: 1, "GET /folder": 1}
    driver.suspend(uuid)
    resumed = calls(driver, lambda: driver.resume(uuid))
    assert resumed == {READ: 4, "HEAD /folder": 2, "PowerOnVM_Task": 1}


def test_volumes_of_the_host(driver: VmwareDriver) -> None:
    driver.create_volume(VolumeSpec(size_bytes=1 << 20))
    made = calls(driver, lambda: driver.create_volume(VolumeSpec(size_bytes=1 << 20)))
    assert made == {READ: 2, "CreateVirtualDisk_Task": 1}
    stores = len(driver.places.datastores().datastores)
    first, _ = driver.list_volumes()
    listed = calls(driver, driver.list_volumes)
    assert listed == {READ: 1 + stores, "SearchDatastore_Task": stores, "GET /folder": 2}
    got = calls(driver, lambda: driver.get_volume(first.volume_id))
    assert got == {READ: 2, "SearchDatastore_Task": 1, "GET /folder": 1}
    cached = calls(driver, driver.list_cached_images)
    assert cached == {READ: 3, "SearchDatastoreSubFolders_Task": 1}


def test_maintenance(peer: VcsimPeer, driver: VmwareDriver) -> None:
    hosts = 2 if peer.mode == "vpx" else 1
    entered = calls(driver, driver.enter_maintenance)
    assert entered == {READ: 3 + hosts, "EnterMaintenanceMode_Task": hosts}
    assert calls(driver, driver.in_maintenance) == {READ: 2}
    left = calls(driver, driver.exit_maintenance)
    assert left == {READ: 2 + hosts, "ExitMaintenanceMode_Task": hosts}


def test_migration(peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory) -> None:
    if peer.mode == "esx":
        assert Capability.COLD_MIGRATION in driver.narrowed()
        return
    uuid = driver.spawn(spec(start=True)).uuid

    def there() -> Destination:
        row = driver.reader.one(driver.machines.get(uuid).obj, "runtime.host")
        hosts = driver.places.surroundings().hosts
        return Destination(host=next(h["name"] for h in hosts if h.obj != row["runtime.host"]))

    other = there()
    assert calls(driver, lambda: driver.check_live_migration(uuid, other)) == {READ: 2}
    moved = calls(driver, lambda: driver.live_migrate(uuid, other))
    assert moved == {READ: 3, "RelocateVM_Task": 1}
    assert calls(driver, lambda: driver.migration_progress(uuid)) == {READ: 3}
    assert calls(driver, lambda: driver.abort_migration(uuid)) == {READ: 3}
    driver.power_off(uuid)
    other = there()
    assert calls(driver, lambda: driver.cold_migrate(uuid, other)) == moved


def test_a_move_to_another_cluster(spec: SpecFactory) -> None:
    with started(lambda: VcsimPeer("vpx", standalone=1)) as vcenter:
        driver = connected(vcenter)
        uuid = driver.spawn(spec(start=True)).uuid
        away = Destination(host="DC0_H0")
        assert calls(driver, lambda: driver.check_live_migration(uuid, away)) == {READ: 5}
        moved = calls(driver, lambda: driver.live_migrate(uuid, away))
        assert moved == {READ: 6, "RelocateVM_Task": 1}
        driver.close()


def test_an_image_of_it(driver: VmwareDriver, spec: SpecFactory, tmp_path: Path) -> None:
    uuid = driver.spawn(spec()).uuid

    def image(name: str) -> Counter[str]:
        return calls(
            driver, lambda: driver.snapshot_to_image(uuid, tmp_path / name, ImageFormat.RAW)
        )

    copied = {"CopyVirtualDisk_Task": 1, "GET /folder": 1, "DeleteVirtualDisk_Task": 1}
    assert image("stopped") == {READ: 3, **copied}
    driver.power_on(uuid)
    live = {"CreateSnapshot_Task": 1, "RemoveSnapshot_Task": 1}
    assert image("running") == {READ: 7, **copied, **live}
