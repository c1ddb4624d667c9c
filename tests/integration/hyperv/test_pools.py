"""Pools, and the driver's folder: where they may be, and when they are not there any more."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.models.image import FileImage
from tests.integration.hyperv.site import Site, spec


def test_a_pool_in_the_folder_that_the_host_chooses(site: Site) -> None:
    driver = HypervDriver.connect(site.config.model_copy(update={"folder": None, "pools": {}}))
    root = driver.session.facts().root
    driver.close()
    shells = len(site.service.shells())
    pools = {"images": f"{root.upper()}\\IMAGES"}
    config = site.config.model_copy(update={"folder": None, "pools": pools})
    with pytest.raises(errors.InvalidRequest) as caught:
        HypervDriver.connect(config)
    assert "a folder of its own" in (caught.value.hint or "")
    assert len(site.service.shells()) == shells


_NEEDS: dict[str, Callable[[ComputeDriver, UUID], object]] = {
    "locks": lambda driver, uuid: driver.power_on(uuid),
    "index": lambda driver, uuid: driver.list_instances(),
    "instances": lambda driver, uuid: driver.get_instance(uuid),
    "images": lambda driver, uuid: driver.list_cached_images(),
}


@pytest.mark.parametrize("folder", list(_NEEDS))
def test_a_folder_that_is_not_there_any_more(site: Site, image: FileImage, folder: str) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image, start=False)).uuid
    there = site.host.drive / "hv" / folder
    away = there.rename(site.host.drive / "away")
    try:
        with pytest.raises(errors.HypervisorFault, match="not there any more") as caught:
            _NEEDS[folder](driver, uuid)
        assert "online" in (caught.value.hint or "")
    finally:
        away.rename(there)
    driver.power_on(uuid)
    driver.destroy(uuid)
    assert site.left() == []
