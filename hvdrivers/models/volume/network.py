"""Volumes in Ceph, and files on NFS and SMB shares."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from hvdrivers.addresses import check_host
from hvdrivers.models.base import Model, PrintableText
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.volume._base import VolumeBase, VolumeData
from hvdrivers.models.volume._text import (
    AbsolutePath,
    FileName,
    Host,
    Port,
    Secret,
    join_portal,
    unveil,
)

CEPH_PORT = 6789


class RbdMonitor(Model):
    """One Ceph monitor."""

    host: Host
    port: Port = CEPH_PORT

    @property
    def portal(self) -> str:
        """``10.0.0.1:6789``."""
        return join_portal(self.host, self.port)


class RbdData(VolumeData):
    """``data`` of a Ceph volume (cinder ``volume/drivers/rbd.py`` ``initialize_connection``)."""

    name: Annotated[PrintableText, Field(min_length=3, max_length=512)]
    """``pool/image``, or ``pool/namespace/image``."""
    hosts: tuple[Host, ...] = ()
    """Monitors. Empty: those in the host's own ``ceph.conf``."""
    ports: tuple[Port, ...] = ()
    cluster_name: PrintableText | None = None
    """None: ``ceph``. It names the host's configuration file, where no monitors are given."""
    auth_enabled: bool | None = None
    """False: no credentials are used, whatever else is given. None: as there are credentials."""
    auth_username: PrintableText | None = None
    secret_type: Literal["ceph"] | None = None
    secret_uuid: PrintableText | None = None
    """UUID of the libvirt secret that already holds the key on the host."""
    keyring: Secret | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not all(self.name.split("/")) or self.name.count("/") not in {1, 2}:
            raise ValueError("name must be pool/image")
        if self.ports and len(self.ports) != len(self.hosts):
            raise ValueError("hosts and ports must have the same length")
        if self.auth_enabled and not self.auth_username:
            raise ValueError("auth_enabled needs auth_username")
        return self


class RbdVolume(VolumeBase):
    """A Ceph RADOS block device."""

    driver_volume_type: Literal["rbd"] = "rbd"
    data: RbdData

    @property
    def monitors(self) -> tuple[RbdMonitor, ...]:
        """Hosts with their ports, without doubles."""
        ports = self.data.ports or (CEPH_PORT,) * len(self.data.hosts)
        pairs = dict.fromkeys(zip(self.data.hosts, ports, strict=True))
        return tuple(RbdMonitor(host=host, port=port) for host, port in pairs)

    @property
    def pool(self) -> str:
        """The pool's name."""
        return self.data.name.split("/")[0]

    @property
    def namespace(self) -> str | None:
        """The RADOS namespace, if there is one."""
        parts = self.data.name.split("/")
        return parts[1] if len(parts) == 3 else None

    @property
    def image(self) -> str:
        """The image's name in the pool."""
        return self.data.name.rsplit("/", 1)[-1]

    @property
    def key(self) -> SecretStr | None:
        """The base64 key in ``keyring``, which is a keyring file's text or the key alone."""
        if self.data.keyring is None:
            return None
        text = self.data.keyring.get_secret_value()
        # By lines: one expression over the whole text takes quadratic time on white space.
        for line in text.splitlines():
            name, equals, value = line.partition("=")
            if equals and name.strip() == "key" and len(value.split()) == 1:
                return SecretStr(value.strip())
        return SecretStr(text.strip())

    def _own_id(self) -> str | None:
        return self.data.name


class ShareData(VolumeData):
    """What NFS and SMB have in common: a file in an exported directory."""

    export: PrintableText
    name: FileName
    """The file."""
    format: ImageFormat = ImageFormat.RAW
    """Never guessed: a guest could write a qcow2 header into a raw file, and name any host file
    as its backing file. Raw unless Cinder says otherwise, as in Nova."""


def _split_nfs_export(value: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:/\[\]]+)):(/.*)", value)
    if match is None:
        raise ValueError("is not host:/path")
    if ".." in match[3].split("/"):
        raise ValueError("contains '..'")
    return check_host(match[1] or match[2]), match[3]


def _check_nfs_export(value: str) -> str:
    host, path = _split_nfs_export(value)
    return f"[{host}]:{path}" if ":" in host else f"{host}:{path}"


class NfsData(ShareData):
    """``data`` of an NFS volume (cinder ``volume/drivers/nfs.py``)."""

    export: Annotated[PrintableText, Field(max_length=1024), AfterValidator(_check_nfs_export)]
    """``host:/path``."""
    options: Annotated[PrintableText, BeforeValidator(unveil)] | None = None
    """Mount options, ``-o vers=4.2``."""


class NfsVolume(VolumeBase):
    """A file on an NFS export."""

    driver_volume_type: Literal["nfs"] = "nfs"
    data: NfsData
    mount_point_base: AbsolutePath | None = None
    """Where Nova would mount exports on a host."""

    @property
    def host(self) -> str:
        """The NFS server, IPv6 without brackets."""
        return _split_nfs_export(self.data.export)[0]

    @property
    def path(self) -> str:
        """The exported directory."""
        return _split_nfs_export(self.data.export)[1]

    def _own_id(self) -> str | None:
        return f"{self.data.export}/{self.data.name}"


def _check_smb_export(value: str) -> str:
    match = re.fullmatch(r"//([^/]+)/([^/]+(?:/[^/]+)*)/?", value.replace("\\", "/"))
    if match is None:
        raise ValueError("is not //host/share")
    if ".." in match[2].split("/"):
        raise ValueError("contains '..'")
    return f"//{check_host(match[1])}/{match[2]}"


class SmbfsData(ShareData):
    """``data`` of an SMB volume (the Windows SMB driver of Cinder up to 22; Nova's Hyper-V)."""

    export: Annotated[PrintableText, Field(max_length=1024), AfterValidator(_check_smb_export)]
    """``//host/share``; backslashes are understood."""
    options: Secret | None = None
    """Mount options, ``-o username=…,password=…``: a secret, because the password is in there."""


class SmbfsVolume(VolumeBase):
    """A file on an SMB share."""

    driver_volume_type: Literal["smbfs"] = "smbfs"
    data: SmbfsData
    mount_point_base: AbsolutePath | None = None

    @property
    def unc_path(self) -> str:
        r"""The file as Windows names it: ``\\host\share\volume-….vhdx``."""
        return f"{self.data.export}/{self.data.name}".replace("/", "\\")

    @property
    def username(self) -> str | None:
        """The user name in the options."""
        found = self._option("username", "user")
        return found or None

    @property
    def password(self) -> SecretStr | None:
        """The password in the options."""
        found = self._option("password", "pass")
        return SecretStr(found) if found else None

    def _option(self, *names: str) -> str | None:
        if self.data.options is None:
            return None
        text = self.data.options.get_secret_value().strip().removeprefix("-o").strip()
        for option in text.split(","):
            name, _, value = option.partition("=")
            if name.strip() in names:
                return value
        return None

    def _own_id(self) -> str | None:
        return f"{self.data.export}/{self.data.name}"
