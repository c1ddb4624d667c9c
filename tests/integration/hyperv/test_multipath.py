"""Several paths to a volume: one disk of the host with Multipath I/O, else one for each path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.host_disks import disk_of
from hvdrivers.hyperv.simulator.state.storage import IscsiSession
from hvdrivers.models.image import FileImage
from hvdrivers.models.volume import parse_connection_info
from tests.integration.hyperv.site import Site, spec
from tests.integration.hyperv.test_host_disks import OTHER_PORTAL, PORTAL, Server, server

__all__ = ["server"]


def _log_in(server: Server, *, multipath: bool) -> None:
    """An administrator logs in over two portals."""
    storage = server.storage
    with server.site.host.world.lock:
        storage.multipath = multipath
        for name, portal in (("s-1", PORTAL), ("s-2", OTHER_PORTAL)):
            storage.sessions[name] = IscsiSession(
                name, server.target.name, portal, 3260, True, multipath
            )
        storage.rescan()


@pytest.fixture(autouse=True)
def _one_path_again(server: Server) -> Iterator[None]:
    yield
    with server.site.host.world.lock:
        server.storage.multipath = True
        server.storage.sessions.clear()
        server.storage.rescan()
    server.nothing_left()


def test_one_disk_of_two_paths(site: Site, image: FileImage, server: Server) -> None:
    _log_in(server, multipath=True)
    uuid = site.driver.spawn(spec(image)).uuid
    site.driver.attach_volume(uuid, server.attachment())
    assert server.disks(uuid) == [server.unit(0)]
    site.driver.destroy(uuid)
    assert set(server.storage.sessions) == {"s-1", "s-2"}


def test_two_disks_of_two_paths(site: Site, image: FileImage, server: Server) -> None:
    _log_in(server, multipath=False)
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    with pytest.raises(errors.NotSupported) as caught:
        driver.attach_volume(uuid, server.attachment())
    assert "Multipath-IO" in (caught.value.hint or "")
    wanted = spec(image, volumes=(server.attachment(),))
    with pytest.raises(errors.NotSupported):
        driver.spawn(wanted)
    assert driver.get_instance(uuid).volumes == ()
    assert server.disks(uuid) == []
    driver.destroy(uuid)


def test_a_second_path_comes_later(site: Site, image: FileImage, server: Server) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    driver.attach_volume(uuid, server.attachment())
    driver.power_off(uuid)
    _log_in(server, multipath=False)
    with pytest.raises(errors.NotSupported):
        driver.power_on(uuid)
    with site.host.world.lock:
        server.storage.sessions.pop("s-2")
        server.storage.sessions.pop("s-1")
        for number, disk in list(server.storage.disks.items()):
            if disk.session in ("s-1", "s-2"):
                del server.storage.disks[number]
    driver.power_on(uuid)
    assert server.disks(uuid) == [server.unit(0)]
    driver.destroy(uuid)


def test_several_paths_that_must_be(site: Site, image: FileImage, server: Server) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    with pytest.raises(errors.NotSupported) as caught:
        site.driver.attach_volume(uuid, server.attachment(enforce_multipath=True))
    assert "enforce_multipath" in (caught.value.hint or "")
    assert site.driver.get_instance(uuid).volumes == ()
    site.driver.destroy(uuid)


def test_several_paths_on_the_fibre_channel_that_must_be() -> None:
    data = {"target_wwn": "5001405a00000001", "target_lun": 0}
    info = {"driver_volume_type": "fibre_channel", "serial": "fc"}
    assert disk_of(parse_connection_info({**info, "data": data})) is not None
    with pytest.raises(errors.NotSupported):
        disk_of(parse_connection_info({**info, "data": {**data, "enforce_multipath": True}}))
