"""An OVA: an archive (tar) of a description in OVF, a disk in VMDK, and a manifest of digests.

DMTF DSP0243 says what is in one. What is taken here is the disk alone: the machine is described by
the caller's InstanceSpec. An archive with another number of disks is refused, since an instance
made from one of them would not be the machine that somebody exported.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.images._pieces import PIECE_BYTES, PieceDigests, VerifiedReader
from hvdrivers.images._view import Found, View, reject
from hvdrivers.images.inspect import ImageInspector, check_tables
from hvdrivers.images.sparse import SparseWriter, spool_errors
from hvdrivers.messages import shortened
from hvdrivers.models.image import Checksum, ImageFormat, ImageInfo

__all__ = ["extracted_disk", "inspector_of"]

_MEMBERS = 64
"""Files in an archive. One that VMware or VirtualBox exports has three to five."""
_TEXT_BYTES = 1 << 20
"""The longest description, or manifest. An exported one has about 10 KiB, and in memory it takes a
hundred times as much."""
_HEADER_BYTES = 64 << 10
"""The longest that is read at once for the header of a file in the archive."""
_MANIFEST_LINE = re.compile(r"(SHA1|SHA256|SHA384|SHA512) ?\((.+)\) ?= ?([0-9a-fA-F]+)")
_DOING = "the disk was taken out of the OVA"
_UNPACK = "tar -xf unpacks an OVA: give its disk as an image in the format vmdk"


def inspector_of(
    declared: ImageFormat, *, checksum: Checksum | None, max_bytes: int | None
) -> ImageInspector:
    """What judges the file of an image. The disk in an OVA is judged when it is taken out."""
    kind = _OvaInspector if declared is ImageFormat.OVA else ImageInspector
    return kind(declared, checksum=checksum, max_bytes=max_bytes)


class _OvaInspector(ImageInspector):
    def _judge(self, view: View) -> Found:
        if view.read(257, 5) != b"ustar":
            reject("the image is declared as ova but its content is no tar archive")
        return Found(self.size, None)


@contextlib.contextmanager
def extracted_disk(
    descriptor: int,
    archive: PieceDigests,
    deadline: Deadline,
    workdir: Path | None,
    max_bytes: int,
) -> Iterator[tuple[int, ImageInfo, PieceDigests]]:
    """The disk of an archive that was inspected, in an unnamed temporary file: its descriptor, and
    what its own inspection found."""
    ova = _Ova(VerifiedReader(descriptor, archive), archive.size, deadline)
    name = ova.named(_disk_name(ova.text(".ovf")))
    checksum = ova.manifest(name)
    with contextlib.ExitStack() as stack:
        with spool_errors():
            spool = stack.enter_context(tempfile.TemporaryFile(dir=workdir, buffering=0))
        inspector = ImageInspector(ImageFormat.VMDK, checksum=checksum, max_bytes=max_bytes)
        writer = SparseWriter(spool.fileno())
        for data in ova.content(name):
            inspector.feed(data)
            with spool_errors():
                writer.write(data)
        info = inspector.finish()
        with spool_errors():
            writer.finish()
        check_tables(spool.fileno(), info, inspector.pieces)
        yield spool.fileno(), info, inspector.pieces


class _Archive:
    """The archive as a file, for tarfile. A header that says it is long is not believed."""

    def __init__(self, reader: VerifiedReader) -> None:
        self._reader = reader
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER_BYTES or self._position < 0:
            raise tarfile.ReadError("a header of impossible length")
        found = self._reader.read(self._position, size)
        self._position += len(found)
        return found


class _Ova:
    def __init__(self, reader: VerifiedReader, size: int, deadline: Deadline) -> None:
        self._reader = reader
        self._deadline = deadline
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            file = cast("IO[bytes]", _Archive(reader))
            archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - nothing to close
            while (member := archive.next()) is not None:
                self._take(member, size)
        # a hostile header makes tarfile raise more than its own errors
        except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
            reject(f"the OVA is no archive that can be read ({error})")

    def _take(self, member: tarfile.TarInfo, size: int) -> None:
        if not member.isreg() or member.issparse():
            reject(f"the OVA has {_shown(member.name)}, which is no plain file")
        if member.size < 0 or member.offset_data + member.size > size:
            reject("the OVA is truncated", "transfer it again, and give a checksum")
        name = _within(member.name)
        if name in self._members or len(self._members) == _MEMBERS:
            reject("the OVA has one file twice, or too many files")
        self._members[name] = member

    def named(self, reference: str) -> str:
        """The name of the file that a description refers to. It is a URL there (DSP0243), and some
        programs write the name as it is."""
        name = _within(reference)
        return name if name in self._members else _within(unquote(reference))

    def content(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, in pieces."""
        member = self._members.get(name)
        if member is None:
            reject(f"the OVA names the file {_shown(name)} and does not have it")
        end = member.offset_data + member.size
        for offset in range(member.offset_data, end, PIECE_BYTES):
            self._deadline.check(_DOING)
            yield self._reader.read(offset, min(PIECE_BYTES, end - offset))

    def text(self, suffix: str) -> str:
        """The only file whose name ends so, as text."""
        names = [name for name in self._members if name.lower().endswith(suffix)]
        if len(names) != 1:
            reject(f"the OVA has {len(names)} files of the kind {suffix}, and must have one")
        if self._members[names[0]].size > _TEXT_BYTES:
            reject(f"{_shown(names[0])} in the OVA is longer than {_TEXT_BYTES} bytes")
        try:
            return b"".join(self.content(names[0])).decode("utf-8-sig")
        except UnicodeDecodeError:
            reject(f"{_shown(names[0])} in the OVA is not UTF-8")

    def manifest(self, disk: str) -> Checksum | None:
        """Compare what the manifest says of each file but the disk, and return what it says of
        that. None without a manifest, which an OVA need not have. SHA-1, which older programs
        write, shows damage but no forgery: such a disk is compared here."""
        if not any(name.lower().endswith(".mf") for name in self._members):
            return None
        said = {}
        for line in self.text(".mf").splitlines():
            match = _MANIFEST_LINE.fullmatch(line.strip())
            if match is not None:
                said[_within(match[2])] = match[1].lower(), match[3].lower()
        if disk not in said:
            reject(f"the manifest of the OVA says nothing of its disk {_shown(disk)}")
        found = None
        for name, (algorithm, value) in said.items():
            if name == disk and algorithm != "sha1":
                try:
                    found = Checksum.model_validate(f"{algorithm}:{value}")
                except ValueError:
                    reject(f"the manifest of the OVA has no digest of {_shown(name)}")
                continue
            digest = hashlib.new(algorithm, usedforsecurity=False)
            for data in self.content(name):
                digest.update(data)
            if digest.hexdigest() != value:
                reject(f"{_shown(name)} in the OVA is not what its manifest says", "fetch it again")
        return found


