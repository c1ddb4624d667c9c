"""What is in use is not deleted: however others name the file, and whether the driver can look."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.models.image import HostImage, ImageFormat
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import (
    IscsiData,
    IscsiVolume,
    PoolData,
    PoolVolume,
    VolumeAttachment,
    VolumeSpec,
)
from tests.integration.libvirt.machines import Host, Machine, local
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until

_MIB = 1 << 20


@pytest.fixture(scope="module")
def own(guest_image: Path) -> Iterator[Host]:
    with LibvirtPeer() as peer, closing(Host(peer, guest_image)) as made:
        yield made


@pytest.fixture
def folder(own: Host) -> str:
    """Where the driver's volumes are, as the host knows it."""
    return own.raw.pools.path(own.raw.pools.disks())


def _qemu_img(own: Host, *arguments: str) -> None:
    """Run it as the host sees its files."""
    enter = ["nsenter", f"--mount=/proc/{own.peer.daemon_pid}/ns/mnt"]
    subprocess.run([*enter, "qemu-img", *arguments], check=True, cwd="/", capture_output=True)


def _overlay(own: Host, base: str, path: str, base_format: str = "qcow2") -> None:
    options = ("-q", "-u", "-f", "qcow2", "-F", base_format, "-b", base)
    _qemu_img(own, "create", *options, path, "1M")


def _refused(call: Callable[[], Any], *, retryable: bool = False) -> None:
    with pytest.raises(errors.DeviceBusy) as busy:
        call()
    assert busy.value.retryable is retryable
    assert busy.value.hint or not retryable


@contextmanager
def _foreign(own: Host, disk: str, *, start: bool, transient: bool = False) -> Iterator[None]:
    """A machine of others with one disk; transient: it has no definition."""
    path = own.peer.root / "foreign.xml"
    path.write_text(
        "<domain type='qemu'><name>foreign</name><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os>"
        f"<devices><disk device='disk' {disk}<target dev='vda' bus='virtio'/></disk></devices>"
        "</domain>"
    )
    own.peer.virsh("create" if transient else "define", str(path))
    if start and not transient:
        own.peer.virsh("start", "foreign")
    try:
        yield
    finally:
        if start:
            own.peer.virsh("destroy", "foreign")
        if not transient:
            own.peer.virsh("undefine", "foreign")


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_disks_of_other_machines(own: Host, folder: str, start: bool) -> None:
    """Named by pool and volume, by another path, over a chain in no pool; as a kernel too."""
    elsewhere = "/var/lib/libvirt/elsewhere"
    own.peer.path(elsewhere).mkdir(exist_ok=True)
    with own.volume(name="used"), own.unchanged():
        name = "hv-volume-used.qcow2"
        _overlay(own, f"{folder}/./{name}", f"{elsewhere}/1.qcow2")
        _overlay(own, "./1.qcow2", f"{elsewhere}/2.qcow2")
        driver = "<driver name='qemu' type='qcow2'/>"
        for disk in (
            f"type='volume'>{driver}<source pool='hvdrivers' volume='{name}'/>",
            f"type='file'>{driver}<source file='{folder}/../disks//{name}'/>",
            f"type='file'>{driver}<source file='{elsewhere}/2.qcow2'/>",
        ):
            with _foreign(own, disk, start=start):
                _refused(lambda: own.driver.delete_volume("used"))
        for number in (1, 2):
            own.peer.path(f"{elsewhere}/{number}.qcow2").unlink()


def test_a_transient_machine_of_others(own: Host, folder: str) -> None:
    """It has no definition to look at: it is in every list, and what it has is in use."""
    driver = own.driver
    with own.volume(name="used") as volume, own.empty_machine() as machine, own.unchanged():
        disk = f"type='file'><driver name='qemu' type='qcow2'/><source file='{folder}/./%s'/>"
        with _foreign(own, disk % "hv-volume-used.qcow2", start=True, transient=True):
            (found,) = driver.list_foreign()
            assert (found.name, found.state) == ("foreign", InstanceState.RUNNING)
            _refused(lambda: driver.delete_volume("used"))
            with pytest.raises(errors.DeviceBusy):
                driver.attach_volume(machine.uuid, VolumeAttachment(volume=volume))
            assert [each.uuid for each in driver.get_metrics()] == [machine.uuid]
            assert driver.get_available_resource().instances == 1
            with suppress(errors.InstanceNotFound):
                driver.destroy(found.uuid)
            assert driver.list_foreign() == [found]
        assert driver.list_foreign() == []


