"""What the format checks look at: the two ends of an image, and how they refuse it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from hvdrivers.contract.errors import ImageRejected

HEAD_BYTES = 16 * 1024 * 1024
"""How much of the beginning is kept. Everything that the checks read lies there in what real tools
write; the farthest is the metadata of a VHDX made by QEMU, which follows the block table (8 MiB for
64 TiB)."""

TAIL_BYTES = 4096
"""How much of the end is kept: a VHD footer, a VMDK footer."""

MAX_VIRTUAL_SIZE_BYTES = 64 * 1024**4
"""64 TiB: the limit of VHDX; vSphere's is 62 TB. A larger size in a header is corruption, or an
attempt to overflow somebody's arithmetic."""


class Found(NamedTuple):
    """What a format check learned from an image it accepts."""

    virtual_size: int
    subformat: str | None


WHOLE = "is the file whole, as its checksum tells, and of that format? qemu-img check IMAGE"


def reject(message: str, hint: str = WHOLE) -> NoReturn:
    """Refuse the image. The message never contains text taken from the image itself."""
    raise ImageRejected(message, hint=hint)


@dataclass(frozen=True, slots=True)
class View:
    """The bytes at both ends of an image.

    While the image still streams in, ``size`` is None and there is no tail: checks that need them
    are left to the second look, when the image is complete.
    """

    head: bytes | bytearray
    tail: bytes = b""
    size: int | None = None

    @property
    def complete(self) -> bool:
        return self.size is not None

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes of the head; refuses an image that does not have them there."""
        data = bytes(self.head[offset : offset + length]) if offset >= 0 else b""
        if len(data) == length:
            return data
        if self.size is not None and offset + length > self.size:
            reject(
                "the image is truncated: its header points beyond its end",
                "transfer it again, and give a checksum",
            )
        reject(
            "the image keeps its metadata far from where the tools of its format put it",
            "convert it with qemu-img convert",
        )

    def unpack(self, layout: str, offset: int) -> tuple[Any, ...]:
        return struct.unpack(layout, self.read(offset, struct.calcsize(layout)))

    def last(self, length: int) -> bytes:
        """The last bytes of a complete image; refuses a shorter one."""
        if len(self.tail) < length:
            reject("the image is truncated: it is shorter than its format's footer")
        return self.tail[-length:]

    def inside(self, what: str, offset: int, length: int) -> None:
        """Refuse a header that points outside of the file. Python's integers do not overflow, so
        neither does this sum."""
        if self.size is not None and offset + length > self.size:
            reject(
                f"the image is truncated or corrupt: its {what} lies beyond its end",
                "transfer it again, and give a checksum",
            )
