"""A pool that is full for a moment: what was uploaded then is whole, or it is not there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.libvirt.sent import LastPart
from hvdrivers.limits import MOST_GIB
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Firmware, Flavor, Keep
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.libvirt.machines import Host, local
from tests.peers.libvirtd import LibvirtPeer

FOLDER = "/var/lib/libvirt/hvdrivers"
SIZE = 32 << 20
ROOM = 8192
IMAGE = 200 << 10
"""Bytes of an image: one message of a stream. libvirt 9.0 reports that it was written."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host whose pools are on a small file system."""
    with LibvirtPeer() as peer:
        peer.inside("mkdir", FOLDER)
        with peer.small(FOLDER, SIZE):
            made = Host(peer, tmp_path / "none")
            yield made
            made.close()


def filled(host: Host, room: int = ROOM) -> Callable[[], object]:
    """Leave little room in the driver's pool; what this returns gives it back."""
    pool = host.raw.pools.disks()
    pool.refresh(0)
    size = (int(pool.info()[3]) - room) // 4096 * 4096
    filler = pool.createXML(volume_xml("filler", size, "raw", allocation=size), 0)
    return lambda: filler.delete(0)


def image(folder: Path) -> FileImage:
    path = folder / "image.raw"
    path.write_bytes(os.urandom(IMAGE))
    return FileImage(path=path, format=ImageFormat.RAW)


def large(folder: Path) -> FileImage:
    path = folder / "large.raw"
    path.write_bytes(os.urandom(3 << 20))
    return FileImage(path=path, format=ImageFormat.RAW)


def keys(driver: ComputeDriver) -> set[str]:
    return {each.key for each in driver.list_cached_images()}


def test_room_that_comes_back_after_the_upload(host: Host, tmp_path: Path) -> None:
    """Another client frees room in the moment in which the upload has ended: nothing after it
    fails, and the image is not whole."""
    give_back = filled(host)

    def seam(name: str, send: Callable[[], Any]) -> Any:
        try:
            return send()
        finally:
            if name == "Stream.finish" and freed.append(True) is None and len(freed) == 1:
                host.peer.virsh("vol-delete", "filler", "--pool", host.raw.config.pool)

    freed: list[bool] = []
    wanted = image(tmp_path)
    host.raw.connection.seam = seam
    try:
        with pytest.raises(errors.HypervisorError) as refused:
            host.driver.cache_image(wanted)
    finally:
        host.raw.connection.seam = None
    assert freed
    assert not isinstance(refused.value, errors.OutcomeUnknown), repr(refused.value)
    assert keys(host.driver) == set()
    del give_back
    assert host.driver.cache_image(wanted).key in keys(host.driver)


def test_no_room_and_then_some(host: Host, tmp_path: Path) -> None:
    """Refused, nothing is left, and when there is room the same call succeeds."""
    wanted = image(tmp_path)
    give_back = filled(host)
    before = host.residue()
    for call in (
        lambda: host.driver.cache_image(wanted),
        lambda: host.driver.spawn(host.empty(image=wanted)),
        lambda: host.driver.spawn(host.empty(image=wanted, cloud_init={"hostname": "x"})),
    ):
        with pytest.raises(errors.InsufficientResources) as refused:
            call()
        assert refused.value.hint
    host.compare(before)
    give_back()
    assert host.driver.cache_image(wanted).key in keys(host.driver)


def test_a_disk_that_no_file_can_be(host: Host, tmp_path: Path) -> None:
    """Larger than qcow2 can say: the pool could never hold it."""
    flavor = Flavor(vcpus=1, memory_mib=64, disk_gib=MOST_GIB - 1)
    with host.unchanged(), pytest.raises(errors.InsufficientResources, match="in all") as refused:
        host.driver.spawn(host.empty(flavor=flavor, image=image(tmp_path)))
    assert refused.value.hint


