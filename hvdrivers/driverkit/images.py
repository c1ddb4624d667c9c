"""Images on a host: found in its cache, or brought there once.

A cached image is named by its content (``ImageRef.cache_key()``). It is complete or not there,
even if the client or the host dies during an upload. Every driver does it in the same two steps. It
uploads the content under a *staging name*, which no search for an image finds. Then it *publishes*
the image by one atomic step that fails if the name is taken: a rename, or the creation of a small
record. So of two uploads of one image at the same time one is published, and the other is dropped.

A driver gives the steps, and these objects put them together::

    self.images = ImageStore(find=self._cached, upload=self._upload)
    ...
    base = self.images.get(spec.image, progress=progress)

    def _upload(self, opened, progress):
        return stage(
            opened.cache_key,
            fill=lambda name: self._send(name, opened, progress),
            publish=lambda name: self._rename(name, opened.cache_key),     # raises Taken
            drop=self._delete,
            find=self._cached,
        )
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.driverkit.undo import undoing
from hvdrivers.hints import EVICTED
from hvdrivers.locks import KeyLocks
from hvdrivers.models.image import CachedImage, FileImage, HttpImage, ImageFormat, ImageRef
from hvdrivers.models.progress import ProgressCallback

if TYPE_CHECKING:
    from hvdrivers.images import LocalImage

__all__ = [
    "ImageStore",
    "KnownKeys",
    "Taken",
    "abandoned",
    "file_identity",
    "not_cached",
    "partial_upload",
    "refuse_alive",
    "stage",
    "staged_key",
    "staging_name",
]

_B = TypeVar("_B")
_FORMATS = {each.value: each for each in ImageFormat}
QUIET = 3600.0
"""Seconds without a write after which an upload is taken for the remains of a dead process. The
guard ends an upload after this time unless the caller gives a longer timeout, and one that is
alive writes many times a minute. The next upload removes such remains unasked."""
STILL = 600.0
"""Seconds without a write after which evict_image() removes a partial upload: its caller has asked
for this one. Were it alive all the same, it would fail, and could be repeated."""

REMEMBERED = 1000
"""Files whose keys are remembered: the last ones that were read."""


class Taken(Exception):
    """Raised by a driver's ``publish``: the name is taken, so another upload was faster."""


class KnownKeys:
    """Cache keys of local files without a checksum. Such a file must be read to know its key, and
    is not read again while it is unchanged. Thread-safe."""

    def __init__(self) -> None:
        self._keys: dict[tuple[object, ...], str] = {}
        self._lock = threading.Lock()

    def of(self, image: ImageRef) -> str | None:
        """The cache key, if it is known without reading the image: from its checksum or its name,
        or because the same file was read before and has not changed since."""
        key = image.cache_key()
        if key is None and isinstance(image, FileImage):
            with self._lock:
                return self._keys.get(file_identity(image))
        return key

    @contextmanager
    def open(
        self, image: ImageRef, *, progress: ProgressCallback | None, timeout: float | None
    ) -> Iterator[LocalImage]:
        """:func:`hvdrivers.images.open_image`, with its arguments and errors; what it tells is
        remembered."""
        from hvdrivers.images import open_image

        with open_image(image, progress=progress, timeout=timeout) as opened:
            if isinstance(image, FileImage) and opened.status and image.cache_key() is None:
                # of the file that was read, as it was before: if it changes meanwhile, the key is
                # not found again; if the path led to another one, that one does not get its key
                identity = _identity_in(image, opened.status)
                with self._lock:
                    self._keys[identity] = opened.cache_key
                    if len(self._keys) > REMEMBERED:
                        del self._keys[next(iter(self._keys))]
            yield opened


class ImageStore(Generic[_B]):
    """Finds an image in the cache of one host, or brings it there. Thread-safe.

    Threads that need the same image bring it once: the others wait, each as long as its own
    deadline allows, and then find it.

    Args:
        find: looks an image up by its cache key; None if it is not there. What it returns is the
            driver's own: a path, a template.
        upload: brings an image that was opened, verified and inspected, and returns what ``find``
            would. See :func:`stage`.
    """

    def __init__(
        self,
        *,
        find: Callable[[str], _B | None],
        upload: Callable[[LocalImage, ProgressCallback | None], _B],
    ) -> None:
        self._find = find
        self._upload = upload
        self._keys = KnownKeys()
        self._turns = KeyLocks()

    def get(
        self,
        image: FileImage | HttpImage,
        *,
        progress: ProgressCallback | None = None,
        deadline: Deadline | None = None,
    ) -> _B:
        """The image in the host's cache. One look-up if it is there and its key is known.

        Args:
            image: where its content comes from. An image of the host itself needs no bringing.
            deadline: None: the current one.

        Raises:
            HypervisorError: those of :func:`hvdrivers.images.open_image`, and those of the
                driver's steps.
            OperationTimeout: the deadline passed, also while another thread brings the image.
        """
        limit = deadline or current_deadline()
        key = self._keys.of(image)
        if key is not None:
            found = self._find(key)
            if found is not None:
                return found
        # not the key that was found by reading: another thread may not know it yet
        turn = image.cache_key() or _identity(image)
        if not self._turns.acquire(turn, limit.left):
            raise errors.OperationTimeout(
                "the deadline passed while another thread brought the image to the host"
            )
        try:
            return self._bring(image, key, progress, limit)
        finally:
            self._turns.release(turn)

    def key(self, image: FileImage | HttpImage) -> str | None:
        """The cache key, if it is known without reading the image: see :meth:`KnownKeys.of`."""
        return self._keys.of(image)

    def _bring(
        self,
        image: FileImage | HttpImage,
        key: str | None,
        progress: ProgressCallback | None,
        limit: Deadline,
    ) -> _B:
        # another thread may have brought it while this one waited for its turn
        known = self._keys.of(image)
        found = self._find(known) if known is not None else None
        if found is not None:
            return found
        timeout = max(limit.left, 0.001) if limit.bounded else None
        with self._keys.open(image, progress=progress, timeout=timeout) as opened:
            if opened.cache_key != key:
                found = self._find(opened.cache_key)
                if found is not None:
                    return found
            return self._upload(opened, progress)


