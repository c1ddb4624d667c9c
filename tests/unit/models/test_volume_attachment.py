"""Attachments, limits, encryption, connectors, host volumes."""

from __future__ import annotations

import copy

import pytest
from pydantic import ValidationError

from hvdrivers.models.volume import (
    CacheMode,
    DeviceType,
    DiskBus,
    DiskQos,
    HostVolume,
    PoolVolume,
    VolumeAttachment,
    VolumeConnector,
    VolumeEncryption,
    VolumeSpec,
)

from .shapes import cinder

POOL = PoolVolume(data={"name": "data1"})


def with_data(**data):
    shape = copy.deepcopy(cinder.ISCSI)
    shape["data"].update(data)
    return shape


class TestAttachment:
    def test_what_cinder_said_is_taken_over(self):
        attachment = VolumeAttachment(
            volume=with_data(
                access_mode="ro",
                qos_specs={"read_iops_sec": "100", "write_iops_sec": 0, "vendor": "x"},
            )
        )
        assert attachment.read_only
        assert attachment.discard is True
        assert attachment.qos == DiskQos(read_iops_sec=100)
        assert VolumeAttachment.model_validate(attachment.model_dump()) == attachment
        assert attachment.volume_id == cinder.UUID

    def test_the_caller_wins(self):
        own = DiskQos(total_iops_sec=5)
        volume = with_data(qos_specs={"read_iops_sec": "100"})
        attachment = VolumeAttachment(volume=volume, qos=own, discard=False)
        assert (attachment.qos, attachment.discard) == (own, False)

    def test_it_is_frozen(self):
        with pytest.raises(ValidationError, match="frozen"):
            VolumeAttachment(volume=POOL).read_only = True

    @pytest.mark.parametrize(
        ("given", "kept"),
        [("vdb", "vdb"), ("/dev/vdb", "vdb"), ("nvme0n1", "nvme0n1"), (None, None)],
    )
    def test_device_hint(self, given, kept):
        assert VolumeAttachment(volume=POOL, device=given).device == kept

    def test_nova_writes_minus_one_for_not_bootable(self):
        assert VolumeAttachment(volume=POOL, boot_index=-1).boot_index is None

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"device": "../sda"}, "not a device name"),
            ({"device": "vdb' bus='x"}, "not a device name"),
            ({"boot_index": -2}, "greater than or equal"),
            ({"device_type": "cdrom", "bus": "virtio"}, "no CD drive on virtio"),
            ({"device_type": "lun", "bus": "sata"}, "needs bus=scsi"),
            ({"bus": "xen"}, "Input should be"),
            ({"tag": "a\nb"}, "control character"),
            ({"readonly": True}, "Extra inputs"),
        ],
    )
    def test_wrong(self, fields, message):
        with pytest.raises(ValidationError, match=message):
            VolumeAttachment(volume=POOL, **fields)

    def test_a_cd_is_read_only(self):
        attachment = VolumeAttachment(volume=POOL, device_type=DeviceType.CDROM, bus=DiskBus.SATA)
        assert attachment.read_only

    def test_a_shared_disk_is_not_cached(self):
        shared = POOL.model_copy(update={"multiattach": True})
        assert VolumeAttachment(volume=shared, cache=CacheMode.NONE)
        with pytest.raises(ValidationError, match="cache=none"):
            VolumeAttachment(volume=shared, cache=CacheMode.WRITEBACK)

    def test_errors_show_no_secret(self):
        with pytest.raises(ValidationError) as caught:
            VolumeAttachment(volume=with_data(access_mode="x"), encryption={"provider": "luks"})
        assert "hunter2" not in str(caught.value) + str(caught.value.errors())


