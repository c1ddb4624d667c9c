"""The image cache on Hyper-V: what :mod:`hvdrivers.hyperv.image_store` has brought to the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import declared, provides
from hvdrivers.contract.images import ImageCache
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.images import (
    STILL,
    partial_upload,
    staged_key,
)
from hvdrivers.hints import EVICTED, ON_THE_HOST
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.image_store import ImageStore
from hvdrivers.models.image import (
    CachedImage,
    HostImage,
    ImageFormat,
    ImageRef,
)
from hvdrivers.models.progress import ProgressCallback

if TYPE_CHECKING:
    pass

_T = TypeVar("_T")
_CONVERTED: Final = frozenset({ImageFormat.QCOW2, ImageFormat.VMDK, ImageFormat.VDI})
_PIECE: Final = 1 << 20
"""Bytes of an image in one request, before they are compressed."""


class HypervImages(Topic, ImageCache):
    """The image cache."""

    @provides(*declared(ImageStore))
    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        """Budget: 1 call if it is in the cache, and as spawn() otherwise."""
        if isinstance(image, HostImage):
            raise errors.InvalidRequest("a host image is on the host already", hint=ON_THE_HOST)
        deadline = Deadline(timeout)
        key = self.store.known_key(image)
        found = self._entries(deadline).get(key) if key is not None else None
        if found is None:
            key = self.store.bring(image, deadline, progress)
            found = self._entries(deadline).get(key)
        if found is None:
            raise errors.DeviceBusy("the image was evicted from the cache meanwhile", hint=EVICTED)
        return found

    def list_cached_images(self, *, timeout: float | None = None) -> Sequence[CachedImage]:
        """Budget: 1 call."""
        return list(self._entries(Deadline(timeout)).values())

    def _entries(self, deadline: Deadline) -> dict[str, CachedImage]:
        found: list[dict[str, Any]] = self.session.call("Images", {}, deadline)
        entries = (_entry(each) for each in found)
        return {entry.key: entry for entry in entries if entry is not None}

    def evict_image(self, key: str, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        if staged_key(key) is not None:
            names = {"name": key, "still": STILL}
            self.session.call("EvictUpload", names, Deadline(timeout))
            return
        if not all(char.isascii() and (char.isalnum() or char == "-") for char in key):
            return
        self.session.call("Evict", {"key": key}, Deadline(timeout))


def _entry(each: dict[str, Any]) -> CachedImage | None:
    if each.get("partial"):
        return partial_upload(each["key"], size_bytes=each["file"], written=each["written"])
    return CachedImage(
        key=each["key"],
        format=ImageFormat.VHDX,
        virtual_size_bytes=each["size"],
        size_bytes=each["file"],
        in_use=each["used"],
    )
