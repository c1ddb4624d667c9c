"""Images: the host's cache, made of storage volumes.

A cached image is two volumes of the disk pool. ``hv-image-<key>.<nonce>`` has the content as it
was uploaded. ``hv-image-<key>`` is an empty qcow2 volume over it, made when the upload is complete:
creating a volume is atomic and refuses a name that is taken, so the image is there entirely or not
at all, whatever died in between, and of two uploads at the same time one wins. It also records
what a file cannot say of itself safely: format and size. Disks are based on the content directly.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.images import ImageCache
from hvdrivers.libvirt.base import Deadline, Topic, undoing
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.libvirt.pools import backing_of, delete, volume_xml
from hvdrivers.libvirt.xml import Element, attribute, parse
from hvdrivers.models.image import (
    CachedImage,
    FileImage,
    HostImage,
    HttpImage,
    ImageFormat,
    ImageRef,
)
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

if TYPE_CHECKING:
    from hvdrivers.images import LocalImage

_ABANDONED = 24 * 3600.0
"""Seconds after which an upload without its record is taken for the remains of a dead process."""
_CHUNK = 240 * 1024
"""Bytes in one message of a stream: the protocol's limit is 256 KiB with its header."""


@dataclass(frozen=True)
class Base:
    """A cached image, ready to be the base of a disk."""

    key: str
    path: str
    format: str
    virtual_size: int


