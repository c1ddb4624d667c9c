"""What the guest's agent, or the host's tables, tell about the inside of an instance."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from pydantic import SecretStr

from hvdrivers.models.base import Model


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

    user: str
    password: SecretStr

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(self, *, user: str, password: SecretStr | str) -> None: ...


class GuestAddress(Model):
    """One address of one NIC."""

    mac: str
    address: IPv4Address | IPv6Address
    prefix_length: int | None = None
    """None: the source does not know the network (ARP)."""
    source: AddressSource
    interface: str | None = None
    """The guest's own name of the NIC, if the agent told it."""


class ExecResult(Model):
    """What a program run in the guest left."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """True where the agent cut the output."""


class Share(Model):
    """A directory of the host that the guest may mount."""

    tag: str
    """The name by which the guest mounts it."""
    path: str
    """Absolute path on the host."""
    read_only: bool = False