class TestEncryption:
    def test_cinders_metadata(self):
        attachment = VolumeAttachment(
            volume=with_data(encrypted=True), encryption=cinder.ENCRYPTION
        )
        assert attachment.encryption is not None
        assert attachment.encryption.provider == "luks"
        assert attachment.encryption.key_size == 256

    def test_an_encrypted_volume_is_not_attached_without_a_key(self):
        for nothing in (None, {}, {"encryption_key_id": None}):
            with pytest.raises(ValidationError, match="the volume is encrypted"):
                VolumeAttachment(volume=with_data(encrypted=True), encryption=nothing)

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("luks2", "luks2"),
            ("LuksEncryptor", "luks"),
            ("nova.volume.encryptors.luks.LuksEncryptor", "luks"),
            ("os_brick.encryptors.cryptsetup.CryptsetupEncryptor", "plain"),
        ],
    )
    def test_old_provider_names(self, given, kept):
        assert VolumeEncryption(provider=given, encryption_key_id="k").provider == kept

    def test_a_key_is_needed_in_front_only(self):
        with pytest.raises(ValidationError, match="no key"):
            VolumeEncryption(provider="luks")
        assert VolumeEncryption(provider="luks", control_location="back-end")

    @pytest.mark.parametrize("secret", ["hunter2\ud800", "hunter2" * 9363, b"hunter2" * 9363])
    def test_a_passphrase_is_text_of_64_kib(self, secret):
        VolumeEncryption(provider="luks", secret=b"x" * 65536)
        with pytest.raises(ValidationError, match=r"surrogate pair|is longer") as caught:
            VolumeEncryption(provider="luks", secret=secret)
        assert "hunter2" not in str(caught.value) + caught.value.json() + repr(
            caught.value.errors()
        )

    @pytest.mark.parametrize("secret", ["hunter2", b"hunter2"])
    def test_errors_show_no_passphrase(self, secret):
        for wrong in ({"key_size": 1}, {"provider": "x"}, {"extra": 1}):
            with pytest.raises(ValidationError) as caught:
                VolumeEncryption.model_validate({"provider": "luks", "secret": secret, **wrong})
            assert "hunter2" not in str(caught.value) + caught.value.json()
        text = '{"provider": "luks", "secret": "hunter2"}'
        assert VolumeEncryption.model_validate_json(text).secret is not None

    def test_the_passphrase_is_a_secret_and_hexadecimal(self):
        secret = VolumeEncryption.passphrase(b"\x00\xabhunter")
        assert secret.get_secret_value() == b"00ab68756e746572"
        encryption = VolumeEncryption(provider="luks", secret=secret)
        assert "68756e746572" not in repr(encryption) + encryption.model_dump_json()


class TestQos:
    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            ({}, "no limit given"),
            ({"size_iops_sec": 4096}, "no limit given"),
            ({"total_bytes_sec": 1, "read_bytes_sec": 1}, "excludes"),
            ({"total_iops_sec_max": 1, "write_iops_sec_max": 1}, "excludes"),
            ({"total_iops_sec_max": 9}, "needs total_iops_sec"),
            ({"total_iops_sec": 10, "total_iops_sec_max": 9}, "needs total_iops_sec"),
            ({"total_bytes_sec": 10, "size_iops_sec": 9}, "needs a limit of operations"),
            ({"total_bytes_sec": 0}, "greater than or equal"),
        ],
    )
    def test_wrong(self, limits, message):
        with pytest.raises(ValidationError, match=message):
            DiskQos(**limits)

    def test_units_do_not_exclude_each_other(self):
        qos = DiskQos(total_bytes_sec=1, read_iops_sec=2, read_iops_sec_max=3)
        assert qos.limits() == {"total_bytes_sec": 1, "read_iops_sec": 2, "read_iops_sec_max": 3}

    def test_specs_for_others_limit_nothing(self):
        assert DiskQos.from_qos_specs({"consumer": "front-end", "size_iops_sec": "4096"}) is None


class TestConnector:
    def test_for_cinder(self):
        connector = VolumeConnector(
            host="compute1",
            ip="192.0.2.1",
            initiator="iqn.1994-05.com.redhat:1",
            wwpns=["50:01:43:80:18:6B:3F:65"],
            system_uuid="4c4c4544-0000",
            platform="x86_64",
            os_type="linux",
        )
        assert connector.to_cinder() == {
            "host": "compute1",
            "ip": "192.0.2.1",
            "initiator": "iqn.1994-05.com.redhat:1",
            "wwpns": ["50014380186b3f65"],
            "system uuid": "4c4c4544-0000",
            "platform": "x86_64",
            "os_type": "linux",
            "multipath": False,
            "do_local_attach": False,
        }
        assert VolumeConnector.model_validate(connector.to_cinder()) == connector

    def test_vmware(self):
        connector = VolumeConnector(host="vc", ip="192.0.2.9", instance="vm-7")
        assert connector.to_cinder()["instance"] == "vm-7"


class TestHostVolumes:
    def test_sizes(self):
        assert VolumeSpec(size_gib=2).capacity_bytes == 2 << 30
        assert VolumeSpec(size_bytes=512).capacity_bytes == 512
        for fields in ({}, {"size_gib": 1, "size_bytes": 512}, {"size_gib": 0}, {"size_bytes": 1}):
            with pytest.raises(ValidationError):
                VolumeSpec(**fields)

    def test_it_becomes_a_volume_with_the_same_identity(self):
        volume = HostVolume(
            volume_id="v1", name="data1", pool="default", capacity_bytes=1, format="qcow2"
        ).to_volume()
        assert volume.volume_id == "v1"
        assert (volume.data.pool, volume.data.name) == ("default", "data1")
