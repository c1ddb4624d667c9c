"""Volumes behind iSCSI and Fibre Channel: disks of the host that an instance gets as they are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.cmdlets.power import turn_off
from hvdrivers.hyperv.simulator.state.devices import HardDrive, Slot
from hvdrivers.hyperv.simulator.state.storage import IscsiSession, IscsiTarget, StorageState
from hvdrivers.models.image import FileImage
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import Volume, VolumeAttachment, parse_connection_info
from tests.integration.hyperv.site import Site, held, spec
from tests.integration.hyperv.test_operations import machine_of

PORTAL, OTHER_PORTAL = "192.0.2.20", "192.0.2.21"
SECRET: Final = "chap-secret-77"
UNIT: Final = 16 << 20
PORT: Final = ("20000025b5aaaa00", "10000025b5aaaa00")


@dataclass
class Server:
    """An iSCSI target with two logical units, and what Cinder would say of them."""

    site: Site
    target: IscsiTarget

    @property
    def storage(self) -> StorageState:
        return self.site.host.state.storage

    def volume(self, lun: int = 0, **changes: Any) -> Volume:
        data = {
            "target_portal": f"{PORTAL}:3260",
            "target_iqn": self.target.name,
            "target_lun": lun,
            "auth_method": "CHAP",
            "auth_username": "operator",
            "auth_password": SECRET,
        }
        info = {"driver_volume_type": "iscsi", "serial": f"iscsi-{lun}"}
        return parse_connection_info({**info, "data": data | changes})

    def attachment(self, lun: int = 0, **changes: Any) -> VolumeAttachment:
        return VolumeAttachment(volume=self.volume(lun, **changes))

    def unit(self, lun: int) -> str:
        return self.target.luns[lun].unique_id

    def disks(self, uuid: UUID) -> list[str]:
        """Unique ids of the host's disks that the machine has now, by their places."""
        with self.site.host.world.lock:
            drives = machine_of(self.site, uuid).config.drives
            passed = [each for each in drives if each.disk_number is not None]
            passed.sort(key=lambda each: each.slot.location)
            disks = self.storage.disks
            return [disks[each.disk_number].unique_id for each in passed]  # type: ignore[index]

    def nothing_left(self) -> None:
        assert self.storage.sessions == {}
        assert self.storage.portals == {}
        assert list(self.storage.disks) == [0]
        assert self.site.left() == []


@pytest.fixture
def server(site: Site, tmp_path: Path) -> Iterator[Server]:
    storage = site.host.state.storage
    files = (tmp_path / "unit-0", tmp_path / "unit-1")
    name = f"iqn.2026-01.org.example:{uuid4().hex[:8]}"
    with site.host.world.lock:
        chap = ("operator", SECRET)
        target = storage.add_target(name, PORTAL, size=UNIT, chap=chap, files=files)
    yield Server(site, target)
    with site.host.world.lock:
        del storage.network[name]


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_comes_and_goes_in_one_request_each(
    site: Site, image: FileImage, server: Server, running: bool
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image, start=running)).uuid
    with site.inner.session.seam.counting() as calls:
        attached = driver.attach_volume(uuid, server.attachment(1))
    assert calls == ["hyperv.Attach"]
    assert driver.get_instance(uuid).volumes == (attached,)
    assert driver.attach_volume(uuid, server.attachment(1)) == attached
    assert server.disks(uuid) == [server.unit(1)]
    assert [each.target for each in server.storage.sessions.values()] == [server.target.name]
    assert all(each.persistent for each in server.storage.sessions.values())
    with site.inner.session.seam.counting() as calls:
        driver.detach_volume(uuid, attached.volume_id)
    assert calls == ["hyperv.Detach"]
    assert driver.get_instance(uuid).volumes == ()
    driver.detach_volume(uuid, attached.volume_id)
    driver.destroy(uuid)
    server.nothing_left()


