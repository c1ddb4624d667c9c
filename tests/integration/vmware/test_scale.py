"""A thousand machines: the number of calls does not know of them, but for the pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.volume import PoolData, PoolVolume, VolumeAttachment
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import connected
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer
from tests.peers.vcsim.array import VcsimArray


def test_a_thousand_machines_are_one_call_and_more_are_pages() -> None:
    with started(lambda: VcsimPeer("vpx", machines=1100)) as peer:
        driver = connected(peer)
        for read in (driver.list_foreign, driver.get_metrics, driver.list_instances):
            with driver.session.seam.counting() as calls:
                found = read()
            # a page holds 1,000 objects, and the resource pool is one of them
            pages = {"RetrievePropertiesEx": 1, "ContinueRetrievePropertiesEx": 1}
            assert Counter(calls) == pages, read
            assert read != driver.list_foreign or len(found) == 1100
        with driver.session.seam.counting() as calls:
            resources = driver.get_available_resource()
        assert set(calls) <= {"RetrievePropertiesEx", "ContinueRetrievePropertiesEx"}
        assert len(calls) <= 3
        assert resources.instances == 0
        _one_among_them(driver, peer)
        _closed(driver, peer)


def _one_among_them(driver: VmwareDriver, peer: VcsimPeer) -> None:
    """What is asked of one machine is one answer, and what others have is the pages of one."""
    uuid = driver.list_foreign()[500].uuid
    driver.folders.ensure()
    # the simulator counts the disks of its machines, and has no room left
    driver.files.create_disk(driver.folders.path("volumes", "one.vmdk"), 1 << 20)
    volume = PoolVolume(data=PoolData(pool="LocalDS_0", name="one"))
    with VcsimArray(peer).export(Capability.VOLUME_ISCSI) as lun:
        costs: dict[str, tuple[Callable[[], object], int]] = {
            "adopt": (partial(driver.adopt, uuid), 0),
            "power off": (partial(driver.power_off, uuid), 0),
            "power on": (partial(driver.power_on, uuid), 0),
            "volume": (partial(driver.attach_volume, uuid, VolumeAttachment(volume=volume)), 1),
            # before the attachment, and after it
            "lun": (partial(driver.attach_volume, uuid, VolumeAttachment(volume=lun)), 2),
            "detach": (partial(driver.detach_volume, uuid, lun.volume_id), 1),
            "get": (partial(driver.get_instance, uuid), 0),
            "volumes": (driver.list_volumes, 0),
            "maintenance": (driver.in_maintenance, 0),
            "off again": (partial(driver.power_off, uuid), 0),
            "on again": (partial(driver.power_on, uuid), 1),
            "destroy": (partial(driver.destroy, uuid), 1),
        }
        for name, (operation, looks) in costs.items():
            with driver.session.seam.counting() as calls:
                operation()
            made = Counter(calls)
            assert made["ContinueRetrievePropertiesEx"] == looks, (name, made)
            assert sum(made.values()) - looks <= 20, (name, made)


def _closed(driver: VmwareDriver, peer: VcsimPeer) -> None:
    """Nothing of this session is left on the server."""
    driver.close()
    left = peer.ask("/objects")
    assert {kind: left[kind] for kind in ("ContainerView", "PropertyFilter")} == {
        "ContainerView": 0,
        "PropertyFilter": 0,
    }
