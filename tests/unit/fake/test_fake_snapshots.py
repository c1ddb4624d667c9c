"""Snapshots, images made of instances, backups, and the image cache."""

from __future__ import annotations

import io
import os

import pytest
from fakery import CIRROS, DEBIAN, build, nic, rbd, spec, state_of

from hvdrivers.contract import errors
from hvdrivers.fake import FakeHost, HostSize, ManualClock, diskfile
from hvdrivers.images import inspect_image
from hvdrivers.models.image import Checksum, FileImage, HostImage, HttpImage, ImageFormat
from hvdrivers.models.progress import Phase
from hvdrivers.models.state import InstanceState

R, S, P = InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.PAUSED


def tree(driver, uuid):
    found = list(driver.list_snapshots(uuid))
    names = {each.id: each.name for each in found}
    return [(each.name, names.get(each.parent)) for each in found], next(
        (each.name for each in found if each.current), None
    )


def test_a_tree(host, driver):
    uuid = build(host, driver, R)
    a = driver.create_snapshot(uuid, "a")
    b = driver.create_snapshot(uuid, "b")
    driver.revert_snapshot(uuid, a.id)
    c = driver.create_snapshot(uuid, "c")
    driver.create_snapshot(uuid, "d")
    assert tree(driver, uuid) == ([("a", None), ("b", "a"), ("c", "a"), ("d", "c")], "d")
    driver.delete_snapshot(uuid, c.id)
    assert tree(driver, uuid) == ([("a", None), ("b", "a"), ("d", "a")], "d")
    driver.delete_snapshot(uuid, c.id)
    driver.delete_snapshot(uuid, a.id, children=True)
    assert tree(driver, uuid) == ([], None)
    with pytest.raises(errors.VolumeNotFound):
        driver.revert_snapshot(uuid, b.id)
    driver.destroy(uuid)
    assert host.inventory().of(uuid) == frozenset()


def test_deleting_the_current_one_goes_back_to_its_parent(host, driver):
    uuid = build(host, driver, R)
    driver.create_snapshot(uuid, "a")
    b = driver.create_snapshot(uuid, "b")
    driver.delete_snapshot(uuid, b.id)
    assert tree(driver, uuid) == ([("a", None)], "a")


def test_a_name_is_taken_once(host, driver):
    uuid = build(host, driver, R)
    driver.create_snapshot(uuid, "a")
    before = host.inventory()
    with pytest.raises(errors.InvalidRequest):
        driver.create_snapshot(uuid, "a")
    assert host.inventory() == before


@pytest.mark.parametrize("state", [R, P, S], ids=str)
def test_revert_brings_the_disks_back_and_nothing_else(host, driver, state):
    uuid = build(host, driver, state, volumes=(rbd(),), vifs=(nic(),))
    host.write_disk(uuid, "one")
    snapshot = driver.create_snapshot(uuid, "snap")
    host.write_disk(uuid, "two")
    host.write_disk(uuid, "volume", disk="vol-1")
    driver.rename(uuid, "renamed")
    driver.set_metadata(uuid, {"k": "v"})
    driver.attach_volume(uuid, rbd("late"))
    before = driver.get_instance(uuid)
    driver.revert_snapshot(uuid, snapshot.id)
    driver.revert_snapshot(uuid, snapshot.id)
    after = driver.get_instance(uuid)
    assert after.state is S
    assert host.disk_content(uuid)[-1] == "write:one"
    assert host.disk_content(uuid, "vol-1")[-1] == "write:volume"
    keep = {"state", "vifs"}
    assert after.model_dump(exclude=keep) == before.model_dump(exclude=keep)


@pytest.mark.parametrize("state", [R, P], ids=str)
@pytest.mark.parametrize("now", [R, P, S], ids=str)
def test_with_memory_the_guest_goes_on(host, driver, state, now):
    uuid = build(host, driver, state)
    boots = host.console(uuid).count(b"Booting")
    snapshot = driver.create_snapshot(uuid, "snap", memory=True)
    assert snapshot.with_memory
    if now is S:
        driver.power_off(uuid)
    elif now is P:
        driver.pause(uuid)
    else:
        driver.unpause(uuid)
    driver.revert_snapshot(uuid, snapshot.id)
    assert state_of(driver, uuid) is state
    assert host.console(uuid).count(b"Booting") == boots


