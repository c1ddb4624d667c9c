"""Text of storage connections: hosts, paths, IQNs, WWNs, each checked once, here.

Everything that comes from a storage server or a tenant is data: the types refuse what no name can
be (control characters, a path that climbs), and nothing else. Quoting is the driver's duty.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretBytes,
    SecretStr,
    StringConstraints,
)

from hvdrivers.addresses import check_host
from hvdrivers.limits import SECRET_CHARACTERS
from hvdrivers.models.base import PrintableText, TextSecret

_PORTAL = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")


def split_portal(value: str, default_port: int) -> tuple[str, int]:
    """Take ``host:port`` apart: ``10.0.0.1:3260``, ``[fd00::1]:3260``, ``san.example.org``.

    ``,1`` at the end, the portal group that tgt and LIO append, is dropped. IPv6 needs brackets:
    ``fd00::1:3260`` is itself a valid address, so it does not show where the port begins.
    """
    text, _, group = value.partition(",")
    match = _PORTAL.fullmatch(text)
    if match is None or (group and not group.isdigit()):
        hint = "; an IPv6 address needs brackets: [fd00::1]:3260" if text.count(":") > 1 else ""
        raise ValueError(f"is not host:port{hint}")
    port = int(match["port"] or default_port)
    if not 1 <= port <= 65535:
        raise ValueError("has a port outside 1 to 65535")
    return check_host(match["v6"] or match["host"]), port


def join_portal(host: str, port: int) -> str:
    """The opposite of :func:`split_portal`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _no_space(value: str) -> str:
    if any(char.isspace() for char in value):
        raise ValueError("contains white space")
    return value


def _iscsi_name(value: str) -> str:
    _no_space(value)
    if "/" in value or "," in value:
        raise ValueError("contains a slash or a comma, which no iSCSI name does (RFC 3722)")
    return value


def _check_path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("is not an absolute path")
    if ".." in value.split("/"):
        raise ValueError("contains '..'")
    return value


def _check_file_name(value: str) -> str:
    if "/" in value or "\\" in value or value in {".", ".."}:
        raise ValueError("is not a plain file name")
    return value


def _check_wwn(value: str) -> str:
    # 50:01:43:80:…, 0x5001…, naa.5001…, 50014380… are the spellings in use.
    bare = value.lower().removeprefix("naa.").removeprefix("0x").replace(":", "")
    if re.fullmatch(r"[0-9a-f]{16}", bare, re.ASCII) is None:
        raise ValueError("is not a WWN: 16 hexadecimal digits")
    return bare


Host = Annotated[PrintableText, Field(min_length=1, max_length=270), AfterValidator(check_host)]
"""IP address or DNS name."""

Port = Annotated[int, Field(ge=1, le=65535)]
"""TCP port; ``"3260"`` is understood."""

AbsolutePath = Annotated[
    PrintableText, Field(min_length=2, max_length=4096), AfterValidator(_check_path)
]
"""A path on the hypervisor host, absolute, without ``..``."""

FileName = Annotated[
    PrintableText, Field(min_length=1, max_length=255), AfterValidator(_check_file_name)
]
"""A name without any directory part."""

Iqn = Annotated[
    PrintableText,
    StringConstraints(max_length=223, pattern=r"^(iqn|eui|naa)\."),
    AfterValidator(_iscsi_name),
]
"""iSCSI name of a target or initiator (RFC 7143 section 4.2.7: at most 223 bytes)."""

Nqn = Annotated[
    PrintableText, StringConstraints(max_length=223, pattern=r"^nqn\."), AfterValidator(_no_space)
]
"""NVMe qualified name (NVMe Base 2.0 section 4.5: at most 223 bytes)."""

Wwn = Annotated[str, StringConstraints(max_length=32), AfterValidator(_check_wwn)]
"""World-wide name: 16 lower-case hexadecimal digits, whatever the spelling was."""

Lun = Annotated[int, Field(ge=0, lt=1 << 64)]
"""Logical unit number; decimal text is understood. Some arrays number beyond 255 (SAM-2)."""


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str | int) else value


Wwns = Annotated[tuple[Wwn, ...], BeforeValidator(_one_or_many)]
"""One WWN or several; Cinder drivers write both under the same key."""


def unveil(value: object) -> object:
    """Take the wrapper off that ``_base.veil`` has put on: JSON mode wants the bare text."""
    return value.get_secret_value() if isinstance(value, SecretStr | SecretBytes) else value


def _not_masked(value: SecretStr) -> SecretStr:
    if value.get_secret_value() == "*" * 10:
        raise ValueError("is masked: this was read back from model_dump_json()")
    return value


def _bounded_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) > SECRET_CHARACTERS:
        raise ValueError(f"is longer than {SECRET_CHARACTERS} characters")
    return value


Secret = Annotated[
    TextSecret,
    BeforeValidator(unveil),
    AfterValidator(_bounded_secret),
    AfterValidator(_not_masked),
]
"""Text that no repr, log or error shows."""
