"""Images: the host's cache, made of storage volumes.

A cached image is two volumes of the disk pool. ``hv-image-<key>.<nonce>`` has the content as it
was uploaded. ``hv-image-<key>`` is an empty qcow2 volume over it, made when the upload is complete:
creating a volume is atomic and refuses a name that is taken, so the image is there entirely or not
at all, whatever died in between, and of two uploads at the same time one wins. It also records
what a file cannot say of itself safely: format and size. Disks are based on the content directly.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.images import ImageCache
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.images import file_identity, staging_name
from hvdrivers.driverkit.undo import undoing
from hvdrivers.libvirt.files import times_of
from hvdrivers.libvirt.image_content import Content, uploadable
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.libvirt.overlays import Base, Overlays
from hvdrivers.libvirt.pools import (
    backing_of,
    delete,
    find,
    in_time,
    volume_xml,
)
from hvdrivers.libvirt.reserved import refuse_contradiction, refuse_folder, refuse_reserved
from hvdrivers.libvirt.room import needing_room
from hvdrivers.libvirt.session import Remote
from hvdrivers.libvirt.volumes import VOLUME_NAME
from hvdrivers.libvirt.xml import Element, attribute, parse, readable
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

_CHUNK = 240 * 1024
"""Bytes in one message of a stream: the protocol's limit is 256 KiB with its header."""


