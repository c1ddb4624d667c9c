"""QEMU's screen as the pixels that Hyper-V's thumbnails have."""


def rgb565(image: bytes, width: int, height: int) -> bytes:
    """A PPM picture scaled to a size, two bytes a pixel, little endian, RGB565."""
    kind, across, down, limit, pixels = _ppm(image)
    if kind != b"P6" or limit != 255:
        raise ValueError("not a picture of QEMU")
    out = bytearray()
    for y in range(height):
        row = y * down // height * across
        for x in range(width):
            at = (row + x * across // width) * 3
            red, green, blue = pixels[at : at + 3]
            out += ((red >> 3) << 11 | (green >> 2) << 5 | blue >> 3).to_bytes(2, "little")
    return bytes(out)


def _ppm(image: bytes) -> tuple[bytes, int, int, int, bytes]:
    kind, across, down, limit = image.split(None, 4)[:4]
    start = image.index(limit, image.index(down, len(kind) + 1 + len(across)) + len(down)) + len(
        limit
    )
    return kind, int(across), int(down), int(limit), image[start + 1 :]
