"""Images: the host's cache of what instances are made from.

The cache is the host's, not the library's: every driver on every machine sees the same entries,
named by content (``ImageRef.cache_key()``), and an entry in use is never removed. What a client
leaves that dies in the middle of an upload is listed and can be removed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Scope, operation
from hvdrivers.models.image import CachedImage, ImageRef
from hvdrivers.models.progress import ProgressCallback


class ImageCache(Interface, capability=Capability.IMAGE_CACHE):
    """Load before it is needed, see what is there, make room."""

    @operation(scope=Scope.HOST, timeout=3600)
    @abstractmethod
    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        """Bring an image into the host's cache; at once if it is there: an image with a checksum is
        not read again, here or by spawn(). HostImage(name=key, cached=True) names an entry.
        Two callers at the same time load it once, or the second load is dropped; never half an
        image.

        Raises:
            ImageRejected: as in spawn.
            InvalidRequest: a host image, which is on the host already.
            InsufficientResources: no room.
        """

    @operation(scope=Scope.HOST, changes=False, timeout=60)
    @abstractmethod
    def list_cached_images(self, *, timeout: float | None = None) -> Sequence[CachedImage]:
        """What is in the cache, complete images and partial uploads.

        An upload whose client died leaves what it had sent. It is listed with ``partial=True``
        under a key of its own. So is an upload that is under way: only the time of the last write
        tells the two apart. A new upload of the same image begins from the start.
        """

    @operation(scope=Scope.HOST, timeout=60)
    @abstractmethod
    def evict_image(self, key: str, *, timeout: float | None = None) -> None:
        """Remove one entry. One that is not there is a success.

        A partial upload can be removed after ten minutes without a write, by the host's own clock.
        An upload that is under way writes many times a minute.

        Raises:
            DeviceBusy: an instance's disk is based on it, in whatever pool that is
                (``retryable=False``); or it is a partial upload that was written to a moment ago
                (``retryable=True``).
        """
