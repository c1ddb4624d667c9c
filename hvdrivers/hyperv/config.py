"""How to reach a Hyper-V host, and where the driver keeps its things on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from hvdrivers.addresses import bracketed
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.hints import CA_FILE
from hvdrivers.hyperv.naming import meeting, plain_path
from hvdrivers.invalid import in_words
from hvdrivers.limits import WAIT_SECONDS
from hvdrivers.models.base import PrintableText, TextSecret
from hvdrivers.models.config import CREDENTIALS_HINT, DriverConfig
from hvdrivers.models.instance import Firmware

_OPTIONS = "the documentation of HypervConfig names the options"


class Authentication(StrEnum):
    """How the driver proves who it is, in pywinrm's names."""

    NTLM = "ntlm"
    """An account of the host or of a domain; messages are sealed over HTTP."""
    KERBEROS = "kerberos"
    """A domain account; messages are sealed over HTTP. Needs ``pywinrm[kerberos]``."""
    CREDSSP = "credssp"
    """As NTLM or Kerberos, and the host may use the account further: disks on SMB shares, live
    migration. Needs ``pywinrm[credssp]``."""
    BASIC = "basic"
    """An account of the host. Nothing is sealed: only over TLS, or for a test."""
    CERTIFICATE = "certificate"
    """A client certificate that the host maps to an account. Over TLS only."""


class ImageRoute(StrEnum):
    """How an image on a web server comes to the host."""

    PUSH = "push"
    """This process fetches and inspects it, and sends its data over WinRM."""
    PULL = "pull"
    """The host fetches the whole file itself and compares its checksum: nothing of it passes this
    process. For raw, VHD and VHDX without headers or an authority of their own; others are
    pushed. A redirect is refused."""


def _host(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.%]+\]?", value) is None:
        raise ValueError("is no host name and no address")
    return value.strip("[]")


def _folder(value: str) -> str:
    value = value.replace("/", "\\").rstrip("\\")
    if re.fullmatch(r"[A-Za-z]:\\[^<>:\"|?*]+|\\\\[^\\<>:\"|?*]+\\[^<>:\"|?*]+", value) is None:
        raise ValueError(r"is no absolute folder of Windows below a drive: D:\hvdrivers")
    if ".." in value.split("\\"):
        raise ValueError("contains '..'")
    if not plain_path(value):
        raise ValueError("has a short name (PROGRA~1), or a dot or blank at the end of a part")
    return value


Folder = Annotated[PrintableText, AfterValidator(_folder)]
PoolLabel = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,30}$")]