def test_memory_fits_only_the_same_machine(host, driver):
    uuid = build(host, driver, R)
    snapshot = driver.create_snapshot(uuid, "snap", memory=True)
    driver.attach_volume(uuid, rbd())
    before = host.inventory()
    with pytest.raises(errors.InvalidRequest):
        driver.revert_snapshot(uuid, snapshot.id)
    assert host.inventory() == before
    driver.power_off(uuid)
    with pytest.raises(errors.InvalidRequest, match="no memory"):
        driver.create_snapshot(uuid, "other", memory=True)
    driver.detach_volume(uuid, "vol-1")
    driver.revert_snapshot(uuid, snapshot.id)


def test_snapshots_need_room():
    host = FakeHost(size=HostSize(pools=({"name": "p", "total_gib": 1},)), clock=ManualClock())
    with host.connect() as driver:
        uuid = build(host, driver, R)
        with pytest.raises(errors.InsufficientResources):
            driver.create_snapshot(uuid, "a")


def test_snapshots_are_where_the_disks_are(host, driver):
    uuid = build(host, driver, R)
    driver.migrate_storage(uuid, "fast")
    driver.create_snapshot(uuid, "a", memory=True)
    assert {pool.name for pool, _ in host.disks_of(uuid)} == {"fast"}


@pytest.mark.parametrize("format_", [ImageFormat.RAW, ImageFormat.QCOW2], ids=str)
def test_an_image_of_an_instance_stands_alone(host, driver, tmp_path, format_):
    uuid = build(host, driver, R, flavor=spec().flavor.model_copy(update={"disk_gib": 0}))
    host.write_disk(uuid, "Grüße")
    target = tmp_path / "out"
    seen = []
    info = driver.snapshot_to_image(uuid, target, format_, progress=seen.append)
    assert seen[-1].phase is Phase.SNAPSHOT
    assert inspect_image(target, format_) == info
    image = FileImage(path=target, format=format_)
    other = spec(image=image)
    driver.spawn(other)
    assert host.disk_content(other.uuid) == host.disk_content(uuid)
    before = host.inventory()
    with pytest.raises(errors.InvalidRequest):
        driver.snapshot_to_image(uuid, target, format_)
    with pytest.raises(errors.InvalidRequest):
        driver.snapshot_to_image(uuid, tmp_path / "no" / "where", format_)
    assert host.inventory() == before


def test_other_formats_cannot_be_written(host, driver, tmp_path):
    uuid = build(host, driver, R)
    with pytest.raises(errors.NotSupported):
        driver.snapshot_to_image(uuid, tmp_path / "out", ImageFormat.VMDK)
    assert list(tmp_path.iterdir()) == []


def test_a_callback_that_raises_stops_it_and_leaves_no_file(host, driver, tmp_path):
    uuid = build(host, driver, R)

    def stop(progress):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        driver.snapshot_to_image(uuid, tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_boot_volume_becomes_no_image(host, driver, tmp_path):
    uuid = build(host, driver, R, volumes=(rbd("root", boot_index=0),))
    with pytest.raises(errors.InvalidRequest, match="boots from a volume"):
        driver.snapshot_to_image(uuid, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [512, 65536, 1 << 20, 3 << 30, 40 << 40])
def test_a_disk_file_tells_what_was_written(tmp_path, size):
    path = tmp_path / "disk"
    for number, format_ in enumerate((ImageFormat.RAW, ImageFormat.QCOW2)):
        if format_ is ImageFormat.RAW and size > 1 << 28:
            continue
        content = ("a", "é" * 3)
        path = tmp_path / str(number)
        with path.open("xb") as made:
            diskfile.write(made, format_, size, content)
        assert inspect_image(path, format_).virtual_size_bytes == size
        with path.open("rb") as file:
            assert diskfile.read(file.fileno(), format_) == content


def test_a_long_history_keeps_its_end(tmp_path):
    path = tmp_path / "disk"
    content = tuple(f"write:{number:04}" for number in range(9999))
    with path.open("xb") as made:
        diskfile.write(made, ImageFormat.QCOW2, 1 << 30, content)
    with path.open("rb") as file:
        read = diskfile.read(file.fileno(), ImageFormat.QCOW2)
    assert read == content[-len(read) :]
    assert len(read) > 1000


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 4096, b"QFI\xfb" + b"\xff" * 4096, b"HVDFAKE1\0\0\0\xff{", os.urandom(4096)],
)
def test_any_other_file_tells_nothing(tmp_path, data):
    path = tmp_path / "disk"
    path.write_bytes(data)
    with path.open("rb") as file:
        for format_ in ImageFormat:
            assert diskfile.read(file.fileno(), format_) is None
    with pytest.raises(ValueError, match="vmdk"):
        diskfile.write(io.BytesIO(), ImageFormat.VMDK, 1, ())


