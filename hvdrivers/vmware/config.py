"""What connect() takes for vSphere."""

from __future__ import annotations

from typing import Annotated, Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from hvdrivers.addresses import bracketed
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.invalid import in_words
from hvdrivers.limits import WAIT_SECONDS
from hvdrivers.models.base import PrintableText, TextSecret
from hvdrivers.models.config import CREDENTIALS_HINT, DriverConfig

_DIGEST = 64
"""Hexadecimal digits of SHA-256."""


def _thumbprint(value: str) -> str:
    digits = value.replace(":", "").lower()
    if len(digits) != _DIGEST or any(digit not in "0123456789abcdef" for digit in digits):
        raise ValueError("is no SHA-256 thumbprint: 64 hexadecimal digits, with colons or without")
    return digits


def _folder_name(value: str) -> str:
    if not value or any(char in value for char in "/\\%[]") or value in {".", ".."}:
        raise ValueError("must be one plain folder name")
    return value


_OPTIONS = "the documentation of VmwareConfig names the options"


class VmwareConfig(DriverConfig):
    """One vCenter cluster, one host of a vCenter, or one ESXi host."""

    host: Annotated[PrintableText, Field(min_length=1)]
    """Name or address of the vCenter Server or ESXi host."""
    port: Annotated[int, Field(ge=1, le=65535)] = 443
    username: PrintableText
    password: TextSecret
    ca_file: PrintableText | None = None
    """PEM file with the certificate authorities to trust instead of the system's."""
    thumbprint: Annotated[str, AfterValidator(_thumbprint)] | None = None
    """SHA-256 of the server's certificate: exactly this certificate is trusted, whoever signed
    it."""
    verify_tls: bool = True
    """False accepts any certificate: whoever is between can read the password."""
    datacenter: PrintableText | None = None
    """Name of the datacenter. None: the only one."""
    compute: PrintableText | None = None
    """Name of the cluster, or of a host that is in none. None: the only one of the datacenter."""
    resource_pool: PrintableText | None = None
    """Name of a resource pool of it for new machines. None: the root."""
    folder: PrintableText | None = None
    """Path of the VM folder for new machines, below the datacenter's. None: that one itself."""
    datastore: PrintableText | None = None
    """Name of the datastore for disks and images; a datastore cluster is none. None: the only
    one."""
    directory: Annotated[PrintableText, AfterValidator(_folder_name)] = "hvdrivers"
    """Folder on each datastore that holds all files of the driver. It is made if it is not
    there; on vSAN an administrator makes it."""
    guest_id: PrintableText = "otherLinux64Guest"
    """vSphere's guest operating system identifier of new machines."""
    scsi_controllers: Annotated[int, Field(ge=1, le=4)] = 4
    """SCSI controllers that a machine may have; each takes 15 disks."""
    gpu_mmio_gib: Annotated[int, Field(ge=1, le=4096)] = 128
    """Address space above 4 GiB that a machine with UEFI gets for each GPU passed to it, in GiB: at
    least the GPU's memory, and a power of two."""
    request_timeout: Annotated[float, Field(gt=0, le=WAIT_SECONDS)] = 60.0
    """Seconds that the server may take for one request, where the operation has not less left."""
    connect_timeout: Annotated[float, Field(gt=0, le=WAIT_SECONDS)] = 15.0
    """Seconds for one attempt to connect and log in."""
    connections: Annotated[int, Field(ge=1, le=256)] = 16
    """Idle connections that are kept: as many as threads use the driver at once."""

    @model_validator(mode="after")
    def _one_trust(self) -> Self:
        given = [self.ca_file is not None, self.thumbprint is not None, not self.verify_tls]
        if sum(given) > 1:
            raise ValueError("give one of ca_file, thumbprint and verify_tls=False")
        return self

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """``vcenter://user@host:port/datacenter/compute?datastore=name``, or ``esxi://user@host``.

        ``%40`` stands for the ``@`` in a user name. Other fields may be query parameters.
        """
        parts = urlsplit(url)
        if parts.password is not None:
            raise InvalidRequest(
                "the URL holds a password", hint="leave it out of the URL, and give password="
            )
        values: dict[str, Any] = dict(parse_qsl(parts.query))
        path = [unquote(part) for part in parts.path.split("/") if part]
        values |= dict(zip(("datacenter", "compute"), path, strict=False))
        values["host"] = parts.hostname or ""
        if parts.port:
            values["port"] = parts.port
        if parts.username:
            values["username"] = unquote(parts.username)
        try:
            if len(path) > 2:
                raise InvalidRequest(
                    "the path of the URL has more than two parts",
                    hint="name the datacenter, and the cluster or host in it: vcenter://HOST/DATACENTER/COMPUTE",
                )
            return cls(**(values | options))
        except ValidationError as error:
            hint = _OPTIONS if "password" in {*values, *options} else CREDENTIALS_HINT
            raise InvalidRequest(in_words(error), hint=hint) from None

    @property
    def host_label(self) -> str:
        """The server and what of it the driver manages."""
        port = "" if self.port == 443 else f":{self.port}"
        return f"vsphere://{bracketed(self.host)}{port}/{self.compute or ''}".rstrip("/")
