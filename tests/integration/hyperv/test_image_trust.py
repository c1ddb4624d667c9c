"""What is on its way to the host, and what is there, passed off as something else."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.image import FileImage, HostImage, ImageFormat
from hvdrivers.models.progress import Phase, Progress
from hvdrivers.models.volume import SmbfsVolume, VolumeAttachment
from tests.integration.hyperv.site import Site, spec

MIB = 1 << 20


def test_a_change_that_is_taken_back_before_anybody_looks(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(4 * MIB))
    with path.open("r+b") as file:

        def flip(progress: Progress) -> None:
            if progress.phase is Phase.UPLOAD and progress.done in {MIB, 4 * MIB}:
                file.seek(2 * MIB)
                there = file.read(1)[0]
                file.seek(2 * MIB)
                file.write(bytes((there ^ 1,)))
                file.flush()

        with pytest.raises(errors.ImageRejected):
            site.driver.cache_image(FileImage(path=path, format=ImageFormat.RAW), progress=flip)
    assert site.driver.list_cached_images() == []


def test_a_path_that_is_none(site: Site) -> None:
    with pytest.raises(errors.InvalidRequest):
        site.driver.cache_image(FileImage(path=Path("a\0b"), format=ImageFormat.RAW))


def test_disks_of_other_instances(site: Site, image: FileImage) -> None:
    """By path, as an image and as a volume, also where they have moved to another pool."""
    driver = site.driver
    victim, thief = (driver.spawn(spec(image, start=False)).uuid for _ in range(2))

    def refused(*paths: str) -> None:
        for path in paths:
            stolen = spec(image).model_copy(update={"image": HostImage(name=path)})
            with pytest.raises(errors.VolumeNotFound):
                driver.spawn(stolen)
            if path.startswith("\\\\"):
                with pytest.raises(errors.VolumeNotFound):
                    driver.attach_volume(thief, VolumeAttachment(volume=_on_share(path)))
        assert driver.get_instance(thief).volumes == ()

    root = f"hv\\instances\\{victim}\\root.vhdx"
    refused(f"C:\\{root}", f"\\\\localhost\\C$\\{root}", f"\\\\HV1\\c$\\{root}")
    driver.migrate_storage(victim, "second")
    moved = f"{victim}\\root.vhdx"
    assert (site.host.drive / "hv-second" / str(victim) / "root.vhdx").exists()
    refused(f"C:\\hv-second\\{moved}", f"c:\\HV-SECOND\\{moved.upper()}")
    for uuid in (victim, thief):
        driver.destroy(uuid)
    driver.evict_image(driver.list_cached_images()[0].key)


def _on_share(path: str) -> SmbfsVolume:
    export, _, name = path.replace("\\", "/").rpartition("/")
    data = {"export": export, "name": name, "format": "vhdx"}
    return SmbfsVolume.model_validate({"serial": str(UUID(int=1)), "data": data})