class HypervConfig(DriverConfig):
    """One Hyper-V host, by WinRM."""

    host: Annotated[PrintableText, AfterValidator(_host)]
    """Name or address."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """None: 5986 with TLS, 5985 without."""
    tls: bool = True
    username: PrintableText | None = None
    """``Administrator``, ``DOMAIN\\user``, ``user@domain``."""
    password: TextSecret | None = None
    authentication: Authentication = Authentication.NTLM
    verify_tls: bool = True
    """False accepts any certificate of the host: somebody in between can take the connection."""
    ca_file: Path | None = None
    """PEM file with the authorities to trust instead of the system's."""
    client_certificate: Path | None = None
    """PEM file, for certificate authentication."""
    client_key: Path | None = None
    kerberos_delegation: bool = False
    """Let the host use the Kerberos ticket further (unconstrained delegation)."""
    connect_timeout: Annotated[float, Field(gt=0, le=WAIT_SECONDS)] = 30.0
    """Seconds for one attempt to connect: the session, PowerShell's start, the Hyper-V module."""
    workers: Annotated[int, Field(ge=2, le=32)] = 6
    """Requests of a kind that the host runs at the same time: so many long ones (migrations,
    copies, snapshots), so many that wait in a guest, so many other changes, and so many that only
    look or end a long one. Each is a runspace of one PowerShell. The time in which a request waits
    for it is part of its deadline."""
    requests_per_process: Annotated[int, Field(ge=100)] = 20000
    """Requests after which the driver starts another PowerShell, as its memory grows slowly."""
    folder: Folder | None = None
    """Folder on the host for machines, disks, images and volumes. None: ``hvdrivers`` below the
    host's default folder for virtual hard disks."""
    pools: Mapping[PoolLabel, Folder] = Field(default_factory=dict)
    """Further folders for volumes and disks, by name: another drive, a cluster volume. The default
    pool is ``default``, below ``folder``."""
    image_route: ImageRoute = ImageRoute.PUSH
    """How an HttpImage comes to the host."""
    disk_slots: Annotated[int, Field(ge=4, le=64)] = 64
    """Disks and seed that the driver puts on a machine's SCSI controller, at most."""
    nic_slots: Annotated[int, Field(ge=1, le=64)] = 64
    """NICs of a machine, at most. Generation 1 has 8."""
    gpu_mmio_mib: Annotated[int, Field(ge=512, le=1 << 24)] = 33280
    """Address space above 4 GiB that a machine gets for each GPU and each partition of one, in MiB:
    at least the memory of the GPU that it maps."""
    default_firmware: Firmware = Firmware.UEFI
    """Of a spec that names none. UEFI is a machine of generation 2, which takes NICs while it
    runs; images that only a BIOS boots need ``bios``."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.authentication is Authentication.CERTIFICATE:
            if not self.tls or self.client_certificate is None or self.client_key is None:
                raise ValueError(
                    "certificate authentication needs tls, client_certificate and client_key"
                )
        elif self.authentication is not Authentication.KERBEROS and (
            self.username is None or self.password is None
        ):
            raise ValueError(f"{self.authentication} needs username and password")
        if self.ca_file is not None and not self.verify_tls:
            raise ValueError("ca_file and verify_tls=False contradict each other")
        if "default" in self.pools:
            raise ValueError("the pool 'default' is the one below folder")
        why = meeting(self.pools, self.folder)
        if why is not None:
            raise ValueError(f"{why}. Give each pool a folder of its own, beside the driver's")
        return self

    def check_files(self) -> None:
        """Read the files of this machine that the connection needs.

        Raises:
            InvalidRequest: one cannot be read.
        """
        for name in ("ca_file", "client_certificate", "client_key"):
            path: Path | None = getattr(self, name)
            if path is None:
                continue
            try:
                path.read_bytes()
            except OSError as error:
                raise InvalidRequest(
                    f"{name} cannot be read: {path}: {error.strerror}", hint=CA_FILE
                ) from error

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """``hyperv://user@host:port?tls=false``; the password is an option, or in the URL."""
        parts = urlsplit(url)
        values: dict[str, Any] = {"host": parts.hostname or "", **dict(parse_qsl(parts.query))}
        try:
            port = parts.port
        except ValueError:
            # the URL itself may hold a password: it is not repeated
            raise InvalidRequest(
                "the URL's port is no number",
                hint="hyperv://USER@HOST:PORT, with a port from 1 to 65535; or leave the port out",
            ) from None
        if port is not None:
            values["port"] = port
        if parts.username is not None:
            values["username"] = unquote(parts.username)
        if parts.password is not None:
            values["password"] = unquote(parts.password)
        try:
            return cls(**(values | options))
        except ValidationError as error:
            hint = _OPTIONS if "password" in {*values, *options} else CREDENTIALS_HINT
            raise InvalidRequest(in_words(error), hint=hint) from None

    @property
    def endpoint(self) -> str:
        """The URL of the WinRM service."""
        port = self.port or (5986 if self.tls else 5985)
        host = bracketed(self.host)
        return f"{'https' if self.tls else 'http'}://{host}:{port}/wsman"

    @property
    def host_label(self) -> str:
        """The host and its port."""
        return f"{bracketed(self.host)}:{self.port}" if self.port else self.host
