"""Snapshots of an instance, and backups."""

from __future__ import annotations

from pydantic import AwareDatetime

from hvdrivers.models.base import Identifier, Model, Name


class Snapshot(Model):
    """One node of the tree of snapshots."""

    id: Identifier
    """Chosen by the hypervisor; unique within the instance."""
    name: Name
    parent: Identifier | None
    created_at: AwareDatetime
    with_memory: bool
    """True: a revert continues the guest where it was. False: it boots from the disk."""
    current: bool
    """True for the one the instance's disks are based on now."""


class ChangedExtent(Model):
    """A range of a disk that a backup must copy."""

    disk: str
    """``root`` or the volume id."""
    offset: int
    """Bytes."""
    length: int
    """Bytes."""
    zero: bool = False
    """True: it reads as zeroes; nothing to copy."""


class Backup(Model):
    """An open backup: a consistent point in time that can be read while the guest runs."""

    id: Identifier
    """The checkpoint to name in ``since=`` of the next incremental backup."""
    since: Identifier | None
    """None: a full backup."""
    disks: tuple[str, ...]
    """``root`` and the volume ids that it covers."""
    extents: tuple[ChangedExtent, ...]
    """What differs from ``since``; everything that is allocated for a full backup."""
    location: str | None = None
    """Where the point in time can be read from: an NBD URI, a datastore path."""
