"""A picture of the screen: each colour that Hyper-V can send is the one that a PNG says."""

from __future__ import annotations

import struct
import zlib

from hvdrivers.hyperv.consoles import png

WIDTH = 256


def lines_of(data: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and the lines of a PNG without filters, read by hand."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts, place = {}, 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, part = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + part) == int.from_bytes(data[place + 8 + length :][:4], "big")
        parts[kind] = part
        place += 12 + length
    assert list(parts) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *form = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert form == [8, 2, 0, 0, 0]  # eight bits, red, green and blue
    lines = zlib.decompress(parts[b"IDAT"])
    step = 1 + 3 * width
    found = [lines[at : at + step] for at in range(0, len(lines), step)]
    assert all(each[0] == 0 for each in found)
    return width, height, [each[1:] for each in found]


def test_each_of_the_65536_colours() -> None:
    pixels = list(range(1 << 16))
    width, height, lines = lines_of(png(struct.pack(f"<{len(pixels)}H", *pixels), WIDTH))
    assert (width, height) == (WIDTH, len(pixels) // WIDTH)
    expected = [
        ((each >> 11) * 255 // 31, (each >> 5 & 63) * 255 // 63, (each & 31) * 255 // 31)
        for each in pixels
    ]
    assert b"".join(lines) == bytes(value for each in expected for value in each)


def test_black_and_white_are_the_ends() -> None:
    _, _, lines = lines_of(png(b"\0\0\xff\xff", 2))
    assert lines == [bytes(3) + b"\xff" * 3]
