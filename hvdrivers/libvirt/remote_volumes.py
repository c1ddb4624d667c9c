"""Volumes behind a network: their ``<source>``, and the secrets that go with them.

QEMU speaks to the servers itself: the host mounts nothing, and logs in nowhere. Only functions of
their arguments, no remote call.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from uuid import UUID, uuid5

from hvdrivers.contract import errors
from hvdrivers.libvirt.xml import Element, el
from hvdrivers.models.base import is_text
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.volume import IscsiVolume, NfsVolume, RbdVolume, VolumeAttachment

_USAGE = {"iscsi": "target", "ceph": "name", "volume": "volume"}
"""What libvirt calls the name of a secret, by what it is for."""
_FORMATS = {ImageFormat.RAW: "raw", ImageFormat.QCOW2: "qcow2"}
WRONG_KEY = "is the encrypted volume in the format LUKS 1, and is this its passphrase?"
"""A hint: QEMU's words about it have no code."""
_MOST_LUNS = 1 << 32
_MOST_SECRET = 65536
"""Bytes of a secret: REMOTE_SECRET_VALUE_MAX of libvirt's protocol."""
_SECRET_PREFIX = "hvdrivers "  # noqa: S105 - the beginning of a name


@dataclass(frozen=True)
class HostSecret:
    """A secret that libvirt keeps for QEMU."""

    uuid: UUID
    usage: str
    """``iscsi``, ``ceph`` or ``volume`` (a LUKS passphrase)."""
    name: str
    value: bytes

    def __repr__(self) -> str:
        return f"<HostSecret {self.usage} {self.name}>"

    def element(self) -> Element:
        """As libvirt defines it: on the host's disk, so that the machine starts after a reboot;
        and no API call gives it back."""
        return el(
            "secret",
            el("uuid", str(self.uuid)),
            el("usage", el(_USAGE[self.usage], self.name), type=self.usage),
            ephemeral="no",
            private="yes",
        )


def secret_name(instance: UUID, volume_id: str) -> str:
    """The name of a volume's secrets, by which they are found again."""
    return f"{_SECRET_PREFIX}{instance} {volume_id}"


def is_secret_of(name: str, instance: UUID) -> bool:
    """Whether a secret of this name belongs to a volume of this instance."""
    return name.startswith(f"{_SECRET_PREFIX}{instance} ")


def secrets_of(instance: UUID, attachment: VolumeAttachment) -> list[HostSecret]:
    """What QEMU has to know to open the volume.

    The UUIDs are made of the instance and the volume: the attachment that is repeated after a lost
    reply writes over what it has left.
    """
    values: dict[str, bytes] = {}
    volume = attachment.volume
    if isinstance(volume, IscsiVolume) and volume.chap is not None:
        values["iscsi"] = volume.chap.password.get_secret_value().encode()
    if isinstance(volume, RbdVolume) and volume.key is not None and _authenticates(volume):
        values["ceph"] = _ceph_key(volume.key.get_secret_value())
    passphrase = _passphrase(attachment)
    if passphrase is not None:
        values["volume"] = passphrase
    if any(len(value) > _MOST_SECRET for value in values.values()):
        raise errors.InvalidRequest(
            f"a password, key or passphrase of the volume has more than {_MOST_SECRET} bytes",
            hint="libvirt keeps none that is longer: give the volume a shorter one",
        )
    name = secret_name(instance, attachment.volume_id)
    return [
        HostSecret(_uuid(instance, usage, attachment.volume_id), usage, name, value)
        for usage, value in values.items()
    ]


def _uuid(instance: UUID, usage: str, volume_id: str) -> UUID:
    return uuid5(instance, f"{usage} {volume_id}")


def _ceph_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error, or a character that is not ASCII
        key = b""
    if not key:
        raise errors.InvalidRequest(
            "the Ceph key is not base64", hint="`ceph auth get-key client.NAME` prints it"
        )
    return key


def _passphrase(attachment: VolumeAttachment) -> bytes | None:
    encryption = attachment.encryption
    if encryption is None or encryption.control_location == "back-end":
        return None
    if encryption.provider != "luks":
        raise errors.NotSupported(
            f"QEMU opens no volumes encrypted by {encryption.provider}", hint="it opens LUKS 1"
        )
    if encryption.secret is None:
        raise errors.InvalidRequest(
            "the volume's passphrase is not given",
            hint="resolve encryption_key_id with the key manager that has it, and give secret=",
        )
    passphrase = encryption.secret.get_secret_value()
    if not _is_utf8(passphrase):
        raise errors.InvalidRequest(
            "the volume's passphrase is no text in UTF-8, and QEMU takes no other",
            hint="of a binary key take VolumeEncryption.passphrase(key), as Nova and os-brick do",
        )
    return passphrase


def _is_utf8(value: bytes) -> bool:
    """As QEMU has it (``qcrypto_secret_lookup_as_utf8``): there is no NUL in it."""
    try:
        return is_text(value.decode())
    except UnicodeDecodeError:
        return False


def encryption_element(instance: UUID, attachment: VolumeAttachment) -> Element | None:
    """``<encryption>``, for the ``<source>``."""
    if _passphrase(attachment) is None:
        return None
    uuid = _uuid(instance, "volume", attachment.volume_id)
    return el("encryption", el("secret", type="passphrase", uuid=uuid), format="luks")


