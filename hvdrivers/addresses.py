"""Addresses of hosts: as text in a label or URL, and found by a name."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

_DNS_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""What is behind ``%``: the name or number of a network interface. Python takes any text there,
line breaks and markup too."""


def bracketed(host: str) -> str:
    """A host as it stands before a port or in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def known_zone(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The address.

    Raises:
        ValueError: its zone (``fe80::1%zone``) is no name of a network interface.
    """
    zone = address.scope_id if isinstance(address, IPv6Address) else None
    if zone is not None and not _ZONE.fullmatch(zone):
        raise ValueError("has a zone (behind %) that is no name of a network interface")
    return address


def ip_text(value: str) -> str:
    """An IP address in its canonical spelling.

    Raises:
        ValueError: it is none, or its zone is no name of a network interface.
    """
    try:
        address = ip_address(value)
    except ValueError:
        raise ValueError("is no IP address") from None  # its own words quote the value
    return str(known_zone(address))


def check_host(value: str) -> str:
    """A host: an IP address, in its canonical spelling, or a DNS name. IPv6 without brackets."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    address, _, zone = bare.partition("%")
    if ":" in address or address.replace(".", "").isdigit():
        try:
            canonical = str(ip_address(address))
        except ValueError:
            raise ValueError("is not an IP address") from None
        if not zone:
            return canonical
        bare = zone  # an interface name, held to the rules of a DNS name
        if _DNS_NAME.fullmatch(zone):
            return f"{canonical}%{zone}"
    if not _DNS_NAME.fullmatch(bare):
        raise ValueError("is neither an IP address nor a DNS name")
    return bare


def address_of(name: str | None) -> str | None:
    """The IP address of a host, for others to reach it by.

    Returns:
        The address itself if that is what was given; what the name resolves to here, IPv4 first;
        None for a name that does not resolve, or only to this machine's loopback.
    """
    if not name:
        return None
    with suppress(ValueError):
        return str(ip_address(name))
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    addresses = [ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    usable = [each for each in addresses if not (each.is_loopback or each.is_link_local)]
    return str(min(usable, key=lambda each: each.version)) if usable else None
