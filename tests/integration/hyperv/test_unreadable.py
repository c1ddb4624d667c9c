"""What goes while it is looked at, and what others have put there: no list fails for it, and no
operation on anything else."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.state.devices import HardDrive, Slot
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.models.image import FileImage
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import SWITCH, Site, held, spec
from tests.integration.hyperv.test_by_hand import machine_of


def stranger(site: Site, like: Machine, *paths: str) -> Machine:
    """A machine of others with these disks, whether they are there or not."""
    drives = [HardDrive(Slot("SCSI", 0, place), path) for place, path in enumerate(paths)]
    with site.host.world.lock:
        config = replace(like.config, drives=drives, adapters=[], dvds=[])
        made = Machine(host=site.host.state, config=config, path="C:\\elsewhere")
        site.host.state.machines[made.id] = made
    return made


def gone(site: Site, machine: Machine) -> None:
    with site.host.world.lock:
        site.host.state.machines.pop(machine.id, None)


def test_images_that_are_none(site: Site, image: FileImage) -> None:
    driver = site.driver
    entry = driver.cache_image(image)
    folder = site.host.drive / "hv" / "images"
    odd = [folder / f"{name}.vhdx" for name in ("empty", "UPPER", "x" * 100, "a b", "raw-none")]
    for path in odd:
        path.write_bytes(b"")
    assert [each.key for each in driver.list_cached_images()] == [entry.key]
    assert driver.cache_image(image) == entry
    for path in odd:
        path.unlink()
    driver.evict_image(entry.key)


def test_a_disk_that_cannot_be_read(site: Site, image: FileImage) -> None:
    """It may be based on any image: none is deleted, and everything else works."""
    driver = site.driver
    entry = driver.cache_image(image)
    broken = site.host.drive / "hv" / "instances" / str(uuid4()) / "root.vhdx"
    broken.parent.mkdir()
    broken.write_bytes(b"none")
    uuid = driver.spawn(spec(image)).uuid
    assert [each.in_use for each in driver.list_cached_images()] == [True]
    driver.destroy(uuid)
    assert [each.in_use for each in driver.list_cached_images()] == [None]
    with pytest.raises(errors.DeviceBusy, match="cannot be read"):
        driver.evict_image(entry.key)
    broken.unlink()
    broken.parent.rmdir()
    driver.evict_image(entry.key)
    assert site.left() == []


def test_a_chain_of_others_that_is_broken(site: Site, image: FileImage) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    theirs = stranger(site, machine_of(site, uuid), "C:\\data\\gone.avhdx", "C:\\data\\gone.vhdx")
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    with pytest.raises(errors.DeviceBusy):
        driver.delete_volume(volume.volume_id)
    driver.detach_volume(uuid, volume.volume_id)
    driver.delete_volume(volume.volume_id)
    assert driver.list_volumes() == []
    gone(site, theirs)
    driver.destroy(uuid)


@pytest.mark.parametrize("operation", ["get_metrics", "attach_volume", "list_cached_images"])
def test_a_machine_that_is_removed_meanwhile(site: Site, image: FileImage, operation: str) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    other = driver.spawn(spec(image)).uuid
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    calls: dict[str, tuple[Any, ...]] = {
        "attach_volume": (uuid, VolumeAttachment(volume=volume)),
    }
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append(getattr(driver, operation)(*calls.get(operation, ())))
        except errors.HypervisorError as error:
            outcome.append(error)

    cmdlet = "Get-VMNetworkAdapter" if operation == "get_metrics" else "Get-VMHardDiskDrive"
    machine = machine_of(site, other)
    with held(site, cmdlet) as release:
        thread = threading.Thread(target=call)
        thread.start()
        with release():
            # as the manager of the host does it: the driver's own notes of it are left
            gone(site, machine)
        thread.join(120)
    (found,) = outcome
    assert not isinstance(found, errors.HypervisorError), found
    if operation == "get_metrics":
        assert [each.uuid for each in found] == [uuid]
    for each in (uuid, other):
        driver.destroy(each)
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


def test_a_volume_below_a_disk_that_no_machine_has(site: Site) -> None:
    """Somebody has made a differencing disk in a pool, and keeps it for later."""
    driver = site.driver
    volume = driver.create_volume(VolumeSpec(name="below", size_bytes=4 << 20))
    state = site.host.state
    Path(state.files.file("C:\\hv-second\\x")).parent.mkdir(exist_ok=True)
    for overlay in ("C:\\hv\\volumes\\overlay.vhdx", "C:\\hv-second\\V-2.vhdx"):
        with site.host.world.lock:
            state.disks.differencing(overlay, "C:\\hv\\volumes\\v-below.vhdx")
        with pytest.raises(errors.DeviceBusy):
            driver.delete_volume(volume.volume_id)
        state.files.file(overlay).unlink()
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


def test_pools_whose_space_nobody_tells(site: Site) -> None:
    """A share's server does not, nor does a drive that is away: it is not that of another pool."""
    pools = {"second": "C:\\hv-second", "share": "\\\\nas\\vm", "away": "D:\\pool"}
    driver = HypervDriver.connect(site.config.model_copy(update={"pools": pools}))
    try:
        found = driver.get_available_resource().storage
        assert [each.name for each in found] == ["default", "second"]
        assert all(each.total_gib > 0 for each in found)
    finally:
        driver.close()


def test_names_that_are_no_text(site: Site, image: FileImage) -> None:
    """Windows takes them, and a list of all machines must not fail for one of them."""
    driver = site.driver
    uuid, other = (driver.spawn(spec(image, start=False)).uuid for _ in range(2))
    machine = machine_of(site, uuid)
    with site.host.world.lock:
        machine.config.name = "a\uffffb"
    assert {each.uuid: each.name for each in driver.list_instances()} == {
        uuid: "a\ufffdb",
        other: "web-1",
    }
    assert driver.get_instance(uuid).name == "a\ufffdb"
    # of a switch, too, which somebody has renamed
    odd = Switch("two\nlines\0\ufffe\u2028")
    with site.host.world.lock:
        site.host.state.switches[odd.id] = odd
        machine.config.adapters[0].switch = odd.id
    try:
        (nic,) = driver.get_instance(uuid).vifs
        assert nic.device == "two\ufffdlines\ufffd\ufffd\ufffd"
        assert len(driver.get_metrics()) == len(driver.list_instances()) == 2
        lan = HypervVif(id=nic.id, switch=SWITCH)
        driver.reconnect(uuid, vifs=(lan,))
        assert driver.get_instance(uuid).vifs[0].device == SWITCH
    finally:
        del site.host.state.switches[odd.id]
    for each in (uuid, other):
        driver.destroy(each)
