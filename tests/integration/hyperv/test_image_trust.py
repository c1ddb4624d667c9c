"""What is on its way to the host, and what is there, passed off as something else."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.image import FileImage, HostImage, ImageFormat
from hvdrivers.models.progress import Phase, Progress
from hvdrivers.models.volume import SmbfsVolume, VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import Site, spec
from tests.integration.hyperv.test_by_hand import attached, machine_of

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


SHARES = {
    "deep": "C:\\hv",
    "All": "C:\\",
    "second": "C:\\hv-second\\",
    "theirs": "C:\\elsewhere",
    "untold": "",
}


def test_a_share_of_this_host_is_no_other_host(site: Site, image: FileImage) -> None:
    """The driver's own files, and disks of machines, under the names that the host's shares give
    them, by whatever name of the server."""
    driver = site.driver
    key = driver.cache_image(image).key
    volume = driver.create_volume(VolumeSpec(name="x", size_bytes=4 << 20, pool="second"))
    thief = driver.spawn(spec(image, start=False)).uuid
    victim = driver.spawn(spec(image, start=False)).uuid
    own = attached(site, machine_of(site, victim), "C:\\elsewhere\\a.vhdx")
    with site.host.world.lock:
        site.host.state.disks.create("C:\\elsewhere\\below.vhdx", 4 << 20, "Dynamic")
        site.host.state.files.file("C:\\far").mkdir()
    attached(site, machine_of(site, victim), "C:\\far\\b.vhdx", "C:\\elsewhere\\below.vhdx")
    site.host.state.shares |= SHARES | {"victim": f"C:\\hv\\instances\\{victim}"}
    try:
        for path in (
            f"\\\\localhost\\deep\\images\\{key}.vhdx",
            "\\\\127.0.0.1\\DEEP\\templates\\a.vhdx",
            "\\\\HV1\\all\\hv\\volumes\\v-x.vhdx",
            "\\\\hv1.example.org\\Victim\\root.vhdx",
            "\\\\an-alias\\second\\v-x.vhdx",
            "\\\\localhost\\theirs\\A.VHDX",
            "\\\\localhost\\all\\elsewhere\\below.vhdx",
            "\\\\localhost\\untold\\a.vhdx",
        ):
            stolen = spec(image).model_copy(update={"image": HostImage(name=path)})
            with pytest.raises(errors.VolumeNotFound, match="share of this host"):
                driver.spawn(stolen)
            attachment = VolumeAttachment(volume=_on_share(path))
            with pytest.raises(errors.VolumeNotFound, match="share of this host"):
                driver.attach_volume(thief, attachment)
        # one of another server, whose share has the name of one of ours: that server is asked, and
        # the session has no credentials for it
        with pytest.raises(errors.PermissionDenied, match="lets this session see no file"):
            driver.attach_volume(
                thief, VolumeAttachment(volume=_on_share("\\\\nas\\theirs\\c.vhdx"))
            )
        with pytest.raises(errors.VolumeNotFound, match="share of this host"):
            driver.rebuild(thief, HostImage(name="\\\\localhost\\theirs\\a.vhdx"))
    finally:
        for name in (*SHARES, "victim"):
            del site.host.state.shares[name]
    disk = HostImage(name="C:\\elsewhere\\a.vhdx")
    with pytest.raises(errors.DeviceBusy):
        driver.spawn(spec(image).model_copy(update={"image": disk}))
    with pytest.raises(errors.DeviceBusy):
        driver.rescue(thief, disk)
    assert driver.get_instance(thief).volumes == ()
    for uuid in (thief, victim):
        driver.destroy(uuid)
    assert own.exists()
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


def test_names_that_windows_reads_in_another_way(site: Site, image: FileImage) -> None:
    driver = site.driver
    victim = driver.spawn(spec(image, start=False)).uuid
    for path in (
        f"\\\\?\\C:\\hv\\instances\\{victim}\\root.vhdx",
        f"\\\\.\\C:\\hv\\instances\\{victim}\\root.vhdx",
        f"\\\\?\\UNC\\localhost\\c\\hv\\instances\\{victim}\\root.vhdx",
        f"\\\\?\\GLOBALROOT\\Device\\Harddisk0\\Partition2\\hv\\instances\\{victim}\\root.vhdx",
        f"C:/hv/instances/{victim}/root.vhdx",
        f"C:\\hv/instances\\{victim}\\root.vhdx",
        f"//localhost/c/hv/instances/{victim}/root.vhdx",
        f"C:\\HVDRIV~1\\instances\\{str(victim)[:6]}~1\\root.vhdx",
        f"C:\\hv.\\instances\\{victim}\\root.vhdx",
        f"C:\\hv \\instances\\{victim}\\root.vhdx",
        f"C:\\hv\\instances\\{victim}\\root.vhdx.",
        f"C:\\hv\\instances\\{victim}\\root.vhdx::$DATA",
        f"C:\\x\\..\\hv\\instances\\{victim}\\root.vhdx",
        f"c:\\\\HV\\instances\\{victim}\\root.vhdx",
        f"C:hv\\instances\\{victim}\\root.vhdx",
        f"\\hv\\instances\\{victim}\\root.vhdx",
        f"..\\instances\\{victim}\\root",
    ):
        stolen = spec(image).model_copy(update={"image": HostImage.model_construct(name=path)})
        with pytest.raises((errors.VolumeNotFound, errors.InvalidRequest)):
            driver.spawn(stolen)
    driver.destroy(victim)
    assert site.left() == []


def _on_share(path: str) -> SmbfsVolume:
    export, _, name = path.replace("\\", "/").rpartition("/")
    data = {"export": export, "name": name, "format": "vhdx"}
    return SmbfsVolume.model_validate({"serial": str(UUID(int=1)), "data": data})
