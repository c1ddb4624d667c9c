"""Small image files made by hand: harmless ones to spawn from, and ones that must be refused.

Each hostile one is an attack that was, or could have been, real: an image that names another file
of the host as its base or its data (CVE-2022-47951, CVE-2024-32498), one that is another format
than it was declared to be (CVE-2024-44082), one that is damaged or not what its checksum says.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import struct
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from uuid import uuid4

from hvdrivers.models.image import Checksum, FileImage, ImageFormat, ImageRef

_CLUSTER = 65536
_COPIED = 1 << 63
"""Of an entry in a table of qcow2: nothing else uses the cluster."""
_SECRET = b"/etc/shadow"
_DATA_FILE = 1 << 2
"""Incompatible feature of qcow2: the data is in another file."""
_DATA_FILE_NAME = 0x44415441
"""Header extension with that file's name."""

DISK_BYTES = 4 << 20
"""The size of the disk in each of these images. No host needs to round it up: the smallest disk of
Hyper-V has 3 MiB, and that of the others is smaller."""


def fresh(folder: Path, image_format: ImageFormat, *, checksum: bool) -> FileImage:
    """A harmless image with content that no host has seen before.

    Args:
        image_format: raw or qcow2.
        checksum: name it in the reference.
    """
    path = folder / f"fresh-{uuid4().hex}.{image_format}"
    content = os.urandom(4096)
    if image_format is ImageFormat.RAW:
        path.write_bytes(content + bytes(DISK_BYTES - len(content)))
    else:
        path.write_bytes(_qcow2() + content)
    return reference(path, image_format, checksum=checksum)


def large(folder: Path, gib: int) -> FileImage:
    """A harmless qcow2 image of a disk with this many GiB, in a small file."""
    path = folder / f"large-{uuid4().hex}.qcow2"
    path.write_bytes(_qcow2(size=gib << 30) + os.urandom(4096))
    return reference(path, ImageFormat.QCOW2, checksum=True)


CONVERTED = (
    ImageFormat.VMDK,
    ImageFormat.VHD,
    ImageFormat.VHDX,
    ImageFormat.VDI,
    ImageFormat.OVA,
)
"""The formats that only ``qemu-img`` makes, and the archive of a VMDK."""
_TEXT_AT = 512 << 10
"""Where in the disk :func:`with_text` writes."""


def new_text() -> str:
    """A text for :func:`with_text` that is nowhere yet."""
    return f"hvct-{uuid4().hex}"


def texts(descriptor: int) -> Sequence[str]:
    """The texts that :func:`with_text` has put into a file, whatever its format."""
    if os.fstat(descriptor).st_size == 0:
        return ()
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
        return [each.decode() for each in re.findall(rb"hvct-[0-9a-f]{32}", content)]