def test_the_secret_is_kept_nowhere(site: Site, image: FileImage, server: Server) -> None:
    uuid = site.driver.spawn(spec(image, volumes=(server.attachment(),))).uuid
    files = [each for each in site.host.drive.rglob("*") if each.is_file()]
    assert files
    assert [each for each in files if SECRET.encode() in each.read_bytes()] == []
    wrong = server.attachment(1, target_iqn=f"{server.target.name}-other")
    with pytest.raises(errors.VolumeNotFound) as caught:
        site.driver.attach_volume(uuid, wrong)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
    site.driver.destroy(uuid)
    server.nothing_left()


def test_logs_out_when_nobody_uses_the_target(site: Site, image: FileImage, server: Server) -> None:
    driver = site.driver
    one = driver.spawn(spec(image, volumes=(server.attachment(0),))).uuid
    two = driver.spawn(spec(image, volumes=(server.attachment(1),), start=False)).uuid
    assert len(server.storage.sessions) == 1
    driver.detach_volume(one, "iscsi-0")
    assert len(server.storage.sessions) == 1
    assert server.disks(two) == [server.unit(1)]
    driver.destroy(two)
    assert server.storage.sessions == {}
    driver.destroy(one)
    server.nothing_left()


def test_a_login_or_a_disk_of_others_stays(site: Site, image: FileImage, server: Server) -> None:
    driver, storage = site.driver, server.storage
    uuid = driver.spawn(spec(image)).uuid
    # an administrator's login
    session = IscsiSession("s-1", server.target.name, PORTAL, 3260, True, False)
    with site.host.world.lock:
        storage.portals[PORTAL, 3260] = None
        storage.sessions[session.identifier] = session
        storage.rescan()
    driver.attach_volume(uuid, server.attachment())
    driver.detach_volume(uuid, "iscsi-0")
    assert list(storage.sessions) == ["s-1"]
    assert list(storage.portals) == [(PORTAL, 3260)]
    with site.host.world.lock:
        storage.sessions.clear()
        storage.portals.clear()
        storage.rescan()
    # a machine of others has the second unit of a login of ours, and then the host itself
    driver.attach_volume(uuid, server.attachment())
    other = driver.spawn(spec(image, start=False)).uuid
    with site.host.world.lock:
        number = next(n for n, disk in storage.disks.items() if disk.unique_id == server.unit(1))
        drives = machine_of(site, other).config.drives
        drives.append(HardDrive(Slot("SCSI", 0, 9), disk_number=number))
    driver.detach_volume(uuid, "iscsi-0")
    assert len(storage.sessions) == 1
    with site.host.world.lock:
        drives.pop()
        storage.disks[number].offline = False
    driver.attach_volume(uuid, server.attachment())
    driver.detach_volume(uuid, "iscsi-0")
    assert len(storage.sessions) == 1
    with site.host.world.lock:
        storage.disks[number].offline = True
    driver.attach_volume(uuid, server.attachment())
    driver.destroy(uuid)
    driver.destroy(other)
    server.nothing_left()


def test_is_found_again_after_the_host_has_restarted(
    site: Site, image: FileImage, server: Server
) -> None:
    driver = site.driver
    attachments = (server.attachment(0), server.attachment(1))
    uuid = driver.spawn(spec(image, volumes=attachments)).uuid
    before = driver.get_instance(uuid)
    had = server.disks(uuid)
    site.host.restart()
    # the host has not started it: it would have run with the disks exchanged
    assert driver.get_instance(uuid).state is InstanceState.STOPPED
    assert server.disks(uuid) == had[::-1]
    with site.inner.session.seam.counting() as calls:
        driver.power_on(uuid)
    assert calls == ["hyperv.Power"]
    assert sorted(server.disks(uuid)) == sorted(had)
    with site.host.world.lock:
        by_place = {
            each.slot.location: server.storage.disks[each.disk_number].unique_id
            for each in machine_of(site, uuid).config.drives
            if each.disk_number is not None
        }
    places = {
        each.volume_id: each.device.rpartition(":")[2] for each in before.volumes if each.device
    }
    assert by_place[int(places["iscsi-0"])] == server.unit(0)
    assert by_place[int(places["iscsi-1"])] == server.unit(1)
    assert driver.get_instance(uuid) == before
    for volume in before.volumes:
        driver.detach_volume(uuid, volume.volume_id)
    with site.host.world.lock:
        assert machine_of(site, uuid).config.start_action == "StartIfRunning"
    driver.destroy(uuid)
    server.nothing_left()


