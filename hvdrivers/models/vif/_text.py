"""MAC addresses, names of interfaces, and the names that Nova and os-vif derive from a port."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from hvdrivers.models.base import PrintableText

NIC_NAME_LENGTH = 14
"""Nova's NIC_NAME_LEN: names derived from a port id are cut to it (Linux itself allows 15)."""

_MAC = re.compile(
    r"[0-9a-f]{2}(?P<sep>[:-])(?:[0-9a-f]{2}(?P=sep)){4}[0-9a-f]{2}"  # 52:54:.. or 52-54-..
    r"|[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4}"  # Cisco
    r"|[0-9a-f]{12}"  # Hyper-V
)


def check_mac(value: str) -> str:
    """A unicast MAC address in its canonical form, ``52:54:00:12:34:56``.

    Raises:
        ValueError: not a MAC address, multicast (no NIC may send from one), or all zeros.
    """
    low = value.lower()
    if _MAC.fullmatch(low) is None:
        raise ValueError("is not a MAC address like 52:54:00:12:34:56")
    digits = re.sub(r"[:.-]", "", low)
    if int(digits[:2], 16) & 1:
        raise ValueError("is a multicast or broadcast MAC address")
    if not int(digits, 16):
        raise ValueError("is the all-zero MAC address")
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


_PORT_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_port_id(vif_id: str) -> bool:
    """Whether the id is a UUID, and so the name of one port everywhere, as Neutron's are. Any other
    id is a name within its instance."""
    return _PORT_ID.fullmatch(vif_id) is not None


def default_mac(vif_id: str, instance: UUID | None = None) -> str:
    """The MAC address of a VIF that was given none: the same one for the same id, every time.

    Args:
        instance: whose NIC it is. It makes no difference for an id that is a UUID.

    It is unicast and locally administered (IEEE 802: the second bit of the first octet), and comes
    from SHA-256 of the id, so that no driver has to remember it.
    """
    name = vif_id if instance is None or is_port_id(vif_id) else f"{instance}/{vif_id}"
    digest = bytearray(hashlib.sha256(name.encode()).digest()[:6])
    digest[0] = (digest[0] & 0xFC) | 0x02
    if digest[0] == 0xFE:  # libvirt keeps fe:… for its own end of the tap device
        digest[0] = 0x52
    return ":".join(f"{octet:02x}" for octet in digest)


def _check_interface(value: str) -> str:
    # dev_valid_name() of the Linux kernel.
    if value in {".", ".."} or any(char in "/:" or char.isspace() for char in value):
        raise ValueError("is not a network interface name: it has '/', ':' or white space in it")
    if len(value.encode()) > 15:
        raise ValueError("is longer than 15 bytes, which is Linux's limit for interfaces")
    return value


def _check_socket(value: str) -> str:
    if not value.startswith("/") or ".." in value.split("/"):
        raise ValueError("is not an absolute path without '..'")
    if value.rpartition("/")[2] in {"", "."}:
        raise ValueError("is the path of a folder")
    if len(value.encode()) > 107:
        raise ValueError("is longer than 107 bytes, which is Linux's limit for sockets")
    return value


def _check_label(value: str) -> str:
    if value != value.strip():
        raise ValueError("begins or ends with white space")
    return value


MacAddress = Annotated[str, StringConstraints(max_length=17), AfterValidator(check_mac)]
"""Unicast MAC address, lower case with colons, whatever the spelling was."""

InterfaceName = Annotated[PrintableText, Field(min_length=1), AfterValidator(_check_interface)]
"""Name of a Linux network interface or bridge: at most 15 bytes, no slash, colon or space."""

NetworkName = Annotated[
    PrintableText, Field(min_length=1, max_length=255), AfterValidator(_check_label)
]
"""Name of a libvirt network, a port group, a virtual switch: any printable text."""

SocketPath = Annotated[PrintableText, AfterValidator(_check_socket)]
"""Path of a UNIX socket or character device on the hypervisor host."""


def _port_name(prefix: str, vif_id: str) -> str:
    if not is_port_id(vif_id):
        # An id of the caller's own: cut short, lab-1-eth0 and lab-1-eth1 could become one.
        vif_id = hashlib.sha256(vif_id.encode()).hexdigest()
    return f"{prefix}{vif_id}"[:NIC_NAME_LENGTH]


def tap_name(vif_id: str) -> str:
    """``tap`` and the id, cut to 14 characters: what Neutron's agents look for.

    An id that is not a UUID is hashed first; so are those of the other two names.
    """
    return _port_name("tap", vif_id)


def hybrid_bridge_name(vif_id: str) -> str:
    """``qbr`` and the id, cut to 14: the Linux bridge between VM and OVS of the hybrid plug."""
    return _port_name("qbr", vif_id)


def vhostuser_name(vif_id: str) -> str:
    """``vhu`` and the id, cut to 14: the OVS port of a vhost-user socket."""
    return _port_name("vhu", vif_id)
