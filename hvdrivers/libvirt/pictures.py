"""Pictures of screens, as hypervisors give them, into PNG.

https://www.w3.org/TR/png-3/, https://netpbm.sourceforge.net/doc/ppm.html
"""

from __future__ import annotations

import re
import struct
import zlib

from hvdrivers.contract.errors import HypervisorFault

_PPM = re.compile(rb"P6\s+(?:#[^\n]*\n\s*)*(\d{1,6})\s+(\d{1,6})\s+255\s")


def png(width: int, height: int, rgb: bytes) -> bytes:
    """A picture of ``height`` rows of ``width`` pixels, each three bytes: red, green, blue."""
    row = 3 * width
    # each row begins with its filter: none
    lines = b"".join(b"\0" + rgb[start : start + row] for start in range(0, row * height, row))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def png_of_ppm(data: bytes) -> bytes:
    """A portable pixmap (``P6``) as PNG.

    Raises:
        HypervisorFault: it is none.
    """
    header = _PPM.match(data)
    if header is None:
        raise HypervisorFault("the hypervisor's picture of the screen is no portable pixmap")
    width, height = int(header[1]), int(header[2])
    pixels = data[header.end() :]
    if not width or not height or len(pixels) != 3 * width * height:
        raise HypervisorFault("the hypervisor's picture of the screen is cut off")
    return png(width, height, pixels)