def test_a_target_that_is_gone_after_a_restart(
    site: Site, image: FileImage, server: Server
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image, volumes=(server.attachment(),))).uuid
    for session in server.storage.sessions.values():
        session.persistent = False
    site.host.restart()
    with pytest.raises(errors.VolumeNotFound):
        driver.power_on(uuid)
    assert [each.volume_id for each in driver.get_instance(uuid).volumes] == ["iscsi-0"]
    # who has the credentials logs in again
    driver.attach_volume(uuid, server.attachment())
    driver.power_on(uuid)
    assert server.disks(uuid) == [server.unit(0)]
    driver.destroy(uuid)
    server.nothing_left()


def _refusals(server: Server) -> dict[str, tuple[VolumeAttachment, type[Exception]]]:
    return {
        "another secret": (
            server.attachment(auth_password="another-secret"),
            errors.VolumeNotFound,
        ),
        "a short secret": (server.attachment(auth_password="short"), errors.InvalidRequest),
        # twelve letters, and nobody knows how many bytes
        "a secret with an umlaut": (
            server.attachment(auth_password="gänsefüßchen"),
            errors.InvalidRequest,
        ),
        "no such unit": (server.attachment(target_lun=7), errors.VolumeNotFound),
        "no such target": (
            server.attachment(target_iqn="iqn.2026-01.org.example:none"),
            errors.VolumeNotFound,
        ),
        "no portal": (
            server.attachment(target_portal=f"{OTHER_PORTAL}:3260"),
            errors.VolumeNotFound,
        ),
    }


@pytest.mark.parametrize(
    "why",
    [
        "another secret",
        "a short secret",
        "a secret with an umlaut",
        "no such unit",
        "no such target",
        "no portal",
    ],
)
def test_what_cannot_be_attached_leaves_nothing(
    site: Site, image: FileImage, server: Server, why: str
) -> None:
    attachment, expected = _refusals(server)[why]
    uuid = site.driver.spawn(spec(image)).uuid
    before = site.driver.get_instance(uuid), site.left()
    with pytest.raises(expected):
        site.driver.attach_volume(uuid, attachment)
    assert (site.driver.get_instance(uuid), site.left()) == before
    assert (server.storage.sessions, server.storage.portals) == ({}, {})
    with pytest.raises(expected):
        site.driver.spawn(spec(image, volumes=(attachment,)))
    site.driver.destroy(uuid)
    server.nothing_left()


def test_another_portal_answers(site: Site, image: FileImage, server: Server) -> None:
    iqn = server.target.name
    several = server.attachment(
        target_portals=[f"{OTHER_PORTAL}:3260", f"{PORTAL}:3260"],
        target_iqns=[iqn, iqn],
        target_luns=[0, 0],
        target_portal=f"{OTHER_PORTAL}:3260",
    )
    uuid = site.driver.spawn(spec(image, volumes=(several,))).uuid
    assert server.disks(uuid) == [server.unit(0)]
    assert list(server.storage.portals) == [(PORTAL, 3260)]
    site.driver.destroy(uuid)
    server.nothing_left()