def file_identity(image: FileImage) -> tuple[object, ...]:
    """Values that differ once the image's file was replaced or written to. A process that writes to
    the file can set its mtime back, but not its ctime."""
    try:
        return _identity_in(image, os.stat(image.path))
    except (OSError, ValueError):  # the latter: no path at all, which opening it will say
        return (image.format, image.path)


def _identity_in(image: FileImage, status: os.stat_result) -> tuple[object, ...]:
    return (
        image.format,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _identity(image: FileImage | HttpImage) -> tuple[object, ...]:
    """The same; of an image from a web server its URL."""
    if isinstance(image, HttpImage):
        return (image.format, str(image.url))
    return file_identity(image)


# ---- staging and publishing ----------------------------------------------------------------------


def staging_name(key: str) -> str:
    """A name under which an upload of this image can be made, unlike that of any other upload.
    Keys have no dot in them."""
    return f"{key}.{secrets.token_hex(8)}"


def staged_key(name: str) -> str | None:
    """The key in a staging name; None for a name that is none."""
    key, dot, nonce = name.partition(".")
    ours = key and dot and len(nonce) == 16 and set(nonce) <= set("0123456789abcdef")
    return key if ours else None


def not_cached(key: str) -> errors.VolumeNotFound:
    """What a driver raises for ``HostImage(name=key, cached=True)`` if the entry is not there."""
    return errors.VolumeNotFound(
        f"no image {key!r} is in the host's cache",
        hint="list_cached_images() and `hvdrivers image list HOST` name the keys",
    )


def partial_upload(name: str, *, size_bytes: int, written: float | None) -> CachedImage | None:
    """What list_cached_images() shows of an upload that is not complete.

    Args:
        name: its staging name.
        size_bytes: what it occupies on the host.
        written: the time of its last write by the host's clock, in seconds since 1970; None: the
            host does not tell.

    Returns:
        None for a name that no driver of this library gives.
    """
    format_ = _FORMATS.get(name.partition("-")[0])
    if staged_key(name) is None or format_ is None or len(name) > 97:
        return None
    return CachedImage(
        key=name,
        format=format_,
        virtual_size_bytes=0,
        size_bytes=size_bytes,
        partial=True,
        last_written=None if written is None else datetime.fromtimestamp(written, UTC),
    )


def stage(
    key: str,
    *,
    fill: Callable[[str], object],
    publish: Callable[[str], _B],
    drop: Callable[[str], object],
    find: Callable[[str], _B | None],
) -> _B:
    """Upload an image under a staging name and publish it.

    Args:
        key: the image's cache key.
        fill: uploads the content under this staging name.
        publish: makes what was uploaded the cached image, in one atomic step. It raises
            :class:`Taken` if there is one by now.
        drop: removes what is under a staging name. It succeeds if nothing is there, and leaves a
            content alone that was published: the reply to ``publish`` may have been lost.
        find: looks up the image of a faster upload.

    Raises:
        DeviceBusy: another upload was faster, and its image was evicted at once.
        HypervisorError: those of the steps; what was uploaded has been dropped.
    """
    name = staging_name(key)
    with undoing() as undo:
        undo.callback(drop, name)
        fill(name)
        try:
            return publish(name)
        except Taken:
            found = find(key)
            undo.close()
    if found is None:
        raise errors.DeviceBusy(
            "the image was evicted from the cache while it was brought there", hint=EVICTED
        )
    return found


def abandoned(
    staged: Iterable[tuple[str, float]], *, host_now: float, quiet: float = QUIET
) -> list[str]:
    """Uploads that a dead process has left.

    An upload that is alive changes its file all the time. Both times are the host's: the clock of
    a client may be days off, and would take the upload of another client for an old one.

    Args:
        staged: staging name and time of the last write of each upload, by the host's clock.
        host_now: the host's clock, in the same seconds: the time of a file that the driver has
            just made, if nothing else tells it.
        quiet: seconds without a write.

    Returns:
        The names that may be dropped.
    """
    return [name for name, written in staged if staged_key(name) and host_now - written > quiet]


def refuse_alive(written: float | None, *, host_now: float) -> None:
    """Refuse to evict a partial upload that may be alive.

    Args:
        written: the time of its last write by the host's clock; None: the host does not tell.
        host_now: the host's clock, in the same seconds, as for :func:`abandoned`.

    Raises:
        DeviceBusy: it was written to in the last ten minutes; ``retryable``, as it is complete or
            still after that.
    """
    quiet = host_now - written if written is not None else None
    if quiet is None:
        raise errors.DeviceBusy(
            "the host does not tell when this upload was last written to",
            hint="remove it on the host, if no client uploads this image now",
            retryable=False,
        )
    if quiet < STILL:
        raise errors.DeviceBusy(
            f"the upload was last written to {max(quiet, 0):.0f} seconds ago, and may be alive",
            hint=f"it can be evicted after {STILL / 60:.0f} minutes without a write",
        )
