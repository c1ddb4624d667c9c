"""What the guest's agent, or the host's tables, tell about the inside of an instance."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, SecretStr, ValidationInfo, field_validator

from hvdrivers.models.base import Model, PrintableText, TextSecret, is_printable

_TAG_BYTES = 36
"""Of a virtio-fs tag (Virtual I/O Device specification 1.2, section 5.11.4)."""


def _check_tag(value: str) -> str:
    if not value:
        raise ValueError("is empty")
    if len(value.encode()) > _TAG_BYTES:
        raise ValueError(f"is longer than {_TAG_BYTES} bytes in UTF-8")
    return value


def _check_directory(value: str) -> str:
    first, *parts = value.split("/")
    if first or not any(parts):
        raise ValueError("is not the absolute path of a directory below /")
    if not all(parts) or {".", ".."} & set(parts):
        raise ValueError("has an empty part, '.' or '..' in it: name the directory itself")
    return value


class AddressSource(StrEnum):
    """Where an address was learnt. They disagree; the caller decides whom to believe."""

    AGENT = "agent"
    """The guest says so."""
    LEASE = "lease"
    """The host's DHCP server gave it."""
    ARP = "arp"
    """The host's neighbour table saw it."""


class GuestCredentials(Model):
    """An account of the guest's operating system."""

    user: PrintableText
    password: TextSecret

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(self, *, user: str, password: SecretStr | str) -> None: ...


class GuestAddress(Model):
    """One address of one NIC."""

    mac: str
    address: IPv4Address | IPv6Address
    prefix_length: int | None = None
    """None: the source does not know the network (ARP), or the guest told what is no length."""
    source: AddressSource
    interface: str | None = None
    """The guest's own name of the NIC, if the agent told it, and it is printable."""

    # A guest says what it likes, and what is wrong of it must not cost the rest of its answer.

    @field_validator("prefix_length")
    @classmethod
    def _in_range(cls, value: int | None, info: ValidationInfo) -> int | None:
        address = info.data.get("address")
        fits = value is not None and address is not None and 0 <= value <= address.max_prefixlen
        return value if fits else None

    @field_validator("interface")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        return value if value is not None and is_printable(value) else None


class ExecResult(Model):
    """What a program run in the guest left."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """True where the agent cut the output."""


class Share(Model):
    """A directory of the host that the guest may mount."""

    tag: Annotated[PrintableText, AfterValidator(_check_tag)]
    """The name by which the guest mounts it, at most 36 bytes."""
    path: Annotated[PrintableText, AfterValidator(_check_directory)]
    """Absolute path on the host, without ``.`` and ``..``. The host follows symbolic links in it:
    name no directory whose parents a tenant can write to."""
    read_only: bool = False
    """The guest cannot write to it."""
