"""Folders that others write into while they are removed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.simulator.cmdlets.removal import LISTED
from hvdrivers.models.image import FileImage
from hvdrivers.models.volume import VolumeSpec
from tests.integration.hyperv.site import Site, held, spec


def _folder(site: Site, uuid: UUID) -> Path:
    return site.host.drive / "hv" / "instances" / str(uuid)


def test_what_comes_into_the_folder_meanwhile_goes_too(site: Site, image: FileImage) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image, start=False)).uuid
    with held(site, LISTED) as release, ThreadPoolExecutor(1) as pool:
        doing = pool.submit(driver.destroy, uuid)
        with release():
            (_folder(site, uuid) / "Snapshots").mkdir(exist_ok=True)
            (_folder(site, uuid) / "Snapshots" / "late.vmrs").write_bytes(b"late")
        doing.result()
    assert site.left() == []


def test_what_is_gone_meanwhile_is_no_error(site: Site, image: FileImage) -> None:
    driver = site.driver
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    file = next((site.host.drive / "hv" / "volumes").iterdir())
    with held(site, LISTED) as release, ThreadPoolExecutor(1) as pool:
        doing = pool.submit(driver.delete_volume, volume.volume_id)
        with release():
            file.unlink()
        doing.result()
    assert site.left() == []


def test_a_file_that_stays_open_is_an_error_that_says_so(site: Site, image: FileImage) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image, start=False)).uuid
    code = 0x80070091
    site.host.state.faults.fail("Remove-Item", "RemoveFileSystemItemIOError", hresult=code)
    try:
        with pytest.raises(errors.DeviceBusy) as caught:
            driver.destroy(uuid)
    finally:
        site.host.state.faults.clear()
    assert caught.value.retryable
    assert "openfiles" in (caught.value.hint or "")
    driver.destroy(uuid)
    assert site.left() == []


@pytest.mark.parametrize("code", [0x80070020, 0x80070005, 0x80070091])
def test_a_file_that_is_open_for_a_moment_is_no_error(
    site: Site, image: FileImage, code: int
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image, start=False)).uuid
    rule = site.host.state.faults.fail(
        "Remove-Item", "RemoveFileSystemItemIOError", hresult=code, calls=(1, 2)
    )
    try:
        driver.destroy(uuid)
    finally:
        site.host.state.faults.clear()
    assert rule.seen > 2
    assert site.left() == []