def test_overlays_in_other_spellings(own: Host, folder: str) -> None:
    """The name that an overlay has of its base, as QEMU reads it; symlinks as libvirt follows
    them."""
    name = "hv-volume-base.qcow2"
    inside = own.peer.path(folder)
    links = (inside / "link.qcow2", own.peer.path("/var/lib/libvirt/images") / "link")
    with own.volume(name="base"), own.unchanged():
        for link in links:
            link.symlink_to(f"{folder}/{name}")
        for spelling in (
            f"./{name}",
            f"../disks/{name}",
            f"/var/lib//libvirt/hvdrivers/disks/{name}",
            f"file:{folder}/{name}",
            f'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{folder}/{name}"}}}}',
            f'json:{{"driver":"qcow2","file.driver":"file","file.filename":"{folder}/{name}"}}',
            f"{folder}/link.qcow2",
            "/var/lib/libvirt/images/link",
        ):
            _overlay(own, spelling, f"{folder}/over.qcow2")
            _refused(lambda: own.driver.delete_volume("base"))
            (inside / "over.qcow2").unlink()
        for link in links:
            link.unlink()
        for pool in ("hvdrivers", "default"):
            own.peer.virsh("pool-refresh", pool)


def test_volumes_attached_in_other_spellings(own: Host, folder: str) -> None:
    """To a running machine: they are neither deleted nor attached a second time."""
    inside = own.peer.path(folder)
    with own.empty_machine() as machine, own.empty_machine() as other:
        for name in ("hv-volume-v.raw", "link.raw"):
            volume = own.driver.create_volume(
                VolumeSpec(name="v", size_bytes=_MIB, format=ImageFormat.RAW)
            )
            (inside / "link.raw").symlink_to(f"{folder}/hv-volume-v.raw")
            own.peer.virsh("pool-refresh", "hvdrivers")
            machine.attach(local(f"{folder}//{name}", "by-path"))
            _refused(lambda: own.driver.delete_volume("v"))
            for again in (volume, local(f"{folder}/./hv-volume-v.raw", "again")):
                attachment = VolumeAttachment(volume=again)
                with pytest.raises(errors.DeviceBusy):
                    own.driver.attach_volume(other.uuid, attachment)
            own.driver.power_off(machine.uuid)
            own.driver.detach_volume(machine.uuid, "by-path")
            own.driver.power_on(machine.uuid)
            own.driver.delete_volume("v")
            (inside / "link.raw").unlink()


def test_images_in_use(own: Host, folder: str) -> None:
    """By an overlay in another spelling, and by a machine that runs on the image itself."""
    driver = own.driver
    image = own.empty().image
    assert image is not None
    key = driver.cache_image(image).key
    (content,) = (
        each for each in own.raw.pools.volumes(own.raw.pools.disks()) if f"{key}." in each
    )
    _overlay(own, f"./{content}", f"{folder}/over.qcow2", "raw")
    _refused(lambda: driver.evict_image(key))
    (own.peer.path(folder) / "over.qcow2").unlink()
    source = f"<source pool='hvdrivers' volume='{content}'/><readonly/>"
    disk = f"type='volume'><driver name='qemu' type='raw'/>{source}"
    with _foreign(own, disk, start=True):
        _refused(lambda: driver.evict_image(key))
    assert key in {each.key for each in driver.list_cached_images()}
    driver.evict_image(key)