@pytest.mark.parametrize("how", ["spawn", "attach", "reconnect", "again"])
def test_another_target_answers_and_is_left(
    site: Site, image: FileImage, server: Server, how: str
) -> None:
    """An array has a target for each of its controllers: the login at the second one stayed."""
    storage, first = server.storage, server.target
    with site.host.world.lock:
        other = storage.add_target(
            f"{first.name}:b", OTHER_PORTAL, size=UNIT, chap=("operator", SECRET)
        )
        if how != "reconnect":  # which is about another unit
            other.luns = first.luns
        first.reachable = how == "again"
    changes: dict[str, Any] = {
        "target_portals": [f"{PORTAL}:3260", f"{OTHER_PORTAL}:3260"],
        "target_iqns": [first.name, other.name],
        "target_luns": [0, 0],
    }
    several = server.attachment(**changes)
    driver = site.driver
    try:
        before = ()
        if how == "spawn":
            before = (several,)
        elif how == "reconnect":
            first.reachable = True
            before = (server.attachment(),)
        uuid = driver.spawn(spec(image, start=False, volumes=before)).uuid
        if how in {"attach", "again"}:
            driver.attach_volume(uuid, several)
        if how == "again":  # the host has lost its login, and the first target
            with site.host.world.lock:
                storage.sessions.clear()
                storage.rescan()
                first.reachable = False
            driver.attach_volume(uuid, several)
        if how == "reconnect":
            gone = {
                "target_portals": ["192.0.2.22:3260", f"{OTHER_PORTAL}:3260"],
                "target_iqns": [f"{first.name}:gone", other.name],
                "target_portal": "192.0.2.22:3260",
                "target_iqn": f"{first.name}:gone",
            }
            driver.reconnect(uuid, volumes=[server.attachment(**(changes | gone))])
        assert other.name in {each.target for each in storage.sessions.values()}
        (volume,) = driver.get_instance(uuid).volumes
        driver.power_on(uuid)
        assert server.disks(uuid) == [other.luns[0].unique_id]
        driver.detach_volume(uuid, volume.volume_id)
        assert [each.target for each in storage.sessions.values()] == []
        driver.destroy(uuid)
        server.nothing_left()
    finally:
        with site.host.world.lock:
            del storage.network[other.name]


def test_one_machine_at_a_time(site: Site, image: FileImage, server: Server) -> None:
    driver = site.driver
    one = driver.spawn(spec(image, volumes=(server.attachment(),))).uuid
    two = driver.spawn(spec(image)).uuid
    shared = server.volume().model_copy(update={"multiattach": True})
    for attachment in (server.attachment(), VolumeAttachment(volume=shared)):
        with pytest.raises(errors.DeviceBusy):
            driver.attach_volume(two, attachment)
    driver.power_off(one)
    driver.attach_volume(two, server.attachment())
    with pytest.raises(errors.DeviceBusy):
        driver.power_on(one)
    driver.detach_volume(two, "iscsi-0")
    assert len(server.storage.sessions) == 1
    driver.power_on(one)
    for uuid in (one, two):
        driver.destroy(uuid)
    server.nothing_left()


def test_boots_from_it_and_keeps_it(site: Site, server: Server) -> None:
    driver = site.driver
    boot = server.attachment().model_copy(update={"boot_index": 0})
    wanted = spec(None, volumes=(boot,))
    uuid = driver.spawn(wanted).uuid
    with site.host.world.lock:
        config = machine_of(site, uuid).config
        first = config.firmware.order[0]
        assert [each.disk_number is not None for each in config.drives if each.id == first] == [
            True
        ]
    with pytest.raises(errors.InvalidRequest):
        driver.detach_volume(uuid, "iscsi-0")
    driver.destroy(uuid)
    assert server.target.luns[0].size == UNIT
    server.nothing_left()


def test_grows(site: Site, image: FileImage, server: Server) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image, volumes=(server.attachment(),))).uuid
    with pytest.raises(errors.InvalidRequest):
        driver.extend_volume(uuid, "iscsi-0", 2 * UNIT)
    server.target.luns[0].grow(2 * UNIT)
    with site.inner.session.seam.counting() as calls:
        driver.extend_volume(uuid, "iscsi-0", 2 * UNIT)
    assert calls == ["hyperv.Extend"]
    assert [each.size for number, each in server.storage.disks.items() if number] == [
        2 * UNIT,
        UNIT,
    ]
    with pytest.raises(errors.InvalidRequest):
        driver.extend_volume(uuid, "iscsi-0", UNIT)
    driver.destroy(uuid)
    server.nothing_left()


