"""Is this image what it claims to be, whole, and safe to open for a hypervisor?

The rules are those of Nova and Glance after CVE-2022-47951, CVE-2024-32498 and CVE-2024-44082: the
format is declared, the content must match it and nothing else, and an image that leads to any other
file is refused. The judgement needs one pass over the bytes, in order, so it works on a download.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

from hvdrivers.contract.errors import ImageRejected
from hvdrivers.images._oslo import OsloInspection
from hvdrivers.images._other_formats import (
    check_iso,
    check_vdi,
    check_vhd,
    check_vhdx,
    is_vhd_footer,
)
from hvdrivers.images._pieces import PieceDigests, VerifiedReader
from hvdrivers.images._qemu_formats import check_qcow2, check_vmdk
from hvdrivers.images._tables import (
    Reading,
    check_qcow2_tables,
    check_vhdx_tables,
    check_vmdk_tables,
)
from hvdrivers.images._view import (
    HEAD_BYTES,
    MAX_VIRTUAL_SIZE_BYTES,
    TAIL_BYTES,
    WHOLE,
    Found,
    View,
    reject,
)
from hvdrivers.models.image import Checksum, ImageFormat, ImageInfo

__all__ = [
    "MAX_VIRTUAL_SIZE_BYTES",
    "ImageInspector",
    "InspectingStream",
    "inspect_image",
]

CHUNK_BYTES = 1024 * 1024

_CHECKS: dict[ImageFormat, Callable[[View], Found]] = {
    ImageFormat.QCOW2: check_qcow2,
    ImageFormat.VMDK: check_vmdk,
    ImageFormat.VHD: check_vhd,
    ImageFormat.VHDX: check_vhdx,
    ImageFormat.VDI: check_vdi,
    ImageFormat.ISO: check_iso,
}
_TABLE_CHECKS = {
    ImageFormat.QCOW2: check_qcow2_tables,
    ImageFormat.VMDK: check_vmdk_tables,
    ImageFormat.VHDX: check_vhdx_tables,
}
# What oslo.utils may see in each declared format. "gpt" is any partition table. A fixed VHD is a
# raw disk with a footer that it does not look at; a hybrid ISO has a partition table in front.
_ACCEPTED: dict[ImageFormat, tuple[set[str], ...]] = {
    ImageFormat.RAW: ({"raw"}, {"gpt"}),
    ImageFormat.VHD: ({"vhd"}, {"raw"}, {"gpt"}),
    ImageFormat.ISO: ({"iso"}, {"iso", "gpt"}),
}
# What the formats begin with. oslo.utils looks only at files that are long enough to hold a whole
# header; these are refused at any length.
_MAGICS: tuple[tuple[ImageFormat, int, bytes], ...] = (
    (ImageFormat.QCOW2, 0, b"QFI\xfb"),
    (ImageFormat.VMDK, 0, b"KDMV"),
    (ImageFormat.VHD, 0, b"conectix"),
    (ImageFormat.VHDX, 0, b"vhdxfile"),
    (ImageFormat.VDI, 64, b"\x7f\x10\xda\xbe"),
    (ImageFormat.ISO, 0x8001, b"CD001"),
)
# Formats that QEMU's probing knows, and none of ours.
_FOREIGN_MAGICS = (
    (b"QED\0", "QED"),
    (b"LUKS\xba\xbe", "LUKS"),
    (b"COWD", "VMDK (ESX sparse extent)"),
    (b"WithoutFreeSpace", "Parallels"),
    (b"WithouFreSpacExt", "Parallels"),
    (b"Bochs Virtual HD Image", "Bochs"),
    (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
)


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class ImageInspector:
    """Judge an image whose bytes are pushed in, in order: ``feed`` all of them, then ``finish``.

    ``feed`` refuses as soon as the head of the image (16 MiB) shows why; that nothing was raised
    yet says nothing. Only an image for which ``finish`` returned may be given to a hypervisor. An
    OVA is refused: it is an archive, and ``open_image`` opens the disk in it.

    Args:
        declared: the format the image must have.
        checksum: what its content must hash to, if known.
        max_bytes: the longest file accepted; None for no limit but that of the virtual size.
    """

    def __init__(
        self,
        declared: ImageFormat,
        *,
        checksum: Checksum | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self._declared = declared
        self._checksum = checksum
        self._max_bytes = MAX_VIRTUAL_SIZE_BYTES if max_bytes is None else max_bytes
        self._head = bytearray()
        self._tail = b""
        self._size = 0
        self._oslo = OsloInspection()
        self._pieces = PieceDigests()
        self._sha256: _Digest = hashlib.sha256()
        self._digest = self._sha256
        if checksum is not None and checksum.algorithm != "sha256":
            self._digest = hashlib.new(checksum.algorithm)

    @property
    def size(self) -> int:
        """Bytes fed so far."""
        return self._size

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes fed so far, in lower-case hexadecimal digits."""
        return self._sha256.hexdigest()

    @property
    def pieces(self) -> PieceDigests:
        """A digest of each piece of what was fed: to compare with what is sent later."""
        return self._pieces

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises :class:`ImageRejected` once it is clear that it will."""
        if not data:
            return
        self._size += len(data)
        if self._size > self._max_bytes:
            reject(f"the image is larger than the {self._max_bytes} bytes allowed")
        self._sha256.update(data)
        self._pieces.feed(data)
        if self._digest is not self._sha256:
            self._digest.update(data)
        self._tail = (self._tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        room = HEAD_BYTES - len(self._head)
        if room <= 0:
            self._oslo.feed_rest(data)
        else:
            self._oslo.feed_head(data[:room])
            self._oslo.feed_rest(data[room:])
            self._head += data[:room]
            if len(self._head) == HEAD_BYTES:
                self._judge(View(self._head))

    def finish(self) -> ImageInfo:
        """Say that this was all. Raises :class:`ImageRejected` unless the image is acceptable."""
        self._oslo.finish()
        if self._checksum is not None and self._digest.hexdigest() != self._checksum.value:
            # Before anything else: of other bytes than those meant, nothing is worth saying.
            reject(
                f"the image's {self._checksum.algorithm} checksum is not the one given",
                "the image was changed or damaged: fetch it again, or correct the checksum",
            )
        if not self._size:
            reject("the image is empty", "was its download cut off? Fetch it again")
        found = self._judge(View(self._head, self._tail, self._size))
        if not 0 < found.virtual_size <= MAX_VIRTUAL_SIZE_BYTES:
            reject(f"the image's virtual size of {found.virtual_size} bytes is absurd")
        return ImageInfo(
            format=self._declared,
            virtual_size_bytes=found.virtual_size,
            file_size_bytes=self._size,
            subformat=found.subformat,
        )

    def _judge(self, view: View) -> Found:
        seen = self._oslo.formats()
        accepted = _ACCEPTED.get(self._declared, ({self._declared.value},))
        if seen is not None and seen not in accepted:
            names = " and ".join(sorted("MBR or GPT" if n == "gpt" else n for n in seen))
            reject(
                f"the image is declared as {self._declared} but its content is {names}",
                "declare the format it has; a file that is two formats at once is never accepted",
            )
        self._foreign(view)
        check = _CHECKS.get(self._declared)
        if check is None:
            return Found(self._size, None)
        try:
            found = check(view)
        except (struct.error, ValueError, IndexError) as error:
            raise ImageRejected(f"the {self._declared} image is corrupt", hint=WHOLE) from error
        if view.complete and seen is not None and self._declared.value in seen:
            self._oslo.safety_check(self._declared.value)
        return found

    def _foreign(self, view: View) -> None:
        """Refuse what QEMU, or another tool, takes for another format."""
        name = next((n for magic, n in _FOREIGN_MAGICS if view.head.startswith(magic)), None)
        if name is None:
            name = next(
                (
                    format_.value
                    for format_, offset, magic in _MAGICS
                    if format_ is not self._declared and view.head.startswith(magic, offset)
                ),
                None,
            )
        if name is None and _is_vmdk_descriptor(bytes(view.head[:65536])):
            name = "VMDK (descriptor)"
        if name is not None and name.startswith("VMDK") and self._declared is ImageFormat.VMDK:
            return  # its own check says it better
        if name is None and self._declared is not ImageFormat.VHD:
            # A fixed VHD: the whole disk, then the footer.
            name = "VHD" if is_vhd_footer(view.tail[-512:]) else None
        if name is not None:
            reject(
                f"the image is declared as {self._declared} but its content is {name}",
                "declare the format it has, or convert it with qemu-img convert",
            )


def _is_vmdk_descriptor(head: bytes) -> bool:
    """What QEMU's vmdk_probe() takes for a descriptor: comments and blank lines, then ``version=``
    (it requires ``version=1`` to ``3``; other numbers are refused as well)."""
    for line in head.split(b"\n"):
        stripped = line.strip(b" \r")
        if not stripped or stripped.startswith(b"#"):
            continue
        return stripped.startswith(b"version=")
    return False


class InspectingStream:
    """A readable stream that inspects and hashes what is read through it.

    Read it to the end, then call :meth:`finish`; until that has returned, what was read is not to
    be trusted.
    """

    def __init__(
        self,
        source: IO[bytes],
        declared: ImageFormat,
        *,
        checksum: Checksum | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self._source = source
        self._inspector = ImageInspector(declared, checksum=checksum, max_bytes=max_bytes)
        self._ended = False

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """At most ``size`` bytes (a negative size means 1 MiB, not all); empty at the end."""
        data = self._source.read(size if size >= 0 else CHUNK_BYTES)
        self._ended = self._ended or (not data and size != 0)
        self._inspector.feed(data)
        return data

    def finish(self) -> ImageInfo:
        """Read what is left, and judge. Raises :class:`ImageRejected`."""
        while not self._ended:
            self.read()
        return self._inspector.finish()

    @property
    def pieces(self) -> PieceDigests:
        """What was read so far, piece by piece."""
        return self._inspector.pieces

    @property
    def sha256(self) -> str:
        """SHA-256 of what was read so far, in lower-case hexadecimal digits."""
        return self._inspector.sha256


def inspect_image(image: IO[bytes] | Path | str, declared: ImageFormat) -> ImageInfo:
    """Inspect a file, or a binary file object from its current position to its end.

    A file is read once from front to back; the mapping tables of qcow2, VMDK and VHDX are read in
    addition, so that truncation is found without a checksum.

    Raises:
        ImageRejected: unsafe, corrupt, truncated, or not of the declared format.
        OSError: the file cannot be opened or read.
    """
    if isinstance(image, (str, Path)):
        with open_regular(Path(image)) as file:
            return inspect_image(file, declared)
    stream = InspectingStream(image, declared)
    info = stream.finish()
    try:
        descriptor = image.fileno()
    except (AttributeError, OSError):
        return info
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        check_tables(descriptor, info, stream.pieces)
    return info


def check_tables(descriptor: int, info: ImageInfo, inspected: PieceDigests) -> None:
    """The part of the inspection that needs random access, on a regular file already accepted."""
    check = _TABLE_CHECKS.get(info.format)
    size = info.file_size_bytes
    if check is None or os.fstat(descriptor).st_size != size:
        return  # a part of a file was inspected: its offsets are not those of the file
    reader = VerifiedReader(descriptor, inspected)
    reading = Reading(
        header=lambda length, offset: reader.read(offset, length),
        table=lambda length, offset: os.pread(descriptor, length, offset),
    )
    try:
        check(reading, size)
    except (struct.error, ValueError, OverflowError) as error:  # a place that no file has
        raise ImageRejected(f"the {info.format} image is corrupt", hint=WHOLE) from error


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading, and nothing else: a FIFO would block, a device could act.

    Raises :class:`ImageRejected` for anything but a regular file, OSError as ``open`` does.
    """
    # O_NONBLOCK keeps the open of a FIFO from waiting; it means nothing for a regular file.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            reject("the image is not a regular file", "give the path of an image file")
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise
