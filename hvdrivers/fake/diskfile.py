"""Real image files for fake disks, so that an image made by the fake can be spawned from.

The file is a valid raw or qcow2 image (version 3, nothing but the first cluster allocated), and its
first sectors tell the fake what the disk's content was.
"""

from __future__ import annotations

import json
import os
import struct
from typing import BinaryIO

from hvdrivers.fake.records import Content
from hvdrivers.models.image import ImageFormat

_MAGIC = b"HVDFAKE1"
_CLUSTER = 65536
_ROOM = _CLUSTER - 64
_COPIED = 1 << 63  # "this cluster is used once": the flag that QEMU sets on every plain cluster


def write(file: BinaryIO, image_format: ImageFormat, size_bytes: int, content: Content) -> int:
    """Write a file that is empty; its length.

    Raises:
        OSError: it cannot be written.
        ValueError: not raw or qcow2.
    """
    payload = _payload(content, size_bytes)
    if image_format is ImageFormat.RAW:
        parts, length = {0: payload}, size_bytes
    elif image_format is ImageFormat.QCOW2:
        parts, length = _qcow2(size_bytes, payload)
    else:
        raise ValueError(f"cannot write {image_format}")
    for offset, data in parts.items():
        file.seek(offset)
        file.write(data)
    file.truncate(length)
    return length


def read(descriptor: int, image_format: ImageFormat) -> Content | None:
    """The content that :func:`write` has put into a file; None for any other image."""
    offset = 0
    if image_format is ImageFormat.QCOW2:
        offset = 40
        for _ in range(3):  # header, first table, second table: each points to the next
            offset = struct.unpack(">Q", _pread(descriptor, offset, 8).ljust(8, b"\0"))[0]
            offset &= ~_COPIED
    elif image_format is not ImageFormat.RAW:
        return None
    head = _pread(descriptor, offset, _ROOM)
    if not head.startswith(_MAGIC):
        return None
    (length,) = struct.unpack_from(">I", head, len(_MAGIC))
    text = head[len(_MAGIC) + 4 : len(_MAGIC) + 4 + length]
    try:
        return tuple(str(each) for each in json.loads(text))
    except ValueError:
        return None


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    # the offset comes out of an image: it may be anything
    return os.pread(descriptor, length, offset) if offset < 1 << 62 else b""


def _payload(content: Content, size_bytes: int) -> bytes:
    room = min(_ROOM, size_bytes)
    kept = content
    while True:
        text = json.dumps(kept).encode()
        data = _MAGIC + struct.pack(">I", len(text)) + text
        if len(data) <= room:
            return data
        if not kept:
            return b""
        # the oldest goes first: a test looks at what it wrote last
        kept = kept[len(kept) // 16 + 1 :]


def _qcow2(size_bytes: int, payload: bytes) -> tuple[dict[int, bytes], int]:
    entries = max(1, -(-size_bytes // (_CLUSTER * (_CLUSTER // 8))))
    tables = -(-entries * 8 // _CLUSTER)
    first = 3 * _CLUSTER
    second = first + tables * _CLUSTER
    data = second + _CLUSTER
    clusters = 3 + tables + 2
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        0,  # no backing file
        0,
        16,  # clusters of 64 KiB
        size_bytes,
        0,  # not encrypted
        entries,
        first,
        _CLUSTER,  # refcount table
        1,
        0,  # no internal snapshots
        0,
        0,  # incompatible, compatible and autoclear features
        0,
        0,
        4,  # refcounts of 16 bits
        104,
    )
    parts = {
        0: header,
        _CLUSTER: struct.pack(">Q", 2 * _CLUSTER),
        2 * _CLUSTER: struct.pack(f">{clusters}H", *([1] * clusters)),
        first: struct.pack(">Q", second | _COPIED),
        second: struct.pack(">Q", data | _COPIED),
        data: payload,
    }
    return parts, clusters * _CLUSTER
