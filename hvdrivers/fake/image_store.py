"""Images on their way to the fake host: opened and inspected here, then cached there."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import SecretBytes

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.driverkit.images import abandoned, not_cached, staging_name
from hvdrivers.fake import diskfile
from hvdrivers.fake.capacity import check_room
from hvdrivers.fake.records import ImageRecord, Pool
from hvdrivers.fake.steps import Task
from hvdrivers.installing import install_hint
from hvdrivers.models.image import FileImage, HostImage, HttpImage, ImageFormat, ImageRef
from hvdrivers.models.progress import Phase
from hvdrivers.models.seed import SeedDisc

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.machines import Machines
    from hvdrivers.images import LocalImage


class Images:
    """What spawn, rebuild, rescue and the cache have in common."""

    def __init__(self, host: FakeHost, machines: Machines) -> None:
        self.host = host
        self.machines = machines

    def provide(self, task: Task, ref: ImageRef) -> ImageRecord:
        """The image in the host's cache: 1 call if it is there, or the host's own; else 4."""
        if isinstance(ref, HostImage) and ref.cached:
            return task.call("find-image", lambda: self.cached_by_key(ref.name), changes=False)
        if isinstance(ref, HostImage):
            return task.call("find-image", lambda: self.host_image(ref), changes=False)
        key = ref.cache_key()
        if key is not None:
            found = task.call("find-image", lambda: self.find(key), changes=False)
            if found is not None:
                return found
        return self.upload(task, ref)

    @provides(Capability.IMAGE_HOST)
    def host_image(self, ref: HostImage) -> ImageRecord:
        self.machines.refuse_reserved(ref.name)
        cache = self.host.default_pool.images
        for image in self.host.size.images:
            if image.name == ref.name and ref.format in {None, image.format}:
                record = ImageRecord(
                    key=ref.cache_key(),
                    format=image.format,
                    virtual_size_bytes=image.virtual_size_bytes,
                    size_bytes=0,  # it takes no room beside what the administrator put there
                    content=(f"image:{image.name}",),
                )
                return cache.setdefault(record.key, record)
        there = ", ".join(image.name for image in self.host.size.images) or "none"
        raise errors.VolumeNotFound(
            f"the host has no image {ref.name!r}",
            hint=f"this fake host has {there}; HostSize(images=...) gives it others",
        )

    def cached_by_key(self, key: str) -> ImageRecord:
        found = self.find(key)
        if found is None:
            raise not_cached(key)
        return found

    def find(self, key: str) -> ImageRecord | None:
        return self.host.default_pool.images.get(key)

    @provides(
        Capability.IMAGE_RAW,
        Capability.IMAGE_QCOW2,
        Capability.IMAGE_VMDK,
        Capability.IMAGE_VHD,
        Capability.IMAGE_VHDX,
        Capability.IMAGE_VDI,
        Capability.IMAGE_OVA,
        Capability.IMAGE_ISO,
    )
    def upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
        try:
            from hvdrivers.images import open_image
        except ImportError as error:
            raise errors.NotSupported(
                "images from files and URLs need the library's image support",
                hint=install_hint("images"),
            ) from error
        seconds = task.remaining
        timeout = None if math.isinf(seconds) else max(0.001, seconds)
        with open_image(ref, progress=task.progress, timeout=timeout) as local:
            record = ImageRecord(
                key=local.cache_key,
                format=local.info.format,
                virtual_size_bytes=local.info.virtual_size_bytes,
                size_bytes=local.info.file_size_bytes,
                content=diskfile.read(local.descriptor, local.info.format)
                or (f"image:{local.cache_key}", *self.host.reads_image(local.descriptor)),
            )
            there = task.call("find-image", lambda: self.find(record.key), changes=False)
            if there is not None:
                return there
            name = staging_name(record.key)
            task.call(
                "begin-upload",
                lambda: self.begin_upload(name, record),
                undo=("drop-upload", lambda: self._drop_upload(name)),
            )
            task.call("upload-image", lambda: None, covered=True)
            task.report(Phase.UPLOAD, record.size_bytes, record.size_bytes)
            self.verify_sent(local)
        # once it is complete it stays, whatever becomes of the rest
        return task.call("finish-upload", lambda: self.finish_upload(name), covered=True)

    def verify_sent(self, local: LocalImage) -> None:
        """What was sent must be what was inspected, whoever wrote to the file meanwhile."""
        local.verify_content()

    def begin_upload(self, name: str, record: ImageRecord) -> None:
        pool = self.host.default_pool
        self._remove_abandoned(pool)
        check_room(pool, record.size_bytes)
        pool.uploads[name] = replace(record, last_written=self.host.clock.wall())

    def _remove_abandoned(self, pool: Pool) -> None:
        """Remove what uploads have left whose clients died, each as soon as another begins."""
        written = [
            (name, each.last_written.timestamp())
            for name, each in pool.uploads.items()
            if each.last_written is not None
        ]
        for name in abandoned(written, host_now=self.host.clock.wall().timestamp()):
            del pool.uploads[name]

    def _drop_upload(self, name: str) -> None:
        self.host.default_pool.uploads.pop(name, None)

    def finish_upload(self, name: str) -> ImageRecord:
        pool = self.host.default_pool
        # somebody else may have loaded the same image meanwhile: the second load is dropped
        record = pool.uploads.pop(name)
        return pool.images.setdefault(record.key, replace(record, last_written=None))


def format_or(ref: ImageRef, default: ImageFormat) -> ImageFormat:
    """The format that a reference declares."""
    return ref.format or default


def whole(seed: SeedDisc) -> SeedDisc:
    """A seed disc with its content in memory: nobody reads the caller's file later.

    Raises:
        InvalidRequest: the file cannot be read, or is no disc.
    """
    try:
        return seed.model_copy(update={"content": SecretBytes(seed.read()), "path": None})
    except (OSError, ValueError) as error:
        raise errors.InvalidRequest(
            f"the seed disc cannot be used: {error}",
            hint="give content=, or name such a file of this machine",
        ) from error