@contextmanager
def _copying(own: Host, inside: Path) -> Iterator[None]:
    """Another client's copy of a volume that does not come to its end."""
    (inside / "source.raw").write_bytes(os.urandom(_MIB) * 256)
    _qemu_img(own, "convert", "-O", "qcow2", str(inside / "source.raw"), str(inside / "source.q"))
    own.peer.virsh("pool-refresh", "hvdrivers")
    names = ("hvdrivers", "source.q", "copy.q")
    copy = threading.Thread(target=lambda: own.peer.virsh("vol-clone", "--pool", *names))
    copy.start()
    pid = wait_until(lambda: _child(own, "qemu-img"), timeout=30, what="a copy is under way")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        copy.join()
        for name in ("source.raw", "source.q", "copy.q"):
            own.raw.pools.disks().storageVolLookupByName(name).delete(0)


def _child(own: Host, name: str) -> int | None:
    tasks = Path(f"/proc/{own.peer.daemon_pid}/task")
    for pid in " ".join(each.read_text() for each in tasks.glob("*/children")).split():
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                return int(pid)
    return None


def test_a_pool_with_a_job_is_not_looked_past(own: Host, folder: str) -> None:
    """While another client copies in a pool, libvirt does not refresh it: what is new there is
    unknown."""
    driver = own.driver
    inside = own.peer.path(folder)
    with own.volume(name="f"), own.made_empty() as machine:
        with _copying(own, inside):
            (inside / "by-hand.raw").write_bytes(bytes(_MIB))
            _overlay(own, f"{folder}/hv-volume-f.qcow2", f"{folder}/fresh.qcow2")
            _refused(lambda: driver.delete_volume("f"), retryable=True)
            by_hand = VolumeAttachment(volume=PoolVolume(data=PoolData(name="by-hand.raw")))
            _refused(lambda: driver.attach_volume(machine.uuid, by_hand), retryable=True)
        _refused(lambda: driver.delete_volume("f"))
        for name in ("fresh.qcow2", "by-hand.raw"):
            (inside / name).unlink()
        own.peer.virsh("pool-refresh", "hvdrivers")


def test_the_own_pool_stopped_by_hand(own: Host) -> None:
    """It is started again: what it has is neither forgotten nor said to be deleted."""
    driver, peer = own.driver, own.peer
    image = own.empty().image
    assert image is not None
    key = driver.cache_image(image).key
    driver.create_volume(VolumeSpec(name="a", size_bytes=_MIB))
    peer.virsh("pool-destroy", "hvdrivers")
    assert "a" in {each.volume_id for each in driver.list_volumes()}
    peer.virsh("pool-destroy", "hvdrivers")
    assert key in {each.key for each in driver.list_cached_images()}
    peer.virsh("pool-destroy", "hvdrivers")
    driver.delete_volume("a")
    assert not peer.path(own.raw.pools.disk_path("hv-volume-a.qcow2")).exists()


def test_secrets_of_volumes_that_others_have_detached(own: Host) -> None:
    def attached(name: str) -> Machine:
        machine = own.made(own.empty(start=False))
        machine.attach(
            IscsiVolume(
                serial=name,
                data=IscsiData(
                    target_portal="127.0.0.1:3260",
                    target_iqn="iqn.2020-01.org.example:x",
                    target_lun=1,
                    auth_method="CHAP",
                    auth_username="u",
                    auth_password=SecretStr("a password"),
                ),
            )
        )
        own.peer.virsh("detach-disk", str(machine.uuid), "vdb", "--config")
        assert name in own.peer.virsh("secret-list")
        return machine

    with own.unchanged():
        own.driver.destroy(attached("c1").uuid)
        machine = attached("c2")
        own.driver.detach_volume(machine.uuid, "c2")
        assert "c2" not in own.peer.virsh("secret-list")
        own.driver.destroy(machine.uuid)


def test_disks_of_instances_under_another_name(own: Host, folder: str) -> None:
    """The top file of a snapshot, and symlinks, are no volume and no image."""
    driver, peer = own.driver, own.peer
    inside = peer.path(folder)
    with own.made_empty() as machine, own.made_empty() as other:
        (inside / "link.raw").symlink_to(f"{folder}/{machine.uuid}.root")
        disk = f"vda,file={folder}/snap.qcow2,snapshot=external"
        peer.virsh("snapshot-create-as", str(machine.uuid), "s", "--disk-only", "--diskspec", disk)
        for name in ("snap.qcow2", "link.raw"):
            for volume in (
                PoolVolume(data=PoolData(name=name)),
                local(f"{folder}//{name}", "by-path"),
            ):
                attachment = VolumeAttachment(volume=volume)
                with pytest.raises(errors.InvalidRequest, match="instance"):
                    driver.attach_volume(other.uuid, attachment)
            with pytest.raises(errors.InvalidRequest, match="instance"):
                driver.spawn(own.empty(start=False, image=HostImage(name=name)))
        (inside / "link.raw").unlink()
    peer.virsh("pool-refresh", "hvdrivers")
    assert not (inside / "snap.qcow2").exists()


