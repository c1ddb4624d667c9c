"""Addresses of hosts: as text in a label or URL, and found by a name."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address


def bracketed(host: str) -> str:
    """A host as it stands before a port or in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


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
