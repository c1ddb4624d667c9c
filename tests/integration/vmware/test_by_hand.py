"""What people do on the server beside the driver: to volumes, images and templates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.driverkit import Undo, cut_after, cut_before
from hvdrivers.driverkit.seam import Fault
from hvdrivers.models.image import HostImage, ImageFormat, ImageRef
from hvdrivers.models.instance import Flavor
from hvdrivers.models.vif import NetworkVif
from hvdrivers.models.volume import (
    DiskBus,
    DiskQos,
    PoolData,
    PoolVolume,
    VolumeAttachment,
    VolumeSpec,
)
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.devices import (
    Slots,
    adding,
    by_address,
    capacity_of,
    editing,
    file_of,
    removing,
)
from hvdrivers.vmware.driver import VmwareDriver
from hvdrivers.vmware.specs import disk_at
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer

VOLUMES = "[LocalDS_0] hvdrivers/volumes"
MIB = 1 << 20


@pytest.fixture
def server(driver: VmwareDriver) -> Iterator[RawServer]:
    made = RawServer(driver.config)
    yield made
    made.drop()


@pytest.fixture(scope="module")
def vcenter() -> Iterator[VcsimPeer]:
    """A vCenter with a cluster and a host outside of it."""
    with started(lambda: VcsimPeer("vpx", standalone=1)) as peer:
        yield peer
        peer.require_alive()


def named(name: str) -> VolumeAttachment:
    return VolumeAttachment(volume=PoolVolume(data=PoolData(pool="LocalDS_0", name=name)))


def foreign(server: RawServer, driver: VmwareDriver, disk: str) -> Any:
    """A machine of others with a disk that is there, off."""
    slots = Slots()
    controller, unit, _ = slots.disk(DiskBus.SCSI)
    config = vim.vm.ConfigSpec(
        name="foreign",
        guestId="otherGuest",
        numCPUs=1,
        memoryMB=64,
        files=vim.vm.FileInfo(vmPathName="[LocalDS_0]"),
        deviceChange=[*slots.added, adding(disk_at(disk, controller, unit, MIB))],
    )
    folder = server.of(server.datacenter[0], "vmFolder")["vmFolder"]
    pool = vim.ResourcePool(driver.places.get().root_pool._moId, server.instance._stub)
    return server.wait(folder.CreateVM_Task(config, pool))


def attached_by_hand(server: RawServer, machine: Any, path: str, mode: str = "persistent") -> Any:
    """A disk that is there, attached without the driver; its device."""
    slots = Slots(hardware(server, machine))
    controller, unit, _ = slots.disk(DiskBus.SCSI)
    changes = [*slots.added, adding(disk_at(path, controller, unit, MIB, mode=mode))]
    server.wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=changes)))
    return next(d for d in by_address(hardware(server, machine)).values() if file_of(d) == path)


def hardware(server: RawServer, machine: Any) -> Any:
    return server.of(machine, "config.hardware.device")["config.hardware.device"]


def test_volume_that_had_the_name_stays_when_the_reply_is_lost(driver: VmwareDriver) -> None:
    there = driver.create_volume(VolumeSpec(name="dear", size_bytes=MIB))
    with (
        driver.session.seam.cut(cut_after, name="CreateVirtualDisk_Task"),
        pytest.raises(errors.OutcomeUnknown),
    ):
        driver.create_volume(VolumeSpec(name="dear", size_bytes=2 * MIB))
    assert driver.get_volume(there.volume_id).capacity_bytes == MIB
    driver.delete_volume(there.volume_id)


def test_content_of_a_volume_is_no_volume(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    """A guest writes it: opened as a disk it could name any file of the datastore."""
    volume = driver.create_volume(VolumeSpec(name="tenant", size_bytes=MIB))
    text = b'# Disk DescriptorFile\nRW 2048 VMFS "../instances/other/root-flat.vmdk"\n'
    server.file(f"{VOLUMES}/tenant-flat.vmdk", text.ljust(MIB, b"\0"))
    uuid = driver.spawn(spec()).uuid
    for name in ("tenant-flat", "tenant-FLAT", "tenant-delta"):
        with pytest.raises(errors.VolumeNotFound):
            driver.attach_volume(uuid, named(name))
        with pytest.raises(errors.VolumeNotFound):
            driver.get_volume(f"LocalDS_0/{name}")
        with pytest.raises(errors.InvalidRequest):
            driver.create_volume(VolumeSpec(name=name, size_bytes=MIB))
        driver.delete_volume(f"LocalDS_0/{name}")
    assert server.file(f"{VOLUMES}/tenant-flat.vmdk") is not None
    driver.destroy(uuid)
    driver.delete_volume(volume.volume_id)


def test_files_among_the_volumes_that_are_none(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    volume = driver.create_volume(VolumeSpec(name="one", size_bytes=MIB))
    names = ["new\nline.vmdk", ".vmdk", " a .vmdk", "sparse.vmdk", "notes.txt"]
    for name in names:
        server.file(f"{VOLUMES}/{name}", b"KDMV" + bytes(1 << 17))
    assert [each.volume_id for each in driver.list_volumes()] == [volume.volume_id]
    uuid = driver.spawn(spec()).uuid
    with pytest.raises(errors.VolumeNotFound, match="is no virtual disk"):
        driver.attach_volume(uuid, named("sparse"))
    driver.destroy(uuid)
    for name in names:
        driver.files.delete(f"{VOLUMES}/{name}")
    driver.delete_volume(volume.volume_id)


@pytest.mark.parametrize("name", ["n" * 80, "a\n\u2028b"])
def test_snapshots_that_others_name_as_they_like(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, name: str
) -> None:
    uuid = driver.spawn(spec()).uuid
    machine = server.machine(uuid)
    damaged = '{"name": "' + "x" * 70 + '", "memory": false}'
    for description in ("", damaged):
        server.wait(machine.CreateSnapshot_Task(name, description, False, False))
    found = driver.list_snapshots(uuid)
    assert len(found) == 2
    assert all(0 < len(each.name) <= 63 for each in found)
    for each in reversed(found):
        driver.delete_snapshot(uuid, each.id)
    assert driver.list_snapshots(uuid) == []
    driver.destroy(uuid)


def test_files_among_the_images_that_are_none(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    image = HostImage(name="ours")
    driver.files.make_folder("[LocalDS_0] hvdrivers/host-images", parents=True)
    driver.files.create_disk("[LocalDS_0] hvdrivers/host-images/ours.vmdk", MIB)
    uuid = driver.spawn(spec(image=image)).uuid
    before = driver.list_cached_images()
    folders = ["Foo Bar", "UPPER", "x" * 90, "new\nline"]
    for name in folders:
        driver.files.make_folder(f"[LocalDS_0] hvdrivers/images/{name}")
        server.file(f"[LocalDS_0] hvdrivers/images/{name}/disk-5.vmdk", b"none")
    odd = ["new\nline.vmdk", ".vmdk", "\x1b.vmdk"]
    for name in odd:
        server.file(f"[LocalDS_0] hvdrivers/host-images/{name}", b"none")
    assert driver.list_cached_images() == before
    driver.rescue(uuid)  # finds its image among them
    driver.destroy(uuid)
    for name in folders:
        driver.files.delete(f"[LocalDS_0] hvdrivers/images/{name}")
    driver.files.delete("[LocalDS_0] hvdrivers/host-images")


def test_volume_below_somebody_elses_snapshot_is_not_deleted(
    driver: VmwareDriver, server: RawServer
) -> None:
    volume = driver.create_volume(VolumeSpec(name="below", size_bytes=MIB))
    machine = foreign(server, driver, f"{VOLUMES}/below.vmdk")
    server.wait(machine.CreateSnapshot_Task("s", "", False, False))
    with pytest.raises(errors.DeviceBusy):
        driver.delete_volume(volume.volume_id)
    server.wait(machine.RemoveAllSnapshots_Task(True))
    if driver.places.get().is_vcenter:
        machine.MarkAsTemplate()
        with pytest.raises(errors.DeviceBusy):
            driver.delete_volume(volume.volume_id)
    assert [each.volume_id for each in driver.list_volumes()] == [volume.volume_id]
    server.wait(machine.Destroy_Task())
    driver.delete_volume(volume.volume_id)


def test_volume_of_a_machine_on_another_cluster_is_not_deleted(
    vcenter: VcsimPeer, spec: SpecFactory
) -> None:
    with (
        closing(connected(vcenter)) as driver,
        closing(connected(vcenter, compute="DC0_H0")) as far,
    ):
        volume = driver.create_volume(VolumeSpec(name="far", size_bytes=MIB))
        uuid = far.spawn(spec(volumes=(VolumeAttachment(volume=volume),))).uuid
        with pytest.raises(errors.DeviceBusy):
            driver.delete_volume(volume.volume_id)
        far.destroy(uuid)
        driver.delete_volume(volume.volume_id)
        assert driver.list_volumes() == []


@pytest.mark.parametrize("snapshots", [False, True])
def test_destroy_leaves_the_disks_that_others_attached(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, snapshots: bool
) -> None:
    """Destroy_Task deletes every disk of a machine; vSphere's client puts a new one into the folder
    of the machine."""
    uuid = driver.spawn(spec(start=False)).uuid
    found = driver.machines.get(uuid, "config.hardware.device", "config.files.vmPathName")
    home = str(found.row.get("config.files.vmPathName")).rpartition("/")[0]
    driver.files.make_folder("[LocalDS_0] theirs")
    for path in ("[LocalDS_0] theirs/far.vmdk", f"{home}/near.vmdk"):
        driver.files.create_disk(path, MIB)
        attached_by_hand(server, found.obj, path)
    if snapshots:
        server.wait(found.obj.CreateSnapshot_Task("by hand", "", False, False))
    driver.destroy(uuid)
    assert driver.files.exists("[LocalDS_0] theirs/far.vmdk")
    # the machine's folder goes with all that is in it
    (saved,) = [each for each in driver.list_volumes() if str(uuid) in each.volume_id]
    assert saved.capacity_bytes == MIB
    driver.delete_volume(saved.volume_id)
    driver.destroy(driver.spawn(spec(start=False, uuid=uuid)).uuid)
    driver.files.delete("[LocalDS_0] theirs")


@pytest.mark.parametrize("fault", [cut_after, cut_before])
def test_folder_of_another_spawn_stays_when_the_claim_is_lost(
    peer: VcsimPeer, driver: VmwareDriver, server: RawServer, spec: SpecFactory, fault: Fault
) -> None:
    """Of a finished one, and of one that has just begun to fill its folder."""
    with closing(connected(peer)) as other:
        wanted = spec(start=True)
        home = driver.folders.instance(wanted.uuid)
        first = [lambda: other.spawn(wanted), lambda: other.claims.take(wanted.uuid, Undo())]
        for begin in first:

            def rival(name: str, send: Any, waiting: list[Any] = [begin]) -> Any:  # noqa: B006
                if name == "MakeDirectory" and waiting:
                    waiting.pop()()
                    server.file(f"{home}/theirs", b"content")
                return send()

            with (
                driver.session.seam.through(rival),
                driver.session.seam.cut(fault, name="MakeDirectory", repeats=3),
                pytest.raises((errors.OutcomeUnknown, errors.ConnectionFailed)),
            ):
                driver.spawn(wanted)
            assert server.file(f"{home}/theirs") == b"content"
            with pytest.raises((errors.InstanceExists, errors.DeviceBusy)):
                driver.spawn(wanted, timeout=1)
            assert server.file(f"{home}/theirs") == b"content"
            driver.destroy(wanted.uuid)
            assert server.file(f"{home}/theirs") is None


def test_volume_of_a_running_machine_on_another_cluster_is_busy(
    vcenter: VcsimPeer, spec: SpecFactory
) -> None:
    with (
        closing(connected(vcenter)) as driver,
        closing(connected(vcenter, compute="DC0_H0")) as far,
    ):
        volume = driver.create_volume(VolumeSpec(name="once", size_bytes=MIB))
        attachment = VolumeAttachment(volume=volume)
        there = far.spawn(spec(volumes=(attachment,), start=True)).uuid
        here = driver.spawn(spec(start=True)).uuid
        with pytest.raises(errors.DeviceBusy):
            driver.attach_volume(here, attachment)
        with pytest.raises(errors.DeviceBusy):
            driver.spawn(spec(volumes=(attachment,), start=True))
        far.power_off(there)
        driver.attach_volume(here, attachment)
        with pytest.raises(errors.DeviceBusy):
            far.power_on(there)
        driver.destroy(here)
        far.destroy(there)
        driver.delete_volume(volume.volume_id)


@pytest.mark.parametrize("volume", [False, True])
def test_no_snapshot_is_about_a_disk_that_others_attached(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, volume: bool
) -> None:
    """vSphere's client attaches a disk in dependent mode: a revert would take its data back. The
    mode of a volume can be changed by hand too."""
    uuid = driver.spawn(spec(start=False)).uuid
    machine = driver.machines.get(uuid).obj
    before = driver.create_snapshot(uuid, "before")
    if volume:
        driver.create_volume(VolumeSpec(name="theirs", size_bytes=MIB))
        driver.attach_volume(uuid, named("theirs"))
        path = f"{VOLUMES}/theirs.vmdk"
        disks = by_address(hardware(server, machine)).values()
        disk = next(each for each in disks if file_of(each) == path)
        disk.backing.diskMode = "persistent"
        server.wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[editing(disk)])))
    else:
        path = "[LocalDS_0] theirs/disk.vmdk"
        driver.files.make_folder("[LocalDS_0] theirs")
        driver.files.create_disk(path, MIB)
        disk = attached_by_hand(server, machine, path)
    with pytest.raises(errors.InvalidRequest, match="would keep the data"):
        driver.create_snapshot(uuid, "one")
    assert [each.id for each in driver.list_snapshots(uuid)] == [before.id]
    driver.revert_snapshot(uuid, before.id)  # the disk came later: its data stays
    assert path in map(file_of, by_address(hardware(server, machine)).values())
    server.wait(machine.CreateSnapshot_Task("by hand", "", False, False))
    (theirs,) = [each for each in driver.list_snapshots(uuid) if each.id != before.id]
    with pytest.raises(errors.InvalidRequest, match="would come back"):
        driver.revert_snapshot(uuid, theirs.id)
    driver.delete_snapshot(uuid, theirs.id)
    disks = by_address(hardware(server, machine)).values()
    disk = next(each for each in disks if file_of(each) == path)
    server.wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[removing(disk)])))
    if not volume:
        attached_by_hand(server, machine, path, mode="independent_persistent")
    driver.revert_snapshot(uuid, driver.create_snapshot(uuid, "two").id)
    driver.destroy(uuid)
    assert driver.files.exists(path)
    if volume:
        driver.delete_volume("LocalDS_0/theirs")
    else:
        driver.files.delete("[LocalDS_0] theirs")


def moved_by_hand(server: RawServer, machine: Any, disk: Any) -> None:
    """Give a disk another unit, and its old one to a disk of others."""
    controller, unit = disk.controllerKey, disk.unitNumber
    size = disk.capacityInBytes
    again = disk_at(str(file_of(disk)), controller, unit + 4, size, mode=disk.backing.diskMode)
    theirs = disk_at("[LocalDS_0] theirs/disk.vmdk", controller, unit, MIB, key=-2)
    changes = [removing(disk), adding(again), adding(theirs)]
    server.wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=changes)))


@pytest.mark.parametrize("address", ["scsi0:0", "scsi0:1"])
def test_disks_that_somebody_has_moved_to_other_units(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, address: str
) -> None:
    """Another disk at the old unit of the root disk is not the root disk, and not deleted; one at
    that of a volume is not the volume, and not detached."""
    driver.files.make_folder("[LocalDS_0] theirs")
    driver.files.create_disk("[LocalDS_0] theirs/disk.vmdk", MIB)
    volume = driver.create_volume(VolumeSpec(name="mine", size_bytes=MIB))
    uuid = driver.spawn(spec(start=False)).uuid
    driver.attach_volume(uuid, named("mine"))
    machine = driver.machines.get(uuid).obj
    disk = by_address(hardware(server, machine))[address]
    root = str(file_of(by_address(hardware(server, machine))["scsi0:0"]))
    moved_by_hand(server, machine, disk)
    with pytest.raises(errors.InvalidRequest, match="would keep the data"):
        driver.create_snapshot(uuid, "one")
    (attached,) = driver.get_instance(uuid).volumes
    assert attached.volume_id == volume.volume_id
    assert attached.address == ("scsi0:5" if address == "scsi0:1" else "scsi0:1")
    driver.detach_volume(uuid, volume.volume_id)
    there = [file_of(each) for each in by_address(hardware(server, machine)).values()]
    assert f"{VOLUMES}/mine.vmdk" not in there
    assert "[LocalDS_0] theirs/disk.vmdk" in there
    driver.destroy(uuid)
    assert driver.files.exists("[LocalDS_0] theirs/disk.vmdk")
    assert not driver.files.exists(root)
    assert [each.volume_id for each in driver.list_volumes()] == [volume.volume_id]
    driver.delete_volume(volume.volume_id)
    driver.files.delete("[LocalDS_0] theirs")


def replaced_by_hand(server: RawServer, machine: Any, disk: Any, path: str) -> None:
    """Take a disk away, and give its unit to a disk of others."""
    theirs = disk_at(path, disk.controllerKey, disk.unitNumber, MIB, key=-2)
    changes = [removing(disk), adding(theirs)]
    server.wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=changes)))


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("place", ["[LocalDS_0] theirs", "home"])
def test_root_disk_that_is_attached_nowhere(
    driver: VmwareDriver,
    server: RawServer,
    spec: SpecFactory,
    image: ImageRef,
    tmp_path: Path,
    place: str,
    known: bool,
) -> None:
    """A disk of others has its unit: it is not deleted, grown, or read as the root disk."""
    driver.files.make_folder("[LocalDS_0] theirs")
    flavor = Flavor(vcpus=1, memory_mib=64, disk_gib=1)
    uuid = driver.spawn(spec(start=False, flavor=flavor)).uuid
    if known:  # the UUIDs of its disks are written with any change of its devices
        driver.unplug_vif(uuid, driver.plug_vif(uuid, NetworkVif(id="n", network="VM Network")).id)
    found = driver.machines.get(uuid, "config.files.vmPathName")
    home = str(found.row.get("config.files.vmPathName")).rpartition("/")[0]
    path = f"{home if place == 'home' else place}/new.vmdk"
    driver.files.create_disk(path, MIB)
    root = by_address(hardware(server, found.obj))["scsi0:0"]
    replaced_by_hand(server, found.obj, root, path)

    larger = flavor.model_copy(update={"disk_gib": 2})
    target = tmp_path / "image"
    for refused in (
        lambda: driver.resize(uuid, larger),
        lambda: driver.rebuild(uuid, image),
        lambda: driver.snapshot_to_image(uuid, target, ImageFormat.RAW),
        lambda: driver.create_snapshot(uuid, "one"),
    ):
        with pytest.raises((errors.VolumeNotFound, errors.InvalidRequest)) as caught:
            refused()
        assert "disk" in caught.value.message or path in caught.value.message
    assert not target.exists()
    assert driver.get_instance(uuid).flavor.disk_gib == 1
    driver.rescue(uuid, image)
    driver.power_off(uuid)
    driver.unrescue(uuid)
    (disk,) = (d for d in by_address(hardware(server, found.obj)).values() if file_of(d) == path)
    assert capacity_of(disk) == MIB
    if known:
        with pytest.raises(errors.VolumeNotFound):
            driver.power_on(uuid)
        # attached again, wherever, it is the root disk
        server.wait(found.obj.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[removing(disk)])))
        attached_by_hand(server, found.obj, str(file_of(root)))
        driver.resize(uuid, larger)
        driver.power_on(uuid)
        driver.power_off(uuid)
        driver.destroy(uuid)
        assert not driver.files.exists(str(file_of(root)))
    else:
        driver.destroy(uuid)
    if place == "home" and not known:
        (saved,) = driver.list_volumes()
        assert saved.capacity_bytes == MIB
        driver.delete_volume(saved.volume_id)
    elif place != "home":
        assert driver.files.exists(path)
    driver.files.delete("[LocalDS_0] theirs")
    driver.files.delete(home)


@pytest.mark.parametrize("known", [False, True])
def test_volume_that_is_attached_nowhere(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, known: bool
) -> None:
    """A disk of others has its unit: it is not detached, not grown, and not told as the volume."""
    driver.files.make_folder("[LocalDS_0] theirs")
    path = "[LocalDS_0] theirs/new.vmdk"
    driver.files.create_disk(path, MIB)
    volume = driver.create_volume(VolumeSpec(name="gone", size_bytes=MIB))
    other = driver.create_volume(VolumeSpec(name="other", size_bytes=MIB))
    uuid = driver.spawn(spec(start=False)).uuid
    driver.attach_volume(uuid, named("gone"))
    if known:
        driver.unplug_vif(uuid, driver.plug_vif(uuid, NetworkVif(id="n", network="VM Network")).id)
    machine = driver.machines.get(uuid).obj
    disk = by_address(hardware(server, machine))["scsi0:1"]
    replaced_by_hand(server, machine, disk, path)

    assert driver.get_instance(uuid).volumes == ()
    moved = VolumeAttachment(volume=other.model_copy(update={"serial": volume.volume_id}))
    for refused in (
        lambda: driver.extend_volume(uuid, volume.volume_id, 2 * MIB),
        lambda: driver.set_disk_qos(uuid, volume.volume_id, DiskQos(total_iops_sec=100)),
        lambda: driver.reconnect(uuid, volumes=(moved,)),
    ):
        with pytest.raises((errors.VolumeNotFound, errors.InvalidRequest)):
            refused()
    if known:
        driver.detach_volume(uuid, volume.volume_id)
        attached = driver.attach_volume(uuid, named("gone"))
        assert attached.address == "scsi0:2"
        driver.detach_volume(uuid, volume.volume_id)
    else:
        with pytest.raises(errors.InvalidRequest, match="may be another one"):
            driver.detach_volume(uuid, volume.volume_id)
    (there,) = (d for d in by_address(hardware(server, machine)).values() if file_of(d) == path)
    assert capacity_of(there) == MIB
    driver.destroy(uuid)
    assert driver.files.exists(path)
    for each in (volume, other):
        driver.delete_volume(each.volume_id)
    driver.files.delete("[LocalDS_0] theirs")


def test_rescue_disk_that_is_attached_nowhere(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, image: ImageRef
) -> None:
    """unrescue() deletes the rescue disk, and not one of others that has its unit."""
    driver.files.make_folder("[LocalDS_0] theirs")
    path = "[LocalDS_0] theirs/new.vmdk"
    driver.files.create_disk(path, MIB)
    uuid = driver.spawn(spec(start=True)).uuid
    driver.rescue(uuid, image)
    driver.power_off(uuid)
    machine = driver.machines.get(uuid).obj
    disks = by_address(hardware(server, machine)).values()
    rescue = next(each for each in disks if "/rescue-" in str(file_of(each)))
    replaced_by_hand(server, machine, rescue, path)
    driver.unrescue(uuid)
    assert driver.files.exists(path)
    driver.destroy(uuid)
    assert driver.files.exists(path)
    driver.files.delete("[LocalDS_0] theirs")


def test_no_revert_puts_a_disk_back_that_somebody_has_moved(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    uuid = driver.spawn(spec(start=False)).uuid
    machine = driver.machines.get(uuid).obj
    snapshot = driver.create_snapshot(uuid, "before")
    disk = by_address(hardware(server, machine))["scsi0:0"]
    disk.unitNumber = 5
    server.wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[editing(disk)])))
    with pytest.raises(errors.InvalidRequest, match="has moved a disk"):
        driver.revert_snapshot(uuid, snapshot.id)
    driver.destroy(uuid)
