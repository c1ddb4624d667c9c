"""A fixed VHD: the raw disk, and a footer of 512 bytes behind it.

Source: Virtual Hard Disk Image Format Specification, Microsoft, 2006.
"""

from __future__ import annotations

import struct
import time
from typing import Final
from uuid import uuid4

MOST_BYTES: Final = 2040 << 30
"""The largest VHD."""
_EPOCH: Final = 946684800
"""2000-01-01, from which a VHD counts."""
_FIXED: Final = 2


def padded(size: int) -> int:
    """A size that a virtual disk can have: a multiple of 4096 bytes, and at least 3 MiB."""
    return max(3 << 20, -(-size // 4096) * 4096)


def _geometry(size: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors, by the rules of the specification's appendix."""
    sectors = min(size // 512, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        per_track, heads = 255, 16
        rest = sectors // per_track
    else:
        per_track = 17
        rest = sectors // per_track
        heads = max(4, (rest + 1023) // 1024)
        if rest >= heads * 1024 or heads > 16:
            per_track, heads = 31, 16
            rest = sectors // per_track
        if rest >= heads * 1024:
            per_track, heads = 63, 16
            rest = sectors // per_track
    return rest // heads, heads, per_track


def footer(size: int) -> bytes:
    """The footer of a fixed VHD of this capacity in bytes."""
    cylinders, heads, sectors = _geometry(size)

    def with_checksum(checksum: int) -> bytes:
        return struct.pack(
            ">8sIIQI4sI4sQQHBBII16sB427x",
            b"conectix",
            2,
            0x00010000,
            0xFFFFFFFFFFFFFFFF,
            max(0, int(time.time()) - _EPOCH),
            # readers take the geometry for the size, unless a program that they know made it
            b"win ",
            0x000A0000,
            b"Wi2k",
            size,
            size,
            cylinders,
            heads,
            sectors,
            _FIXED,
            checksum,
            unique,
            0,
        )

    unique = uuid4().bytes
    return with_checksum(~sum(with_checksum(0)) & 0xFFFFFFFF)
