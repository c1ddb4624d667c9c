"""Small image files made by hand: harmless ones to spawn from, and ones that must be refused.

Each hostile one is an attack that was, or could have been, real: an image that names another file
of the host as its base or its data (CVE-2022-47951, CVE-2024-32498), one that is another format
than it was declared to be (CVE-2024-44082), one that is damaged or not what its checksum says.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from hvdrivers.models.image import Checksum, FileImage, ImageFormat, ImageRef

_CLUSTER = 65536
_SECRET = b"/etc/shadow"
_DATA_FILE = 1 << 2
"""Incompatible feature of qcow2: the data is in another file."""
_DATA_FILE_NAME = 0x44415441
"""Header extension with that file's name."""

DISK_BYTES = 1 << 20
"""The size of the disk in each of these images."""


def fresh(folder: Path, image_format: ImageFormat, *, checksum: bool) -> FileImage:
    """A harmless image with content that no host has seen before.

    Args:
        image_format: raw or qcow2.
        checksum: name it in the reference.
    """
    path = folder / f"fresh-{uuid4().hex}.{image_format}"
    content = os.urandom(4096)
    if image_format is ImageFormat.RAW:
        path.write_bytes(content + bytes(DISK_BYTES - len(content)))
    else:
        path.write_bytes(_qcow2() + content)
    return reference(path, image_format, checksum=checksum)


def large(folder: Path, gib: int) -> FileImage:
    """A harmless qcow2 image of a disk with this many GiB, in a small file."""
    path = folder / f"large-{uuid4().hex}.qcow2"
    path.write_bytes(_qcow2(size=gib << 30) + os.urandom(4096))
    return reference(path, ImageFormat.QCOW2, checksum=True)


def reference(path: Path, image_format: ImageFormat, *, checksum: bool) -> FileImage:
    """A reference to a file."""
    digest = Checksum(algorithm="sha256", value=hashlib.sha256(path.read_bytes()).hexdigest())
    return FileImage(path=path, format=image_format, checksum=digest if checksum else None)


def hostile(folder: Path) -> Sequence[tuple[str, ImageRef]]:
    """Images that must be refused, each with a word that says why."""
    raw, qcow2, vmdk = ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.VMDK
    whole = _qcow2()
    wanted: list[tuple[str, bytes, ImageFormat]] = [
        ("backing-file", _qcow2(backing=_SECRET), qcow2),
        ("data-file", _qcow2(data_file=_SECRET), qcow2),
        ("qcow2-declared-raw", whole, raw),
        ("raw-declared-qcow2", bytes(DISK_BYTES), qcow2),
        ("truncated", whole[: 3 * _CLUSTER], qcow2),
        ("empty", b"", raw),
        ("vmdk-declared-raw", _descriptor(), raw),
        ("foreign-extent", _descriptor(), vmdk),
    ]
    found: list[tuple[str, ImageRef]] = []
    for word, content, declared in wanted:
        path = folder / f"{word}.img"
        path.write_bytes(content)
        found.append((word, FileImage(path=path, format=declared)))
    damaged = folder / "wrong-checksum.img"
    damaged.write_bytes(bytes(DISK_BYTES))
    other = Checksum(algorithm="sha256", value=hashlib.sha256(b"what was meant").hexdigest())
    found.append(("wrong-checksum", FileImage(path=damaged, format=raw, checksum=other)))
    return found


def _descriptor() -> bytes:
    return (
        b'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="'
        b'monolithicFlat"\n\nRW 2048 FLAT "' + _SECRET + b'" 0\n\nddb.adapterType = "ide"\n'
    )


def _qcow2(*, size: int = DISK_BYTES, backing: bytes = b"", data_file: bytes = b"") -> bytes:
    """A qcow2 image, version 3, with an empty disk; header, refcount table, refcounts, L1 table."""
    extension = b""
    if data_file:
        padded = data_file.ljust(-(-len(data_file) // 8) * 8, b"\0")
        extension = struct.pack(">II", _DATA_FILE_NAME, len(data_file)) + padded
    extension += bytes(8)  # the end of the extensions
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        104 + len(extension) if backing else 0,
        len(backing),
        16,
        size,
        0,
        -(-size // (_CLUSTER * _CLUSTER // 8)),
        3 * _CLUSTER,
        _CLUSTER,
        1,
        0,
        0,
        _DATA_FILE if data_file else 0,
        0,
        0,
        4,
        104,
    )
    clusters = [
        header + extension + backing,
        struct.pack(">Q", 2 * _CLUSTER),
        struct.pack(">4H", 1, 1, 1, 1),
        struct.pack(">Q", 0),
    ]
    return b"".join(each.ljust(_CLUSTER, b"\0") for each in clusters)
