"""Volumes on SMB shares: who may open them, and what a share that refuses looks like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import unguarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.state.files import Share
from hvdrivers.models.image import FileImage, HostImage
from hvdrivers.models.instance import InstanceState
from hvdrivers.models.volume import VolumeAttachment, parse_connection_info
from tests.integration.hyperv.site import Site, spec

SERVER = "files.example.org"
PATH = f"\\\\{SERVER}\\vms\\data.vhdx"
SECRET = "not-for-the-log"


@pytest.fixture
def share(site: Site, tmp_path: Path) -> Iterator[Share]:
    state = site.host.state
    with site.host.world.lock:
        state.delegation = True
        made = state.files.share(SERVER, "vms", tmp_path)
        state.disks.create(PATH, 8 << 20, "Dynamic")
    yield made
    with site.host.world.lock:
        state.delegation = False
        state.files.unshare(SERVER, "vms")
        state.disks.forget(PATH)


@pytest.fixture
def uuid(site: Site, image: FileImage, share: Share) -> Iterator[UUID]:
    found = site.driver.spawn(spec(image)).uuid
    yield found
    site.driver.destroy(found)
    assert site.left() == []


def volume(**changes: Any) -> VolumeAttachment:
    """The volume, with other data if given."""
    data = {"export": f"//{SERVER}/vms", "name": "data.vhdx", "format": "vhdx", **changes}
    info = {"driver_volume_type": "smbfs", "serial": "smb-1", "data": data}
    return VolumeAttachment(volume=parse_connection_info(info))


def sends(site: Site) -> int:
    return site.service.faults.counts()["Send"]


def drives(site: Site) -> list[str]:
    (machine,) = site.host.state.machines.values()
    return [drive.path for drive in machine.config.drives]


def test_it_comes_and_goes(site: Site, share: Share, uuid: UUID) -> None:
    before = sends(site)
    attached = site.driver.attach_volume(uuid, volume())
    assert sends(site) == before + 1  # the budget of the operation
    assert (attached.volume_id, PATH in drives(site)) == ("smb-1", True)
    site.driver.power_off(uuid)
    site.driver.power_on(uuid)
    site.driver.detach_volume(uuid, "smb-1")
    assert PATH not in drives(site)
    assert (share.folder / "data.vhdx").is_file()


def test_a_machine_boots_from_it_and_leaves_it(site: Site, share: Share) -> None:
    boot = volume().model_copy(update={"boot_index": 0})
    uuid = site.driver.spawn(spec(None, volumes=(boot,))).uuid
    assert drives(site) == [PATH]
    site.driver.destroy(uuid)
    assert (share.folder / "data.vhdx").is_file()
    assert site.left() == []


def test_an_image_on_a_share(site: Site, share: Share) -> None:
    uuid = site.driver.spawn(spec(HostImage(name=PATH))).uuid
    site.driver.destroy(uuid)
    site.host.state.delegation = False
    with pytest.raises(errors.PermissionDenied, match="share"):
        site.driver.spawn(spec(HostImage(name=PATH)))
    assert site.left() == []


@pytest.mark.parametrize("who", ["session", "user", "computer"])
def test_who_has_no_rights_is_told(site: Site, share: Share, uuid: UUID, who: str) -> None:
    if who == "session":  # the double hop
        site.host.state.delegation = False
    elif who == "user":
        share.user = False
    else:
        share.computer = False
    before = drives(site)
    with pytest.raises(errors.PermissionDenied) as caught:
        site.driver.attach_volume(uuid, volume())
    hint = caught.value.hint or ""
    assert "computer account" in hint
    assert "credssp" in hint
    assert drives(site) == before
    assert site.driver.get_instance(uuid).volumes == ()


@pytest.mark.parametrize("changes", [{"name": "none.vhdx"}, {"export": f"//{SERVER}/none"}])
def test_what_is_not_there(site: Site, uuid: UUID, changes: dict[str, str]) -> None:
    with pytest.raises(errors.VolumeNotFound):
        site.driver.attach_volume(uuid, volume(**changes))


def test_a_session_that_cannot_go_on_starts_what_the_computer_opens(
    site: Site, share: Share, uuid: UUID
) -> None:
    """Hyper-V opens the disks of a machine that starts as the host's computer."""
    site.driver.attach_volume(uuid, volume())
    site.driver.power_off(uuid)
    site.host.state.delegation = False
    site.driver.power_on(uuid)
    site.driver.power_off(uuid)
    share.computer = False
    with pytest.raises(errors.PermissionDenied, match=r"0x80070005"):
        site.driver.power_on(uuid)
    assert site.driver.get_instance(uuid).state is InstanceState.STOPPED
    (share.folder / "data.vhdx").unlink()
    share.computer = site.host.state.delegation = True
    with pytest.raises(errors.VolumeNotFound):
        site.driver.power_on(uuid)
    site.driver.detach_volume(uuid, "smb-1")


def test_one_machine_at_a_time(site: Site, share: Share, image: FileImage, uuid: UUID) -> None:
    site.driver.attach_volume(uuid, volume())
    other = site.driver.spawn(spec(image)).uuid
    with pytest.raises(errors.DeviceBusy):
        site.driver.attach_volume(other, volume())
    site.driver.destroy(other)


@pytest.mark.parametrize("options", [f"-o username=lab,password={SECRET}", f"password={SECRET}"])
def test_a_name_and_a_password_are_refused(site: Site, uuid: UUID, options: str) -> None:
    with pytest.raises(errors.NotSupported) as caught:
        site.driver.attach_volume(uuid, volume(options=options))
    assert SECRET not in f"{caught.value!r} {caught.value.hint}"
    assert "full control" in (caught.value.hint or "")
    # what mount.cifs of a Linux host is told says nothing about who it is
    site.driver.attach_volume(uuid, volume(options="-o noperm,file_mode=0775"))
    site.driver.detach_volume(uuid, "smb-1")


def test_a_virtual_disk_keeps_its_sectors(site: Site, uuid: UUID) -> None:
    """Of a unit that is passed through the guest sees the unit's own."""
    for sizes in ({"logical_block_size": 4096}, {"physical_block_size": 4096}):
        with pytest.raises(errors.NotSupported) as caught:
            site.driver.attach_volume(uuid, volume(**sizes))
        assert "block_size" in (caught.value.hint or "")
    assert site.driver.get_instance(uuid).volumes == ()
    data = {"target_wwn": "5001405a00000001", "target_lun": 0, "logical_block_size": 4096}
    unit = parse_connection_info(
        {"driver_volume_type": "fibre_channel", "serial": "f", "data": data}
    )
    raw = unguarded(site.driver, HypervDriver)
    assert raw.sources.attachment(VolumeAttachment(volume=unit))["disk"]


def test_an_image_that_is_not_there_is_named(site: Site) -> None:
    for image, words in (
        (HostImage(name="debian"), r"\templates\debian.vhdx"),
        (HostImage(name="raw-sha256-00", cached=True), "hvdrivers image list"),
    ):
        with pytest.raises(errors.VolumeNotFound, match=image.name) as caught:
            site.driver.spawn(spec(image))
        assert words in (caught.value.hint or "")
    assert site.left() == []