class ImageStore(Topic):
    """Find an image on the host, or bring it there."""

    _known_files: dict[tuple[object, ...], str]
    """Cache keys of local files without a checksum, by what tells that a file has not changed:
    so that a second spawn need not read it again to know its name."""
    _known_lock: threading.Lock

    @provides(Capability.IMAGE_RAW, Capability.IMAGE_QCOW2)
    def _base(self, image: ImageRef, deadline: Deadline, progress: ProgressCallback | None) -> Base:
        """Find the image in the cache, or bring it there."""
        if isinstance(image, HostImage):
            return self._host_image(image)
        key = self._key(image)
        if key is not None:
            found = self._cached(key)
            if found is not None:
                return found
        from hvdrivers.images import open_image

        with open_image(image, progress=progress, timeout=deadline.left) as opened:
            self._remember(image, opened.cache_key)
            found = None if opened.cache_key == key else self._cached(opened.cache_key)
            return found or self._upload(opened, deadline, progress)

    def _cached(self, key: str) -> Base | None:
        try:
            volume = self.pools.disks().storageVolLookupByName(IMAGE_PREFIX + key)
            return _recorded(key, parse(volume.XMLDesc(0)))
        except errors.VolumeNotFound:
            return None

    @provides(Capability.IMAGE_HOST)
    def _host_image(self, image: HostImage) -> Base:
        volume = self.pools.disks().storageVolLookupByName(image.name)
        description = parse(volume.XMLDesc(0))
        recorded = attribute(description, "target/format", "type") or "raw"
        return Base(
            key=image.cache_key(),
            path=str(description.findtext("target/path")),
            format=image.format.value if image.format else recorded,
            virtual_size=int(description.findtext("capacity") or 0),
        )

    def _upload(
        self, opened: LocalImage, deadline: Deadline, progress: ProgressCallback | None
    ) -> Base:
        pool = self.pools.disks()
        self._remove_abandoned(pool, opened.cache_key)
        size = opened.info.file_size_bytes
        name = f"{IMAGE_PREFIX}{opened.cache_key}.{secrets.token_hex(8)}"
        with undoing() as undo:
            undo.callback(self._delete_named, pool, name)
            # raw: the bytes are written as they are; what they mean stands in the record
            volume = pool.createXML(volume_xml(name, size, "raw"), 0)
            self._send(volume, opened, deadline, progress)
            opened.verify_unchanged()
            base = Base(
                key=opened.cache_key,
                path=self.pools.disk_path(name),
                format=opened.info.format.value,
                virtual_size=opened.info.virtual_size_bytes,
            )
            record = volume_xml(
                IMAGE_PREFIX + base.key,
                base.virtual_size,
                "qcow2",
                backing=(base.path, base.format),
            )
            try:
                pool.createXML(record, 0)
            except errors.DeviceBusy:
                other = self._cached(base.key)
                if other is None:
                    raise
                # somebody else was faster: use that one, and drop ours
                undo.close()
                return other
        return base

    def _send(
        self,
        volume: Remote,
        opened: LocalImage,
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> None:
        total = opened.info.file_size_bytes
        with self._uploading(volume, total, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM) as stream:
            for offset, length, is_data in opened.extents():
                if not is_data:
                    stream.sendHole(length)
                    continue
                for position in range(offset, offset + length, _CHUNK):
                    deadline.check("the image was uploaded")
                    count = min(_CHUNK, offset + length - position)
                    _send_all(stream, os.pread(opened.descriptor, count, position))
                    if progress is not None:
                        progress(Progress(phase=Phase.UPLOAD, done=position + count, total=total))

    def upload_bytes(self, volume: Remote, data: bytes) -> None:
        """Fill a small volume. Budget: 2 calls."""
        with self._uploading(volume, len(data), 0) as stream:
            for position in range(0, len(data), _CHUNK):
                _send_all(stream, data[position : position + _CHUNK])

    @contextmanager
    def _uploading(self, volume: Remote, size: int, flags: int) -> Iterator[Remote]:
        stream = self.connection.remote.newStream(0)
        volume.upload(stream, 0, size, flags)
        try:
            yield stream
        except BaseException:
            with suppress(errors.HypervisorError):
                stream.abort()
            raise
        stream.finish()

    @staticmethod
    def _delete_named(pool: Remote, name: str) -> None:
        try:
            delete(pool.storageVolLookupByName(name))
        except errors.VolumeNotFound:
            return

    @staticmethod
    def _remove_abandoned(pool: Remote, key: str) -> None:
        for volume in pool.listAllVolumes(0):
            if volume.name().startswith(f"{IMAGE_PREFIX}{key}."):
                written = parse(volume.XMLDesc(0)).findtext("target/timestamps/mtime") or "0"
                if time.time() - float(written) > _ABANDONED:
                    delete(volume)

    def _key(self, image: FileImage | HttpImage) -> str | None:
        key = image.cache_key()
        if key is None and isinstance(image, FileImage):
            with self._known_lock:
                return self._known_files.get(_identity(image))
        return key

    def _remember(self, image: ImageRef, key: str) -> None:
        if isinstance(image, FileImage) and image.checksum is None:
            with self._known_lock:
                self._known_files[_identity(image)] = key


class LibvirtImages(ImageStore, ImageCache):
    """The image cache. Budget of cache_image() with a warm cache: 4 calls (look up and describe
    the record, look up and measure the content)."""

    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        if isinstance(image, HostImage):
            raise errors.InvalidRequest("a host image is on the host already")
        return self._entry(self._base(image, Deadline(timeout), progress))

    def list_cached_images(self, *, timeout: float | None = None) -> Sequence[CachedImage]:
        """Budget: 1 call and three for each image in the cache."""
        del timeout
        found = []
        for volume in self.pools.disks().listAllVolumes(0):
            key = volume.name().removeprefix(IMAGE_PREFIX)
            if volume.name().startswith(IMAGE_PREFIX) and "." not in key:
                found.append(self._entry(_recorded(key, parse(volume.XMLDesc(0)))))
        return found

    def _entry(self, base: Base) -> CachedImage:
        content = self.pools.disks().storageVolLookupByName(PurePosixPath(base.path).name)
        return CachedImage(
            key=base.key,
            format=ImageFormat(base.format),
            virtual_size_bytes=base.virtual_size,
            size_bytes=int(content.info()[2]),
        )

    def evict_image(self, key: str, *, timeout: float | None = None) -> None:
        """Budget: 1 call and one for each volume in the pool: libvirt has no question 'who is
        based on this'."""
        del timeout
        volumes = {volume.name(): volume for volume in self.pools.disks().listAllVolumes(0)}
        record = volumes.get(IMAGE_PREFIX + key)
        if record is None:
            return
        backing = backing_of(parse(record.XMLDesc(0)))
        users = [
            name
            for name, volume in volumes.items()
            if name != record.name() and backing == backing_of(parse(volume.XMLDesc(0)))
        ]
        if backing is not None and users:
            raise errors.DeviceBusy(f"the image is the base of {len(users)} disks", retryable=False)
        # the record first: without it nobody finds the image to base a new disk on
        delete(record)
        for name, volume in volumes.items():
            if name.startswith(f"{IMAGE_PREFIX}{key}."):
                delete(volume)


def _identity(image: FileImage) -> tuple[object, ...]:
    try:
        status = os.stat(image.path)
    except OSError:
        return (image.path,)
    return (image.format, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _recorded(key: str, description: Element) -> Base:
    backing = backing_of(description)
    if backing is None:
        raise errors.HypervisorFault(f"the cached image {key} has no content")
    return Base(
        key=key,
        path=backing[0],
        format=backing[1],
        virtual_size=int(description.findtext("capacity") or 0),
    )


def _send_all(stream: Remote, data: bytes) -> None:
    view = memoryview(data)
    while view:
        sent = stream.send(view.tobytes())
        view = view[sent:]
