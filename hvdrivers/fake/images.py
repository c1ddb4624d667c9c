"""The image cache of a fake host."""

from __future__ import annotations

from collections.abc import Sequence

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import declared, provides
from hvdrivers.contract.images import ImageCache
from hvdrivers.driverkit.images import partial_upload, refuse_alive
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.image_store import Images
from hvdrivers.fake.records import ImageRecord
from hvdrivers.hints import ON_THE_HOST, USED_IMAGE
from hvdrivers.models.image import CachedImage, HostImage, ImageRef
from hvdrivers.models.progress import ProgressCallback


class FakeImageCache(FakeBase, ImageCache):
    """Load, look, make room."""

    @provides(*declared(Images))
    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        """1 call if it is there, else 4."""
        if isinstance(image, HostImage):
            raise errors.InvalidRequest("a host image is on the host already", hint=ON_THE_HOST)
        with self.link.task(
            "cache_image", None, timeout, progress=progress, slow="upload-image"
        ) as task:
            return self._cached(self.images.provide(task, image))

    def _cached(self, record: ImageRecord) -> CachedImage:
        with self.fake_host.world.lock:
            return CachedImage(
                key=record.key,
                format=record.format,
                virtual_size_bytes=record.virtual_size_bytes,
                size_bytes=record.size_bytes,
                last_used=record.last_used,
                in_use=self._in_use(record.key),
            )

    def _in_use(self, key: str) -> bool:
        pools = self.fake_host.pools.values()
        return any(disk.base == key for pool in pools for disk in pool.disks.values())

    def list_cached_images(self, *, timeout: float | None = None) -> Sequence[CachedImage]:
        """1 call."""
        with self.link.task("list_cached_images", None, timeout) as task:
            return task.call("list-images", self._list_images, changes=False)

    def _list_images(self) -> list[CachedImage]:
        pool = self.fake_host.default_pool
        partial = [self._partial(name, record) for name, record in pool.uploads.items()]
        found = [self._cached(record) for record in pool.images.values()]
        return found + [each for each in partial if each is not None]

    def _partial(self, name: str, record: ImageRecord) -> CachedImage | None:
        written = record.last_written
        return partial_upload(
            name,
            size_bytes=record.size_bytes,
            written=written.timestamp() if written is not None else None,
        )

    def evict_image(self, key: str, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("evict_image", None, timeout) as task:
            task.call("delete-image", lambda: self._evict(key))

    def _evict(self, key: str) -> None:
        upload = self.fake_host.default_pool.uploads.get(key)
        if upload is not None:
            self._refuse_alive(upload)
            del self.fake_host.default_pool.uploads[key]
        if self._in_use(key):
            raise errors.DeviceBusy(
                f"a disk is based on image {key}", retryable=False, hint=USED_IMAGE
            )
        self.fake_host.default_pool.images.pop(key, None)

    def _refuse_alive(self, upload: ImageRecord) -> None:
        written = upload.last_written
        refuse_alive(
            written.timestamp() if written is not None else None,
            host_now=self.fake_host.clock.wall().timestamp(),
        )
