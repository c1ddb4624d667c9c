"""Names on the host: they carry what must be found again without a record of our own.

========================================  ===================================================
``<label>.<uuid>``                        a domain of ours: ``listAllDomains`` gives name and
                                          UUID of all domains in one call, so one call tells
                                          which are ours and what they are called
``<label>%rescued.<uuid>``                the same, of a machine that rescue() has started, or
                                          that went off after that (see ``rescue.py``)
``<label>%moving.<uuid>``                 the same, of the source of a move in steps, until its
                                          end (see ``moves.py``)
``<uuid>.root``, ``.seed``, ...           the disks of an instance, in the disk pool;
                                          ``.root-<hex>`` after a rebuild(), ``.rescue-<hex>``
                                          of a rescue; ``.<role>-<token>`` and
                                          ``.move-<token>`` of a move in steps
``<uuid>.console.log``                    its console log, in the console pool
``hv-image-<key>``                        a complete cached image (see ``image_store.py``)
``hv-volume-<id>.<format>``               a volume made by create_volume()
``hv-away-<hash of id>.<pool>``           a note in the disk pool: that pool has this volume
``hv-snapshot-of-<uuid>``                  a domain that is a client's turn, see ``turns.py``
``hv-deleting-<hash of id>.<word>``        a volume of this pool is being deleted, see
                                          ``deletions.py``
========================================  ===================================================

A machine that adopt() has taken over keeps the name that it had: see ``identity.py``.
"""

from __future__ import annotations

import functools
import re
from uuid import UUID

from hvdrivers.messages import shown_label

ROOT, SEED, EPHEMERAL, SWAP, NVRAM = "root", "seed", "ephemeral", "swap", "nvram"
RESCUE = "rescue"
FUNCTION = "function"
"""In the alias of a NIC, in the place of its type: it gets a function of its network."""
OWN_ALIAS = "ua-own-"
"""Beginning of the alias of a disk that belongs to the instance."""
IMAGE_PREFIX = "hv-image-"
AWAY_PREFIX, DELETING_PREFIX = "hv-away-", "hv-deleting-"
VOLUME_PREFIX = "hv-volume-"

_LATER = re.compile("[0-9a-f]{8}")
_COPIED = re.compile(r"(ephemeral(-\d+)?|swap)-[0-9a-f]{8}")
_ESCAPE = re.compile(r"[%/\x00-\x1f\x7f]")
_ESCAPED = re.compile("%([0-9A-F]{2})")
_FURTHER = re.compile(r"__\d+$")
"""At the end of an alias. In an id each ``_`` is ``_5f``."""
_ALIAS_ESCAPE = re.compile(rb"[^A-Za-z0-9-]")


HELPER_PREFIX = "hv-snapshot-of-"
"""Of a domain that is there for the moment of an operation (see ``turns.py``)."""
PROBE = "hvdrivers-probe"
"""Of a machine that is there to try KVM (see ``accelerator.py``), or its beginning with a dash."""

_RESCUED, _MOVING = "%rescued", "%moving"
"""No label brings them: in a name each ``%`` of a label is ``%25``."""


def domain_name(label: str, uuid: UUID, *, rescued: bool = False, moving: bool = False) -> str:
    """The domain's name. Libvirt makes file names of it, so a slash is escaped as in a URL."""
    escaped = _ESCAPE.sub(lambda match: f"%{ord(match[0]):02X}", label)
    mark = _MOVING if moving else _RESCUED if rescued else ""
    return f"{escaped}{mark}.{uuid}"


def may_be_rescued(name: str) -> bool:
    """Whether is_rescued() has to be asked."""
    return _RESCUED in name


def is_rescued(name: str, uuid: UUID) -> bool:
    """Whether a domain's name says that it was started by rescue(), and by nothing else since."""
    return _RESCUED in name and name.endswith(f"{_RESCUED}.{uuid}")


def is_moving(name: str, uuid: UUID) -> bool:
    """Whether a domain's name says that it is the source of a move in steps, which is kept as it
    is."""
    return name.endswith(f"{_MOVING}.{uuid}")


@functools.lru_cache(16384)
def label_of(name: str, uuid: UUID) -> str | None:
    """The label in a domain's name; None if the domain is not ours. What has been found out is
    remembered, as a list asks for the labels of all machines.

    A label that rename() would refuse (``virsh domrename`` takes it) is shown as near as it can
    be: U+FFFD for what is no text, and no longer than a name may be.
    """
    suffix = f".{uuid}"
    if not name.endswith(suffix):
        return None
    label = name.removesuffix(suffix)
    if "%" in label:
        label = _ESCAPED.sub(
            lambda match: chr(int(match[1], 16)),
            label.removesuffix(_RESCUED).removesuffix(_MOVING),
        )
    return shown_label(label)


def is_helper(name: str) -> bool:
    """Whether a domain is there for the moment of an operation."""
    return name.startswith((HELPER_PREFIX, f"{PROBE}-")) or name == PROBE


def disk_name(uuid: UUID, role: str) -> str:
    """Name of a disk of an instance in the disk pool."""
    return f"{uuid}.{role}"


def is_root(name: str, uuid: UUID) -> bool:
    """Whether a volume of the disk pool is a root disk of this instance: the first one, or one that
    rebuild() has made."""
    first = disk_name(uuid, ROOT)
    return name == first or name.startswith(f"{first}-")


def is_own(name: str, uuid: UUID, role: str) -> bool:
    """Whether a volume of the disk pool is an own disk of this role: the first one, or one that
    rebuild() or a move in steps has put in its place."""
    first = disk_name(uuid, role)
    return name == first or _LATER.fullmatch(name.removeprefix(f"{first}-")) is not None


def is_copy(role: str) -> bool:
    """Whether a role in a disk's name is that of a copy which a move in steps has made of a disk
    beside the root disk."""
    return _COPIED.fullmatch(role) is not None


def console_name(uuid: UUID) -> str:
    """Name of the console log in the console pool."""
    return f"{uuid}.console.log"


def alias(kind: str, identifier: str, number: int = 1) -> str:
    """A device alias that carries an id: ``ua-volume-<id>``. Libvirt takes only letters, digits,
    ``-`` and ``_`` there, so any other byte becomes ``_`` and two hex digits.

    Args:
        number: of a further device whose alias has the same id: ``ua-volume-<id>__2``.
    """
    escaped = _ALIAS_ESCAPE.sub(lambda match: b"_%02x" % match[0][0], identifier.encode())
    return f"ua-{kind}-{escaped.decode()}{f'__{number}' if number > 1 else ''}"


def from_alias(kind: str, text: str) -> str | None:
    """The id in an alias of this kind, or None."""
    prefix = f"ua-{kind}-"
    if not text.startswith(prefix):
        return None
    raw = re.sub(
        rb"_([0-9a-f]{2})",
        lambda match: bytes([int(match[1], 16)]),
        _FURTHER.sub("", text[len(prefix) :]).encode(),
    )
    return raw.decode(errors="replace")


def is_raw_volume(name: str) -> bool:
    """Whether a volume that create_volume() has made is raw."""
    return name.startswith(VOLUME_PREFIX) and name.endswith(".raw")
