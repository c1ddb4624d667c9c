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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.images import ImageCache
from hvdrivers.libvirt.base import Deadline, Topic, undoing
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.libvirt.pools import backing_of, delete, in_time, volume_xml
from hvdrivers.libvirt.volumes import VOLUME_NAME
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
    record: str | None = None
    """Name of its record; None for a volume that is not in the cache."""


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
            return self._record(key)
        except errors.VolumeNotFound:
            return None

    def _record(self, key: str) -> Base:
        volume = self.pools.disks().storageVolLookupByName(IMAGE_PREFIX + key)
        return _recorded(key, volume)

    @provides(Capability.IMAGE_HOST)
    def _host_image(self, image: HostImage) -> Base:
        volume = self.pools.disks().storageVolLookupByName(image.name)
        description = parse(volume.XMLDesc(0))
        # What the pool says was read from the first bytes of the volume. Those of a volume of ours
        # may be a tenant's: a raw one stays raw, whatever was written to it.
        named = VOLUME_NAME.fullmatch(image.name)
        recorded = named["format"] if named else attribute(description, "target/format", "type")
        format_ = image.format.value if image.format else recorded or "raw"
        size = description.findtext("physical") if format_ == "raw" else None
        return Base(
            key=image.cache_key(),
            path=str(description.findtext("target/path")),
            format=format_,
            virtual_size=int(size or description.findtext("capacity") or 0),
        )

    def _upload(
        self, opened: LocalImage, deadline: Deadline, progress: ProgressCallback | None
    ) -> Base:
        pool = self.pools.disks()
        self._remove_abandoned(pool)
        size = opened.info.file_size_bytes
        name = f"{IMAGE_PREFIX}{opened.cache_key}.{secrets.token_hex(8)}"
        with undoing() as undo:
            undo.callback(self._drop_content, opened.cache_key, name)
            # raw: the bytes are written as they are; what they mean stands in the record
            volume = pool.createXML(volume_xml(name, size, "raw"), 0)
            self._send(volume, opened, deadline, progress)
            opened.verify_unchanged()
            base = Base(
                key=opened.cache_key,
                path=self.pools.disk_path(name),
                format=opened.info.format.value,
                virtual_size=opened.info.virtual_size_bytes,
                record=IMAGE_PREFIX + opened.cache_key,
            )
            try:
                pool.createXML(_record_xml(base), 0)
            except errors.DeviceBusy:
                # somebody else was faster: use that one, and drop ours. Its name is taken before
                # its file is there.
                other = in_time(partial(self._record, base.key), errors.VolumeNotFound)
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

    def _delete_disk(self, name: str) -> None:
        # the pool is looked up now: this is how things are undone after a connection was lost
        try:
            delete(self.pools.disks().storageVolLookupByName(name))
        except errors.VolumeNotFound:
            return

    def _drop_content(self, key: str, name: str) -> None:
        """Undo an upload; not if its record is there, and only the reply to that was lost."""
        found = self._cached(key)
        if found is None or PurePosixPath(found.path).name != name:
            self._delete_disk(name)

    def _require_still_cached(self, base: Base) -> None:
        """Called when a disk was based on an image. Eviction removes the record, looks for disks
        and then removes the content: if the record is still there, it will see this disk."""
        if base.record is None:
            return
        try:
            self.pools.disks().storageVolLookupByName(base.record)
        except errors.VolumeNotFound as error:
            raise errors.DeviceBusy(
                "the image was evicted from the cache meanwhile",
                vendor_code=error.vendor_code,
                hint="call again: the image is brought to the host again",
            ) from error

    def _remove_abandoned(self, pool: Remote) -> None:
        """Remove contents without a record that a dead process has left: their upload was not
        completed, or their eviction not."""
        volumes = {volume.name(): volume for volume in pool.listAllVolumes(0)}
        for name, volume in volumes.items():
            record, dot, _ = name.partition(".")
            if not (dot and record.startswith(IMAGE_PREFIX)) or record in volumes:
                continue
            description = _described(volume)
            if description is None:
                continue
            written = description.findtext("target/timestamps/mtime")
            if written is None or time.time() - float(written) < _ABANDONED:
                continue
            if not _based_on(description.findtext("target/path"), volumes.values()):
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
    """The image cache."""

    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        """Budget: 4 calls if it is in the cache; else 7, and those of the upload's stream."""
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
                with suppress(errors.VolumeNotFound):  # evicted meanwhile
                    found.append(self._entry(_recorded(key, volume)))
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
        """Budget: 5 calls, and two for each volume in the pool: libvirt has no question 'who is
        based on this'. It is asked twice: a disk may be made meanwhile."""
        del timeout
        pool = self.pools.disks()
        base = self._cached(key)
        if base is None:
            return
        self._refuse_used(pool, base)
        # the record first: without it nobody finds the image to base a new disk on
        assert base.record is not None  # noqa: S101 - it came from there
        self._delete_disk(base.record)
        try:
            self._refuse_used(pool, base)
        except BaseException:
            with suppress(errors.DeviceBusy):  # loaded again meanwhile
                pool.createXML(_record_xml(base), 0)
            raise
        self._delete_disk(PurePosixPath(base.path).name)

    @staticmethod
    def _refuse_used(pool: Remote, base: Base) -> None:
        volumes = [each for each in pool.listAllVolumes(0) if each.name() != base.record]
        users = _based_on(base.path, volumes)
        if users:
            raise errors.DeviceBusy(f"the image is the base of {users} disks", retryable=False)


def _based_on(path: str | None, volumes: Iterable[Remote]) -> int:
    """How many volumes have this base. One call for each that there is."""
    described = (_described(volume) for volume in volumes)
    return sum(
        description is not None and description.findtext("backingStore/path") == path
        for description in described
    )


def _described(volume: Remote) -> Element | None:
    try:
        return parse(volume.XMLDesc(0))
    except errors.VolumeNotFound:
        return None  # deleted meanwhile


def _identity(image: FileImage) -> tuple[object, ...]:
    try:
        status = os.stat(image.path)
    except OSError:
        return (image.path,)
    return (image.format, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _recorded(key: str, record: Remote) -> Base:
    """What a record says. One call, more while it is being made."""

    def read() -> Base:
        description = parse(record.XMLDesc(0))
        backing = backing_of(description)
        if backing is None:
            raise errors.HypervisorFault(f"the cached image {key} has no content")
        return Base(
            key=key,
            path=backing[0],
            format=backing[1],
            virtual_size=int(description.findtext("capacity") or 0),
            record=IMAGE_PREFIX + key,
        )

    return in_time(read, errors.HypervisorFault)


def _record_xml(base: Base) -> str:
    return volume_xml(
        IMAGE_PREFIX + base.key, base.virtual_size, "qcow2", backing=(base.path, base.format)
    )


def _send_all(stream: Remote, data: bytes) -> None:
    view = memoryview(data)
    while view:
        sent = stream.send(view.tobytes())
        view = view[sent:]