def test_other_connections(site: Site, image: FileImage, server: Server) -> None:
    driver, storage = site.driver, server.storage
    other = f"{server.target.name}-other"
    with site.host.world.lock:
        moved = storage.add_target(other, OTHER_PORTAL, size=UNIT)
    attachments = (server.attachment(0), server.attachment(1))
    uuid = driver.spawn(spec(image, volumes=attachments, start=False)).uuid
    before = driver.get_instance(uuid)

    def behind(serial: str, attachment: VolumeAttachment) -> VolumeAttachment:
        volume = attachment.volume.model_copy(update={"serial": serial})
        return attachment.model_copy(update={"volume": volume})

    exchanged = (
        behind("iscsi-0", server.attachment(1)),
        behind("iscsi-1", server.attachment(0)),
    )
    with site.inner.session.seam.counting() as calls:
        driver.reconnect(uuid, volumes=exchanged)
    assert calls == ["hyperv.Reconnect"]
    assert server.disks(uuid) == [server.unit(1), server.unit(0)]
    assert driver.get_instance(uuid) == before
    elsewhere = server.attachment(
        0,
        target_iqn=other,
        target_portal=f"{OTHER_PORTAL}:3260",
        auth_method=None,
        auth_username=None,
        auth_password=None,
    )
    missing = elsewhere.model_copy(
        update={"volume": server.volume(9, target_iqn=other, target_portal=f"{OTHER_PORTAL}:3260")}
    )
    with pytest.raises(errors.VolumeNotFound):
        driver.reconnect(uuid, volumes=(behind("iscsi-0", missing),))
    assert list(storage.portals) == [(PORTAL, 3260)]
    with held(site, "Set-VMHardDiskDrive") as release, ThreadPoolExecutor(1) as pool:
        doing = pool.submit(driver.reconnect, uuid, volumes=(behind("iscsi-0", elsewhere),))
        with release():
            site.service.kill_shells()
            assert isinstance(doing.exception(), errors.HypervisorError)
    assert driver.get_instance(uuid) == before
    assert server.disks(uuid) == [server.unit(1), server.unit(0)]
    assert list(storage.portals) == [(PORTAL, 3260)]
    both = (behind("iscsi-0", elsewhere), behind("iscsi-1", server.attachment(1)))
    driver.reconnect(uuid, volumes=both)
    assert server.disks(uuid) == [moved.luns[0].unique_id, server.unit(1)]
    driver.reconnect(uuid, volumes=(behind("iscsi-1", server.attachment(0)),))
    driver.detach_volume(uuid, "iscsi-1")
    assert list(storage.portals) == [(OTHER_PORTAL, 3260)]
    driver.power_on(uuid)
    driver.destroy(uuid)
    with site.host.world.lock:
        del storage.network[other]
    server.nothing_left()


STEPS = ("New-IscsiTargetPortal", "Connect-IscsiTarget", "Set-VM", "Add-VMHardDiskDrive")


