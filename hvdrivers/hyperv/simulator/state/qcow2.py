"""What the simulator does often with qcow2 files, without a process of qemu-img for it.

The form is that of https://www.qemu.org/docs/master/interop/qcow2.html.
"""

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

_HEADER = struct.Struct(">4sIQIIQ")
"""Magic, version, place and length of the backing file's name, bits of a cluster, virtual size."""
_LONGEST_NAME = 1023


def qcow2_info(file: Path) -> dict[str, object] | None:
    """Size and backing file, in the words of ``qemu-img info``. None for what is not as the
    simulator makes it: qemu-img itself then says what it is."""
    with file.open("rb") as stream:
        head = stream.read(80)
        if len(head) < 80:
            return None
        magic, version, place, length, bits, size = _HEADER.unpack_from(head)
        incompatible = int.from_bytes(head[72:80], "big")
        if magic != b"QFI\xfb" or version != 3 or incompatible or not 9 <= bits <= 21:
            return None
        info: dict[str, object] = {"virtual-size": size}
        if place == 0:
            return info
        if not 0 < length <= _LONGEST_NAME:
            return None
        stream.seek(place)
        try:
            name = stream.read(length).decode()
        except UnicodeDecodeError:
            return None
    # anything else is a protocol's name, or relative to the file
    return {**info, "full-backing-filename": name} if name.startswith("/") else None


_CLUSTER: Final = 1 << 16
_ENTRIES: Final = _CLUSTER // 8
"""Of a table that takes one cluster."""
_LARGEST: Final = _CLUSTER * _ENTRIES * _ENTRIES
"""What one cluster of first tables reaches: 4 TiB."""
_FORMAT: Final = 0xE2792ACA
"""The extension of the header that names the format of the backing file."""
_WHOLE = struct.Struct(">4sIQIIQIIQQIIQQQQII")
"""A header of version 3."""


def make_layer(file: Path, backing: Path, backing_format: str, size: int) -> bool:
    """Make an empty qcow2 file over another one, as ``qemu-img create -u -b`` does. False where
    this does not reach: qemu-img then makes it."""
    name, kind = os.fsencode(backing), backing_format.encode()
    if not 0 < size <= _LARGEST or size % 512 or len(name) > _LONGEST_NAME:
        return False
    extension = struct.pack(">II", _FORMAT, len(kind)) + kind.ljust(-(-len(kind) // 8) * 8, b"\0")
    place = _WHOLE.size + len(extension) + 8  # the last extension is an empty one
    tables = _first_tables(size)
    # the clusters: header, table of the counts' blocks, a block of counts, first tables
    header = _WHOLE.pack(
        *(b"QFI\xfb", 3, place, len(name), 16, size, 0, tables, 3 * _CLUSTER, _CLUSTER, 1),
        *(0, 0, 0, 0, 0, 4, _WHOLE.size),
    )
    with file.open("xb") as stream:
        stream.write(header + extension + bytes(8) + name)
        stream.seek(_CLUSTER)
        stream.write((2 * _CLUSTER).to_bytes(8, "big"))
        stream.seek(2 * _CLUSTER)
        stream.write((1).to_bytes(2, "big") * 4)
        stream.truncate(4 * _CLUSTER)
    return True


def grow(file: Path, size: int) -> bool:
    """Make the disk in a qcow2 file larger, as ``qemu-img resize`` does. False for what is not as
    the simulator makes it, what another process has open, and what is not smaller now."""
    with file.open("r+b") as stream:
        head = stream.read(_WHOLE.size)
        if len(head) < _WHOLE.size:
            return False
        magic, version, _, _, bits, old, cipher, tables, place, *rest = _WHOLE.unpack(head)
        snapshots, incompatible, automatic = rest[2], rest[4], rest[6]
        ours = (magic, version, bits) == (b"QFI\xfb", 3, 16)
        if not ours or cipher or snapshots or incompatible or automatic or tables > _ENTRIES:
            return False
        if not old < size <= _LARGEST or size % 512:
            return False
        try:
            # where QEMU locks what it has open
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, 200, 100)
        except OSError:
            return False
        more = _first_tables(size)
        if more > tables:
            stream.seek(place + 8 * tables)
            stream.write(bytes(8 * (more - tables)))
        stream.seek(24)
        stream.write(size.to_bytes(8, "big"))
        stream.seek(36)
        stream.write(max(tables, more).to_bytes(4, "big"))
    return True


def _first_tables(size: int) -> int:
    return -(-size // (_CLUSTER * _ENTRIES))
