"""The header of a qcow2 file, without a process of qemu-img for it.

The form is that of https://www.qemu.org/docs/master/interop/qcow2.html.
"""

import struct
from pathlib import Path

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
