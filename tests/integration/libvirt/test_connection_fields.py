"""Keys of a volume's connection: each is what the machine gets, or it is refused and nothing is
left. Ceph and NFS by their definition, as no such server runs here."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.wiring import vif_element
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.vif import OvsVif, TapVif
from hvdrivers.models.volume import (
    DeviceType,
    DiskBus,
    IscsiVolume,
    NfsVolume,
    PoolVolume,
    RbdVolume,
    Volume,
    VolumeAttachment,
)
from tests.integration.libvirt.machines import Host, Machine, host
from tests.integration.libvirt.test_remote_volumes import CEPH, disk_of, luks, make_luks, secrets

__all__ = ["host"]

LARGE = {"logical_block_size": 4096, "physical_block_size": 4096}
KEY = CEPH["keyring"]


def with_data(volume: Volume, serial: str, **data: object) -> Volume:
    """The volume with more keys in its connection."""
    changed = volume.data.model_copy(update=data)
    return volume.model_copy(update={"serial": serial, "data": changed})


def ceph(**data: object) -> RbdVolume:
    given = {name: CEPH[name] for name in ("name", "hosts", "ports")}
    wanted = {name: value for name, value in {**given, **data}.items() if value is not None}
    return RbdVolume.model_validate({"serial": "ceph-1", "data": wanted})


def nfs(options: str) -> NfsVolume:
    data = {"export": "192.0.2.9:/x", "name": "v", "options": options}
    return NfsVolume.model_validate({"serial": "nfs-1", "data": data})


def sectors_of(machine: Machine, volume_id: str) -> dict[str, str]:
    found = disk_of(machine, volume_id).find("blockio")
    return dict(found.attrib) if found is not None else {}


@pytest.mark.parametrize("bus", [DiskBus.VIRTIO, DiskBus.SCSI, DiskBus.USB])
@pytest.mark.parametrize(
    ("told", "seen"),
    [
        (LARGE, ("4096", "4096")),
        ({"physical_block_size": 4096}, ("512", "4096")),
        ({"logical_block_size": 4096}, ("4096", "4096")),
    ],
    ids=["both", "physical", "logical"],
)
def test_sectors(host: Host, bus: DiskBus, told: dict[str, int], seen: tuple[str, str]) -> None:
    """QEMU starts with them, before and while the machine runs."""
    with host.unchanged(), host.made_empty() as machine, host.volume(format="raw") as volume:
        wanted = with_data(volume, volume.volume_id, **told)
        for running in (False, True):
            if running:
                host.driver.power_on(machine.uuid)
            machine.attach(wanted, bus=bus)
            assert tuple(sectors_of(machine, volume.volume_id).values()) == seen
            if not running:
                host.driver.power_on(machine.uuid)
                host.driver.power_off(machine.uuid)
                host.driver.detach_volume(machine.uuid, volume.volume_id)
        host.driver.power_off(machine.uuid)
        host.driver.detach_volume(machine.uuid, volume.volume_id)


def test_sectors_that_no_disk_has(host: Host) -> None:
    with host.unchanged(), host.made_empty() as machine, host.volume() as volume:
        for data, options, error in (
            ({"logical_block_size": 4096, "physical_block_size": 512}, {}, errors.InvalidRequest),
            ({"logical_block_size": 520}, {}, errors.InvalidRequest),
            ({"physical_block_size": 4 << 20}, {}, errors.NotSupported),
            (LARGE, {"bus": DiskBus.SATA}, errors.NotSupported),
            (LARGE, {"device_type": DeviceType.CDROM}, errors.NotSupported),
        ):
            with pytest.raises(error) as refused:
                machine.attach(with_data(volume, volume.volume_id, **data), **options)
            assert refused.value.hint
            assert machine.info.volumes == ()


def test_sectors_stay_when_a_volume_is_swapped_or_reconnected(host: Host) -> None:
    """A guest that runs keeps its sectors; a replacement that has others is refused."""
    sized: dict[str, Any] = {"size_bytes": 8 << 20}
    with (
        host.unchanged(),
        host.made_empty() as machine,
        host.volume(**sized) as old,
        host.volume(**sized) as new,
    ):
        attachment = VolumeAttachment(volume=with_data(old, old.volume_id, **LARGE))
        host.driver.attach_volume(machine.uuid, attachment)
        host.driver.reconnect(machine.uuid, volumes=[VolumeAttachment(volume=old)])
        assert sectors_of(machine, old.volume_id) == {k: str(v) for k, v in LARGE.items()}
        host.driver.power_on(machine.uuid)
        other = with_data(new, new.volume_id, logical_block_size=512)
        with pytest.raises(errors.NotSupported) as refused:
            host.driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=other))
        assert refused.value.hint
        same = with_data(new, new.volume_id, **LARGE)
        host.driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=same))
        assert sectors_of(machine, new.volume_id) == {k: str(v) for k, v in LARGE.items()}
        host.driver.power_off(machine.uuid)
        host.driver.detach_volume(machine.uuid, new.volume_id)


def test_no_credentials_where_ceph_asks_for_none(host: Host) -> None:
    """Cinder always names a user."""
    told = ceph(
        auth_enabled=False, auth_username="cinder", keyring=KEY, secret_uuid=str(UUID(int=7))
    )
    with host.unchanged(), host.made_empty() as machine:
        machine.attach(told)
        assert disk_of(machine, "ceph-1").find(".//auth") is None
        assert secrets(host) == set()


@pytest.mark.parametrize("said", [True, None], ids=["said", "not said"])
def test_credentials_of_ceph(host: Host, said: bool | None) -> None:
    with host.unchanged(), host.made_empty() as machine:
        machine.attach(ceph(auth_enabled=said, auth_username="cinder", keyring=KEY))
        assert len(secrets(host)) == 1
        auth = disk_of(machine, "ceph-1").find(".//auth")
        assert auth is not None
        assert auth.get("username") == "cinder"


@pytest.mark.parametrize(
    "data",
    [
        {"auth_enabled": True, "auth_username": "cinder"},
        {"auth_username": "cinder"},
        {"keyring": KEY},
        {"secret_uuid": str(UUID(int=7))},
    ],
    ids=["no key", "a user alone", "a key alone", "a secret alone"],
)
def test_half_of_the_credentials(host: Host, data: dict[str, object]) -> None:
    """They were left out, or named a secret that there was not."""
    with host.unchanged(), host.made_empty() as machine:
        with pytest.raises(errors.InvalidRequest) as refused:
            machine.attach(ceph(**data))
        assert refused.value.hint


def test_a_cluster_of_another_name(host: Host) -> None:
    """It names a file of the host, where the monitors are not given."""

    def file(volume: RbdVolume) -> str | None:
        with host.made_empty() as machine:
            machine.attach(volume)
            config = disk_of(machine, "ceph-1").find("source/config")
            return None if config is None else config.get("file")

    none = {"hosts": None, "ports": None}
    with host.unchanged():
        assert file(ceph(cluster_name="backup", **none)) == "/etc/ceph/backup.conf"
        assert file(ceph(cluster_name="ceph", **none)) is None
        assert file(ceph(cluster_name="backup")) is None
        with pytest.raises(errors.InvalidRequest):
            file(ceph(cluster_name="../../x", **none))


def test_mount_options_of_nfs(host: Host) -> None:
    """QEMU's client has none; those that say what it does anyway are no wish."""
    with host.unchanged(), host.made_empty() as machine:
        for options in ("-o vers=4.2", "soft", "-o vers=3,timeo=600"):
            with pytest.raises(errors.NotSupported) as refused:
                machine.attach(nfs(options))
            assert "local volume" in (refused.value.hint or "")
            assert machine.info.volumes == ()
        machine.attach(nfs("-o vers=3,proto=tcp"))


