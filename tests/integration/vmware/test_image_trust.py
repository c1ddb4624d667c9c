"""What is on its way to the server, and what is there, passed off as something else."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.progress import Phase, Progress
from hvdrivers.models.volume import VmdkVolume, VolumeAttachment
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory

MIB = 1 << 20


def test_a_change_that_is_taken_back_before_anybody_looks(
    guarded_driver: ComputeDriver, tmp_path: Path
) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(4 * MIB))
    before = guarded_driver.list_cached_images()
    sent: set[int] = set()
    with path.open("r+b") as file:

        def flip(progress: Progress) -> None:
            if progress.phase is not Phase.UPLOAD or progress.done in sent:
                return
            sent.add(progress.done)
            if progress.done in {MIB, 4 * MIB}:
                file.seek(2 * MIB)
                there = file.read(1)[0]
                file.seek(2 * MIB)
                file.write(bytes((there ^ 1,)))
                file.flush()

        with pytest.raises(errors.ImageRejected):
            guarded_driver.cache_image(FileImage(path=path, format=ImageFormat.RAW), progress=flip)
    assert MIB in sent
    assert guarded_driver.list_cached_images() == before


def test_a_path_that_is_none(guarded_driver: ComputeDriver) -> None:
    with pytest.raises(errors.InvalidRequest):
        guarded_driver.cache_image(FileImage(path=Path("a\0b"), format=ImageFormat.RAW))


def test_disks_of_instances_and_of_images_are_no_volumes_of_cinder(
    driver: VmwareDriver, spec: SpecFactory
) -> None:
    """Its driver names a machine that holds the volume. Any machine has such a name."""
    victim, thief = (driver.spawn(spec()).uuid for _ in range(2))
    server = RawServer(driver.config)
    templates = [
        machine._moId
        for machine, values in server.read(vim.VirtualMachine, "config.template")
        if values["config.template"]
    ]
    assert bool(templates) is driver.places.get().is_vcenter
    for shadow in (server.machine(victim)._moId, *templates):
        volume = VmdkVolume.model_validate({"serial": str(UUID(int=1)), "data": {"volume": shadow}})
        attachment = VolumeAttachment(volume=volume)
        with pytest.raises(errors.VolumeNotFound):
            driver.attach_volume(thief, attachment)
        with pytest.raises(errors.VolumeNotFound):
            driver.spawn(spec(volumes=(attachment,)))
    assert driver.get_instance(thief).volumes == ()
    server.drop()
    for uuid in (victim, thief):
        driver.destroy(uuid)
