"""Images on libvirt: the host's cache (see ``image_store.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.contract.images import ImageCache
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.image_store import record_xml, recorded
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.libvirt.overlays import Base
from hvdrivers.libvirt.pools import delete
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import readable
from hvdrivers.models.image import CachedImage, HostImage, ImageFormat, ImageRef
from hvdrivers.models.progress import ProgressCallback


class LibvirtImages(Topic, ImageCache):
    """The image cache."""

    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        """Budget: 4 calls if it is in the cache; else 9, and those of the streams
        of the upload and of the look at its last part."""
        del timeout
        if isinstance(image, HostImage):
            raise errors.InvalidRequest(
                "a host image is on the host already", hint=hints.ON_THE_HOST
            )
        deadline = current_deadline()
        base = self.images.base(image, deadline, progress)
        try:
            return self._entry(base)
        except errors.VolumeNotFound:
            if not self.overlays.hollow(base):
                raise
        return self._entry(self.images.base(image, deadline, progress))

    def list_cached_images(self, *, timeout: float | None = None) -> Sequence[CachedImage]:
        """Budget: 1 call and four for each image in the cache, two for each partial upload."""
        del timeout
        found = []
        volumes = self.pools.volumes(self.pools.disks())
        for name, volume in volumes.items():
            key = name.removeprefix(IMAGE_PREFIX)
            if name.startswith(IMAGE_PREFIX) and "." not in key:
                with suppress(errors.VolumeNotFound):  # evicted meanwhile
                    entry = readable(
                        f"the cached image {key!r}", partial(self._listed, key, volume)
                    )
                    if entry is not None:
                        found.append(entry)
        return found + self.uploads.shown(volumes)

    def _listed(self, key: str, volume: Remote) -> CachedImage:
        return self._entry(recorded(key, volume))

    def _entry(self, base: Base) -> CachedImage:
        content = self.pools.disks().storageVolLookupByName(PurePosixPath(base.path).name)
        return CachedImage(
            key=base.key,
            format=ImageFormat(base.format),
            virtual_size_bytes=base.virtual_size,
            size_bytes=int(content.info()[2]),
        )

    def evict_image(self, key: str, *, timeout: float | None = None) -> None:
        """Budget: 16 calls, four for each file pool, two for each volume in them, and two or four
        for each machine: libvirt has no question 'who is based on this'. It is asked twice: a disk
        may be made meanwhile. DeviceBusy is retryable while another client makes or copies a volume
        in one of the pools, which then cannot be looked at."""
        del timeout
        if "." in key:
            self.uploads.evict(key)
            return
        pool = self.pools.disks()
        base = self.images.cached(key)
        if base is None:
            return
        try:
            content = pool.storageVolLookupByName(PurePosixPath(base.path).name)
        except errors.VolumeNotFound:
            self.pools.delete_disk(base.record or "")
            return
        self.uploads.refuse_based(content, base.record)
        # the record first: without it nobody finds the image to base a new disk on
        assert base.record is not None  # noqa: S101 - it came from there
        self.pools.delete_disk(base.record)
        try:
            self.uploads.refuse_based(content, base.record)
        except BaseException:
            with suppress(errors.DeviceBusy):  # loaded again meanwhile
                pool.createXML(record_xml(base), 0)
            raise
        delete(content)
