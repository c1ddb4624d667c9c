"""What users of other tools for Hyper-V have reported, tried on this driver."""

from __future__ import annotations

import re
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator import stateserver
from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.machines import set_vm
from hvdrivers.hyperv.simulator.cmdlets.registry import handlers
from hvdrivers.hyperv.simulator.errors import E_SHARING_VIOLATION
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.models.image import FileImage
from hvdrivers.models.instance import Flavor
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import Site, spec


def machine_of(site: Site, uuid: UUID) -> Machine:
    return next(each for each in site.host.state.machines.values() if str(uuid) in each.path)


@pytest.mark.parametrize("cmdlet", ["New-VHD", "Resize-VHD", "Add-VMHardDiskDrive"])
def test_a_disk_that_others_hold_open_for_a_moment(
    site: Site, image: FileImage, cmdlet: str
) -> None:
    """taliesins/terraform-provider-hyperv #188: a scanner or another copy has the template."""
    wanted = spec(image, flavor=Flavor(vcpus=1, memory_mib=64, disk_gib=1))
    site.driver.cache_image(image)
    site.host.state.faults.fail(cmdlet, hresult=E_SHARING_VIOLATION, calls=1)
    try:
        with pytest.raises(errors.DeviceBusy) as busy:
            site.driver.spawn(wanted)
    finally:
        site.host.state.faults.clear()
    assert busy.value.retryable
    assert site.left() == []
    site.driver.destroy(site.driver.spawn(wanted).uuid)
    assert site.left() == []


def test_paths_that_the_host_writes_in_other_letters(site: Site, image: FileImage) -> None:
    """taliesins/terraform-provider-hyperv #50 and #56."""
    driver = site.driver
    info = driver.spawn(spec(image))
    volume = driver.create_volume(VolumeSpec(name="DATA", size_bytes=4 << 20))
    driver.attach_volume(info.uuid, VolumeAttachment(volume=volume))
    before = driver.get_instance(info.uuid)
    machine = machine_of(site, info.uuid)
    for drive in machine.config.drives:
        drive.path = drive.path.upper()
    assert driver.get_instance(info.uuid) == before
    driver.migrate_storage(info.uuid, "second")
    assert driver.get_instance(info.uuid) == before
    for drive in machine.config.drives:
        drive.path = drive.path.upper()
    with pytest.raises(errors.DeviceBusy):
        driver.delete_volume(volume.volume_id)
    with pytest.raises(errors.DeviceBusy):
        driver.evict_image(driver.cache_image(image).key)
    driver.detach_volume(info.uuid, volume.volume_id)
    driver.destroy(info.uuid)
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


def test_a_host_without_automatic_checkpoints(
    site: Site, image: FileImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hashicorp/packer #5371: Windows Server 2016 has no parameter to switch them off; hosts that
    have it make one at each start."""
    told: list[bool] = []

    def noted(call: Call) -> None:
        told.append(call.has("AutomaticCheckpointsEnabled"))
        set_vm(call)

    monkeypatch.setattr(stateserver, "handlers", lambda: {**handlers(), "Set-VM": noted})
    (file,) = site.host.folder.glob("modules/Hyper-V/functions")
    text = file.read_text(encoding="utf-8")
    (newer,) = (line for line in text.splitlines() if "\tSet-VM\t" in line)
    older, count = re.subn(r",(\[[^$]*\])?\$AutomaticCheckpointsEnabled(?=[,)])", "", newer)
    assert count == 1
    site.driver.destroy(_spawned(site, image))
    assert told == [True]
    file.write_text(text.replace(newer, older), encoding="utf-8")
    try:
        with guarded(HypervDriver.connect(site.config)) as driver:
            driver.destroy(driver.spawn(spec(image)).uuid)
    finally:
        file.write_text(text, encoding="utf-8")
    assert told == [True, False]
    assert site.left() == []


def _spawned(site: Site, image: FileImage) -> UUID:
    return site.driver.spawn(spec(image, start=False)).uuid


def test_the_root_disk_boots_whatever_other_disks_there_are(site: Site, image: FileImage) -> None:
    """hashicorp/vagrant #10831, and taliesins/terraform-provider-hyperv #274: a differencing disk
    of another size than its parent."""
    flavor = Flavor(vcpus=1, memory_mib=64, disk_gib=1, ephemeral_gib=1, swap_mib=64)
    for firmware in ("uefi", "bios"):
        uuid = site.driver.spawn(spec(image, flavor=flavor, firmware=firmware)).uuid
        machine = machine_of(site, uuid)
        (root,) = [each for each in machine.config.drives if each.path.endswith("root.vhdx")]
        for step in (None, site.driver.rebuild):
            if step is not None:
                step(uuid, image)
                (root,) = [each for each in machine.config.drives if "root" in each.path]
            if firmware == "uefi":
                assert machine.config.firmware.order[0] == root.id
            else:
                assert (root.slot.bus, root.slot.controller, root.slot.location) == ("IDE", 0, 0)
            assert site.host.state.disks.look(root.path).size == 1 << 30
        assert len(machine.config.drives) == 3
        site.driver.destroy(uuid)
    assert site.left() == []
