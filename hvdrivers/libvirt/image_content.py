"""What is uploaded of an image: the file as it is, or what qemu-img makes of it on the caller's
machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.progress import ProgressCallback

if TYPE_CHECKING:
    from hvdrivers.images import LocalImage

_PIECE = 1 << 20
_QCOW2_SIZE_AT = 24
"""Where the header of a qcow2 file has the size of its disk: 8 bytes, the highest first."""


@dataclass(frozen=True)
class Content:
    """What is uploaded of an image, in a format that QEMU opens."""

    format: ImageFormat
    size: int
    """Bytes of the file."""
    virtual_size: int
    segments: Callable[[], Iterable[tuple[int, int, bytes | None]]]


@contextmanager
def uploadable(
    opened: LocalImage, deadline: Deadline, progress: ProgressCallback | None
) -> Iterator[Content]:
    """The image as it is, or as qcow2: QEMU on the host opens no other format of a tenant's."""
    info = opened.info
    if info.format in {ImageFormat.RAW, ImageFormat.QCOW2}:
        size = info.file_size_bytes
        yield Content(info.format, size, info.virtual_size_bytes, opened.segments)
        return
    from hvdrivers.images.convert import converted

    made = converted(opened, ImageFormat.QCOW2, deadline=deadline, progress=progress)
    with made as file:
        descriptor = file.fileno()
        # what qemu-img has made of it: the size that a VHD's geometry tells may be another
        virtual_size = int.from_bytes(os.pread(descriptor, 8, _QCOW2_SIZE_AT), "big")
        size = os.fstat(descriptor).st_size
        yield Content(ImageFormat.QCOW2, size, virtual_size, partial(_segments, descriptor))


def _segments(descriptor: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Data and holes of a file that nobody else writes to."""
    from hvdrivers.images.sparse import sparse_extents

    for offset, length, is_data in list(sparse_extents(descriptor)):
        if not is_data:
            yield offset, length, None
            continue
        for start in range(offset, offset + length, _PIECE):
            data = os.pread(descriptor, min(_PIECE, offset + length - start), start)
            yield start, len(data), data