class ImageStore(Overlays):
    """Find an image on the host, or bring it there."""

    _known_files: dict[tuple[object, ...], str]
    """Cache keys of local files without a checksum, by what tells that a file has not changed:
    so that a second spawn need not read it again to know its name."""
    _known_lock: threading.Lock

    @provides(
        Capability.IMAGE_RAW,
        Capability.IMAGE_QCOW2,
        Capability.IMAGE_VMDK,
        Capability.IMAGE_VHD,
        Capability.IMAGE_VHDX,
        Capability.IMAGE_VDI,
        Capability.IMAGE_OVA,
    )
    def _base(self, image: ImageRef, deadline: Deadline, progress: ProgressCallback | None) -> Base:
        """Find the image in the cache, or bring it there."""
        return self._base_if_there(image) or self._brought(image, deadline, progress)

    def _base_if_there(self, image: ImageRef) -> Base | None:
        """The image in the cache, or on the host."""
        if isinstance(image, HostImage):
            return self._host_image(image)
        key = self._key(image)
        return None if key is None else self._cached(key)

    def _brought(
        self, image: ImageRef, deadline: Deadline, progress: ProgressCallback | None
    ) -> Base:
        """Bring an image that is not there to the host."""
        key = None if isinstance(image, HostImage) else self._key(image)
        from hvdrivers.images import open_image

        with open_image(image, progress=progress, timeout=deadline.left) as opened:
            self._remember(image, opened.cache_key)
            found = None if opened.cache_key == key else self._cached(opened.cache_key)
            if found is not None:
                return found
            with uploadable(opened, deadline, progress) as content:
                return self._upload(opened, content, deadline, progress)

    def _cached(self, key: str) -> Base | None:
        try:
            return self._record(key)
        except errors.VolumeNotFound:
            return None
        except NoContent:
            # someone has deleted the content past the driver; any other failure is the caller's
            # to know: what cannot be read now must not be thrown away
            self._delete_disk(IMAGE_PREFIX + key)
            return None

    def _record(self, key: str) -> Base:
        volume = self.pools.disks().storageVolLookupByName(IMAGE_PREFIX + key)
        return _recorded(key, volume)

    @provides(Capability.IMAGE_HOST)
    def _host_image(self, image: HostImage) -> Base:
        refuse_reserved(image.name)
        volume = find(self.pools.disks(), image.name)
        description = parse(volume.XMLDesc(0))
        # What the pool says was read from the first bytes of the volume. Those of a volume of ours
        # may be a tenant's: a raw one stays raw, whatever was written to it.
        named = VOLUME_NAME.fullmatch(image.name)
        refuse_folder(description, image.name)
        if not named:
            self._require_free(volume, description)
        recorded = named["format"] if named else attribute(description, "target/format", "type")
        declared = image.format.value if image.format else None
        if named or declared != "raw":  # to read a volume of others as raw is safe
            refuse_contradiction(recorded, declared)
        format_ = declared or recorded or "raw"
        size = description.findtext("physical") if format_ == "raw" else None
        return Base(
            key=image.cache_key(),
            path=str(description.findtext("target/path")),
            format=format_,
            virtual_size=int(size or description.findtext("capacity") or 0),
        )

    def _require_free(self, volume: Remote, description: Element) -> None:
        """Look once whether a file of others is an instance's disk: it is the base of many."""
        path = str(description.findtext("target/path"))
        fact = f"free-file:{path}:{times_of(description.find('target'))}"
        if not self.connection.knows(fact):
            self._refuse_not_free(path, volume)
            self.connection.fact(fact, lambda _: True)

    def _upload(
        self,
        opened: LocalImage,
        content: Content,
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> Base:
        pool = self.pools.disks()
        size = content.size
        name = IMAGE_PREFIX + staging_name(opened.cache_key)
        with undoing() as undo:
            undo.callback(self._drop_content, opened.cache_key, name)
            # raw: the bytes are written as they are; what they mean stands in the record
            with needing_room(pool, size):
                volume = pool.createXML(volume_xml(name, size, "raw"), 0)
                self._remove_abandoned(pool, volume)
                self._send(volume, content, deadline, progress)
            opened.verify_unchanged()
            base = Base(
                key=opened.cache_key,
                path=self.pools.disk_path(name),
                format=content.format.value,
                virtual_size=content.virtual_size,
                record=IMAGE_PREFIX + opened.cache_key,
            )
            try:
                with needing_room(pool):
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
        content: Content,
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> None:
        total = content.size
        with self._uploading(volume, total, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM) as stream:
            for offset, length, data in content.segments():
                if data is None:
                    stream.sendHole(length)
                    continue
                for start in range(0, length, _CHUNK):
                    deadline.check("the image was uploaded")
                    part = data[start : start + _CHUNK]
                    _send_all(stream, part)
                    if progress is not None:
                        done = offset + start + len(part)
                        progress(Progress(phase=Phase.UPLOAD, done=done, total=total))

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

    def _drop_content(self, key: str, name: str) -> None:
        """Undo an upload; not if its record is there, and only the reply to that was lost."""
        found = self._cached(key)
        if found is None or PurePosixPath(found.path).name != name:
            self._delete_disk(name)

    def _key(self, image: FileImage | HttpImage) -> str | None:
        key = image.cache_key()
        if key is None and isinstance(image, FileImage):
            with self._known_lock:
                return self._known_files.get(file_identity(image))
        return key

    def _remember(self, image: ImageRef, key: str) -> None:
        if isinstance(image, FileImage) and image.checksum is None:
            with self._known_lock:
                self._known_files[file_identity(image)] = key


class NoContent(errors.HypervisorFault):
    """A record of a cached image names no content: it is none."""


class LibvirtImages(ImageStore, ImageCache):
    """The image cache."""

    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        """Budget: 4 calls if it is in the cache; else 8, and those of the upload's stream."""
        if isinstance(image, HostImage):
            raise errors.InvalidRequest("a host image is on the host already")
        deadline = Deadline(timeout)
        base = self._base(image, deadline, progress)
        try:
            return self._entry(base)
        except errors.VolumeNotFound:
            if not self._hollow(base):
                raise
        return self._entry(self._base(image, deadline, progress))

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
        return found + self._partial_uploads(volumes)

    def _listed(self, key: str, volume: Remote) -> CachedImage:
        return self._entry(_recorded(key, volume))

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
            self._evict_partial(key)
            return
        pool = self.pools.disks()
        base = self._cached(key)
        if base is None:
            return
        try:
            content = pool.storageVolLookupByName(PurePosixPath(base.path).name)
        except errors.VolumeNotFound:
            self._delete_disk(base.record or "")
            return
        self._refuse_based(content, base.record)
        # the record first: without it nobody finds the image to base a new disk on
        assert base.record is not None  # noqa: S101 - it came from there
        self._delete_disk(base.record)
        try:
            self._refuse_based(content, base.record)
        except BaseException:
            with suppress(errors.DeviceBusy):  # loaded again meanwhile
                pool.createXML(_record_xml(base), 0)
            raise
        delete(content)


def _recorded(key: str, record: Remote) -> Base:
    """What a record says. One call, more while it is being made."""

    def read() -> Base:
        description = parse(record.XMLDesc(0))
        backing = backing_of(description)
        if backing is None:
            raise NoContent(f"the cached image {key} has no content")
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
