"""Images on Hyper-V: VHDX files in a folder of the host, named by content.

An image goes to the host as it is if it is VHD or VHDX; a raw one as a fixed VHD, which is the disk
with 512 bytes behind it. ``qemu-img`` on the caller's machine makes a raw disk of what Hyper-V does
not read (qcow2, VMDK, VDI). Only data is sent: in pieces, compressed, each at its place in a file
of zeroes. The host converts that file and renames the result, so an image is there whole or not at
all. With ``image_route="pull"`` the host fetches what is on a web server itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.images import QUIET, KnownKeys, not_cached, staging_name
from hvdrivers.driverkit.undo import undoing
from hvdrivers.hyperv.config import ImageRoute
from hvdrivers.hyperv.instances import GIB
from hvdrivers.hyperv.library import Json, Secret
from hvdrivers.hyperv.naming import belongs_to_host, plain_path
from hvdrivers.hyperv.session import Session
from hvdrivers.hyperv.vhd import MOST_BYTES, footer, padded
from hvdrivers.limits import IMAGE_DOWNLOAD_BYTES
from hvdrivers.models.image import (
    HostImage,
    HttpImage,
    ImageFormat,
    ImageRef,
    content_cache_key,
)
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

if TYPE_CHECKING:
    from hvdrivers.images import LocalImage

_T = TypeVar("_T")
_CONVERTED: Final = frozenset({ImageFormat.QCOW2, ImageFormat.VMDK, ImageFormat.VDI})
_PIECE: Final = 1 << 20
"""Bytes of an image in one request, before they are compressed."""


class ImageStore:
    """Find an image on the host, or bring it there."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keys = KnownKeys()

    def known_key(self, image: ImageRef | None) -> str | None:
        """The image's key, if it is known without reading the image."""
        return None if image is None else self._keys.of(image)

    def key_of(
        self, image: ImageRef | None, deadline: Deadline, progress: ProgressCallback | None
    ) -> str | None:
        """The image's key. One that can only be read to be known is brought to the host."""
        key = self.known_key(image)
        if image is not None and key is None:
            key = self.bring(image, deadline, progress)
        return key

    def with_image(
        self,
        image: ImageRef | None,
        send: Callable[[], _T],
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> _T:
        """Send a request that needs an image on the host; if it is not there, bring it and send
        the request again."""
        try:
            return send()
        except errors.VolumeNotFound as error:
            if error.vendor_code != "Hv.ImageMissing" or image is None:
                raise
            self.bring(image, deadline, progress)
            return send()
        except errors.ImageRejected as error:
            if error.vendor_code != "Hv.ImageTooLarge":
                raise
            raise errors.ImageRejected(
                f"the image needs {int(error.message)} bytes ({int(error.message) / GIB:.1f} GiB),"
                " the flavor's disk has less",
                vendor_code=error.vendor_code,
                hint="choose a flavor with a larger disk, or disk_gib=0 for the image's own size",
            ) from error

    @provides(Capability.IMAGE_HOST)
    def path_of(self, image: ImageRef, key: str | None) -> str:
        """Where the image is on the host, or will be."""
        root = self._session.facts().root
        if not isinstance(image, HostImage) or image.cached:
            return f"{root}\\images\\{key}.vhdx"
        if image.format not in (None, ImageFormat.VHDX, ImageFormat.VHD):
            raise errors.NotSupported(
                "a host image is a VHDX or VHD file", hint="say format=vhdx or vhd, or leave it out"
            )
        absolute = image.name[1:3] == ":\\" or image.name.startswith("\\\\")
        path = image.name if absolute else f"{root}\\templates\\{image.name}.vhdx"
        if not plain_path(path) or (absolute and belongs_to_host(path, root)):
            raise errors.VolumeNotFound(
                "there is no image of this name on the host",
                hint=f"name a file of {root}\\templates without its ending, or another one by its"
                " whole path",
            )
        return path

    @provides(
        Capability.IMAGE_RAW,
        Capability.IMAGE_VHD,
        Capability.IMAGE_VHDX,
        Capability.IMAGE_QCOW2,
        Capability.IMAGE_VMDK,
        Capability.IMAGE_VDI,
        Capability.IMAGE_OVA,
    )
    def bring(self, image: ImageRef, deadline: Deadline, progress: ProgressCallback | None) -> str:
        """Bring the image into the cache, and return its key. Budget: 1 call if it is there, else 2
        and 1 for each MiB of its data."""
        if isinstance(image, HostImage):
            if image.cached:
                raise not_cached(image.name)
            raise errors.VolumeNotFound(
                f"there is no image {image.name!r} on the host",
                hint=f"it would be {self.path_of(image, None)}; a file of this machine is a"
                " FileImage, or --image PATH",
            )
        if isinstance(image, HttpImage) and self._is_pulled(image):
            return self._pull(image, deadline, progress)
        with self._keys.open(image, progress=progress, timeout=deadline.left) as opened:
            self._upload(opened, deadline, progress)
            return opened.cache_key

    def _is_pulled(self, image: HttpImage) -> bool:
        plain = not image.headers and image.ca_file is None and image.verify_tls
        return (
            self._session.config.image_route is ImageRoute.PULL
            and plain
            and image.format in {ImageFormat.RAW, ImageFormat.VHD, ImageFormat.VHDX}
        )

    def _pull(self, image: HttpImage, deadline: Deadline, progress: ProgressCallback | None) -> str:
        """Let the host fetch it. Budget: 2 calls, and 1 for a raw image."""
        cache_key = content_cache_key(image.format, image.checksum)
        key, _, nonce = staging_name(cache_key).partition(".")
        names = {"key": key, "nonce": nonce}
        wanted: dict[str, Json] = {
            "url": Secret(str(image.url)),  # it may be signed
            "algorithm": image.checksum.algorithm,
            "digest": image.checksum.value,
            "most": IMAGE_DOWNLOAD_BYTES,
            "quiet": QUIET,
        }
        if progress is not None:
            progress(Progress(phase=Phase.DOWNLOAD, done=0))
        with undoing() as undo:
            undo.callback(self._drop, names)
            found = self._session.call("ImagePull", {**names, **wanted}, deadline)
            if found["there"]:
                return cache_key
            length, format_ = int(found["length"]), image.format
            if format_ is ImageFormat.RAW:
                capacity = padded(length)
                if not 0 < capacity <= MOST_BYTES:
                    raise errors.ImageRejected(
                        "a raw image has 1 byte to 2040 GiB",
                        hint="convert a larger one to VHDX first; an empty file is no image",
                    )
                self._send(names, capacity, footer(capacity), deadline)
                format_ = ImageFormat.VHD
            end = {**names, "format": format_.value, "check": True}
            self._session.call("ImageEnd", end, deadline)
        return cache_key

    def _upload(
        self, opened: LocalImage, deadline: Deadline, progress: ProgressCallback | None
    ) -> None:
        info = opened.info
        as_it_is = info.format in {ImageFormat.VHD, ImageFormat.VHDX}
        capacity = info.file_size_bytes if as_it_is else padded(info.virtual_size_bytes)
        if not as_it_is and capacity > MOST_BYTES:
            raise errors.ImageRejected(
                "an image of more than 2040 GiB can be brought to a Hyper-V host only as VHDX",
                hint="convert it to VHDX first",
            )
        key, _, nonce = staging_name(opened.cache_key).partition(".")
        names = {"key": key, "nonce": nonce}
        total = capacity if as_it_is else capacity + 512
        with undoing() as undo:
            size = {"size": total, "quiet": QUIET}
            begun = self._session.call("ImageBegin", {**names, **size}, deadline)
            if begun["there"]:
                return
            undo.callback(self._drop, names)
            with _content(opened, deadline, progress) as pieces:
                for offset, data in pieces:
                    deadline.check("the image was sent to the host")
                    self._send(names, offset, data, deadline)
                    if progress is not None:
                        done = min(offset + len(data), capacity)
                        progress(Progress(phase=Phase.UPLOAD, done=done, total=capacity))
            if not as_it_is:
                self._send(names, capacity, footer(capacity), deadline)
            format_ = info.format.value if as_it_is else ImageFormat.VHD.value
            self._session.call("ImageEnd", {**names, "format": format_}, deadline)

    def _send(self, names: dict[str, str], offset: int, data: bytes, deadline: Deadline) -> None:
        packer = zlib.compressobj(level=1, wbits=-15)
        packed = packer.compress(data) + packer.flush()
        arguments = {**names, "offset": offset}
        self._session.call("ImageWrite", arguments, deadline, data=packed, counted=False)

    def _drop(self, names: dict[str, str]) -> None:
        self._session.call("ImageDrop", names, Deadline(10))


@contextmanager
def _content(
    opened: LocalImage, deadline: Deadline, progress: ProgressCallback | None
) -> Iterator[Iterator[tuple[int, bytes]]]:
    """The data that the host is to get, with its place."""
    if opened.info.format not in _CONVERTED:
        # compared with what was inspected: another process may write to the file meanwhile
        yield ((offset, data) for offset, _, data in opened.segments() if data is not None)
        return
    from hvdrivers.images import iter_chunks
    from hvdrivers.images.convert import converted

    with converted(opened, ImageFormat.RAW, deadline=deadline, progress=progress) as file:
        chunks = iter_chunks(file.fileno(), _PIECE)
        yield ((offset, data) for offset, data in chunks if data.strip(b"\0"))
