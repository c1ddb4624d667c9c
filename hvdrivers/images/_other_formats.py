"""Checks of VHD, VHDX, VDI and ISO: for these oslo.utils reads the size and checks nothing.

Layouts: Microsoft's "Virtual Hard Disk Image Format Specification", [MS-VHDX], and QEMU's
block/vdi.c and block/vpc.c.
"""

from __future__ import annotations

import struct
from uuid import UUID

from hvdrivers.images._view import Found, View, reject

_KIB, _MIB = 1024, 1024**2
_NIL = bytes(16)

# ------------------------------------------------------------------------------------------ VHD
_VHD_FOOTER = ">8sIIQI4sI4sQQHBBII16sB"
_VHD_FIXED, _VHD_DYNAMIC, _VHD_DIFFERENCING = 2, 3, 4


def is_vhd_footer(sector: bytes) -> bool:
    """Whether these 512 bytes are a VHD footer, by magic and checksum."""
    if len(sector) != 512 or not sector.startswith(b"conectix"):
        return False
    total = sum(sector) - sum(sector[64:68])
    return int.from_bytes(sector[64:68], "big") == ~total & 0xFFFF_FFFF


def check_vhd(view: View) -> Found:
    """Footer, its copy at the front, differencing disks, sizes."""
    dynamic_front = view.read(0, 8) == b"conectix"
    front = view.read(0, 512)
    if dynamic_front and not is_vhd_footer(front):
        reject("the VHD is corrupt: wrong checksum in the copy of its footer")
    if not view.complete:
        if dynamic_front:
            _vhd_footer(front)
        # A fixed VHD begins like a raw disk; its only header is the footer.
        return Found(0, None)
    footer = view.last(512)
    if not is_vhd_footer(footer):
        reject("the VHD has no valid footer: truncated, or not a VHD")
    kind, size, data_offset = _vhd_footer(footer)
    assert view.size is not None  # noqa: S101  (complete)
    if view.size % 512:
        # QEMU looks for the footer at the last whole sector, others at the last 512 bytes.
        reject("the VHD is truncated or corrupt: its length is no multiple of 512 bytes")
    if dynamic_front and kind == _VHD_FIXED:
        # QEMU opens the dynamic disk of the front, others the fixed one of the end.
        reject("the VHD is two disks: its footer and the copy at its front differ")
    if kind == _VHD_FIXED:
        if size != view.size - 512:
            reject("the VHD is truncated or corrupt: its size is not that of its file")
        return Found(size, "fixed")
    if front != footer:
        # QEMU believes the copy at the front, Hyper-V the footer at the end: they must agree.
        reject("the VHD is corrupt: its footer and the copy at its front differ")
    _vhd_dynamic(view, data_offset, size)
    return Found(size, "dynamic")


def _vhd_footer(sector: bytes) -> tuple[int, int, int]:
    fields = struct.unpack(_VHD_FOOTER, sector[: struct.calcsize(_VHD_FOOTER)])
    data_offset, size, kind = fields[3], fields[9], fields[13]
    cylinders, heads, sectors = fields[10:13]
    if kind == _VHD_DIFFERENCING:
        reject("the VHD is a differencing disk: it has a parent", "merge it into its parent first")
    if kind not in (_VHD_FIXED, _VHD_DYNAMIC):
        reject("the VHD is of an unknown type")
    # QEMU takes the size of disks by Virtual PC from the geometry, unless that is the largest there
    # is. It may round, not exceed.
    largest = (cylinders, heads, sectors) == (65535, 16, 255)
    if not largest and cylinders * heads * sectors * 512 > size + 16 * 255 * 512:
        reject("the VHD is corrupt: its geometry is larger than its size")
    return kind, size, data_offset


def _vhd_dynamic(view: View, offset: int, size: int) -> None:
    magic, _next, table, _version, entries, block, _sum, parent = view.unpack(
        ">8sQQIIII16s", offset
    )
    if magic != b"cxsparse":
        reject("the VHD is corrupt: no dynamic disk header")
    if parent != _NIL or any(view.read(offset + 576, 8 * 24)):
        reject("the VHD names a parent", "merge it into its parent first")
    if block < 512 or block & (block - 1) or entries * block < size:
        reject("the VHD is corrupt: its block table does not fit its size")
    view.inside("block table", table, entries * 4)


# ----------------------------------------------------------------------------------------- VHDX
_BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_VIRTUAL_DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_KNOWN_ITEMS = {
    _FILE_PARAMETERS,
    _VIRTUAL_DISK_SIZE,
    _PARENT_LOCATOR,
    UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f"),  # logical sector size
    UUID("cda348c7-445d-4471-9cc9-e9885251c556"),  # physical sector size
    UUID("beca12ab-b2e6-4523-93ef-c309e000c746"),  # page 83 data
}


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def _crc32c(data: bytes) -> int:
    value = 0xFFFF_FFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C[(value ^ byte) & 0xFF]
    return value ^ 0xFFFF_FFFF


def check_vhdx(view: View) -> Found:
    """Log to replay, regions, required items, parents."""
    if view.read(0, 8) != b"vhdxfile":
        reject("the image is not a VHDX")
    _vhdx_headers(view)
    return _vhdx_metadata(view, _vhdx_regions(view)[_METADATA][0])[0]


