"""Pictures of screens become PNG, and what is no picture is told."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdrivers.contract.errors import HypervisorFault
from hvdrivers.libvirt.pictures import png, png_of_ppm


def pixels_of(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and pixels of a PNG without filters, every checksum looked at."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    lines = zlib.decompress(chunks[b"IDAT"])
    row = 3 * width + 1
    assert all(lines[start] == 0 for start in range(0, len(lines), row))
    return width, height, b"".join(lines[s + 1 : s + row] for s in range(0, len(lines), row))


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_pixels_stay(width: int, height: int, data: st.DataObject) -> None:
    rgb = data.draw(st.binary(min_size=3 * width * height, max_size=3 * width * height))
    assert pixels_of(png(width, height, rgb)) == (width, height, rgb)
    ppm = f"P6\n# a comment\n{width} {height}\n255\n".encode() + rgb
    assert pixels_of(png_of_ppm(ppm)) == (width, height, rgb)


@pytest.mark.parametrize(
    "data",
    [b"", b"P6", b"P5\n1 1\n255\n\0\0\0", b"P6\n0 1\n255\n", b"P6\n2 2\n255\nabc", b"\x89PNG"],
)
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(HypervisorFault):
        png_of_ppm(data)
