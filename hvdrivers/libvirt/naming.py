"""Names on the host: they carry what must be found again without a record of our own.

========================================  ===================================================
``<label>.<uuid>``                        a domain of ours: ``listAllDomains`` gives name and
                                          UUID of all domains in one call, so one call tells
                                          which are ours and what they are called
``<uuid>.root``, ``.seed``, ...           the disks of an instance, in the disk pool
``<uuid>.console.log``                    its console log, in the console pool
``hv-image-<key>``                        a complete cached image (see ``images.py``)
``hv-volume-<id>.<format>``               a volume made by create_volume()
========================================  ===================================================
"""

from __future__ import annotations

import re
from uuid import UUID

ROOT, SEED, EPHEMERAL, SWAP, NVRAM = "root", "seed", "ephemeral", "swap", "nvram"
IMAGE_PREFIX = "hv-image-"
VOLUME_PREFIX = "hv-volume-"

_ESCAPE = re.compile(r"[%/\x00-\x1f\x7f]")
_ALIAS_ESCAPE = re.compile(rb"[^A-Za-z0-9-]")


def domain_name(label: str, uuid: UUID) -> str:
    """The domain's name. Libvirt makes file names of it, so a slash is escaped as in a URL."""
    return f"{_ESCAPE.sub(lambda match: f'%{ord(match[0]):02X}', label)}.{uuid}"


def label_of(name: str, uuid: UUID) -> str | None:
    """The label in a domain's name; None if the domain is not ours."""
    suffix = f".{uuid}"
    if not name.endswith(suffix):
        return None
    return re.sub("%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), name.removesuffix(suffix))


def disk_name(uuid: UUID, role: str) -> str:
    """Name of a disk of an instance in the disk pool."""
    return f"{uuid}.{role}"


def console_name(uuid: UUID) -> str:
    """Name of the console log in the console pool."""
    return f"{uuid}.console.log"


def alias(kind: str, identifier: str) -> str:
    """A device alias that carries an id: ``ua-volume-<id>``. Libvirt takes only letters, digits,
    ``-`` and ``_`` there, so any other byte becomes ``_`` and two hex digits."""
    escaped = _ALIAS_ESCAPE.sub(lambda match: b"_%02x" % match[0][0], identifier.encode())
    return f"ua-{kind}-{escaped.decode()}"


def from_alias(kind: str, text: str) -> str | None:
    """The id in an alias of this kind, or None."""
    prefix = f"ua-{kind}-"
    if not text.startswith(prefix):
        return None
    raw = re.sub(
        rb"_([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), text[len(prefix) :].encode()
    )
    return raw.decode(errors="replace")
