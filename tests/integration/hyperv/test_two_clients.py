"""Two clients at once, each a process of its own: the outcome is that of one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hvdrivers.models.image import FileImage
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import VolumeSpec
from tests.integration.hyperv.client import call
from tests.integration.hyperv.clients import Client
from tests.integration.hyperv.site import SWITCH, Site, spec
from tests.peers.waiting import wait_until


@pytest.fixture
def pair(site: Site) -> Iterator[Client]:
    made = Client(site)
    yield made
    made.close()


def test_both_do_the_same_at_once(site: Site, image: FileImage, pair: Client) -> None:
    driver = site.driver
    driver.destroy(driver.spawn(spec(image)).uuid)  # the image is on the host now
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    nic = HypervVif(id="both", switch=SWITCH)
    for _ in range(3):
        wanted = spec(image)
        uuid = str(wanted.uuid)
        assert pair.both("spawn", spec=wanted.model_dump_json()) == ["InstanceExists", "done"]
        done = ["done", "done"]
        assert pair.both("plug_vif", uuid=uuid, vif=nic.model_dump_json()) == done
        assert pair.both("attach_volume", uuid=uuid, volume=volume.model_dump_json()) == done
        machine = next(each for each in site.host.state.machines.values() if uuid in each.path)
        config = machine.config
        assert (len(config.adapters), len(config.drives)) == (2, 2)
        shown = driver.get_instance(wanted.uuid)
        assert [each.volume_id for each in shown.volumes] == [volume.volume_id]
        assert {each.id for each in shown.vifs} == {wanted.vifs[0].id, "both"}
        assert pair.both("power_off", uuid=uuid) == done
        assert pair.both("detach_volume", uuid=uuid, volume_id=volume.volume_id) == done
        assert pair.both("unplug_vif", uuid=uuid, vif_id="both") == done
        # a name is of one snapshot
        assert pair.both("create_snapshot", uuid=uuid, name="a") == ["InvalidRequest", "done"]
        (point,) = driver.list_snapshots(wanted.uuid)
        assert pair.both("revert_snapshot", uuid=uuid, snapshot_id=point.id) == done
        # the second finds none, and that is no error
        assert pair.both("delete_snapshot", uuid=uuid, snapshot_id=point.id) == done
        assert driver.list_snapshots(wanted.uuid) == []
        assert pair.both("power_on", uuid=uuid) == done
        assert driver.get_instance(wanted.uuid).state is InstanceState.RUNNING
        assert (len(config.adapters), len(config.drives)) == (1, 1)
        assert pair.both("destroy", uuid=uuid) == done
    assert pair.both("delete_volume", volume_id=volume.volume_id) == ["done", "done"]
    assert site.left() == []


def test_a_volume_is_attached_after_the_deletion_has_looked(
    site: Site, image: FileImage, pair: Client
) -> None:
    """One after the other: both never succeed."""
    driver = site.driver
    machine = driver.spawn(spec(image, start=False)).uuid
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    rule = site.host.state.faults.slow("Get-VMHardDiskDrive", after=1.5, calls=1)
    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(call, driver, "delete_volume", {"volume_id": volume.volume_id})
        wait_until(lambda: rule.seen > 0, timeout=60, what="the deletion looks for users")
        given = {"uuid": str(machine), "volume": volume.model_dump_json()}
        attached = pair.ask(["attach_volume", given])
        assert (deleting.result(), attached) == ("done", "VolumeNotFound")
    driver.destroy(machine)
