"""Hosts as they really are: snapshots of others, pools that change, names that are no text."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.image import FileImage, HostImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import DiskBus, PoolData, PoolVolume, VolumeAttachment, VolumeSpec
from tests.integration.libvirt.faults import script
from tests.integration.libvirt.machines import Host
from tests.peers.libvirtd import LibvirtPeer


@pytest.fixture(scope="module")
def own(guest_image: Path) -> Iterator[Host]:
    with LibvirtPeer() as peer, closing(Host(peer, guest_image)) as made:
        yield made


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize("inside", [True, False], ids=["in the pool", "elsewhere"])
def test_snapshots_of_others(own: Host, running: bool, inside: bool) -> None:
    """What a volume, an image or a machine's disk is the base of is in use; destroy() removes what
    stands over the machine's own disks."""
    driver = own.driver
    folder = own.raw.pools.path(own.raw.pools.disks()) if inside else own.peer.images
    with own.unchanged():
        volume = driver.create_volume(VolumeSpec(name="base", size_bytes=1 << 20))
        machine = own.made(own.empty(start=running))
        machine.attach(volume)
        uuid = str(machine.uuid)
        disks = {
            disk.attrib["dev"]: own.peer.virsh("domblklist", uuid)
            for disk in machine.xml(inactive=True).iterfind("devices/disk/target")
        }
        for number in (1, 2):
            specs = [
                f"{device},file={folder}/over-{device}-{number}.qcow2,snapshot=external"
                for device in sorted(disks)
            ]
            options = [option for each in specs for option in ("--diskspec", each)]
            own.peer.virsh("snapshot-create-as", uuid, f"s{number}", "--disk-only", *options)
        with pytest.raises(errors.DeviceBusy) as busy:
            driver.delete_volume("base")
        assert not busy.value.retryable
        (image,) = (each for each in driver.list_cached_images() if each.format == "raw")
        with pytest.raises(errors.DeviceBusy):
            driver.evict_image(image.key)
        driver.destroy(machine.uuid)
        left = {line for line in own.residue() if "over-vda" in line}
        assert not left
        with pytest.raises(errors.DeviceBusy, match="over-vdb-1"):
            driver.delete_volume("base")
        pool = own.raw.pools.disks() if inside else own.raw.pools.named("default")
        for number in (2, 1):
            pool.storageVolLookupByName(f"over-vdb-{number}.qcow2").delete(0)
        driver.delete_volume("base")


def test_what_goes_while_it_is_listed(own: Host) -> None:
    """A volume, and a whole pool of others, between the list and the look at each."""
    driver, peer = own.driver, own.peer
    folder = peer.path(peer.images) / "passing"
    folder.mkdir()
    peer.virsh("pool-define-as", "passing", "dir", "--target", f"{peer.images}/passing")

    def gone(name: str) -> Callable[[str, Callable[[], Any]], Any]:
        def first(_name: str, send: Callable[[], Any]) -> Any:
            if name == "volume":
                own.raw.pools.disks().storageVolLookupByName("hv-volume-b.qcow2").delete(0)
            else:
                peer.virsh("pool-destroy", "passing")
            return send()

        return first

    for call, what in (("StorageVol.XMLDesc", "volume"), ("StoragePool.listAllVolumes", "pool")):
        peer.virsh("pool-start", "passing")
        for each in ("a", "b", "c"):
            driver.create_volume(VolumeSpec(name=each, size_bytes=1 << 20))
        with script(own.raw, call, gone(what)) as seam:
            listed = {each.volume_id for each in driver.list_volumes()}
        assert seam.reached
        assert {"a", "c"} <= listed
        if what == "volume":
            peer.virsh("pool-destroy", "passing")
        for each in ("a", "b", "c"):
            driver.delete_volume(each)
    peer.virsh("pool-undefine", "passing")
    folder.rmdir()


def test_names_that_are_no_text(own: Host) -> None:
    """Files of others, in every pool."""
    driver, peer = own.driver, own.peer
    pools = (own.raw.pools.disks(), own.raw.pools.consoles(), own.raw.pools.named("default"))
    paths = []
    for pool in pools:
        folder = os.fsencode(peer.path(own.raw.pools.path(pool)))
        path = folder + b"/caf\xe9-\xff"
        with open(path, "wb") as file:
            file.write(bytes(4096))
        paths.append(path)
        pool.refresh(0)
    try:
        with own.made_empty() as machine, own.volume() as volume:
            machine.attach(volume)
            assert volume.volume_id in {each.volume_id for each in driver.list_volumes()}
            driver.list_cached_images()
            driver.get_console_log(machine.uuid)
            driver.detach_volume(machine.uuid, volume.volume_id)
        for image in driver.list_cached_images():
            driver.evict_image(image.key)
    finally:
        for path in paths:
            os.unlink(path)
        for pool in pools:
            pool.refresh(0)  # libvirt does so by itself after an upload, at some time of its own


