"""What was inspected, piece by piece, so that what is sent can be compared with it.

A time stamp does not tell: a write through a mapping of the file changes neither mtime nor ctime
(Linux updates them when a page becomes writable, not at each write). So each piece is read once
more into memory, compared there, and what was compared is what goes out.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from hvdrivers.contract.errors import ImageRejected
from hvdrivers.hints import UNREADABLE
from hvdrivers.images.sparse import sparse_extents

PIECE_BYTES = 1024 * 1024
_BLOCK = 64 * 1024
_DIGEST_BYTES = hashlib.sha256().digest_size


class Segment(NamedTuple):
    """A stretch of an image, in bytes. ``data`` is None for one that reads as zeros."""

    offset: int
    length: int
    data: bytes | None


class PieceDigests:
    """The SHA-256 of each MiB of a stream: 32 bytes of memory for each."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._open = hashlib.sha256()
        self._room = PIECE_BYTES
        self.size = 0
        """Bytes fed so far."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.size += len(data)
        view = memoryview(data)
        while view:
            part = view[: self._room]
            self._open.update(part)
            self._room -= len(part)
            view = view[len(part) :]
            if not self._room:
                self._digests += self._open.digest()
                self._open, self._room = hashlib.sha256(), PIECE_BYTES

    def matches(self, number: int, digest: bytes) -> bool:
        """Whether piece ``number`` (from 0) has this digest."""
        start = number * _DIGEST_BYTES
        if start == len(self._digests):
            return self._open.digest() == digest  # the last one, which is shorter
        return bytes(self._digests[start : start + _DIGEST_BYTES]) == digest


class VerifiedReader:
    """Reads a file, and gives out nothing that differs from what was inspected."""

    def __init__(self, descriptor: int, inspected: PieceDigests) -> None:
        self._descriptor = descriptor
        self._inspected = inspected
        self._last: tuple[int, bytes] | None = None

    def read(self, offset: int, length: int) -> bytes:
        """These bytes; fewer at the end of the image. It keeps the last piece for the next call."""
        end = min(offset + length, self._inspected.size)
        found = bytearray()
        position = offset
        while position < end:
            number, start = divmod(position, PIECE_BYTES)
            part = self._piece(number)[start : start + end - position]
            found += part
            position += len(part)
        return bytes(found)

    def data_end(self) -> int:
        """Where the zeros at the end of what was inspected begin, in whole pieces. Reads
        nothing."""
        number = -(-self._inspected.size // PIECE_BYTES)
        while number and self._inspected.matches(
            number - 1, _zero_digest(self._length(number - 1))
        ):
            number -= 1
        return min(number * PIECE_BYTES, self._inspected.size)

    def segments(self) -> Iterator[Segment]:
        """The whole image, in order, without gaps; zeros in stretches of 64 KiB are holes."""
        hole = 0  # bytes of a hole that ends where the next segment begins
        for number, is_hole in enumerate(self._holes()):
            offset = number * PIECE_BYTES
            length = self._length(number)
            if is_hole and self._inspected.matches(number, _zero_digest(length)):
                hole += length
                continue
            for segment in _split(offset, self._piece(number)):
                if segment.data is None:
                    hole += segment.length
                    continue
                if hole:
                    yield Segment(segment.offset - hole, hole, None)
                    hole = 0
                yield segment
        if hole:
            yield Segment(self._inspected.size - hole, hole, None)

    def _length(self, number: int) -> int:
        return min(PIECE_BYTES, self._inspected.size - number * PIECE_BYTES)

    def _holes(self) -> Iterator[bool]:
        """For each piece, whether the file has nothing there."""
        holes = [
            (each.offset, each.offset + each.length)
            for each in sparse_extents(self._descriptor)
            if not each.is_data
        ]
        for offset in range(0, self._inspected.size, PIECE_BYTES):
            end = min(offset + PIECE_BYTES, self._inspected.size)
            while holes and holes[0][1] < end:
                holes.pop(0)
            yield bool(holes) and holes[0][0] <= offset

    def _piece(self, number: int) -> bytes:
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        wanted = self._length(number)
        data = bytearray()
        while len(data) < wanted:
            try:
                part = os.pread(
                    self._descriptor, wanted - len(data), number * PIECE_BYTES + len(data)
                )
            except OSError as error:
                raise ImageRejected(
                    f"the image file cannot be read ({error.strerror})", hint=UNREADABLE
                ) from error
            if not part:
                raise changed()
            data += part
        piece = bytes(data)
        if not self._inspected.matches(number, hashlib.sha256(piece).digest()):
            raise changed()
        self._last = (number, piece)
        return piece


def changed() -> ImageRejected:
    """What to say of a file that is not any more what was inspected."""
    return ImageRejected(
        "the image file was changed while it was used",
        hint="do not write to an image file that is being uploaded",
    )


@functools.lru_cache(maxsize=4)
def _zero_digest(length: int) -> bytes:
    return hashlib.sha256(bytes(length)).digest()


def _split(offset: int, piece: bytes) -> Iterator[Segment]:
    start = position = 0
    while position < len(piece):
        block = piece[position : position + _BLOCK]
        if not any(block):
            if start < position:
                yield Segment(offset + start, position - start, piece[start:position])
            yield Segment(offset + position, len(block), None)
            start = position + len(block)
        position += len(block)
    if start < len(piece):
        yield Segment(offset + start, len(piece) - start, piece[start:])