def test_a_disk_of_an_instance_by_a_link_in_no_pool(own: Host, folder: str) -> None:
    """At each operation that takes a file by its path."""
    driver, links = own.driver, "/var/lib/libvirt/links"
    inside = own.peer.path(links)
    inside.mkdir()
    with own.file() as path, own.made_empty() as victim, own.made_empty() as other:
        (inside / "a").symlink_to(f"{folder}/{victim.uuid}.root")
        (inside / "b").symlink_to(f"{links}/a")
        (inside / "c").hardlink_to(own.peer.path(folder) / f"{victim.uuid}.root")
        other.attach(local(path, "v"))
        for name in ("a", "b", "c"):
            linked = VolumeAttachment(volume=local(f"{links}/{name}", "w", format="qcow2"))
            same = VolumeAttachment(volume=local(f"{links}/{name}", "v", format="qcow2"))
            for refused in (
                lambda linked=linked: driver.attach_volume(other.uuid, linked),
                lambda same=same: driver.reconnect(other.uuid, volumes=[same]),
                lambda linked=linked: driver.spawn(own.empty(start=False, volumes=(linked,))),
            ):
                with pytest.raises(errors.InvalidRequest, match="instance") as error:
                    refused()
                assert error.value.hint
        assert [each.volume_id for each in other.info.volumes] == ["v"]
        driver.detach_volume(other.uuid, "v")
        for each in inside.iterdir():
            each.unlink()
    inside.rmdir()


def test_destroy_leaves_what_is_below_a_disk_of_others(own: Host, folder: str) -> None:
    """A machine that others have put on a file of theirs: its base is not the machine's."""
    inside = own.peer.path(folder)
    _qemu_img(own, "create", "-q", "-f", "qcow2", f"{folder}/golden.qcow2", "1M")
    _overlay(own, "golden.qcow2", f"{folder}/changed.qcow2")
    own.peer.virsh("pool-refresh", "hvdrivers")
    machine = own.made(own.empty(start=False))
    path = own.peer.root / "changed.xml"
    document = own.peer.virsh("dumpxml", str(machine.uuid), "--inactive")
    root = f"{folder}/{machine.uuid}.root"
    path.write_text(document.replace(root, f"{folder}/changed.qcow2"))
    own.peer.virsh("define", str(path))
    own.driver.destroy(machine.uuid)
    assert (inside / "golden.qcow2").exists()
    (inside / "golden.qcow2").unlink()
    own.peer.virsh("pool-refresh", "hvdrivers")


def test_a_file_removed_past_libvirt(own: Host, folder: str) -> None:
    driver = own.driver
    for _ in range(2):
        driver.create_volume(VolumeSpec(name="gone", size_bytes=_MIB))
        (own.peer.path(folder) / "hv-volume-gone.qcow2").unlink()
    driver.create_volume(VolumeSpec(name="gone", size_bytes=_MIB))
    with pytest.raises(errors.VolumeExists):
        driver.create_volume(VolumeSpec(name="gone", size_bytes=_MIB))
    driver.delete_volume("gone")


def test_two_pools_on_one_folder(own: Host, folder: str) -> None:
    """Each volume is one volume."""
    driver, peer = own.driver, own.peer
    peer.path("/var/lib/libvirt/alias").symlink_to(folder)
    driver.create_volume(VolumeSpec(name="twin", size_bytes=_MIB))
    peer.virsh("pool-create-as", "alias", "dir", "--target", "/var/lib/libvirt/alias")
    try:
        listed = [each.pool for each in driver.list_volumes() if each.volume_id == "twin"]
        assert listed == ["hvdrivers"]
        with own.made_empty() as machine:
            machine.attach(PoolVolume(data=PoolData(pool="alias", name="hv-volume-twin.qcow2")))
            _refused(lambda: driver.delete_volume("twin"))
        driver.delete_volume("twin")
        driver.delete_volume("twin")
        driver.create_volume(VolumeSpec(name="twin", size_bytes=_MIB))
        driver.delete_volume("twin")
    finally:
        peer.virsh("pool-destroy", "alias")
        peer.path("/var/lib/libvirt/alias").unlink()


