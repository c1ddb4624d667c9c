"""An image out of an instance: its content, and what a client that dies leaves."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import Site, spec


def test_a_machine_that_runs_is_copied_below_a_checkpoint(
    site: Site, image: FileImage, tmp_path: Path
) -> None:
    """Its own checkpoints and its volume stay as they are."""
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    point = driver.create_snapshot(uuid, "mine")
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    before = driver.get_instance(uuid)
    for format_ in (ImageFormat.RAW, ImageFormat.VHDX):
        target = tmp_path / format_.value
        info = driver.snapshot_to_image(uuid, target, format_)
        raw = tmp_path / f"{format_.value}.raw"
        command = ["qemu-img", "convert", "-O", "raw", str(target), str(raw)]
        subprocess.run(command, check=True)
        assert raw.stat().st_size == info.virtual_size_bytes
        assert raw.read_bytes().rstrip(b"\0") == b"content"
    assert driver.get_instance(uuid) == before
    assert [each.id for each in driver.list_snapshots(uuid)] == [point.id]
    driver.destroy(uuid)
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


def test_a_client_that_dies_in_the_middle_of_a_copy(
    site: Site, image: FileImage, tmp_path: Path
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    rules = site.host.state.faults
    rules.slow("Convert-VHD", before=600)
    rule = FaultRule(Strike.SHELL_LOST_AFTER, action="Send", contains=b" Export ")
    try:
        with site.service.faults.add(rule), pytest.raises(errors.OutcomeUnknown):
            driver.snapshot_to_image(uuid, tmp_path / "image")
    finally:
        rules.clear()
    assert list(tmp_path.iterdir()) == []
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    driver.snapshot_to_image(uuid, tmp_path / "image")
    assert driver.list_snapshots(uuid) == []
    driver.destroy(uuid)
    assert site.left() == []


class _Stopped(Exception):
    """The caller's own."""


def test_a_copy_whose_removal_loses_its_reply(site: Site, image: FileImage, tmp_path: Path) -> None:
    """Nobody else would remove it for as long as the instance is there."""
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    folder = site.host.drive / "hv" / "instances" / str(uuid)

    def stop(_: object) -> None:
        raise _Stopped

    rule = FaultRule(Strike.SHELL_LOST_AFTER, action="Send", contains=b" ExportDrop ")
    with site.service.faults.add(rule), pytest.raises(_Stopped):
        driver.snapshot_to_image(uuid, tmp_path / "a", ImageFormat.VHDX, progress=stop)
    assert rule.hits == 1
    assert list(folder.glob("export-*")) == []
    # what dead clients have left, and what another one may be reading
    old, fresh = (folder / f"export-{each * 16}.vhdx" for each in "af")
    for each in (old, fresh):
        each.write_bytes(b"a copy")
    before = time.time() - 700
    os.utime(old, (before, before))
    driver.snapshot_to_image(uuid, tmp_path / "a", ImageFormat.VHDX)
    assert list(folder.glob("export-*")) == [fresh]
    driver.destroy(uuid)
    assert site.left() == []