def test_a_record_without_content(own: Host) -> None:
    """Somebody has deleted the content past the driver: the image is not in the cache."""
    driver, peer = own.driver, own.peer
    path = peer.root / "content.raw"
    path.write_bytes(b"\x55\xaa" * 500_000)
    image = FileImage(path=path, format=ImageFormat.RAW)
    for after in ("list", "evict", "cache", "spawn"):
        key = driver.cache_image(image).key
        pool = own.raw.pools.disks()
        (content,) = (
            each for each in pool.listAllVolumes(0) if each.name().startswith(f"hv-image-{key}.")
        )
        content.delete(0)
        if after == "list":
            assert key not in {each.key for each in driver.list_cached_images()}
        elif after == "evict":
            driver.evict_image(key)
        elif after == "cache":
            assert driver.cache_image(image).key == key
            assert key in {each.key for each in driver.list_cached_images()}
        else:
            spec = own.empty(image=image, start=False)
            with pytest.raises(errors.DeviceBusy) as evicted:
                driver.spawn(spec)
            assert evicted.value.retryable
            driver.spawn(spec)
            driver.destroy(spec.uuid)
        driver.evict_image(key)


@pytest.mark.parametrize("at", ["StoragePool.createXML", "Connect.createXML"])
@pytest.mark.parametrize("removed", [True, False], ids=["removed", "emptied"])
def test_an_image_that_is_spoilt_under_a_spawn(own: Host, at: str, removed: bool) -> None:
    """By hand, or by the crash of a host that had not written it yet."""
    driver, peer = own.driver, own.peer
    path = peer.root / "spoilt.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    image = FileImage(path=path, format=ImageFormat.QCOW2)
    key = driver.cache_image(image).key
    folder = peer.path(own.raw.pools.path(own.raw.pools.disks()))
    (content,) = folder.glob(f"hv-image-{key}.*")

    def seam(name: str, send: Callable[[], Any]) -> Any:
        if name == at and content.exists() and content.stat().st_size:
            content.unlink() if removed else content.write_bytes(b"")
        return send()

    spec = own.empty(image=image)
    own.raw.connection.seam = seam
    try:
        kind = errors.DeviceBusy if removed else errors.HypervisorFault
        with (
            own.unchanged(),
            pytest.raises(kind, match="evicted" if removed else "was changed") as refused,
        ):
            driver.spawn(spec)
    finally:
        own.raw.connection.seam = None
    assert refused.value.hint
    if not removed:
        assert f"evict_image('{key}')" in refused.value.hint
        driver.evict_image(key)
    driver.spawn(spec)
    driver.destroy(spec.uuid)
    driver.evict_image(key)


def test_a_file_that_is_copied_into_the_pool(own: Host) -> None:
    folder = own.peer.path(own.raw.pools.path(own.raw.pools.disks()))
    for name in ("by-hand.raw", "by-hand-2.raw"):
        (folder / name).write_bytes(bytes(1 << 20))
    with own.made_empty(image=HostImage(name="by-hand.raw")) as machine:
        machine.attach(PoolVolume(data=PoolData(name="by-hand-2.raw")))
    for name in ("by-hand.raw", "by-hand-2.raw"):
        own.raw.pools.disks().storageVolLookupByName(name).delete(0)


def test_a_pool_that_is_away(own: Host) -> None:
    """Its volumes are not said to be deleted, and their ids are not given away."""
    driver, peer = own.driver, own.peer
    with own.unchanged():
        driver.create_volume(VolumeSpec(name="far", size_bytes=1 << 20, pool="default"))
        peer.virsh("pool-destroy", "default")
        try:
            for call in (
                lambda: driver.delete_volume("far"),
                lambda: driver.create_volume(VolumeSpec(name="far", size_bytes=1 << 20)),
            ):
                with pytest.raises(errors.DeviceBusy, match="default") as busy:
                    call()
                assert not busy.value.retryable
                assert "pool-start" in str(busy.value.hint)
            with pytest.raises(errors.VolumeNotFound, match="not active") as absent:
                driver.create_volume(VolumeSpec(name="x", size_bytes=1 << 20, pool="default"))
            assert not absent.value.retryable
            driver.list_volumes()
        finally:
            peer.virsh("pool-start", "default")
        assert "far" in {each.volume_id for each in driver.list_volumes()}
        driver.delete_volume("far")
        peer.virsh("pool-destroy", "default")
        driver.delete_volume("far")  # nothing of ours is there
        peer.virsh("pool-start", "default")


