"""Images on their way to the fake host: opened and inspected here, then cached there."""

from __future__ import annotations

import math

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.fake import diskfile
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.capacity import check_room
from hvdrivers.fake.records import ImageRecord
from hvdrivers.fake.steps import Task
from hvdrivers.models.image import FileImage, HostImage, HttpImage, ImageFormat, ImageRef
from hvdrivers.models.progress import Phase


class ImageSteps(FakeBase):
    """What spawn, rebuild, rescue and the cache have in common."""

    def _provide(self, task: Task, ref: ImageRef) -> ImageRecord:
        """The image in the host's cache: 1 call if it is there, or the host's own; else 4."""
        if isinstance(ref, HostImage):
            return task.call("find-image", lambda: self._host_image(ref), changes=False)
        key = ref.cache_key()
        if key is not None:
            found = task.call("find-image", lambda: self._use(key), changes=False)
            if found is not None:
                return found
        return self._upload(task, ref)

    @provides(Capability.IMAGE_HOST)
    def _host_image(self, ref: HostImage) -> ImageRecord:
        cache = self._host.default_pool.images
        if ref.name in cache:
            return cache[ref.name]
        for image in self._host.size.images:
            if image.name == ref.name and ref.format in {None, image.format}:
                record = ImageRecord(
                    key=ref.cache_key(),
                    format=image.format,
                    virtual_size_bytes=image.virtual_size_bytes,
                    size_bytes=0,  # it takes no room beside what the administrator put there
                    content=(f"image:{image.name}",),
                )
                return cache.setdefault(record.key, record)
        raise errors.VolumeNotFound(f"the host has no image {ref.name!r}")

    def _use(self, key: str) -> ImageRecord | None:
        return self._host.default_pool.images.get(key)

    @provides(
        Capability.IMAGE_RAW,
        Capability.IMAGE_QCOW2,
        Capability.IMAGE_VMDK,
        Capability.IMAGE_VHD,
        Capability.IMAGE_VHDX,
        Capability.IMAGE_VDI,
        Capability.IMAGE_ISO,
    )
    def _upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
        try:
            from hvdrivers.images import open_image
        except ImportError as error:
            raise errors.NotSupported(
                "images from files and URLs need the library's image support",
                hint="pip install 'hvdrivers[images]'",
            ) from error
        seconds = task.remaining
        timeout = None if math.isinf(seconds) else max(0.001, seconds)
        with open_image(ref, progress=task.progress, timeout=timeout) as local:
            record = ImageRecord(
                key=local.cache_key,
                format=ref.format,
                virtual_size_bytes=local.info.virtual_size_bytes,
                size_bytes=local.info.file_size_bytes,
                content=diskfile.read(local.descriptor, ref.format)
                or (f"image:{local.cache_key}",),
            )
            there = task.call("find-image", lambda: self._use(record.key), changes=False)
            if there is not None:
                return there
            name = f"{record.key}.{task.token}"
            task.call(
                "begin-upload",
                lambda: self._begin_upload(name, record),
                undo=("drop-upload", lambda: self._drop_upload(name)),
            )
            task.call("upload-image", lambda: None, covered=True)
            task.report(Phase.UPLOAD, record.size_bytes, record.size_bytes)
            local.verify_unchanged()
        # once it is complete it stays, whatever becomes of the rest
        return task.call("finish-upload", lambda: self._finish_upload(name), covered=True)

    def _begin_upload(self, name: str, record: ImageRecord) -> None:
        pool = self._host.default_pool
        check_room(pool, record.size_bytes)
        pool.uploads[name] = record

    def _drop_upload(self, name: str) -> None:
        self._host.default_pool.uploads.pop(name, None)

    def _finish_upload(self, name: str) -> ImageRecord:
        pool = self._host.default_pool
        # somebody else may have loaded the same image meanwhile: the second load is dropped
        record = pool.uploads.pop(name)
        return pool.images.setdefault(record.key, record)


def disk_size(image: ImageRecord, disk_gib: int) -> int:
    """The size of a root disk made from an image, in bytes.

    Raises:
        ImageRejected: the image is larger than the disk asked for.
    """
    if disk_gib and image.virtual_size_bytes > disk_gib << 30:
        raise errors.ImageRejected(
            f"the image needs a disk of {image.virtual_size_bytes} bytes, and {disk_gib} GiB were"
            " asked for"
        )
    return disk_gib << 30 if disk_gib else image.virtual_size_bytes


def format_or(ref: ImageRef, default: ImageFormat) -> ImageFormat:
    """The format that a reference declares."""
    return ref.format or default
