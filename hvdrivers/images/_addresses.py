"""Redirects to this machine and its link: refused unless the caller allows them.

The server of an image chooses where a redirect leads. Services that trust this machine listen on
loopback addresses; a cloud's metadata service, which hands out credentials, on a link-local one.
What such a service answers must not decide between errors either.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.hints import IMAGE_URL

Trace = Callable[[str, Mapping[str, Any]], None]
_NAT64 = 0x0064_FF9B << 96


def is_local(text: str) -> bool:
    """Whether an address is one of this machine's own kind, or reaches no farther than its link."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        # IPv4 in IPv6: mapped, by 6to4, by NAT64
        inner = address.ipv4_mapped or address.sixtofour
        if int(address) >> 32 << 32 == _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            address = inner
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or (isinstance(address, IPv4Address) and int(address) >> 24 == 0)
    )


def refuse_local(host: str, port: int, shown: str) -> None:
    """Raise InvalidRequest if the name, or any of its addresses, is local.

    Args:
        shown: what redirects to where, for the message.
    """
    if is_local(host.strip("[]")):
        raise refusal(shown)
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise InvalidRequest(f"{shown}, which is no host name", hint=IMAGE_URL) from None
    except OSError:
        return  # a proxy may know it; else connecting says so
    if any(is_local(str(each[4][0])) for each in found):
        raise refusal(shown)


def checking(trace: Trace, shown: str) -> Trace:
    """``trace``, which also looks at whom the connection has reached, before anything is sent: the
    name may have got another address since it was looked up."""

    def traced(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            connection: socket.socket = info["return_value"].get_extra_info("socket")
            if is_local(str(connection.getpeername()[0])):
                connection.close()
                raise refusal(shown)
        trace(event, info)

    return traced


def refusal(shown: str) -> InvalidRequest:
    """What to say."""
    return InvalidRequest(
        f"{shown}, an address of this machine or of its link",
        hint="give the URL of the file itself, or allow_local_redirects=True",
    )