def is_encrypted_disk(disk: Element) -> bool:
    """Whether QEMU itself decrypts a ``<disk>``."""
    return disk.find("source/encryption") is not None


def initiator_name(host_uuid: str) -> str:
    """The name that QEMU's initiator gives itself on this host."""
    return f"iqn.2026-11.org.hvdrivers:{host_uuid}"


def iscsi_source(instance: UUID, volume: IscsiVolume, initiator: str) -> Element:
    """QEMU's own initiator. It takes one path: the first that is named."""
    if volume.driver_volume_type != "iscsi":
        raise errors.NotSupported(
            "QEMU's initiator speaks iSCSI over TCP only, no iSER",
            hint="log in on the host, and attach the device there as a local volume",
        )
    if volume.data.enforce_multipath:
        raise errors.NotSupported(
            "QEMU's initiator takes one path of a volume, and counts no paths",
            hint="leave enforce_multipath out; or log in on the host, and attach the device of"
            " dm-multipath there as a local volume",
        )
    target = volume.targets[0]
    if target.lun >= _MOST_LUNS:
        raise errors.NotSupported(
            f"QEMU's initiator knows no unit beyond {_MOST_LUNS - 1}",
            hint="log in on the host, and attach the device there as a local volume",
        )
    chap = volume.chap
    uuid = _uuid(instance, "iscsi", volume.volume_id)
    return el(
        "source",
        el("host", name=target.host, port=target.port),
        el("auth", el("secret", type="iscsi", uuid=uuid), username=chap.username)
        if chap is not None
        else None,
        el("initiator", el("iqn", name=initiator)),
        protocol="iscsi",
        name=f"{target.iqn}/{target.lun}",
    )


def rbd_source(instance: UUID, volume: RbdVolume) -> Element:
    """QEMU's own Ceph client. Without monitors it asks those in the host's file of the
    cluster."""
    if volume.namespace is not None:
        raise errors.NotSupported(
            "libvirt 9 names no namespace of a Ceph pool",
            hint="use a volume outside namespaces; or map it on the host (rbd map), and attach the"
            " device there as a local volume",
        )
    cluster = volume.data.cluster_name
    file = None
    if cluster not in {None, "ceph"} and not volume.monitors:
        if re.fullmatch("[A-Za-z0-9_-]+", str(cluster)) is None:
            raise errors.InvalidRequest(
                "the name of the Ceph cluster is no part of a file name",
                hint="it has letters, digits, _ and - alone; or give hosts and ports",
            )
        file = f"/etc/ceph/{cluster}.conf"
    return el(
        "source",
        *(el("host", name=each.host, port=each.port) for each in volume.monitors),
        _ceph_auth(instance, volume),
        el("config", file=file) if file is not None else None,
        protocol="rbd",
        name=f"{volume.pool}/{volume.image}",
    )


def _authenticates(volume: RbdVolume) -> bool:
    """Whether credentials are used: as the volume says, else if there are some."""
    data = volume.data
    if data.auth_enabled is None:
        return any((data.keyring, data.secret_uuid, data.auth_username))
    return data.auth_enabled


def _ceph_auth(instance: UUID, volume: RbdVolume) -> Element | None:
    """``<auth>``."""
    data = volume.data
    if not _authenticates(volume):
        return None
    if not data.auth_username:
        raise errors.InvalidRequest(
            "the Ceph user is not given whose key it is", hint="give auth_username, without client."
        )
    uuid: UUID | str | None = data.secret_uuid  # of others, and there already
    if volume.key is not None:
        uuid = _uuid(instance, "ceph", volume.volume_id)
    if uuid is None:
        raise errors.InvalidRequest(
            f"there is no key of the Ceph user {data.auth_username}",
            hint="give keyring, or secret_uuid of a secret that the host has; or auth_enabled=False"
            " where the cluster asks for none",
        )
    return el("auth", el("secret", type="ceph", uuid=uuid), username=data.auth_username)


_NFS_OPTIONS = frozenset({"", "rw", "vers=3", "nfsvers=3", "proto=tcp", "tcp", "defaults"})
"""Mount options that say what QEMU's client does anyway."""


def nfs_source(volume: NfsVolume) -> tuple[Element, str]:
    """QEMU's own NFS client, and the file's format."""
    if volume.data.format not in _FORMATS:
        raise errors.NotSupported(
            f"volumes of format {volume.data.format}", hint="use qcow2 or raw"
        )
    text = (volume.data.options or "").strip().removeprefix("-o").strip()
    odd = [each for each in map(str.strip, text.split(",")) if each not in _NFS_OPTIONS]
    if odd:
        # not quoted: they may carry a password
        raise errors.NotSupported(
            "QEMU's NFS client mounts nothing, speaks NFS 3 over TCP, and takes no mount options",
            hint="leave options out; or mount the export on the host, and attach the file as a"
            " local volume",
        )
    path = f"{volume.path.rstrip('/')}/{volume.data.name}"
    source = el("source", el("host", name=volume.host), protocol="nfs", name=path)
    return source, _FORMATS[volume.data.format]
