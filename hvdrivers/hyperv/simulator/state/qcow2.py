"""qcow2 files that hold no data, and the header of any, without a process of qemu-img for each.

The form is that of https://www.qemu.org/docs/master/interop/qcow2.html.
"""

import fcntl
import os
import struct
from pathlib import Path

_HEADER = struct.Struct(">4sIQIIQ")
"""Magic, version, place and length of the backing file's name, bits of a cluster, virtual size."""
_LONGEST_NAME = 1023
_BITS = 16
_CLUSTER = 1 << _BITS
"""Bytes of a cluster, as qemu-img makes them."""
_WHOLE_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
"""What _HEADER has, encryption, entries and place of the first table, place and clusters of the
table of reference counts, number and place of snapshots, three sets of features, bits of a
reference count, length of this header."""
_FORMAT = 0xE2792ACA
"""The extension that names the format of the backing file."""
_LOCKS = (200, 100)
"""How many bytes QEMU locks in a file that it has open, and where."""


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


def make_qcow2(file: Path, size: int, backing: Path, backing_format: str) -> bool:
    """A new file without data over another one. False leaves it to qemu-img."""
    name, kind = os.fsencode(backing), backing_format.encode()
    if not backing.is_absolute() or len(name) > _LONGEST_NAME or size % 512:
        return False
    entries = _entries(size, _BITS)
    extensions = struct.pack(">II", _FORMAT, len(kind)) + kind
    extensions += bytes(-len(extensions) % 8 + 8)  # and the one that is the last
    place = _WHOLE_HEADER.size + len(extensions)
    header = _WHOLE_HEADER.pack(
        *(b"QFI\xfb", 3, place, len(name), _BITS, size),
        *(0, entries, 3 * _CLUSTER, _CLUSTER, 1, 0, 0, 0, 0, 0, 4, _WHOLE_HEADER.size),
    )
    clusters = 3 + -(-8 * entries // _CLUSTER)
    try:
        with file.open("xb") as stream:
            stream.write(header + extensions + name)
            stream.seek(_CLUSTER)
            stream.write((2 * _CLUSTER).to_bytes(8, "big"))
            stream.seek(2 * _CLUSTER)
            stream.write(b"\0\1" * clusters)
            stream.truncate(3 * _CLUSTER + 8 * entries)
    except FileExistsError:
        return False
    except OSError:
        file.unlink(missing_ok=True)
        return False
    return True


def grow_qcow2(file: Path, size: int) -> bool:
    """Make the disk in a file larger. False leaves it to qemu-img: the file is not as the simulator
    makes it, a process has it open, its first table needs more room, or the disk shrinks."""
    try:
        with file.open("r+b") as stream:
            # qemu-img tells best what a lock means
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, *_LOCKS)
            head = stream.read(_WHOLE_HEADER.size)
            if len(head) < _WHOLE_HEADER.size:
                return False
            found = _WHOLE_HEADER.unpack(head)
            magic, version, _, _, bits, old, encrypted, entries, table = found[:9]
            plain = not (encrypted or found[11] or any(found[13:16])) and 9 <= bits <= 21
            if magic != b"QFI\xfb" or version != 3 or not plain or size < old or size % 512:
                return False
            more = _entries(size, bits)
            if 8 * more > -(-8 * entries >> bits) << bits:
                return False
            if more > entries:
                stream.seek(table + 8 * entries)
                stream.write(bytes(8 * (more - entries)))
                stream.flush()
            stream.seek(24)
            stream.write(struct.pack(">QII", size, 0, max(more, entries)))
    except OSError:
        return False
    return True


def _entries(size: int, bits: int) -> int:
    """How many tables of the second level a disk has. Each entry is of eight bytes."""
    return max(1, -(-size >> (2 * bits - 3)))
