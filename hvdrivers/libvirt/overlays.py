"""Disks over an image of the cache, which another client may evict at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.driverkit.undo import Undo
from hvdrivers.libvirt.pools import Pools, refresh, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import needing_room
from hvdrivers.libvirt.xml import attribute, parse


class Overlays:
    """Make disks over images."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def make(
        self, name: str, capacity: int, base: Base, undo: Undo, pool: Remote | None = None
    ) -> None:
        """An empty disk over the image. Two calls.

        Args:
            pool: None for the disk pool.
        """
        pool = pool or self._pools.disks()
        undo.callback(self._pools.delete_disk, name, pool.name())
        xml = volume_xml(name, capacity, "qcow2", backing=(base.path, base.format))
        with self.over(base), needing_room(pool):
            pool.createXML(xml, 0)
        self.require_still_cached(base)

    @contextmanager
    def over(self, base: Base) -> Iterator[None]:
        """Stands around the making of a disk over an image, and its first use: tells that the image
        has gone, or is not any more what was uploaded. No call; after a failure four."""
        try:
            yield
        except (errors.VolumeNotFound, errors.HypervisorFault) as error:
            if self.hollow(base):
                raise evicted(error) from error
            if self._is_damaged(base):
                raise errors.HypervisorFault(
                    f"the cached image {base.key} was changed on the host: {error.message}",
                    vendor_code=error.vendor_code,
                    hint=f"evict_image({base.key!r}), and call again: the image is brought to the"
                    " host again. What crashed the host, or wrote to its pool, may have hit others",
                ) from error
            raise

    def _is_damaged(self, base: Base) -> bool:
        """Whether an image that is there cannot be read as what it was. Two calls. Of a raw one
        every content can be."""
        if base.record is None or base.format == "raw":
            return False
        with suppress(errors.VolumeNotFound):
            content = self._pools.disks().storageVolLookupByName(PurePosixPath(base.path).name)
            # as the pool has just seen it: see hollow()
            return attribute(parse(content.XMLDesc(0)), "target/format", "type") != base.format
        return False

    def require_still_cached(self, base: Base) -> None:
        """Called when a disk was based on an image. Eviction removes the record, looks for disks
        and then removes the content: if the record is still there, it will see this disk."""
        if base.record is None:
            return
        try:
            self._pools.disks().storageVolLookupByName(base.record)
        except errors.VolumeNotFound as error:
            raise evicted(error) from error

    def hollow(self, base: Base) -> bool:
        """Whether someone has deleted an image's content past the driver; then its record goes too,
        so that the image is not in the cache. Two calls, four if it is so."""
        if base.record is None:
            return False
        pool = self._pools.disks()
        refresh(pool)
        try:
            pool.storageVolLookupByName(PurePosixPath(base.path).name)
        except errors.VolumeNotFound:
            self._pools.delete_disk(base.record)
            return True
        return False


@dataclass(frozen=True)
class Base:
    """A cached image, ready to be the base of a disk."""

    key: str
    path: str
    format: str
    virtual_size: int
    record: str | None = None
    """Name of its record; None for a volume that is not in the cache."""


def evicted(error: errors.HypervisorError) -> errors.DeviceBusy:
    """What to say where an image has gone under a spawn."""
    return errors.DeviceBusy(
        "the image was evicted from the cache meanwhile",
        vendor_code=error.vendor_code,
        hint=hints.EVICTED,
    )
