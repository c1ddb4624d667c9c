"""Open an image: fetched if it must be, verified, inspected, ready to be sent to a hypervisor."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from hvdrivers.contract.errors import ImageRejected, InvalidRequest, PermissionDenied
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hints import TOO_LARGE, UNREADABLE
from hvdrivers.images._http import Download
from hvdrivers.images._ova import extracted_disk, inspector_of
from hvdrivers.images._pieces import PieceDigests, Segment, VerifiedReader, changed
from hvdrivers.images.inspect import CHUNK_BYTES, check_tables, open_regular
from hvdrivers.images.sparse import Extent, sparse_extents, spool_errors
from hvdrivers.limits import IMAGE_DOWNLOAD_BYTES, IMAGE_FILE_BYTES
from hvdrivers.models.image import (
    Checksum,
    FileImage,
    HostImage,
    HttpImage,
    ImageFormat,
    ImageInfo,
    ImageRef,
    content_cache_key,
)
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

_REPORT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalImage:
    """A verified image on this machine, open for reading while its ``with`` block lasts.

    Send what :meth:`segments`, :meth:`chunks` and :meth:`read` give: each byte of it was compared
    with what was inspected, after it was read. Another process may write to the file meanwhile, and
    no time stamp tells (see :mod:`hvdrivers.images._pieces`).
    """

    descriptor: int
    """Open for reading. What is read from it directly is *not* compared with what was inspected,
    unless the file is ``private``: :meth:`verify_content` afterwards does not tell of a change that
    was taken back meanwhile."""
    info: ImageInfo
    sha256: str
    """Of the whole file that was given (of the archive, for an OVA), lower-case hexadecimal
    digits."""
    cache_key: str
    """The name of this content in a host's cache, see
    :func:`hvdrivers.models.image.content_cache_key`."""
    _stamp: tuple[int, int, int]
    _pieces: PieceDigests
    private: bool = False
    """Whether nobody else can write to the file: a download in a file without a name."""
    status: os.stat_result | None = None
    """Of the caller's file as it was when it was opened, before anything was read; None of a
    download. The path may name another file by now."""

    @property
    def path(self) -> Path:
        """A path to the very file that was inspected, for a library that insists on one; valid in
        this process while the image is open (Linux)."""
        return Path(f"/proc/self/fd/{self.descriptor}")

    def extents(self) -> Iterator[Extent]:
        """Data and holes of the file, in order, as it is now: for an estimate."""
        return sparse_extents(self.descriptor)

    def segments(self) -> Iterator[Segment]:
        """The whole image in order: data, at most 1 MiB each, and holes of any length.

        Raises ImageRejected, before it gives it out, for anything that was not inspected.
        """
        return VerifiedReader(self.descriptor, self._pieces).segments()

    def chunks(self, chunk_size: int = CHUNK_BYTES) -> Iterator[tuple[int, bytes]]:
        """The data as ``(offset, bytes)``, holes left out; raises as :meth:`segments`."""
        for offset, length, data in self.segments():
            if data is not None:
                for start in range(0, length, chunk_size):
                    yield offset + start, data[start : start + chunk_size]
        self.verify_unchanged()

    def reader(self) -> VerifiedReader:
        """For random access: ``reader().read(offset, length)`` raises as :meth:`segments`."""
        return VerifiedReader(self.descriptor, self._pieces)

    def verify_content(self) -> None:
        """Read everything once more; ImageRejected if it is not what was inspected."""
        for _ in self.segments():
            pass

    def verify_unchanged(self) -> None:
        """Raise :class:`ImageRejected` if the file's size or time stamps tell that it was changed
        since it was inspected. That they tell nothing proves nothing."""
        if _stamp(self.descriptor) != self._stamp:
            raise changed()


@contextlib.contextmanager
def open_image(
    ref: ImageRef,
    *,
    progress: ProgressCallback | None = None,
    timeout: float | None = None,
    workdir: Path | None = None,
    max_bytes: int | None = None,
) -> Iterator[LocalImage]:
    """Make an image ready to be sent: ``with open_image(ref) as image:``.

    A file is opened once, and read once to hash and inspect it. An HTTP image is downloaded into an
    unnamed temporary file, which vanishes with the block, or with the process; a cut connection is
    resumed where it broke. Of an OVA the disk is opened, taken out into such a file: the format of
    what is open (``image.info``) is VMDK.

    Args:
        ref: a :class:`FileImage` or :class:`HttpImage`.
        progress: gets ``VERIFY`` or ``DOWNLOAD`` reports, in bytes.
        timeout: seconds for everything up to the beginning of the block; None waits for ever.
            Honoured within a second; only the resolver's own time (DNS) cannot be interrupted.
        workdir: where to spool a download; None for the system's temporary directory, which may
            be too small (or memory).
        max_bytes: the longest file accepted. None: the limit of :mod:`hvdrivers.limits`, 1 TiB
            for a file and 256 GiB for a download.

    Raises:
        ImageRejected: unsafe, corrupt, too long, not of the declared format or checksum, or no
            regular file.
        InvalidRequest: no such file or URL (404), an unacceptable redirect, a :class:`HostImage`.
        PermissionDenied: the file may not be read; the server answers 403.
        AuthenticationFailed: the server answers 401.
        ConnectionFailed: name, connection, TLS or server failed, after a bounded number of
            attempts; ``host`` says which server.
        InsufficientResources: no room in ``workdir``.
        OperationTimeout: ``timeout`` passed.
    """
    deadline = Deadline(timeout)
    match ref:
        case FileImage():
            limit = IMAGE_FILE_BYTES if max_bytes is None else max_bytes
            opened = _open_file(ref, deadline, progress, limit)
        case HttpImage():
            limit = IMAGE_DOWNLOAD_BYTES if max_bytes is None else max_bytes
            opened = _open_http(ref, deadline, progress, limit, workdir)
        case HostImage():
            raise InvalidRequest(
                "a host image is on the hypervisor already: there is nothing to open here",
                hint="give the image as a file or URL to read it here",
            )
        case _:
            assert_never(ref)
    with opened as image:
        if ref.format is not ImageFormat.OVA:
            yield image
            return
        inside = extracted_disk(image.descriptor, image._pieces, deadline, workdir, limit)
        with inside as (descriptor, info, pieces):
            # found in a host's cache by the archive, which is what the caller has
            stamp = _stamp(descriptor)
            yield LocalImage(
                *(descriptor, info, image.sha256, image.cache_key, stamp, pieces),
                private=True,
                status=image.status,
            )


@contextlib.contextmanager
def _open_file(
    ref: FileImage,
    deadline: Deadline,
    progress: ProgressCallback | None,
    max_bytes: int,
) -> Iterator[LocalImage]:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_regular(ref.path))
        except PermissionError as error:
            raise PermissionDenied(
                f"the image file {ref.path} may not be read",
                hint="let the user that this process runs as read it",
            ) from error
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a path"
            raise InvalidRequest(
                f"the image file {ref.path} cannot be opened ({reason})",
                hint="the path is one on the machine the library runs on",
            ) from error
        descriptor = file.fileno()
        status = os.fstat(descriptor)
        stamp, total = _stamp_in(status), status.st_size
        inspector = inspector_of(ref.format, checksum=ref.checksum, max_bytes=max_bytes)
        if total > max_bytes:
            raise ImageRejected(
                f"the image has {total} bytes, more than the {max_bytes} allowed", hint=TOO_LARGE
            )
        reported = 0
        while data := _read(descriptor, inspector.size):
            inspector.feed(data)
            deadline.check("the image was verified")
            if progress is not None and inspector.size >= reported + _REPORT_BYTES:
                reported = inspector.size
                progress(Progress(phase=Phase.VERIFY, done=reported, total=total))
        info = inspector.finish()
        if progress is not None and reported != inspector.size:
            progress(Progress(phase=Phase.VERIFY, done=inspector.size, total=total))
        _tables(descriptor, info, inspector.pieces)
        deadline.check("the image was verified")
        sha256 = inspector.sha256
        key = ref.cache_key() or content_cache_key(
            ref.format, Checksum(algorithm="sha256", value=sha256)
        )
        image = LocalImage(descriptor, info, sha256, key, stamp, inspector.pieces, status=status)
        image.verify_unchanged()
        yield image


@contextlib.contextmanager
def _open_http(
    ref: HttpImage,
    deadline: Deadline,
    progress: ProgressCallback | None,
    max_bytes: int,
    workdir: Path | None,
) -> Iterator[LocalImage]:
    with contextlib.ExitStack() as stack:
        with spool_errors():
            # Without a name from the start where the file system can (O_TMPFILE): nothing to
            # remove, not even after a kill.
            spool = stack.enter_context(tempfile.TemporaryFile(dir=workdir, buffering=0))
        descriptor = spool.fileno()
        download = Download(ref, descriptor, deadline, progress=progress, max_bytes=max_bytes)
        info, inspector = download.run()
        _tables(descriptor, info, inspector.pieces)
        yield LocalImage(
            *(descriptor, info, inspector.sha256, ref.cache_key(), _stamp(descriptor)),
            inspector.pieces,
            private=True,
        )


def _tables(descriptor: int, info: ImageInfo, inspected: PieceDigests) -> None:
    try:
        check_tables(descriptor, info, inspected)
    except OSError as error:
        raise ImageRejected(
            f"the image file cannot be read ({error.strerror})", hint=UNREADABLE
        ) from error


def _read(descriptor: int, offset: int) -> bytes:
    try:
        return os.pread(descriptor, CHUNK_BYTES, offset)
    except OSError as error:
        raise ImageRejected(
            f"the image file cannot be read ({error.strerror})", hint=UNREADABLE
        ) from error


def _stamp(descriptor: int) -> tuple[int, int, int]:
    return _stamp_in(os.fstat(descriptor))


def _stamp_in(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