@pytest.mark.parametrize("cmdlet", STEPS)
def test_a_client_that_dies_leaves_what_detach_takes_away(
    site: Site, image: FileImage, server: Server, cmdlet: str
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    with held(site, cmdlet) as release, ThreadPoolExecutor(1) as pool:
        doing = pool.submit(driver.attach_volume, uuid, server.attachment())
        with release():
            site.service.kill_shells()
            assert isinstance(doing.exception(), errors.HypervisorError)
    driver.detach_volume(uuid, "iscsi-0")
    assert server.disks(uuid) == []
    driver.attach_volume(uuid, server.attachment())
    assert server.disks(uuid) == [server.unit(0)]
    driver.destroy(uuid)
    server.nothing_left()


@pytest.mark.parametrize("cmdlet", ["Connect-IscsiTarget", "Add-VMHardDiskDrive"])
def test_a_spawn_that_dies_is_cleared_away(
    site: Site, image: FileImage, server: Server, cmdlet: str
) -> None:
    driver = site.driver
    driver.destroy(driver.spawn(spec(image)).uuid)
    wanted = spec(image, volumes=(server.attachment(),))
    calls = 1 if cmdlet == "Connect-IscsiTarget" else 2
    site.host.state.faults.cut(cmdlet, calls=calls)
    with pytest.raises(errors.HypervisorError):
        driver.spawn(wanted)
    site.host.state.faults.clear()
    driver.destroy(wanted.uuid)
    server.nothing_left()
    driver.spawn(wanted)
    driver.destroy(wanted.uuid)
    server.nothing_left()


def test_fibre_channel(site: Site, image: FileImage, tmp_path: Path) -> None:
    storage = site.host.state.storage
    wwn = "50014380186b3f65"
    info = {
        "driver_volume_type": "fibre_channel",
        "serial": "fc-1",
        "data": {"target_wwn": ["50014380186b3f66", wwn], "target_lun": 1},
    }
    attachment = VolumeAttachment(volume=parse_connection_info(info))
    uuid = site.driver.spawn(spec(image)).uuid
    with pytest.raises(errors.NotSupported, match="no Fibre Channel port"):
        site.driver.attach_volume(uuid, attachment)
    with site.host.world.lock:
        storage.hba_ports.append(PORT)
        files = (tmp_path / "fc-0", tmp_path / "fc-1")
        target = storage.add_fibre_target(wwn, size=UNIT, files=files)
    inner = HypervDriver.connect(site.config)
    driver = guarded(inner)
    try:
        connector = driver.get_volume_connector()
        assert connector.wwpns == (PORT[1],)
        assert connector.wwnns == (PORT[0],)
        assert connector.initiator == storage.initiator
        with inner.session.seam.counting() as calls:
            attached = driver.attach_volume(uuid, attachment)
        assert calls == ["hyperv.Attach"]

        def has() -> list[str]:
            drives = machine_of(site, uuid).config.drives
            numbers = [each.disk_number for each in drives if each.disk_number is not None]
            return [storage.disks[number].unique_id for number in numbers]

        assert has() == [target.luns[1].unique_id]
        site.host.restart()
        driver.power_on(uuid)
        assert has() == [target.luns[1].unique_id]
        assert driver.get_instance(uuid).volumes == (attached,)
        with site.host.world.lock:
            turn_off(machine_of(site, uuid))
        driver.detach_volume(uuid, "fc-1")
        assert has() == []
    finally:
        driver.destroy(uuid)
        driver.close()
        with site.host.world.lock:
            storage.hba_ports.clear()
            storage.fabric.clear()
            storage.rescan()
    assert site.left() == []


def test_who_is_no_administrator_has_no_disks(site: Site) -> None:
    site.host.state.administrator = False
    try:
        driver = guarded(HypervDriver.connect(site.config))
    finally:
        site.host.state.administrator = True
    assert Capability.VOLUME_ISCSI not in driver.capabilities
    assert "administrator" in (driver.why_not(Capability.VOLUME_ISCSI) or "")
    driver.close()


def test_somebody_logs_in_meanwhile(site: Site, image: FileImage, server: Server) -> None:
    """The login is the administrator's then, and stays when the volume goes."""
    driver, storage = site.driver, server.storage
    uuid = driver.spawn(spec(image)).uuid
    with held(site, "Connect-IscsiTarget") as release, ThreadPoolExecutor(1) as pool:
        doing = pool.submit(driver.attach_volume, uuid, server.attachment())
        with release(), site.host.world.lock:
            session = IscsiSession("s-1", server.target.name, PORTAL, 3260, True, False)
            storage.sessions[session.identifier] = session
            storage.rescan()
        assert doing.result(60).volume_id == "iscsi-0"
    assert server.disks(uuid) == [server.unit(0)]
    driver.detach_volume(uuid, "iscsi-0")
    assert list(storage.sessions) == ["s-1"]
    with site.host.world.lock:
        storage.sessions.clear()
        storage.portals.clear()
        storage.rescan()
    driver.destroy(uuid)
    server.nothing_left()
