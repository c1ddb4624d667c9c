"""Several paths to a volume: one disk of the host with Multipath I/O, else one for each path."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.host_disks import disk_of
from hvdrivers.hyperv.simulator.state.storage import IscsiSession, IscsiTarget
from hvdrivers.models.image import FileImage
from hvdrivers.models.volume import VolumeAttachment, parse_connection_info
from tests.integration.hyperv.site import Site, spec
from tests.integration.hyperv.test_host_disks import OTHER_PORTAL, PORTAL, Server, server
from tests.peers.waiting import wait_until

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
        server.storage.multipath = server.storage.multipath_feature = True
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


def both(server: Server, lun: int = 0, **changes: Any) -> VolumeAttachment:
    """The volume as Cinder names it by two portals."""
    paths = {
        "target_portals": [f"{PORTAL}:3260", f"{OTHER_PORTAL}:3260"],
        "target_iqns": [server.target.name] * 2,
        "target_luns": [lun] * 2,
    }
    return server.attachment(lun, **paths | changes)


@pytest.fixture
def paths(server: Server) -> IscsiTarget:
    """The target, with a second portal."""
    server.target.further.append(OTHER_PORTAL)
    return server.target


def portals(server: Server) -> list[str]:
    """Those of the sessions, each of which is persistent and one of several."""
    found = list(server.storage.sessions.values())
    assert all(each.persistent and each.multipath for each in found)
    return sorted(each.portal for each in found)


@pytest.mark.parametrize("enforced", [True, False], ids=["enforced", "offered"])
def test_each_portal_is_logged_in_to_and_out_of(
    site: Site, image: FileImage, server: Server, paths: IscsiTarget, enforced: bool
) -> None:
    driver = site.driver
    assert driver.get_volume_connector().multipath
    one, two = (driver.spawn(spec(image)).uuid for _ in range(2))
    with site.inner.session.seam.counting() as calls:
        driver.attach_volume(one, both(server, enforce_multipath=enforced))
    assert calls == ["hyperv.Attach"]
    driver.attach_volume(two, both(server, 1, enforce_multipath=enforced))
    assert portals(server) == [PORTAL, OTHER_PORTAL]
    assert [server.disks(each) for each in (one, two)] == [[server.unit(0)], [server.unit(1)]]
    assert len(server.storage.disks) == 3
    driver.detach_volume(one, "iscsi-0")
    assert portals(server) == [PORTAL, OTHER_PORTAL]
    with site.inner.session.seam.counting() as calls:
        driver.detach_volume(two, "iscsi-1")
    assert calls == ["hyperv.Detach"]
    server_is_left(server)
    for each in (one, two):
        driver.destroy(each)


def server_is_left(server: Server) -> None:
    """No session, no portal, and no disk but the host's own."""
    storage = server.storage
    assert (storage.sessions, storage.portals, list(storage.disks)) == ({}, {}, [0])


@pytest.mark.parametrize("down", [PORTAL, OTHER_PORTAL], ids=["first", "second"])
def test_a_path_that_is_down(
    site: Site, image: FileImage, server: Server, paths: IscsiTarget, down: str
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    paths.down.add(down)
    with pytest.raises(errors.VolumeNotFound, match="1 of 2 paths") as caught:
        driver.attach_volume(uuid, both(server, enforce_multipath=True))
    assert "enforce_multipath" in (caught.value.hint or "")
    assert driver.get_instance(uuid).volumes == ()
    server_is_left(server)
    driver.attach_volume(uuid, both(server))
    (up,) = {PORTAL, OTHER_PORTAL} - {down}
    assert portals(server) == [up]
    assert server.disks(uuid) == [server.unit(0)]
    # the next volume of the target brings it, once it answers
    paths.down.clear()
    driver.attach_volume(uuid, both(server, 1, enforce_multipath=True))
    assert portals(server) == [PORTAL, OTHER_PORTAL]
    assert len(server.storage.disks) == 3
    driver.destroy(uuid)
    server_is_left(server)


@pytest.mark.parametrize("feature", [True, False], ids=["claims nothing", "no feature"])
def test_a_host_without_multipath(
    site: Site, image: FileImage, server: Server, paths: IscsiTarget, feature: bool
) -> None:
    driver = site.driver
    with site.host.world.lock:
        server.storage.multipath, server.storage.multipath_feature = False, feature
    assert not driver.get_volume_connector().multipath
    uuid = driver.spawn(spec(image)).uuid
    with pytest.raises(errors.NotSupported) as caught:
        driver.attach_volume(uuid, both(server, enforce_multipath=True))
    assert "Install-WindowsFeature Multipath-IO" in (caught.value.hint or "")
    server_is_left(server)
    driver.attach_volume(uuid, both(server))
    assert [each.portal for each in server.storage.sessions.values()] == [PORTAL]
    assert server.disks(uuid) == [server.unit(0)]
    driver.destroy(uuid)
    server_is_left(server)


def test_one_portal_is_no_multipath(site: Site, image: FileImage, server: Server) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    with pytest.raises(errors.VolumeNotFound, match="1 of 2 paths"):
        site.driver.attach_volume(uuid, server.attachment(enforce_multipath=True))
    server_is_left(server)
    site.driver.destroy(uuid)


@pytest.mark.parametrize("which", [1, 2])
def test_who_is_killed_at_a_login_leaves_what_the_next_one_ends(
    site: Site, image: FileImage, server: Server, paths: IscsiTarget, which: int
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    rule = site.host.state.faults.slow("Connect-IscsiTarget", before=3600.0, calls=which)
    try:
        with ThreadPoolExecutor(1) as pool:
            attaching = pool.submit(driver.attach_volume, uuid, both(server))
            wait_until(lambda: rule.seen == which, timeout=60, what="the login")
            site.service.kill_shells()
            with pytest.raises(errors.OutcomeUnknown):
                attaching.result()
            rule.over = True
            site.host.world.notify()
    finally:
        site.host.state.faults.clear()
    driver.attach_volume(uuid, both(server, enforce_multipath=True))
    assert portals(server) == [PORTAL, OTHER_PORTAL]
    driver.destroy(uuid)
    server_is_left(server)


def test_sessions_of_an_administrator_are_counted_and_stay(
    site: Site, image: FileImage, server: Server, paths: IscsiTarget
) -> None:
    _log_in(server, multipath=True)
    uuid = site.driver.spawn(spec(image)).uuid
    site.driver.attach_volume(uuid, both(server, enforce_multipath=True))
    site.driver.detach_volume(uuid, "iscsi-0")
    assert set(server.storage.sessions) == {"s-1", "s-2"}
    site.driver.destroy(uuid)


def test_several_paths_on_the_fibre_channel_that_must_be() -> None:
    data = {"target_wwn": "5001405a00000001", "target_lun": 0}
    info = {"driver_volume_type": "fibre_channel", "serial": "fc"}
    assert disk_of(parse_connection_info({**info, "data": data})) is not None
    with pytest.raises(errors.NotSupported):
        disk_of(parse_connection_info({**info, "data": {**data, "enforce_multipath": True}}))
