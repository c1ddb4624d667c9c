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
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AwareDatetime, Field, HttpUrl, SecretStr, field_validator, model_validator

from hvdrivers.limits import IMAGE_HEADER_CHARACTERS, IMAGE_HEADERS
from hvdrivers.models._veil import VEILED
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
    OVA = "ova"
    """An archive with a machine's description in OVF and its disk in VMDK. The disk is the image;
    the description is not read but to find it, and an OVA with several disks is refused."""


FormatWord = Literal["raw", "qcow2", "vmdk", "vhd", "vhdx", "iso", "vdi", "ova"]
"""An :class:`ImageFormat` as a word, which a model's constructor takes as well."""


class Checksum(Model):
    """What the content must hash to. ``Checksum.model_validate("sha256:9f86…")`` works too, and so
    does the string wherever a model has a field of this type.

    MD5 and SHA-1 are refused: an attacker can make two images with the same sum.
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
    what was inspected as one must never be found in the cache as the other. A digest longer than
    256 bits has no room: the SHA-256 of its hexadecimal digits stands for it, so two checksums that
    differ anywhere have different keys.
    """
    value = checksum.value
    if len(value) > 64:
        value = hashlib.sha256(value.encode("ascii")).hexdigest()
    return f"{image_format.value}-{checksum.algorithm}-{value}"


_BY_SUFFIX = {each.value: each for each in ImageFormat}


def format_of_name(name: str) -> ImageFormat | None:
    """The format that the end of a file's name says (``.qcow2``); None for a name that says none
    (``.img``). The owner of the file has said it there; the content is inspected against it."""
    return _BY_SUFFIX.get(name.rpartition(".")[2].lower())


def _with_format(model: str, data: Any, name: object) -> Any:
    """The fields of an image, with the format that its name says if none was given."""
    if not isinstance(data, dict) or data.get("format") is not None or name is None:
        return data
    found = format_of_name(str(name))
    if found is None:
        raise ValueError(
            f"{model} needs format=, one of {', '.join(ImageFormat)}: the end of its name does not"
            " say it, and the content is never asked"
        )
    return {**data, "format": found}