def _disk_name(description: str) -> str:
    """The file of the only disk that the description has."""
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        reject("the OVF description has a document type, which no OVF has")
    try:
        envelope = ET.fromstring(description)  # noqa: S314 - without entities, and bounded
    except ET.ParseError as error:
        reject(f"the OVF description cannot be read ({error})")
    # any namespace: versions 1 and 2, and VMware's of before the standard, have one each
    disks = envelope.findall("{*}DiskSection/{*}Disk")
    if len(disks) != 1:
        reject(f"the OVA has {len(disks)} disks, and an image is one disk", _UNPACK)
    reference = _attribute(disks[0], "fileRef")
    files = [
        each
        for each in envelope.findall("{*}References/{*}File")
        if _attribute(each, "id") == reference
    ]
    if reference is None or len(files) != 1:
        reject("the disk of the OVA has no file in it", _UNPACK)
    if _attribute(files[0], "compression") not in {None, "", "identity"}:
        reject("the file of the disk in the OVA is compressed", _UNPACK)
    if _attribute(files[0], "chunkSize") is not None:
        reject("the disk of the OVA is cut in several files", _UNPACK)
    return _attribute(files[0], "href") or ""


def _within(name: str) -> str:
    """The name of a file in the archive, as ``tar`` may write it with the folder before it."""
    return name.removeprefix("./")


def _shown(name: str) -> str:
    return shortened(repr(name))


def _attribute(element: ET.Element, name: str) -> str | None:
    return next(
        (value for key, value in element.items() if key.rpartition("}")[2] == name),
        None,
    )