def test_what_cinder_says_of_an_encryption(host: Host, tmp_path: Any) -> None:
    """It always says a cipher and the size of the key: the header has both."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"a passphrase")
    make_luks(tmp_path / "luks", secret)
    content = (tmp_path / "luks").read_bytes()
    with host.unchanged(), host.file(content) as path, host.made_empty() as machine:
        attachment = luks(path, b"a passphrase")
        assert attachment.encryption is not None
        told = {**attachment.encryption.model_dump(), "cipher": "aes-xts-plain64", "key_size": 256}
        told["secret"] = b"a passphrase"
        wanted = VolumeAttachment.model_validate({"volume": attachment.volume, "encryption": told})
        host.driver.attach_volume(machine.uuid, wanted)
        host.driver.power_on(machine.uuid)
        host.driver.power_off(machine.uuid)
        host.driver.detach_volume(machine.uuid, attachment.volume_id)


def test_keys_that_are_not_for_a_driver(host: Host) -> None:
    """What os-brick and Pure's driver write: taken, and nothing of it is in the definition."""
    target = {"target_portal": "192.0.2.1:3260", "target_iqn": "iqn.2020-01.org.x:a"}
    data = {
        **target,
        "target_lun": 1,
        "device_path": "/dev/sdz",
        "multipath_id": "3624a93701",
        "wwn": "3624a9370a7f5f1e5b4c2d3e",
        "cacheable": True,
        "discovery_auth_method": "CHAP",
        "discovery_auth_username": "u",
        "discovery_auth_password": "password-1",
    }
    plain = IscsiVolume.model_validate({"serial": "v", "data": {**target, "target_lun": 1}})
    told = IscsiVolume.model_validate({"serial": "v", "attachment_id": "a", "data": data})
    found = []
    with host.unchanged():
        for volume in (plain, told):
            with host.made_empty() as machine:
                machine.attach(volume)
                disk = disk_of(machine, "v")
                address = disk.find("address")
                found.append([each.attrib for each in disk.iter() if each is not address])
    assert found[0] == found[1]


def test_a_tag_that_libvirt_does_not_set(host: Host) -> None:
    """libvirt would take the definition without it."""
    vif = TapVif(id="n", exists=False, vlan=7)
    with host.unchanged(), host.made_empty() as machine:
        with pytest.raises(errors.NotSupported) as refused:
            host.driver.plug_vif(machine.uuid, vif)
        assert refused.value.hint
        with pytest.raises(errors.NotSupported):
            host.driver.spawn(host.empty(start=False, vifs=(vif,)))
    with pytest.raises(errors.NotSupported):
        vif_element(OvsVif(id="n", bridge="br-int", hybrid_plug=True, vlan=7), UUID(int=7))


def test_formats_of_a_volume_of_a_pool(host: Host) -> None:
    with host.unchanged(), host.made_empty() as machine, host.volume() as volume:
        assert isinstance(volume, PoolVolume)
        with pytest.raises(errors.NotSupported):
            machine.attach(with_data(volume, volume.volume_id, format=ImageFormat.VMDK))
