"""Disks that somebody attaches to our machines, or puts into their folders, without the driver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.simulator.cmdlets.checkpoints import take
from hvdrivers.hyperv.simulator.state.devices import HardDrive, Slot
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.models.image import FileImage
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.volume import VolumeSpec
from tests.integration.hyperv.site import Site, spec

ELSEWHERE = "C:\\data\\theirs.vhdx"


@pytest.fixture(scope="module")
def second(site: Site) -> Iterator[Site]:
    made = Site("HV2", site)
    yield made
    made.close()


def machine_of(site: Site, uuid: UUID) -> Machine:
    return next(each for each in site.host.state.machines.values() if str(uuid) in each.path)


def attached(site: Site, machine: Machine, path: str, parent: str | None = None) -> Path:
    """Make a disk and attach it, as an administrator does; the file."""
    state = site.host.state
    file = state.files.file(path)
    with site.host.world.lock:
        file.parent.mkdir(parents=True, exist_ok=True)
        if parent is None:
            state.disks.create(path, 4 << 20, "Dynamic")
        else:
            state.disks.differencing(path, parent)
        places = {drive.slot.location for drive in machine.config.drives}
        slot = Slot("SCSI", 0, max(places, default=0) + 20)
        machine.config.drives.append(HardDrive(slot, path))
    return file


def test_destroy_leaves_the_disks_of_others(site: Site, image: FileImage) -> None:
    driver = site.driver
    info = driver.spawn(spec(image))
    machine = machine_of(site, info.uuid)
    folder = f"C:\\hv\\instances\\{info.uuid}"
    far = attached(site, machine, ELSEWHERE)
    # where Hyper-V's manager puts a new disk of a machine; the first one is not attached
    with site.host.world.lock:
        site.host.state.disks.create(f"{folder}\\New Disk.vhdx", 4 << 20, "Dynamic")
    attached(site, machine, f"{folder}\\Virtual Hard Disks\\child.vhdx", f"{folder}\\New Disk.vhdx")
    loose = site.host.state.files.file(f"{folder}\\loose.vhdx")
    loose.write_bytes(far.read_bytes())
    with pytest.raises(errors.InvalidRequest):
        driver.create_snapshot(info.uuid, "a")
    with site.host.world.lock:
        point = take(machine, "by hand")
    with pytest.raises(errors.InvalidRequest):
        driver.revert_snapshot(info.uuid, str(point.id))
    driver.destroy(info.uuid)
    driver.destroy(info.uuid)
    assert far.exists()
    saved = [each for each in driver.list_volumes() if str(info.uuid) in each.volume_id]
    assert len(saved) == 3
    disks = site.host.state.disks
    for each in (site.host.drive / "hv" / "volumes").iterdir():
        assert disks.look(f"C:\\hv\\volumes\\{each.name}").parent is None
    again = driver.spawn(spec(image).model_copy(update={"uuid": info.uuid}))
    driver.destroy(again.uuid)
    for volume in saved:
        driver.delete_volume(volume.volume_id)
    assert site.left() == []
    far.unlink()


def test_disks_of_others_do_not_move(site: Site, second: Site, image: FileImage) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    machine = machine_of(site, uuid)
    # of the name that our disk has
    theirs = attached(site, machine, "C:\\data\\root.vhdx")
    target = Destination(host=f"127.0.0.1:{second.service.port}")
    (blocker,) = driver.check_live_migration(uuid, target).blockers
    assert blocker.kind is BlockerKind.STORAGE
    assert "somebody" in blocker.reason
    with pytest.raises(errors.InvalidRequest):
        driver.live_migrate(uuid, target)
    driver.migrate_storage(uuid, "second")
    paths = {drive.path for drive in machine.config.drives}
    assert paths == {"C:\\data\\root.vhdx", f"C:\\hv-second\\{uuid}\\root.vhdx"}
    attached(site, machine, f"C:\\hv-second\\{uuid}\\theirs.vhdx")
    driver.migrate_storage(uuid, "default")
    driver.destroy(uuid)
    assert theirs.exists()
    theirs.unlink()
    (kept,) = driver.list_volumes()
    driver.delete_volume(kept.volume_id)
    assert site.left() == second.left() == []


def test_an_adopted_machine_goes_with_the_disks_that_it_had(site: Site, image: FileImage) -> None:
    driver = site.driver
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    uuid = driver.spawn(spec(image, start=False)).uuid
    with site.host.world.lock:
        config = replace(machine_of(site, uuid).config, drives=[], adapters=[], dvds=[])
        stranger = Machine(host=site.host.state, config=config, path="C:\\elsewhere")
        site.host.state.machines[stranger.id] = stranger
    own = attached(site, stranger, "C:\\elsewhere\\own.vhdx")
    shared = attached(site, stranger, "C:\\elsewhere\\shared.vhdx")
    name = next((site.host.drive / "hv" / "volumes").iterdir()).name
    with site.host.world.lock:
        stranger.config.drives.append(HardDrive(Slot("SCSI", 0, 60), f"C:\\hv\\volumes\\{name}"))
    driver.adopt(stranger.id, name="adopted")
    theirs = attached(site, stranger, ELSEWHERE)
    # another machine is based on one of its disks
    attached(site, machine_of(site, uuid), "C:\\data\\child.vhdx", "C:\\elsewhere\\shared.vhdx")
    driver.destroy(stranger.id)
    assert not own.exists()
    assert theirs.exists()
    assert shared.exists()
    assert [each.volume_id for each in driver.list_volumes()] == [volume.volume_id]
    driver.destroy(uuid)
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


def test_what_a_disk_of_others_is_based_on_stays(site: Site, image: FileImage) -> None:
    driver = site.driver
    cached = driver.cache_image(image)
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    name = next((site.host.drive / "hv" / "volumes").iterdir()).name
    uuid = driver.spawn(spec(image, start=False)).uuid
    machine = machine_of(site, uuid)
    config = machine.config.drives
    own = config.pop()
    attached(site, machine, "C:\\data\\a.vhdx", f"C:\\hv\\images\\{cached.key}.vhdx")
    attached(site, machine, "C:\\data\\b.vhdx", f"C:\\hv\\volumes\\{name}")
    (site.host.state.files.file(own.path)).unlink()
    assert [each.in_use for each in driver.list_cached_images()] == [True]
    with pytest.raises(errors.DeviceBusy):
        driver.evict_image(cached.key)
    with pytest.raises(errors.DeviceBusy):
        driver.delete_volume(volume.volume_id)
    driver.destroy(uuid)
    driver.evict_image(cached.key)
    driver.delete_volume(volume.volume_id)
    assert site.left() == []
