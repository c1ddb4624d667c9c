"""A call of the host that ends after the caller's deadline: nobody can take it back in the middle.

What is told is true: OperationTimeout means that nothing has changed, or OutcomeUnknown that the
host is at work still; then the next request about the instance comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.image import FileImage
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import Volume, VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import SWITCH, Site, spec
from tests.integration.hyperv.test_operations import machine_of

TIMEOUT: Final = 1.0
SOON, LATE = 1.5, 7.0
"""Seconds that a call takes: within what the driver waits for an undo, and beyond."""

Change = Callable[[ComputeDriver, UUID, Volume, float | None], object]
CHANGES: Final[dict[str, Change]] = {
    "Add-VMHardDiskDrive": lambda driver, uuid, volume, timeout: driver.attach_volume(
        uuid, VolumeAttachment(volume=volume), timeout=timeout
    ),
    "Add-VMNetworkAdapter": lambda driver, uuid, _, timeout: driver.plug_vif(
        uuid, HypervVif(id="late", switch=SWITCH), timeout=timeout
    ),
    "Checkpoint-VM": lambda driver, uuid, _, timeout: driver.create_snapshot(
        uuid, "late", timeout=timeout
    ),
}


@pytest.fixture
def slow(site: Site) -> Iterator[Callable[[str, float], None]]:
    rules = site.host.state.faults
    yield lambda cmdlet, seconds: (rules.clear(), rules.slow(cmdlet, before=seconds, calls=1))[0]
    rules.clear()


def shape(site: Site, uuid: UUID) -> tuple[int, int, int]:
    with site.host.world.lock:
        machine = machine_of(site, uuid)
        config = machine.config
        return len(config.drives), len(config.adapters), len(machine.checkpoints)


@pytest.mark.parametrize(
    ("cmdlet", "seconds"),
    [*((cmdlet, SOON) for cmdlet in CHANGES), ("Add-VMHardDiskDrive", LATE)],
)
def test_a_change_that_comes_late(
    site: Site,
    image: FileImage,
    slow: Callable[[str, float], None],
    cmdlet: str,
    seconds: float,
) -> None:
    driver, change = site.driver, CHANGES[cmdlet]
    info = driver.spawn(spec(image))
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    before = shape(site, info.uuid)
    slow(cmdlet, seconds)
    with pytest.raises((errors.OperationTimeout, errors.OutcomeUnknown)) as caught:
        change(driver, info.uuid, volume, TIMEOUT)
    if isinstance(caught.value, errors.OperationTimeout):
        assert shape(site, info.uuid) == before
        assert driver.get_instance(info.uuid) == info
    change(driver, info.uuid, volume, None)
    assert sum(shape(site, info.uuid)) == sum(before) + 1
    shown = driver.get_instance(info.uuid)
    told = len(shown.volumes) + len(shown.vifs) + len(driver.list_snapshots(info.uuid))
    assert told == 2
    driver.destroy(info.uuid)
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


@pytest.mark.parametrize(
    ("cmdlet", "seconds"),
    [("New-VHD", SOON), ("New-VM", SOON), ("Start-VM", SOON), ("New-VM", LATE)],
)
def test_a_spawn_that_comes_late(
    site: Site,
    image: FileImage,
    slow: Callable[[str, float], None],
    cmdlet: str,
    seconds: float,
) -> None:
    driver = site.driver
    driver.destroy(driver.spawn(spec(image)).uuid)  # the image is on the host now
    wanted = spec(image)
    slow(cmdlet, seconds)
    with pytest.raises((errors.OperationTimeout, errors.OutcomeUnknown)) as caught:
        driver.spawn(wanted, timeout=TIMEOUT)
    if isinstance(caught.value, errors.OperationTimeout):
        assert site.left() == []
    driver.spawn(wanted)
    assert len(site.host.state.machines) == 1
    driver.destroy(wanted.uuid)
    assert site.left() == []


@pytest.mark.parametrize("operation", ["rescue", "rebuild"])
def test_a_guest_that_was_switched_off_and_started_again_is_no_nothing(
    site: Site,
    image: FileImage,
    slow: Callable[[str, float], None],
    operation: str,
) -> None:
    driver, counts = site.driver, site.host.state.faults.counts
    uuid = driver.spawn(spec(image, start=True)).uuid
    stops = counts.get("Stop-VM", 0)
    slow("Add-VMHardDiskDrive", SOON)
    with pytest.raises((errors.OperationTimeout, errors.OutcomeUnknown)) as caught:
        getattr(driver, operation)(uuid, image, timeout=TIMEOUT)
    if counts.get("Stop-VM", 0) > stops:
        assert type(caught.value) is errors.OutcomeUnknown
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    driver.destroy(uuid)
    assert site.left() == []
