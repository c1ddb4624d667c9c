"""Holes: find them, so that an upload skips them; make them, so that a spool stays small."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from hvdrivers.contract.errors import ImageRejected, InsufficientResources, InvalidRequest

_BLOCK = 64 * 1024
_ZEROS = bytes(_BLOCK)


class Extent(NamedTuple):
    """A stretch of a file, in bytes: data, or a hole that reads as zeros."""

    offset: int
    length: int
    is_data: bool


def sparse_extents(descriptor: int) -> Iterator[Extent]:
    """The extents of a regular file in order, from 0 to its end without gaps or overlaps.

    A file system that does not know its holes reports one extent of data. Moves the descriptor's
    position.
    """
    size = os.fstat(descriptor).st_size
    position = 0
    while position < size:
        try:
            data = min(os.lseek(descriptor, position, os.SEEK_DATA), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                data = size
            elif error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                yield Extent(position, size - position, True)
                return
            else:
                raise
        if data > position:
            yield Extent(position, data - position, False)
        if data == size:
            return
        hole = min(os.lseek(descriptor, data, os.SEEK_HOLE), size)
        yield Extent(data, hole - data, True)
        position = hole


def iter_chunks(descriptor: int, chunk_size: int = 1024 * 1024) -> Iterator[tuple[int, bytes]]:
    """The data of a regular file as ``(offset, bytes)``, holes left out, at most ``chunk_size``
    bytes each. Raises :class:`ImageRejected` if the file shrinks meanwhile."""
    for extent in list(sparse_extents(descriptor)):
        if not extent.is_data:
            continue
        position, end = extent.offset, extent.offset + extent.length
        while position < end:
            data = os.pread(descriptor, min(chunk_size, end - position), position)
            if not data:
                raise ImageRejected(
                    "the image file shrank while it was read",
                    hint="call again when nobody writes to the file",
                )
            yield position, data
            position += len(data)


class SparseWriter:
    """Write a stream to an empty file, leaving holes for zeros."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()
        self._position = 0

    def write(self, data: bytes) -> None:
        """Raises OSError as ``os.write`` does, perhaps for bytes given earlier."""
        self._pending += data
        whole = len(self._pending) // _BLOCK * _BLOCK
        if whole:
            self._put(bytes(self._pending[:whole]))
            del self._pending[:whole]

    def skip(self, length: int) -> None:
        """Leave a hole. Raises OSError as :meth:`write`."""
        self._put(bytes(self._pending))
        self._pending.clear()
        self._position += length

    def finish(self) -> None:
        """Write the rest and give the file its length."""
        self._put(bytes(self._pending))
        self._pending.clear()
        os.ftruncate(self._descriptor, self._position)

    def restart(self) -> None:
        """Forget everything written."""
        self._pending.clear()
        self._position = 0
        os.ftruncate(self._descriptor, 0)

    def _put(self, data: bytes) -> None:
        start = 0
        for offset in range(0, len(data), _BLOCK):
            block = data[offset : offset + _BLOCK]
            if block == _ZEROS:
                self._write_all(data[start:offset])
                self._position += _BLOCK
                start = offset + _BLOCK
        self._write_all(data[start:])

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, self._position)
            self._position += written
            view = view[written:]


@contextlib.contextmanager
def spool_errors() -> Iterator[None]:
    """Around what makes, or writes, a temporary file for an image: its failures, typed."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InsufficientResources(
                "no room for the image on the machine the library runs on",
                hint="give workdir= on a larger file system",
            ) from error
        raise InvalidRequest(
            f"the image cannot be spooled ({error.strerror})", hint="give a writable workdir="
        ) from error
