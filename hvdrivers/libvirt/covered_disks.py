"""An own disk that others have put a file over, such as that of a snapshot. Only functions of their
arguments, no remote call."""

from __future__ import annotations

import posixpath
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.libvirt.adopted import Adoption
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.naming import is_own
from hvdrivers.libvirt.xml import Element, attribute

COVERED_HINT = "remove it: virsh blockcommit, virsh snapshot-delete"


def covered(device: str | None) -> str:
    """What to say of such a disk. The hint is ``COVERED_HINT``."""
    return f"others have put another file, such as that of a snapshot, over the disk {device}"


def refuse_covered(uuid: UUID, role: str, disk: Element, adoption: Adoption | None) -> None:
    """Raise DeviceBusy if the file of an own disk is not the machine's own.

    Args:
        disk: its ``<disk>``.
        adoption: of an adopted machine; None for one that spawn() has made.
    """
    path = source_of(disk)
    if adoption is None:
        is_there = is_own(posixpath.basename(path), uuid, role)
    else:
        is_there = adoption.has(role, path)
    if not is_there:
        raise errors.DeviceBusy(
            covered(attribute(disk, "target", "dev")), hint=COVERED_HINT, retryable=False
        )
