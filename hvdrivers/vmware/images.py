"""Images: the cache on the datastore.

A cached image is a folder ``hvdrivers/images/<key>`` with one virtual disk, whose name carries the
size that a guest sees. It is filled under another name and renamed when it is complete: a rename
refuses a name that is taken, so the image is there entirely or not at all, and of two uploads at
the same time one wins. On vCenter the disk of an instance may be a child of the image's. So an
entry counts as used while an instance that was made from it is there, anywhere in the vCenter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING

from pydantic import ValidationError

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.driverkit import undoing
from hvdrivers.driverkit.checks import root_disk_bytes
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.images import KnownKeys, not_cached, staging_name
from hvdrivers.models.image import HostImage, ImageFormat, ImageRef
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.vmware.files import Files, Found
from hvdrivers.vmware.folders import Folders
from hvdrivers.vmware.names import is_part
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.seen_images import Base, SeenImages
from hvdrivers.vmware.uploads import PartialUploads

if TYPE_CHECKING:
    from hvdrivers.images import LocalImage

_KEY = re.compile(r"[a-z0-9-]{1,80}")
_DISK = re.compile(r"disk-(\d+)\.vmdk")
_EXTENT = re.compile(r"disk-(\d+)-flat\.vmdk")
_ReadAt = Callable[[int, int], bytes]
"""Bytes from this offset on, at most so many; fewer at the end."""
_KIB = 1024
_MIB = 1 << 20
_ZEROS = 64 << 20
"""Bytes: so many zeros at the end of a disk take longer to send than two more requests."""


class ImageStore:
    """Find an image on the host, or bring it there."""

    def __init__(
        self,
        places: Places,
        files: Files,
        folders: Folders,
        *,
        uploads: PartialUploads,
        seen: SeenImages,
    ) -> None:
        self._places = places
        self._files = files
        self._folders = folders
        self._uploads = uploads
        self._seen = seen
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
    def bring(
        self, image: ImageRef, progress: ProgressCallback | None, *, disk_gib: int = 0
    ) -> Base:
        """Find the image in the cache, or bring it there.

        Args:
            disk_gib: the disk that shall be made of it; 0: as large as the image.

        Raises:
            ImageRejected: the image is larger than that. It is not brought to the host then.
        """
        if isinstance(image, HostImage) and image.cached:
            found = self.by_key(image.name)
            if found is None:
                raise not_cached(image.name)
            return found
        if isinstance(image, HostImage):
            return self._host_image(image)
        key = self._keys.of(image)
        if key is not None:
            found = self._cached(key)
            if found is not None:
                return found
        with self._keys.open(image, progress=progress, timeout=_seconds()) as opened:
            found = None if opened.cache_key == key else self._cached(opened.cache_key)
            root_disk_bytes(opened.info.virtual_size_bytes, disk_gib)
            return found or self._upload(opened, progress)

    def by_key(self, key: str) -> Base | None:
        """The image that an instance was made from; None if it is not there any more."""
        if key.startswith("host-"):
            stores = self._places.datastores()
            browser = stores.datastore(self._places.get().datastore)["browser"]
            for file in self._files.search(browser, self._folders.path("host-images")):
                try:
                    image = HostImage(name=file.name.removesuffix(".vmdk"))
                except ValidationError:
                    continue  # nobody can name it
                if not file.is_folder and image.cache_key() == key:
                    return self._host_image(image)
            return None
        found = self._cached(key)
        if found is not None and not self._files.exists(found.path):
            self._seen.forget(found)
            return None
        return found

    def _cached(self, key: str) -> Base | None:
        """No call if it was seen before, else 3."""
        found = self._seen.base(key)
        if found is None:
            found = next(iter(self.entries(key)), None)
            if found is not None:
                self._seen.put_base(found)
        return found

    def entries(self, key: str) -> list[Base]:
        """The disks of a cached image that are on the datastore: one, or none. 3 calls."""
        stores = self._places.datastores()
        browser = stores.datastore(self._places.get().datastore)["browser"]
        return complete_in(self._files.search(browser, self._folders.path("images", key)))

    @provides(Capability.IMAGE_HOST)
    def _host_image(self, image: HostImage) -> Base:
        """A virtual disk that an administrator put into ``hvdrivers/host-images``."""
        if image.format not in (None, ImageFormat.VMDK):
            raise errors.InvalidRequest(
                "an image on the host is a VMDK", hint="say format=vmdk, or leave it out"
            )
        if "/" in image.name or "\\" in image.name or image.name.startswith("."):
            raise errors.VolumeNotFound(
                "the name of an image on the host has no folder in it",
                hint="put the VMDK into hvdrivers/host-images itself, and name the file alone",
            )
        path = self._folders.path("host-images", f"{image.name.removesuffix('.vmdk')}.vmdk")
        size = None if is_part(image.name.removesuffix(".vmdk")) else self._files.disk_size(path)
        if size is None:
            raise errors.VolumeNotFound(
                f"there is no image {image.name!r} on the host", hint=f"it would be {path}"
            )
        return Base(image.cache_key(), path, size)

    def _upload(self, opened: LocalImage, progress: ProgressCallback | None) -> Base:
        key = opened.cache_key
        staging = self._folders.path("images", staging_name(key))
        folder = self._folders.path("images", key)
        size = -(-opened.info.virtual_size_bytes // _KIB) * _KIB
        name = f"disk-{opened.info.virtual_size_bytes}"
        self._folders.ensure()
        with undoing() as undo, self._as_raw(opened, progress) as (content, end):
            undo.callback(self._files.remove_quietly, staging)
            self._uploads.remove_abandoned()
            self._files.make_folder(staging)
            # zeros at the end are not sent: the disk grows by them
            sent = max(end, _MIB) if size - end >= _ZEROS else size
            self._files.create_disk(f"{staging}/{name}.vmdk", sent)
            body = _Reported(content, sent, progress)
            self._files.upload(f"{staging}/{name}-flat.vmdk", body, sent)
            if sent < size:
                self._files.extend_disk(f"{staging}/{name}.vmdk", size)
            self._publish(staging, folder, f"{name}.vmdk")
        base = Base(key, f"{folder}/{name}.vmdk", opened.info.virtual_size_bytes, size)
        self._seen.put_base(base)
        return base

    def _publish(self, staging: str, folder: str, disk: str) -> None:
        if self._renamed(staging, folder):
            return
        if self._files.exists(f"{folder}/{disk}"):
            self._files.delete(staging)  # another upload of the same was faster: use that one
        elif not self._renamed(staging, folder):  # otherwise it was evicted meanwhile
            raise errors.DeviceBusy(
                f"the cached image in {folder} has lost the description of its disk",
                hint=f"evict_image({folder.rpartition('/')[2]!r}); if machines need it, restore"
                " the file",
                retryable=False,
            )

    def _renamed(self, staging: str, folder: str) -> bool:
        try:
            self._files.move(staging, folder)
        except errors.InvalidRequest as error:
            if error.vendor_code != "FileAlreadyExists":
                raise
            return False
        return True

    @contextmanager
    def _as_raw(
        self, opened: LocalImage, progress: ProgressCallback | None
    ) -> Iterator[tuple[_ReadAt, int]]:
        """Reads the disk in the image, and where the zeros at its end begin, in whole MiB: only
        what was inspected, though another process may write to the file meanwhile."""
        if opened.info.format is ImageFormat.RAW:
            reader = opened.reader()
            yield reader.read, reader.data_end()
            return
        from hvdrivers.images.convert import converted
        from hvdrivers.images.sparse import sparse_extents

        with converted(
            opened, ImageFormat.RAW, deadline=current_deadline(), progress=progress
        ) as file:
            data = [each for each in sparse_extents(file.fileno()) if each.is_data]
            end = data[-1].offset + data[-1].length if data else 0
            yield partial(_read_at, file), -(-end // _MIB) * _MIB


def complete_in(files: Sequence[Found]) -> list[Base]:
    """The images among files of the cache that are whole."""
    found: dict[str, Base] = {}
    sizes: dict[str, int] = {}
    for file in files:
        if _EXTENT.fullmatch(file.name):
            sizes[file.folder] = file.size
    for file in files:
        named = _DISK.fullmatch(file.name)
        name = file.folder.rpartition("/")[2]
        if named and _KEY.fullmatch(name):  # no staging name, and no folder of others
            path = f"{file.folder}/{file.name}"
            found[name] = Base(name, path, int(named[1]), sizes.get(file.folder, 0))
    return list(found.values())


def _read_at(file: IO[bytes], offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


class _Reported:
    """A content as the transport reads it: padded to ``size`` bytes, and with progress."""

    def __init__(self, read: _ReadAt, size: int, progress: ProgressCallback | None) -> None:
        self._read = read
        self._size = size
        self._at = 0
        self._progress = progress

    def read(self, count: int = -1) -> bytes:
        """The next bytes."""
        left = self._size - self._at
        count = left if count < 0 else min(count, left)
        data = self._read(self._at, count)
        data += bytes(count - len(data))
        self._at += count
        current_deadline().check("the image was uploaded")
        if self._progress is not None and count:
            report = Progress(phase=Phase.UPLOAD, done=self._at, total=self._size)
            self._progress(report)
        return data

    def seek(self, offset: int) -> int:
        """Go back to the beginning: the request is sent again."""
        self._at = offset
        return self._at


def _seconds() -> float | None:
    left = current_deadline().left
    return None if left == float("inf") else max(left, 0.001)
