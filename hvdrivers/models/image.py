"""Images: where the first content of a disk comes from, and what is known about it.

An :data:`ImageRef` says *where*: a file beside the library, a URL, or something the hypervisor
already has. It says nothing about safety: :mod:`hvdrivers.images` reads, verifies and inspects the
first two before a single byte reaches a hypervisor; the third is the administrator's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, HttpUrl, SecretStr, field_validator, model_validator

from hvdrivers.models.base import Identifier, Model

_DIGEST_CHARS = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
# The download sets these itself; a caller's value would break resuming, hashing, or framing.
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "if-range",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class ImageFormat(StrEnum):
    """The format of a disk image. Always declared, never guessed: guessing is how an image that
    names ``/etc/shadow`` as its backing file gets opened (CVE-2024-32498)."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vhd"
    """Virtual PC's format; QEMU calls it ``vpc``."""
    VHDX = "vhdx"
    ISO = "iso"
    """ISO 9660, for a CD drive. A hybrid one, with a partition table in front, is fine."""
    VDI = "vdi"


class Checksum(Model):
    """What the content must hash to. ``Checksum.model_validate("sha256:9f86…")`` works too, and so
    does the string wherever a model has a field of this type.

    MD5 and SHA-1 are refused: somebody can make two images with the same sum.
    """

    algorithm: Literal["sha256", "sha384", "sha512"]
    value: str
    """The digest in lower-case hexadecimal digits."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        algorithm, colon, value = data.strip().partition(":")
        if not colon:
            raise ValueError("must look like 'sha256:' and the digest in hexadecimal")
        return {"algorithm": algorithm.strip().lower(), "value": value.strip()}

    @field_validator("value")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower()

    @model_validator(mode="after")
    def _length(self) -> Checksum:
        if not re.fullmatch(f"[0-9a-f]{{{_DIGEST_CHARS[self.algorithm]}}}", self.value):
            raise ValueError(
                f"a {self.algorithm} digest has {_DIGEST_CHARS[self.algorithm]} hexadecimal digits"
            )
        return self

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"


def content_cache_key(image_format: ImageFormat, checksum: Checksum) -> str:
    """Name for content with this checksum, read as this format: ``qcow2-sha256-9f86…``.

    Only ``[a-z0-9-]``, at most 80 characters, so it fits a volume, file or template name on every
    hypervisor. The format is in it because the same bytes read as another format are another disk:
    what was inspected as one must never be found in the cache as the other. 256 bits of a longer
    digest are kept.
    """
    return f"{image_format.value}-{checksum.algorithm}-{checksum.value[:64]}"


class FileImage(Model):
    """A file on the machine the library runs on (not on the hypervisor's host)."""

    source: Literal["file"] = "file"
    path: Path
    """Symbolic links are followed; what they lead to must be a regular file."""
    format: ImageFormat
    checksum: Checksum | None = None
    """Verified when given. Without it the content is hashed to name it in the cache."""

    def cache_key(self) -> str | None:
        """The name of this content in a host's cache, see :func:`content_cache_key`. None without
        a checksum: nobody knows the content before it is read, and after that
        :attr:`hvdrivers.images.LocalImage.cache_key` has it."""
        return content_cache_key(self.format, self.checksum) if self.checksum else None


class HttpImage(Model):
    """A file on a web server. The checksum is required: TLS says who sent the bytes, not which."""

    source: Literal["http"] = "http"
    url: HttpUrl
    """``https://`` or ``http://``, without user name and password (use ``headers``). The query may
    be a signature, so no repr and no error shows it."""
    format: ImageFormat
    checksum: Checksum
    ca_file: Path | None = None
    """PEM file with the certificate authorities to trust instead of the system's."""
    verify_tls: bool = True
    """False accepts any certificate. The checksum still holds, the headers' secrets do not."""
    headers: Mapping[str, SecretStr] = Field(default_factory=dict)
    """Sent to the URL's own origin (scheme, host and port), never to where it redirects."""

    @field_validator("url")
    @classmethod
    def _no_credentials(cls, url: HttpUrl) -> HttpUrl:
        if url.username is not None or url.password is not None:
            raise ValueError("credentials in the URL end up in logs: put them into headers")
        return url

    @field_validator("headers")
    @classmethod
    def _plain_headers(cls, headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        seen = set()
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError("a header name is a token of RFC 9110")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"the download sets the header {name} itself")
            if name.lower() in seen:
                raise ValueError(f"the header {name} is given twice")
            seen.add(name.lower())
            secret = value.get_secret_value()
            if not secret.isascii() or not (secret.isprintable() or "\t" in secret):
                raise ValueError(f"the header {name} must be printable ASCII")
            if any(char in secret for char in "\r\n\0"):
                raise ValueError(f"the header {name} contains a line break")
        return headers

    @model_validator(mode="after")
    def _one_trust(self) -> HttpImage:
        if self.ca_file is not None and not self.verify_tls:
            raise ValueError("ca_file and verify_tls=False contradict each other")
        return self

    @property
    def display_url(self) -> str:
        """The URL without its query: what messages may show."""
        return shown_url(str(self.url))

    def cache_key(self) -> str:
        """The name of this content in a host's cache, see :func:`content_cache_key`."""
        return content_cache_key(self.format, self.checksum)

    def __repr_args__(self) -> Any:
        for name, value in super().__repr_args__():
            yield name, (self.display_url if name == "url" else value)


class HostImage(Model):
    """An image or template that the hypervisor already has, by its name there.

    Libvirt: a volume in the image pool. vSphere: a template. Hyper-V: a parent VHDX. It is not
    inspected: what an administrator put there is trusted.
    """

    source: Literal["host"] = "host"
    name: Identifier
    format: ImageFormat | None = None
    """None: as the hypervisor itself records it (never by probing the content)."""

    def cache_key(self) -> str:
        """``host-``, a readable part of the name, and 128 bits of its hash."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:32]
        readable = re.sub(r"[^a-z0-9]+", "-", self.name.lower())[:32].strip("-")
        return f"host-{readable}-{digest}" if readable else f"host-{digest}"


ImageRef = Annotated[FileImage | HttpImage | HostImage, Field(discriminator="source")]
"""Where the content of a disk comes from."""


class ImageInfo(Model):
    """What the inspection of an image found. Having one means that the image was accepted."""

    format: ImageFormat
    virtual_size_bytes: int = Field(ge=0)
    """The size of the disk a guest sees: what to compare with a flavor's disk."""
    file_size_bytes: int = Field(ge=0)
    """The length of the file, holes included."""
    subformat: str | None = None
    """What the format calls this variant: ``compat=1.1``, ``streamOptimized``, ``dynamic``, …"""


class CachedImage(Model):
    """A base image that a host keeps, so that the next spawn need not upload it."""

    key: str = Field(pattern=r"^[a-z0-9-]{1,80}$")
    """The ``cache_key()`` of what it was made from."""
    format: ImageFormat
    """The format it has on the host, not necessarily that of the source."""
    virtual_size_bytes: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    """What it occupies on the host."""
    last_used: AwareDatetime | None = None
    """When an instance was last spawned from it; None where the host does not record it."""
    in_use: bool | None = None
    """Whether a disk sits on it now, so that it cannot be evicted; None where nobody knows."""


def shown_url(url: str) -> str:
    """A URL as messages may show it: no user name, password, query or fragment, no control
    characters (a redirect's target is chosen by the server)."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "".join(c for c in re.split(r"[?#]", url)[0] if c.isprintable())[:200]
    rest = re.split(r"[?#]", rest)[0]
    authority, slash, path = rest.partition("/")
    shown = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    return "".join(c for c in shown if c.isprintable())[:200]