def with_text(folder: Path, image_format: ImageFormat, text: str, size: int) -> FileImage:
    """An image of a disk with a text in it, by ``qemu-img``.

    Args:
        image_format: one of ``CONVERTED``.
        size: of the disk, in bytes.
    """
    disk = folder / f"disk-{uuid4().hex}.raw"
    with disk.open("xb") as file:
        file.seek(_TEXT_AT)
        file.write(text.encode())
        file.truncate(size)
    path = disk.with_suffix(f".{image_format.value}")
    # VHD: of the exact size, which its geometry cannot tell
    kind, options = {
        ImageFormat.VHD: ("vpc", ["-o", "force_size=on"]),
        ImageFormat.OVA: ("vmdk", []),
    }.get(image_format, (image_format.value, []))
    command = ["qemu-img", "convert", "-f", "raw", "-O", kind, *options, str(disk), str(path)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - the suite's own paths
    disk.unlink()
    if image_format is ImageFormat.OVA:
        path.rename(disk.with_suffix(".vmdk"))
        ova(path, disk.with_suffix(".vmdk"), size)
        disk.with_suffix(".vmdk").unlink()
    return reference(path, image_format, checksum=True)


def qcow2_with_text(text: str) -> bytes:
    """A qcow2 image of ``DISK_BYTES`` with a text in it, and no other file needed."""
    image = bytearray(_qcow2())
    table, data = 4 * _CLUSTER, 5 * _CLUSTER
    struct.pack_into(">6H", image, 2 * _CLUSTER, *[1] * 6)
    struct.pack_into(">Q", image, 3 * _CLUSTER, table | _COPIED)
    entries = bytearray(_CLUSTER)
    struct.pack_into(">Q", entries, _TEXT_AT // _CLUSTER * 8, data | _COPIED)
    return bytes(image + entries + text.encode().ljust(_CLUSTER, b"\0"))


def ova(path: Path, disk: Path, size: int) -> None:
    """Write an OVA of one disk, as the tools of VMware and VirtualBox do: the description, the
    manifest, the disk."""
    description = disk.with_suffix(".ovf")
    description.write_text(_OVF.format(name=disk.name, bytes=disk.stat().st_size, size=size))
    manifest = disk.with_suffix(".mf")
    manifest.write_text(
        "".join(
            f"SHA256({each.name})= {hashlib.sha256(each.read_bytes()).hexdigest()}\n"
            for each in (description, disk)
        )
    )
    with tarfile.open(path, "x", format=tarfile.USTAR_FORMAT) as archive:
        for each in (description, manifest, disk):
            archive.add(each, each.name)
    description.unlink()
    manifest.unlink()


_OVF = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References>
    <File ovf:id="file1" ovf:href="{name}" ovf:size="{bytes}"/>
  </References>
  <DiskSection>
    <Info>The disks</Info>
    <Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="{size}"
      ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <VirtualSystem ovf:id="machine">
    <Info>A machine</Info>
  </VirtualSystem>
</Envelope>
"""


def reference(
    path: Path,
    image_format: ImageFormat,
    *,
    checksum: bool,
    algorithm: Literal["sha256", "sha512"] = "sha256",
) -> FileImage:
    """A reference to a file."""
    value = hashlib.new(algorithm, path.read_bytes()).hexdigest()
    digest = Checksum(algorithm=algorithm, value=value)
    return FileImage(path=path, format=image_format, checksum=digest if checksum else None)


def hostile(folder: Path) -> Sequence[tuple[str, ImageRef]]:
    """Images that must be refused, each with a word that says why."""
    raw, qcow2, vmdk = ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.VMDK
    whole = _qcow2()
    wanted: list[tuple[str, bytes, ImageFormat]] = [
        ("backing-file", _qcow2(backing=_SECRET), qcow2),
        ("data-file", _qcow2(data_file=_SECRET), qcow2),
        ("qcow2-declared-raw", whole, raw),
        ("raw-declared-qcow2", bytes(DISK_BYTES), qcow2),
        ("truncated", whole[: 3 * _CLUSTER], qcow2),
        ("empty", b"", raw),
        ("vmdk-declared-raw", _descriptor(), raw),
        ("foreign-extent", _descriptor(), vmdk),
        ("vmdk-hidden-parent", _vmdk_with_hidden_parent(), vmdk),
        ("vhd-short-declared-raw", b"conectix".ljust(511, b"\0"), raw),
    ]
    found: list[tuple[str, ImageRef]] = []
    for word, content, declared in wanted:
        path = folder / f"{word}.img"
        path.write_bytes(content)
        found.append((word, FileImage(path=path, format=declared)))
    damaged = folder / "wrong-checksum.img"
    damaged.write_bytes(bytes(DISK_BYTES))
    other = Checksum(algorithm="sha256", value=hashlib.sha256(b"what was meant").hexdigest())
    found.append(("wrong-checksum", FileImage(path=damaged, format=raw, checksum=other)))
    return found


def _descriptor() -> bytes:
    return (
        b'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="'
        b'monolithicFlat"\n\nRW %d FLAT "'
        % (DISK_BYTES // 512)
        + _SECRET
        + b'" 0\n\nddb.adapterType = "ide"\n'
    )


def _vmdk_with_hidden_parent() -> bytes:
    """A sparse VMDK whose descriptor goes on beyond the size that its header gives, to a parent:
    QEMU reads 10 KiB whatever that size is."""
    capacity, grain = DISK_BYTES // 512, 128
    text = (
        b'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="'
        b'monolithicSparse"\n\nRW %d SPARSE "vmdk-hidden-parent.img"\n' % capacity
    )
    text = text.ljust(511, b"#") + b"\n"
    hidden = b'parentCID=fffffffe\nparentFileNameHint="' + _SECRET + b'"\n'
    header = struct.pack(
        "<4sIIQQQQIQQQB4sH",
        *(b"KDMV", 1, 3, capacity, grain, 1, 1, 512, 21, 26, 128, 0, b"\n \r\n", 0),
    )
    head = header.ljust(512, b"\0") + (text + hidden).ljust(20 * 512, b"\0")
    # two grain directories, each of one entry, and two empty grain tables
    tables = struct.pack("<I", 27).ljust(5 * 512, b"\0") + struct.pack("<I", 31).ljust(512, b"\0")
    return (head + tables).ljust(grain * 512, b"\0")


def _qcow2(*, size: int = DISK_BYTES, backing: bytes = b"", data_file: bytes = b"") -> bytes:
    """A qcow2 image, version 3, with an empty disk; header, refcount table, refcounts, L1 table."""
    extension = b""
    if data_file:
        padded = data_file.ljust(-(-len(data_file) // 8) * 8, b"\0")
        extension = struct.pack(">II", _DATA_FILE_NAME, len(data_file)) + padded
    extension += bytes(8)  # the end of the extensions
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        104 + len(extension) if backing else 0,
        len(backing),
        16,
        size,
        0,
        -(-size // (_CLUSTER * _CLUSTER // 8)),
        3 * _CLUSTER,
        _CLUSTER,
        1,
        0,
        0,
        _DATA_FILE if data_file else 0,
        0,
        0,
        4,
        104,
    )
    clusters = [
        header + extension + backing,
        struct.pack(">Q", 2 * _CLUSTER),
        struct.pack(">4H", 1, 1, 1, 1),
        struct.pack(">Q", 0),
    ]
    return b"".join(each.ljust(_CLUSTER, b"\0") for each in clusters)
