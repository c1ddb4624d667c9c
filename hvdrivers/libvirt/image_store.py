"""Images: the host's cache, made of storage volumes.

A cached image is two volumes of the disk pool. ``hv-image-<key>.<nonce>`` has the content as it
was uploaded. ``hv-image-<key>`` is an empty qcow2 volume over it, made when the upload is complete:
creating a volume is atomic and refuses a name that is taken, so the image is there entirely or not
at all, whatever died in between, and of two uploads at the same time one wins. It also records
what a file cannot say of itself safely: format and size. Disks are based on the content directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.images import KnownKeys, not_cached, staging_name
from hvdrivers.driverkit.undo import undoing
from hvdrivers.libvirt.chains import Chains
from hvdrivers.libvirt.files import times_of
from hvdrivers.libvirt.image_content import Content, uploadable
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.libvirt.overlays import Base, Overlays
from hvdrivers.libvirt.pools import Pools, backing_of, find, in_time, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.reserved import refuse_contradiction, refuse_folder, refuse_reserved
from hvdrivers.libvirt.room import full_while_sent, needing_room
from hvdrivers.libvirt.sent import LastPart
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.uploads import PartialUploads
from hvdrivers.libvirt.volumes import VOLUME_NAME
from hvdrivers.libvirt.xml import Element, attribute, parse
from hvdrivers.models.image import HostImage, ImageRef
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

if TYPE_CHECKING:
    from hvdrivers.images import LocalImage

_CHUNK = 240 * 1024
"""Bytes in one message of a stream: the protocol's limit is 256 KiB with its header."""


class ImageStore:
    """Find an image on the host, or bring it there."""

    def __init__(
        self,
        connection: Connection,
        pools: Pools,
        chains: Chains,
        uploads: PartialUploads,
        overlays: Overlays,
    ) -> None:
        self._connection = connection
        self._pools = pools
        self._chains = chains
        self._uploads = uploads
        self._overlays = overlays
        self._keys = KnownKeys()

    @provides(
        Capability.IMAGE_RAW,
        Capability.IMAGE_QCOW2,
        Capability.IMAGE_VMDK,
        Capability.IMAGE_VHD,
        Capability.IMAGE_VHDX,
        Capability.IMAGE_VDI,
        Capability.IMAGE_OVA,
    )
    def base(self, image: ImageRef, deadline: Deadline, progress: ProgressCallback | None) -> Base:
        """Find the image in the cache, or bring it there."""
        return self.base_if_there(image) or self.bring(image, deadline, progress)

    def base_if_there(self, image: ImageRef) -> Base | None:
        """The image in the cache, or on the host."""
        if isinstance(image, HostImage):
            return self.cached(image.name) if image.cached else self._host_image(image)
        key = self._keys.of(image)
        return None if key is None else self.cached(key)

    def bring(self, image: ImageRef, deadline: Deadline, progress: ProgressCallback | None) -> Base:
        """Bring an image that is not there to the host."""
        if isinstance(image, HostImage):
            raise not_cached(image.name)
        key = self._keys.of(image)
        with self._keys.open(image, progress=progress, timeout=deadline.left) as opened:
            found = None if opened.cache_key == key else self.cached(opened.cache_key)
            if found is not None:
                return found
            with uploadable(opened, deadline, progress) as content:
                return self._upload(opened, content, deadline, progress)

    def cached(self, key: str) -> Base | None:
        """The image of this key, if it is in the cache. Two calls, four if it has lost its
        content."""
        try:
            return self._record(key)
        except errors.VolumeNotFound:
            return None
        except NoContent:
            # someone has deleted the content past the driver; any other failure is the caller's
            # to know: what cannot be read now must not be thrown away
            self._pools.delete_disk(IMAGE_PREFIX + key)
            return None

    def _record(self, key: str) -> Base:
        volume = self._pools.disks().storageVolLookupByName(IMAGE_PREFIX + key)
        return recorded(key, volume)

    @provides(Capability.IMAGE_HOST)
    def _host_image(self, image: HostImage) -> Base:
        refuse_reserved(image.name)
        pool = self._pools.disks()
        try:
            volume = find(pool, image.name)
        except errors.VolumeNotFound as error:
            raise errors.VolumeNotFound(
                f"there is no image {image.name!r} on the host",
                vendor_code=error.vendor_code,
                hint=f"it would be a volume of that name in the pool {(name := pool.name())!r}:"
                f" virsh vol-list {name}; a file of this machine is a FileImage, or --image PATH",
            ) from error
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
        if not self._connection.knows(fact):
            self._chains.refuse_not_free(path, volume)
            self._connection.fact(fact, lambda _: True)

    def _upload(
        self,
        opened: LocalImage,
        content: Content,
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> Base:
        pool = self._pools.disks()
        size = content.size
        name = IMAGE_PREFIX + staging_name(opened.cache_key)
        with undoing() as undo:
            undo.callback(self._drop_content, opened.cache_key, name)
            # raw: the bytes are written as they are; what they mean stands in the record
            with needing_room(pool, size):
                volume = pool.createXML(volume_xml(name, size, "raw"), 0)
                self._uploads.remove_abandoned(pool, volume)
                with full_while_sent(self._pools.disks):
                    self._send(volume, content, deadline, progress)
            opened.verify_unchanged()
            base = Base(
                key=opened.cache_key,
                path=self._pools.disk_path(name),
                format=content.format.value,
                virtual_size=content.virtual_size,
                record=IMAGE_PREFIX + opened.cache_key,
            )
            try:
                with needing_room(pool):
                    pool.createXML(record_xml(base), 0)
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
        total, last = content.size, LastPart()
        with self._uploading(volume, total, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM) as stream:
            for offset, length, data in content.segments():
                if data is None:
                    stream.sendHole(length)
                    continue
                for start in range(0, length, _CHUNK):
                    deadline.check("the image was uploaded")
                    part = data[start : start + _CHUNK]
                    _send_all(stream, part)
                    last.note(offset + start, part)
                    if progress is not None:
                        done = offset + start + len(part)
                        progress(Progress(phase=Phase.UPLOAD, done=done, total=total))
        last.require_written(volume, deadline)

    def upload_bytes(self, volume: Remote, data: bytes) -> None:
        """Fill a small volume, which was made with all of its room (see ``sent.py``). Budget: 2
        calls."""
        with self._uploading(volume, len(data), 0) as stream:
            for position in range(0, len(data), _CHUNK):
                _send_all(stream, data[position : position + _CHUNK])

    @contextmanager
    def _uploading(self, volume: Remote, size: int, flags: int) -> Iterator[Remote]:
        stream = self._connection.remote.newStream(0)
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
        found = self.cached(key)
        if found is None or PurePosixPath(found.path).name != name:
            self._pools.delete_disk(name)


class NoContent(errors.HypervisorFault):
    """A record of a cached image names no content: it is none."""


def recorded(key: str, record: Remote) -> Base:
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


def record_xml(base: Base) -> str:
    """Description of an image's record."""
    return volume_xml(
        IMAGE_PREFIX + base.key, base.virtual_size, "qcow2", backing=(base.path, base.format)
    )


def _send_all(stream: Remote, data: bytes) -> None:
    view = memoryview(data)
    while view:
        sent = stream.send(view.tobytes())
        view = view[sent:]