class FileImage(Model):
    """A file on the machine the library runs on (not on the hypervisor's host)."""

    source: Literal["file"] = "file"
    path: Path
    """Symbolic links are followed; what they lead to must be a regular file."""
    format: ImageFormat
    """If it is not given, what the end of the file's name says: ``.qcow2``, ``.raw``, ``.vmdk``."""
    checksum: Checksum | None = None
    """Verified when given. Without it the content is hashed to name it in the cache."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            path: Path | str,
            format: ImageFormat | FormatWord | None = None,
            checksum: Checksum | str | None = None,
            source: Literal["file"] = "file",
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _format_of_the_name(cls, data: Any) -> Any:
        return _with_format("FileImage", data, data.get("path") if isinstance(data, dict) else None)

    def cache_key(self) -> str | None:
        """The name of this content in a host's cache, see :func:`content_cache_key`. None without
        a checksum: the library knows the content only once it has read the file. From then on
        :attr:`hvdrivers.images.LocalImage.cache_key` has the name."""
        return content_cache_key(self.format, self.checksum) if self.checksum else None


class HttpImage(Model):
    """A file on a web server. The checksum is required: TLS says who sent the bytes, not which."""

    source: Literal["http"] = "http"
    url: HttpUrl
    """``https://`` or ``http://``, without user name and password (use ``headers``). The query may
    be a signature, so no repr and no error shows it."""
    format: ImageFormat
    """If it is not given, what the end of the URL's path says: ``.qcow2``, ``.raw``, ``.vmdk``."""
    checksum: Checksum
    ca_file: Path | None = None
    """PEM file with the certificate authorities to trust instead of the system's."""
    verify_tls: bool = True
    """False accepts any certificate. The checksum still holds, the headers' secrets do not."""
    allow_local_redirects: bool = False
    """True: a redirect may lead to a loopback or link-local address. A server that chooses where
    the download goes could otherwise have services of this machine, or the credentials of a cloud's
    metadata service, read for it. The address of ``url`` itself is the caller's choice."""
    headers: Mapping[str, SecretStr] = Field(default_factory=dict)
    """Sent to the URL's own origin (scheme, host and port), never to where it redirects."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            url: HttpUrl | str,
            checksum: Checksum | str,
            format: ImageFormat | FormatWord | None = None,
            ca_file: Path | str | None = None,
            verify_tls: bool = True,
            allow_local_redirects: bool = False,
            headers: Mapping[str, SecretStr | str] = ...,
            source: Literal["http"] = "http",
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _format_of_the_name(cls, data: Any) -> Any:
        url = data.get("url") if isinstance(data, dict) else None
        return _with_format("HttpImage", data, url and re.split(r"[?#]", str(url))[0])

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
        if len(headers) > IMAGE_HEADERS:
            raise ValueError(f"has more than {IMAGE_HEADERS} headers")
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError("a header name is a token of RFC 9110")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"the download sets the header {name} itself")
            if name.lower() in seen:
                raise ValueError(f"the header {name} is given twice")
            seen.add(name.lower())
            secret = value.get_secret_value()
            if len(secret) > IMAGE_HEADER_CHARACTERS:
                raise ValueError(f"the header {name} is too long ({IMAGE_HEADER_CHARACTERS})")
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
    cached: bool = False
    """``name`` is the key of an entry in the host's cache (``CachedImage.key``). Nothing is read or
    sent; a caller needs no access to what the entry was made from."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            name: str,
            format: ImageFormat | FormatWord | None = None,
            cached: bool = False,
            source: Literal["host"] = "host",
        ) -> None: ...

    @model_validator(mode="after")
    def _key(self) -> HostImage:
        if self.cached and not re.fullmatch("[a-z0-9-]{1,80}", self.name):
            raise ValueError("is not the key of a cached image")
        if self.cached and self.format is not None:
            raise ValueError("the cache knows the format of what is in it")
        return self

    def cache_key(self) -> str:
        """``host-``, a readable part of the name, and 128 bits of its hash; of a cached image its
        own key."""
        if self.cached:
            return self.name
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:32]
        readable = re.sub(r"[^a-z0-9]+", "-", self.name.lower())[:32].strip("-")
        return f"host-{readable}-{digest}" if readable else f"host-{digest}"


ImageRef = Annotated[
    Annotated[FileImage | HttpImage | HostImage, Field(discriminator="source")], VEILED
]
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
    """A base image that a host keeps, so that the next spawn need not upload it; or a part of one
    (``partial``): an upload that is under way, or what an upload left whose client died."""

    key: str = Field(pattern=r"^[a-z0-9-]{1,80}(\.[0-9a-f]{12,32})?$")
    """The ``cache_key()`` of what it was made from. That of a partial upload has a dot and a random
    part behind it: of one image there may be several."""
    format: ImageFormat
    """The format it has on the host, not necessarily that of the source."""
    virtual_size_bytes: int = Field(ge=0)
    """The size of a disk that is made from it; 0 for a partial upload. It may be larger than that
    of the source: a host has a smallest size of disks (3 MiB on Hyper-V), and may round sizes up to
    whole blocks."""
    size_bytes: int = Field(ge=0)
    """What it occupies on the host."""
    last_used: AwareDatetime | None = None
    """When an instance was last spawned from it; None where the host does not record it."""
    in_use: bool | None = None
    """Whether a disk is based on it now, so that evict_image() refuses; None where unknown."""
    partial: bool = False
    """Whether it is an upload that is not complete. No instance is made from it; evict_image()
    removes it once nobody writes to it any more."""
    last_written: AwareDatetime | None = None
    """When a partial upload was last written to, by the host's own clock, which may differ from
    the caller's; None of a complete image, and where the host does not tell."""


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