def test_what_was_sent_is_compared(host: Host) -> None:
    """Only what says anything: zeros at the end are there without being written."""
    pool = host.raw.pools.disks()
    volume = pool.createXML(volume_xml("part", IMAGE, "raw", allocation=IMAGE), 0)
    data = os.urandom(4096)
    host.raw.images.upload_bytes(volume, data)
    sent = LastPart()
    sent.require_written(volume, Deadline(None))
    sent.note(0, data)
    sent.note(4096, bytes(IMAGE - 4096))
    sent.require_written(volume, Deadline(None))
    sent.note(8192, b"\0" * 100 + b"x")
    with pytest.raises(errors.HypervisorFault) as missing:
        sent.require_written(volume, Deadline(None))
    assert missing.value.hint


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        ("cat /dev/zero >{}/fill", errors.InsufficientResources),
        ("mount -o remount,ro {}", errors.PermissionDenied),
    ],
    ids=["full", "read-only"],
)
def test_libvirts_own_definition_cannot_be_written(
    host: Host, spoil: str, kind: type[errors.HypervisorError]
) -> None:
    """libvirt forgets the machine that it has started. The error says so, and what it says helps;
    of a machine that was not to be started nothing is left. Of one that runs libvirt shows what it
    could not write."""
    driver, peer = host.driver, host.peer
    folder = "/etc/libvirt/qemu"
    peer.inside("mkdir", "-p", folder)
    with host.unchanged():
        with peer.small(folder, 64 << 10):
            running = host.made(host.empty())
            peer.inside("sh", "-c", spoil.format(folder), check=False)
            with host.unchanged(), pytest.raises(kind):
                host.made(host.empty(start=False))
            with host.unchanged(), pytest.raises(errors.OutcomeUnknown) as unknown:
                driver.set_metadata(running.uuid, {"a": "b"})
            assert unknown.value.hint
            assert running.info.metadata == {"a": "b"}
            spec = host.empty()
            with pytest.raises(kind, match=r"space|Read-only") as refused:
                host.made(spec)
            assert "restart libvirtd" in (refused.value.hint or "")
            peer.inside("mount", "-o", "remount,rw", folder)
            driver.destroy(running.uuid)
        assert driver.list_instances() == []
        assert peer.qemu_pid(str(spec.uuid))
        peer.restart()
        driver.destroy(spec.uuid)


@pytest.mark.parametrize("room", [1 << 20, 5 << 19], ids=["little", "more than the disk itself"])
def test_disks_that_are_kept(host: Host, tmp_path: Path, room: int) -> None:
    """There is room for one of two: neither has been kept, and the instance is there. A copy stands
    alone, so it takes what the image has too."""
    driver = host.driver
    spec = host.spec(
        image=large(tmp_path),
        flavor=Flavor(vcpus=1, memory_mib=64, ephemeral_gib=1),
        start=False,
    )
    driver.spawn(spec)
    give_back = filled(host, room)
    with host.unchanged(), pytest.raises(errors.InsufficientResources) as refused:
        driver.destroy(spec.uuid, keep=set(Keep))
    assert refused.value.hint
    assert driver.get_instance(spec.uuid).state is InstanceState.STOPPED
    assert driver.list_volumes() == []
    give_back()
    driver.destroy(spec.uuid, keep=set(Keep))
    kept = [each.volume_id for each in driver.list_volumes()]
    assert len(kept) == 2
    for each in kept:
        driver.delete_volume(each)


def test_a_copy_whose_tables_find_no_room(host: Host, tmp_path: Path) -> None:
    """What was written before is removed with the failure: the room that is there afterwards is
    more than the disk's content takes."""
    driver, small = host.driver, Flavor(vcpus=1, memory_mib=64, disk_gib=1)
    spec = host.spec(image=image(tmp_path), flavor=small, start=False)
    driver.spawn(spec)
    give_back = filled(host, 256 << 10)
    other = small.model_copy(update={"vcpus": 2, "disk_gib": 2})
    with host.unchanged(), pytest.raises(errors.InsufficientResources) as refused:
        driver.prepare_move(spec.uuid, flavor=other)
    assert refused.value.hint
    give_back()
    driver.prepare_move(spec.uuid, flavor=other)
    driver.revert_move(spec.uuid)
    driver.destroy(spec.uuid)


def test_a_copy_that_stands_alone_of_a_disk_over_an_image(host: Host, tmp_path: Path) -> None:
    """The disk itself takes little, and what it stands on much."""
    driver, small = host.driver, Flavor(vcpus=1, memory_mib=64)
    spec = host.spec(image=large(tmp_path), flavor=small, start=False)
    driver.spawn(spec)
    give_back = filled(host, 5 << 19)
    other = small.model_copy(update={"vcpus": 2})
    with host.unchanged(), pytest.raises(errors.InsufficientResources) as refused:
        driver.prepare_move(spec.uuid, flavor=other)
    assert refused.value.hint
    give_back()
    driver.destroy(spec.uuid)


