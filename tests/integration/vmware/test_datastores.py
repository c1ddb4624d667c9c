"""Datastores that go while the driver is connected, and datastore clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.events import LifecycleEvent, LifecycleKind, ResyncEvent
from hvdrivers.models.image import ImageRef
from hvdrivers.models.volume import PoolData, PoolVolume, VolumeAttachment, VolumeSpec
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer

MIB = 1 << 20
_PATIENCE = 60.0


@contextmanager
def out_of_reach(peer: VcsimPeer, name: str) -> Iterator[None]:
    """A datastore that no host can reach."""
    peer.ask("/datastore", "POST", name=name, accessible=0)
    try:
        yield
    finally:
        peer.ask("/datastore", "POST", name=name, accessible=1)


def uses(driver: VmwareDriver, spec: SpecFactory) -> list[Callable[[], object]]:
    """Operations that need the datastore."""
    volume = PoolVolume(data=PoolData(name="there"))
    return [
        lambda: driver.spawn(spec()),
        lambda: driver.spawn(
            spec(image=None, volumes=(VolumeAttachment(volume=volume, boot_index=0),))
        ),
        driver.list_cached_images,
        lambda: driver.create_volume(VolumeSpec(name="new", size_bytes=MIB)),
    ]


def test_datastore_that_cannot_be_reached(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory
) -> None:
    """What is on it is not gone: nobody may forget it."""
    uuid = driver.spawn(spec()).uuid
    driver.create_volume(VolumeSpec(name="there", size_bytes=MIB))
    of_volumes = [
        lambda: driver.get_volume("LocalDS_0/there"),
        lambda: driver.delete_volume("LocalDS_0/there"),
    ]
    with out_of_reach(peer, "LocalDS_0"):
        for use in [*uses(driver, spec), *of_volumes]:
            with pytest.raises(errors.InsufficientResources):
                use()
        assert [each.name for each in driver.get_available_resource().storage] == ["LocalDS_1"]
        with pytest.raises(errors.InvalidRequest, match="2 to choose from"):
            connected(peer, datastore=None)
    driver.destroy(uuid)
    driver.delete_volume("LocalDS_0/there")


def test_machine_on_a_datastore_that_cannot_be_reached(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory
) -> None:
    """The server does not tell which machine it is then. It is no machine that has gone."""
    other = driver.spawn(spec()).uuid
    uuid = driver.spawn(spec(name="far")).uuid
    before = {each.uuid: each for each in driver.list_instances()}
    with driver.watch() as events:
        assert isinstance(events.next(_PATIENCE), ResyncEvent)
        with out_of_reach(peer, "LocalDS_0"):
            for use in (driver.get_instance, driver.power_on, driver.destroy):
                with pytest.raises(errors.HypervisorFault, match="cannot read") as raised:
                    use(uuid)
                assert raised.value.retryable
            assert {each.uuid: each for each in driver.list_instances()} == before
            assert {each.uuid for each in driver.get_metrics()} == {uuid, other}
            with pytest.raises(errors.HypervisorFault, match="cannot read"):
                driver.spawn(spec(uuid=uuid))
        driver.power_on(uuid)
        kinds = []
        while LifecycleKind.STARTED not in kinds:
            event = events.next(_PATIENCE)
            assert event is not None
            kinds += [event.kind] if isinstance(event, LifecycleEvent) else []
        assert kinds == [LifecycleKind.STARTED]
    driver.destroy(uuid)
    driver.destroy(other)


def test_datastore_that_is_taken_away(image: ImageRef, spec: SpecFactory) -> None:
    with (
        started(lambda: VcsimPeer("vpx")) as peer,
        closing(connected(peer, datastore="LocalDS_1")) as driver,
    ):
        server = RawServer(driver.config)
        stores = {found["name"]: obj for obj, found in server.read(vim.Datastore, "name")}
        server.wait(stores["LocalDS_1"].Destroy_Task())
        server.drop()
        for use in [*uses(driver, spec), lambda: driver.cache_image(image)]:
            with pytest.raises(errors.VolumeNotFound, match="there is no datastore 'LocalDS_1'"):
                use()
        assert driver.list_instances() == []
        assert driver.list_volumes() == []
        peer.require_alive()


def test_datastore_cluster_is_refused_with_its_datastores() -> None:
    with started(lambda: VcsimPeer("vpx", pods=2)) as peer:
        with pytest.raises(errors.InvalidRequest, match="datastore cluster") as refused:
            connected(peer, datastore="DC0_POD0")
        assert refused.value.hint is not None
        (name,) = [each for each in ("LocalDS_0", "LocalDS_1") if each in refused.value.hint]
        with closing(connected(peer, datastore=name)) as driver:
            assert driver.places.get().datastore == name
        with pytest.raises(errors.InvalidRequest, match="there is no datastore 'other'"):
            connected(peer, datastore="other")
