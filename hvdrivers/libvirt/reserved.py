"""Names on the host that a caller may not use as a volume or an image.

The disks and the seed of every instance lie in the same pool as volumes and images, and the console
logs in a pool beside it. Their names are made of a UUID, which other tenants know.
"""

from __future__ import annotations

import posixpath
import re

from hvdrivers.contract import errors
from hvdrivers.libvirt.naming import (
    AWAY_PREFIX,
    DELETING_PREFIX,
    IMAGE_PREFIX,
    VOLUME_PREFIX,
)
from hvdrivers.libvirt.xml import Element

_OF_AN_INSTANCE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\..*", re.IGNORECASE | re.DOTALL
)


def is_of_the_driver(name: str) -> bool:
    """Whether the driver gives such names to the files that it makes."""
    return name.startswith((VOLUME_PREFIX, AWAY_PREFIX, DELETING_PREFIX)) or is_reserved(name)


def is_reserved(name: str) -> bool:
    """Whether a file of this name is a cached image's, or an instance's own."""
    return name.lower().startswith(IMAGE_PREFIX) or bool(_OF_AN_INSTANCE.fullmatch(name))


def not_free() -> errors.InvalidRequest:
    """What to say of a disk of an instance, or a cached image, under another name."""
    return errors.InvalidRequest(
        "this is a disk of an instance, or a cached image, under another name",
        hint="destroy(keep={Keep.ROOT_DISK}) makes a volume of an instance's root disk",
    )


def refuse_folder(description: Element, name: str) -> None:
    """Raise InvalidRequest if what lies in a pool is no file."""
    if description.get("type") == "dir":
        raise errors.InvalidRequest(
            f"{name} is a folder, and no volume or image", hint="name a file of the pool"
        )


def refuse_reserved(name: str) -> None:
    """Raise InvalidRequest if a volume with this name belongs to an instance or to the cache.

    Args:
        name: of a volume in a pool, or a path on the host: then its last part counts. Case does
            not: the pool may be on a file system that ignores it.
    """
    base = posixpath.basename(posixpath.normpath(name))
    if base.lower().startswith(IMAGE_PREFIX):
        raise errors.InvalidRequest(
            "a cached image is the base of other machines' disks, and no volume or image to name",
            hint="spawn() from it; or create_volume() and write to that",
        )
    if base.lower().startswith((AWAY_PREFIX, DELETING_PREFIX)):
        raise errors.InvalidRequest(
            "this is a note of the driver, and no volume or image",
            hint="list_volumes() shows the volumes",
        )
    if _OF_AN_INSTANCE.fullmatch(base):
        raise errors.InvalidRequest(
            "this is a disk, a seed or a log of an instance, and no volume or image",
            hint="destroy(keep={Keep.ROOT_DISK}) makes a volume of an instance's root disk",
        )


def refuse_contradiction(recorded: str | None, declared: str | None) -> None:
    """Raise InvalidRequest if a volume is recorded in one format and shall be read as another.

    QEMU would follow the header that a guest has written to its raw disk, to any file of the host.

    Args:
        recorded: in the name of a volume that this driver made; what libvirt says of another.
        declared: by the caller; None for as it is recorded.
    """
    if recorded is not None and declared is not None and recorded != declared:
        raise errors.InvalidRequest(
            f"the volume was made as {recorded}, not as {declared}",
            hint="take the Volume that create_volume() or list_volumes() gives, or no format",
        )