def test_backups(host, driver):
    uuid = build(host, driver, R, volumes=(rbd(),))
    full = driver.begin_backup(uuid)
    assert (full.since, full.disks) == (None, ("root", "vol-1"))
    assert len(full.extents) == 2
    with pytest.raises(errors.DeviceBusy):
        driver.begin_backup(uuid)
    driver.end_backup(uuid, full.id)
    driver.end_backup(uuid, full.id)
    driver.end_backup(uuid)
    host.write_disk(uuid, "new")
    more = driver.begin_backup(uuid, since=full.id)
    assert [each.disk for each in more.extents] == ["root"]
    driver.end_backup(uuid)
    assert driver.begin_backup(uuid, since=more.id).extents == ()
    driver.end_backup(uuid)
    with pytest.raises(errors.VolumeNotFound):
        driver.begin_backup(uuid, since="unknown")
    driver.rebuild(uuid, DEBIAN)
    with pytest.raises(errors.VolumeNotFound):
        driver.begin_backup(uuid, since=more.id)


def test_a_backup_ends_with_the_machine(host, driver):
    uuid = build(host, driver, R)
    driver.begin_backup(uuid)
    driver.power_off(uuid)
    driver.power_on(uuid)
    driver.begin_backup(uuid)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"data" * 65536)
    return FileImage(path=path, format=ImageFormat.RAW)


def test_an_image_is_loaded_once(host, driver, image):
    seen = []
    first = driver.cache_image(image, progress=seen.append)
    assert {each.phase for each in seen} == {Phase.VERIFY, Phase.UPLOAD}
    assert driver.cache_image(image) == first
    assert list(driver.list_cached_images()) == [first]
    uploads = sum(call.name == "upload-image" for call in host.transcript())
    assert uploads == 1
    wanted = spec(image=image)
    driver.spawn(wanted)
    (cached,) = driver.list_cached_images()
    assert cached.in_use
    assert cached.last_used is not None
    with pytest.raises(errors.DeviceBusy):
        driver.evict_image(cached.key)
    driver.destroy(wanted.uuid)
    driver.evict_image(cached.key)
    driver.evict_image(cached.key)
    assert host.inventory().items == frozenset()


def test_a_known_checksum_needs_no_file(host, driver, image):
    (cached, *_) = [driver.cache_image(image)]
    digest = cached.key.rpartition("-")[2]
    known = image.model_copy(
        update={"checksum": Checksum(algorithm="sha256", value=digest), "path": image.path / "no"}
    )
    driver.spawn(spec(image=known))


def test_a_bad_image_leaves_nothing(host, driver, tmp_path):
    path = tmp_path / "bad.qcow2"
    path.write_bytes(b"not a qcow2" * 1000)
    for call in (
        lambda image: driver.spawn(spec(image=image)),
        driver.cache_image,
    ):
        with pytest.raises(errors.ImageRejected):
            call(FileImage(path=path, format=ImageFormat.QCOW2))
    assert host.inventory().items == frozenset()


def test_a_web_image_that_is_not_there(host, driver):
    checksum = Checksum(algorithm="sha256", value="0" * 64)
    image = HttpImage(url="http://127.0.0.1:1/none.img", format=ImageFormat.RAW, checksum=checksum)
    with pytest.raises((errors.ConnectionFailed, errors.OperationTimeout)):
        driver.cache_image(image, timeout=0.2)
    assert host.inventory().items == frozenset()


def test_host_images(driver):
    with pytest.raises(errors.InvalidRequest):
        driver.cache_image(CIRROS)
    assert driver.list_cached_images() == []
    driver.spawn(spec(image=CIRROS))
    with pytest.raises(errors.VolumeNotFound):
        driver.spawn(spec(image=HostImage(name="cirros", format=ImageFormat.RAW)))


def test_images_need_room(image):
    host = FakeHost(size=HostSize(pools=({"name": "p", "total_gib": 0},)), clock=ManualClock())
    with host.connect() as driver:
        with pytest.raises(errors.InsufficientResources):
            driver.cache_image(image)
        assert host.inventory().items == frozenset()