def test_discards_reach_the_host(own: Host) -> None:
    """As qcow2 of version 2 drops them."""
    driver = own.driver
    volume = driver.create_volume(VolumeSpec(name="v3", size_bytes=1 << 20))
    with own.made_empty() as machine:
        for name in (f"{machine.uuid}.root", "hv-volume-v3.qcow2"):
            path = own.peer.path(own.raw.pools.disk_path(name))
            shown = subprocess.run(["qemu-img", "info", path], capture_output=True, check=True)
            assert b"compat: 1.1" in shown.stdout
    driver.delete_volume(volume.volume_id)


def test_a_file_system_without_direct_io(guest_image: Path) -> None:
    """B6: the refusal names the option, leaves nothing, and with the option machines start."""
    with LibvirtPeer() as peer, closing(Host(peer, guest_image)) as usual:
        if not peer.privileged:
            pytest.skip("precondition missing: root, to mount a file system without O_DIRECT")
        folder = str(PurePosixPath(usual.raw.pools.disk_path("x")).parent)
        peer.inside("mount", "-t", "ramfs", "ramfs", folder)  # has no O_DIRECT
        peer.virsh("pool-refresh", "hvdrivers")
        spec = usual.empty()
        for _ in range(20):
            with pytest.raises(errors.HypervisorFault) as caught:
                usual.driver.spawn(spec)
            assert usual.driver.list_instances() == []
            assert not [line for line in peer.residue() if str(spec.uuid) in line]
            if "monitor socket" not in caught.value.message:
                break  # else the daemon came too late to read QEMU's own words
        assert "Could not open" in caught.value.message
        assert 'disk_cache="writeback"' in (caught.value.hint or "")
        with closing(Host(peer, guest_image, disk_cache="writeback")) as cached:
            assert cached.driver.spawn(spec).state is InstanceState.RUNNING
            cached.driver.destroy(spec.uuid)
        peer.inside("umount", "--lazy", folder)


def test_raw_volumes_of_odd_size(own: Host) -> None:
    driver = own.driver
    odd = VolumeSpec(name="odd", size_bytes=1_000_001, format=ImageFormat.RAW)
    volume = driver.create_volume(odd)
    (listed,) = (each for each in driver.list_volumes() if each.volume_id == "odd")
    assert listed.capacity_bytes == 1_003_520
    with own.empty_machine() as machine:
        driver.attach_volume(machine.uuid, VolumeAttachment(volume=volume))
        driver.power_off(machine.uuid)
        driver.detach_volume(machine.uuid, "odd")
    driver.delete_volume("odd")


def test_what_was_changed_by_hand(own: Host) -> None:
    """get and list say what the hypervisor says."""
    with own.made_empty(flavor=Flavor(vcpus=1, memory_mib=64)) as machine:
        uuid = str(machine.uuid)
        own.peer.virsh("setmaxmem", uuid, "96MiB", "--config")
        own.peer.virsh("setvcpus", uuid, "2", "--maximum", "--config")
        own.peer.virsh("setvcpus", uuid, "2", "--config")  # the former is what it may grow to
        assert machine.state == "stopped"  # compares both
        flavor = machine.info.flavor
        assert (flavor.vcpus, flavor.memory_mib) == (2, 96)


def test_one_qemu_that_hangs(own: Host) -> None:
    """Lists and metrics come all the same, for the others as ever."""
    driver = own.driver
    with own.empty_machine(name="well") as well, own.empty_machine(name="hung") as hung:
        pid = own.peer.qemu_pid(str(hung.uuid))
        os.kill(pid, signal.SIGSTOP)
        try:
            with own.raw.connection.counting() as calls:
                (metrics,) = driver.get_metrics(frozenset({well.uuid}), timeout=20)
            assert calls["Connect.domainListGetStats"] == 1
            assert metrics.disks[0].read_bytes is not None
            for _ in range(3):
                listed = {each.uuid: each for each in driver.list_instances(timeout=20)}
                assert listed[well.uuid] == well.info.summary()
                assert listed[hung.uuid].memory_mib == 64
            found = {each.uuid: each for each in driver.get_metrics(timeout=20)}
            assert found[well.uuid].disks[0].read_bytes is not None
            assert hung.uuid in found
            driver.get_available_resource(timeout=20)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_sata_is_not_plugged_into_a_running_machine(own: Host) -> None:
    with own.volume() as volume, own.empty_machine() as machine:
        attachment = VolumeAttachment(volume=volume, bus=DiskBus.SATA)
        with pytest.raises(errors.NotSupported) as refused:
            own.driver.attach_volume(machine.uuid, attachment)
        assert refused.value.hint
        assert machine.has(volume.volume_id) == (False, False)
        own.driver.power_off(machine.uuid)
        own.driver.attach_volume(machine.uuid, attachment)
        own.driver.power_on(machine.uuid)
        assert machine.has(volume.volume_id) == (True, True)
        own.driver.power_off(machine.uuid)
        own.driver.detach_volume(machine.uuid, volume.volume_id)