def test_a_pool_that_nothing_defines_any_more(own: Host) -> None:
    """It stops nothing but what is in it, and the hint says how to go on."""
    driver, peer = own.driver, own.peer
    target = ("dir", "--target", "/var/lib/libvirt/passing")
    peer.path("/var/lib/libvirt/passing").mkdir()
    with own.unchanged():
        peer.virsh("pool-create-as", "passing", *target)
        for name in ("far", "lost"):
            driver.create_volume(VolumeSpec(name=name, size_bytes=_MIB, pool="passing"))
        peer.virsh("pool-destroy", "passing")
        driver.delete_volume("unknown")
        driver.create_volume(VolumeSpec(name="near", size_bytes=_MIB))
        driver.delete_volume("near")
        hints = {}
        for name in ("far", "lost"):
            for call in (
                lambda: driver.delete_volume(name),  # noqa: B023
                lambda: driver.create_volume(VolumeSpec(name=name, size_bytes=_MIB)),  # noqa: B023
            ):
                with pytest.raises(errors.DeviceBusy) as busy:
                    call()
                hints[name] = str(busy.value.hint)
                assert "pool-create" in hints[name]
                assert "pool-start" not in hints[name]
        peer.virsh(*hints["lost"].rpartition("virsh ")[2].split())
        driver.delete_volume("lost")
        peer.virsh("pool-create-as", "passing", *target)
        driver.delete_volume("far")
        own.raw.pools.named("passing").storageVolLookupByName("hv-volume-lost.qcow2").delete(0)
        peer.virsh("pool-destroy", "passing")


def test_what_no_host_can_hold(own: Host, folder: str) -> None:
    """Too large, a folder, or a disk with a job: the caller's to know, and no fault of the host."""
    driver, peer = own.driver, own.peer
    for size, format_ in ((1 << 60, ImageFormat.RAW), (1 << 62, ImageFormat.QCOW2)):
        with own.unchanged(), pytest.raises(errors.InsufficientResources):
            driver.create_volume(VolumeSpec(name="big", size_bytes=size, format=format_))
    for name in ("folder", "hv-volume-folder.qcow2"):
        (peer.path(folder) / name).mkdir()
    peer.virsh("pool-refresh", "hvdrivers")
    with own.volume(name="job") as volume, own.empty_machine() as machine:
        with pytest.raises(errors.InvalidRequest, match="folder"):
            machine.attach(PoolVolume(data=PoolData(name="folder")))
        with pytest.raises(errors.InvalidRequest, match="folder"):
            driver.spawn(own.empty(image=HostImage(name="folder")))
        with pytest.raises(errors.VolumeNotFound):
            driver.get_volume("folder")
        machine.attach(volume)
        with pytest.raises(errors.InsufficientResources):
            driver.extend_volume(machine.uuid, "job", 1 << 60)
        uuid, target = str(machine.uuid), f"{peer.images}/job.q"
        peer.virsh("blockcopy", uuid, "vdb", target, "--transient-job", "--bandwidth", "1")
        _refused(lambda: driver.extend_volume(machine.uuid, "job", 64 * _MIB), retryable=True)
        peer.virsh("blockjob", uuid, "vdb", "--abort")
        peer.path(target).unlink(missing_ok=True)
        driver.power_off(machine.uuid)
        with pytest.raises(errors.InsufficientResources):
            driver.extend_volume(machine.uuid, "job", 1 << 60)
        driver.detach_volume(machine.uuid, "job")
    for name in ("folder", "hv-volume-folder.qcow2"):
        (peer.path(folder) / name).rmdir()
    peer.virsh("pool-refresh", "hvdrivers")