def vhdx_block_table(view: View) -> tuple[int, int, int]:
    """Of a VHDX that was accepted: offset and length of the block table, size of a block."""
    regions = _vhdx_regions(view)
    return *regions[_BAT], _vhdx_metadata(view, regions[_METADATA][0])[1]


def _vhdx_regions(view: View) -> dict[UUID, tuple[int, int]]:
    regions = view.read(192 * _KIB, 64 * _KIB)
    if regions != view.read(256 * _KIB, 64 * _KIB):
        # A reader may take either: they must say the same.
        reject("the VHDX is corrupt: its two region tables differ")
    if regions[:4] != b"regi":
        reject("the VHDX is corrupt: no region table")
    found: dict[UUID, tuple[int, int]] = {}
    (count,) = struct.unpack("<I", regions[8:12])
    if count > 2047:
        reject("the VHDX is corrupt: too many regions")
    for index in range(count):
        guid_bytes, offset, length, required = struct.unpack_from(
            "<16sQII", regions, 16 + 32 * index
        )
        guid = UUID(bytes_le=guid_bytes)
        if guid in found or (required & 1 and guid not in (_BAT, _METADATA)):
            reject("the VHDX has regions not known here")
        if offset < _MIB or offset % _MIB or length % _MIB:
            reject("the VHDX is corrupt: a region is not aligned")
        view.inside("region", offset, length)
        found[guid] = (offset, length)
    if _BAT not in found or _METADATA not in found:
        reject("the VHDX is corrupt: a required region is missing")
    return found


def _vhdx_headers(view: View) -> None:
    newest: tuple[int, bytes] | None = None
    for offset in (64 * _KIB, 128 * _KIB):
        header = view.read(offset, 4096)
        checksum, sequence = struct.unpack("<IQ", header[4:16])
        if header[:4] != b"head" or _crc32c(header[:4] + bytes(4) + header[8:]) != checksum:
            continue
        if newest is None or sequence > newest[0]:
            newest = (sequence, header[48:64])
    if newest is None:
        reject("the VHDX is corrupt: it has no valid header")
    if newest[1] != _NIL:
        # The log would be replayed over what is inspected here, the metadata included.
        reject(
            "the VHDX was not closed: its log is still to be replayed",
            "attach and detach it once on a Windows host, or: qemu-img check -r all IMAGE",
        )


def _vhdx_metadata(view: View, base: int) -> tuple[Found, int]:
    magic, _reserved, count = view.unpack("<8sHH", base)
    if magic != b"metadata" or count > 2047:
        reject("the VHDX is corrupt: no metadata table")
    items: dict[UUID, int] = {}
    for index in range(count):
        guid_bytes, offset, length, flags = view.unpack("<16sIII", base + 32 + 32 * index)
        guid = UUID(bytes_le=guid_bytes)
        if guid in items or (flags & 4 and guid not in _KNOWN_ITEMS):
            reject("the VHDX has metadata not known here")
        if offset < 64 * _KIB or length > _MIB:
            reject("the VHDX is corrupt: a metadata item lies outside of its place")
        items[guid] = base + offset
    if _FILE_PARAMETERS not in items or _VIRTUAL_DISK_SIZE not in items:
        reject("the VHDX is corrupt: a required metadata item is missing")
    block, flags = view.unpack("<II", items[_FILE_PARAMETERS])
    if flags & 2 or _PARENT_LOCATOR in items:
        reject("the VHDX is a differencing disk: it has a parent", "merge it into its parent first")
    if not _MIB <= block <= 256 * _MIB or block & (block - 1):
        reject("the VHDX is corrupt: impossible block size")
    (size,) = view.unpack("<Q", items[_VIRTUAL_DISK_SIZE])
    return Found(size, "fixed" if flags & 1 else "dynamic"), block


# ------------------------------------------------------------------------------------ VDI, ISO
_VDI_DYNAMIC, _VDI_STATIC = 1, 2


def check_vdi(view: View) -> Found:
    """Differencing and undo images, parents, sizes."""
    signature, version, _header_size, kind = view.unpack("<IIII", 0x40)
    if signature != 0xBEDA107F or version != 0x0001_0001:
        reject("the image is not a VDI of version 1.1")
    if kind not in (_VDI_DYNAMIC, _VDI_STATIC):
        reject("the VDI is a differencing or undo image", "clone it into a full image first")
    if view.read(0x1A8, 32) != bytes(32):
        reject("the VDI names a parent", "clone it into a full image first")
    table, data = view.unpack("<II", 0x154)
    size, block, extra, blocks, allocated = view.unpack("<QIIII", 0x170)
    if block != _MIB or extra or allocated > blocks or blocks * block < size:
        reject("the VDI is corrupt: its block table does not fit its size")
    view.inside("block table", table, blocks * 4)
    view.inside("data", data, allocated * block)
    return Found(size, "dynamic" if kind == _VDI_DYNAMIC else "static")


def check_iso(view: View) -> Found:
    """Volume descriptor, truncation. A drive shows the whole file, so that is the virtual size."""
    kind, magic, _version = view.unpack("<B5sB", 32 * _KIB)
    if magic != b"CD001" or kind != 1:
        reject("the image is not an ISO 9660 file system")
    (blocks,) = view.unpack("<I", 32 * _KIB + 80)
    (block,) = view.unpack("<H", 32 * _KIB + 128)
    if block not in (512, 1024, 2048):
        reject("the ISO image is corrupt: impossible block size")
    view.inside("file system", 0, blocks * block)
    return Found(view.size or 0, None)