def test_a_resize_that_finds_no_room(host: Host, tmp_path: Path) -> None:
    """A larger root disk takes its tables at once, and never more than the pool has in all. The
    machine keeps its size; other sizes need no room."""
    driver, small = host.driver, Flavor(vcpus=1, memory_mib=64, disk_gib=1)
    spec = host.spec(image=image(tmp_path), flavor=small, start=False)
    driver.spawn(spec)
    give_back = filled(host, 0)
    for disk in (2, 1 << 20):
        wanted = small.model_copy(update={"vcpus": 2, "disk_gib": disk})
        with host.unchanged(), pytest.raises(errors.InsufficientResources) as refused:
            driver.resize(spec.uuid, wanted)
        assert refused.value.hint
        assert driver.get_instance(spec.uuid).flavor == small
    larger = small.model_copy(update={"vcpus": 2, "memory_mib": 96})
    driver.resize(spec.uuid, larger)
    assert driver.get_instance(spec.uuid).flavor == larger
    give_back()
    driver.resize(spec.uuid, larger.model_copy(update={"disk_gib": 2}))
    driver.destroy(spec.uuid)


def test_no_room_for_the_variables_of_uefi(host: Host, tmp_path: Path) -> None:
    """QEMU has not begun: nothing has been lost sight of, and nothing is to be restarted."""
    wanted = image(tmp_path)
    host.driver.cache_image(wanted)
    give_back = filled(host, 256 << 10)
    spec = host.empty(image=wanted, firmware=Firmware.UEFI)
    with host.unchanged(), pytest.raises(errors.InsufficientResources) as refused:
        host.driver.spawn(spec)
    assert refused.value.hint
    assert "restart" not in refused.value.hint
    give_back()
    host.driver.spawn(spec)
    host.driver.destroy(spec.uuid)


def test_a_replacement_that_finds_no_room(host: Host, tmp_path: Path) -> None:
    """QEMU's copy ends by itself; the volume stays where it was."""
    driver = host.driver
    spec = host.empty(image=image(tmp_path))
    driver.spawn(spec)
    old, new = (
        driver.create_volume(VolumeSpec(name=n, size_bytes=8 << 20)) for n in ("old", "new")
    )
    path = host.raw.pools.disk_path(next(n for n in names(host) if old.volume_id in n))
    file = f"{host.peer.host_root}{path}"
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4M", file]
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
    driver.attach_volume(spec.uuid, VolumeAttachment(volume=old))
    give_back = filled(host, 0)
    replacement = VolumeAttachment(volume=new)
    with host.unchanged(), pytest.raises(errors.InsufficientResources) as refused:
        driver.swap_volume(spec.uuid, old.volume_id, replacement)
    assert refused.value.hint
    assert [each.volume_id for each in driver.get_instance(spec.uuid).volumes] == [old.volume_id]
    give_back()
    driver.swap_volume(spec.uuid, old.volume_id, replacement)
    driver.destroy(spec.uuid)
    for each in driver.list_volumes():
        driver.delete_volume(each.volume_id)


@pytest.mark.parametrize("file_format", ["raw", "qcow2"])
def test_a_file_beside_the_pools_that_finds_no_room(
    host: Host, tmp_path: Path, file_format: str
) -> None:
    """As in a pool: a file system that no pool knows is looked at after the failure."""
    driver, folder = host.driver, "/var/lib/libvirt/beside"
    spec = host.empty(image=image(tmp_path))
    driver.spawn(spec)
    old = driver.create_volume(VolumeSpec(name="old", size_bytes=8 << 20))
    path = host.raw.pools.disk_path(next(n for n in names(host) if old.volume_id in n))
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4M", f"{host.peer.host_root}{path}"]
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
    driver.attach_volume(spec.uuid, VolumeAttachment(volume=old))
    host.peer.inside("mkdir", folder)
    with host.peer.small(folder, 2 << 20):
        host.peer.inside("qemu-img", "create", "-f", file_format, f"{folder}/new", "8M")
        new = local(f"{folder}/new", "new", format=file_format)
        pools = host.peer.virsh("pool-list", "--all", "--name")
        with host.unchanged(), pytest.raises(errors.InsufficientResources, match=folder) as refused:
            driver.swap_volume(spec.uuid, old.volume_id, VolumeAttachment(volume=new))
        assert refused.value.hint
        assert host.peer.virsh("pool-list", "--all", "--name") == pools
        shown = driver.get_instance(spec.uuid).volumes
        assert [each.volume_id for each in shown] == [old.volume_id]
    driver.destroy(spec.uuid)
    driver.delete_volume(old.volume_id)


def names(host: Host) -> list[str]:
    return list(host.raw.pools.volumes(host.raw.pools.disks()))
