"""A call of the host that ends after the client that was in it has died: what the next request
puts back stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.image import FileImage
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import SWITCH, Site, held, spec
from tests.integration.hyperv.test_operations import machine_of
from tests.integration.hyperv.test_reconnect import OTHER, STEPS, Wiring, shape, switch
from tests.peers.waiting import wait_until


def late(site: Site, cmdlet: str, change: Callable[[], object], look: Callable[[], object]) -> None:
    """The client dies in a call of the host, which ends while ``look`` is under way, or after it if
    that does not wait for it."""
    counts = site.host.state.faults.counts
    with ExitStack() as stack:
        release = stack.enter_context(held(site, cmdlet))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        doing: Future[object] = pool.submit(change)
        with release():
            site.service.kill_shells()
            assert isinstance(doing.exception(), errors.HypervisorError)
            asked = counts.get("Get-CimAssociatedInstance", 0)
            looking = pool.submit(look)
            wait_until(
                lambda: looking.done() or counts.get("Get-CimAssociatedInstance", 0) > asked,
                timeout=120,
                what="the next request has come as far as it can",
            )
        wait_until(
            lambda: all(each.state == 7 for each in site.host.state.jobs),
            timeout=120,
            what="the host has ended the call",
        )
        looking.result()


@pytest.mark.parametrize("cmdlet", STEPS)
@pytest.mark.parametrize("change", [False, True], ids=["look", "change"])
def test_other_connections(site: Site, image: FileImage, cmdlet: str, change: bool) -> None:
    with switch(site, OTHER):
        wiring = Wiring(site, image)
        driver, uuid = wiring.driver, wiring.uuid

        def look() -> None:
            if change:
                driver.set_metadata(uuid, dict(wiring.info.metadata))
            else:
                driver.get_instance(uuid)

        late(site, cmdlet, wiring.change, look)
        assert shape(site, uuid) == wiring.before
        wiring.expect_old()
        wiring.change()
        wiring.expect_new()
        wiring.end()


REVERT = (
    "Restore-VMSnapshot",
    "Set-VM",
    "Add-VMNetworkAdapter",
    "Connect-VMNetworkAdapter",
    "Set-VMNetworkAdapterVlan",
    "Add-VMHardDiskDrive",
)


@pytest.mark.parametrize("cmdlet", REVERT)
def test_a_revert(site: Site, image: FileImage, cmdlet: str) -> None:
    driver = site.driver
    uuid: UUID = driver.spawn(spec(image, start=False)).uuid
    point = driver.create_snapshot(uuid, "a")
    driver.rename(uuid, "later [1] *")
    driver.plug_vif(uuid, HypervVif(id="later", switch=SWITCH, vlan=7))
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    before, had = driver.get_instance(uuid), names(site, uuid)
    late(
        site,
        cmdlet,
        lambda: driver.revert_snapshot(uuid, point.id),
        lambda: driver.get_instance(uuid),
    )
    assert driver.get_instance(uuid) == before
    assert names(site, uuid) == had
    driver.destroy(uuid)
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


def names(site: Site, uuid: UUID) -> tuple[str, list[tuple[str, str | None, int]], int]:
    """What the host has: the machine's name, its NICs, and the number of its drives."""
    with site.host.world.lock:
        config = machine_of(site, uuid).config
        nics = [(each.name, str(each.switch), each.vlan.access) for each in config.adapters]
        return config.name, sorted(nics), len(config.drives)
