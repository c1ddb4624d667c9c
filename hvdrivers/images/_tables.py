"""Does every block that an image's mapping tables name lie within the file?

This finds what a transfer cut short and given without a checksum leaves. It needs random access, so
it runs on the complete file, after the image was accepted. It costs about 8 bytes of reading for
each block: 12 MiB for a qcow2 of 100 GiB. VHD and VDI need none of it: a VHD has a footer, a VDI
says how many blocks it has.

It protects from accidents, not from attacks (reading beyond the end fails in the hypervisor, too),
so it ends after 128 MiB of tables rather than work for hours on a file made of tables. Another
process may write to the file meanwhile. So the header, whose numbers say how much is read, is
compared with what was inspected. The tables are not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from hvdrivers.images._other_formats import vhdx_block_table
from hvdrivers.images._view import HEAD_BYTES, View, reject

Pread = Callable[[int, int], bytes]
"""``pread(length, offset)``, as of ``os``, on the file."""


class Reading(NamedTuple):
    """The two ways in which a check reads the file."""

    header: Pread
    """What was inspected, or nothing: it raises ImageRejected for anything else."""
    table: Pread
    """What is in the file now."""


_MAX_TABLE_BYTES = 128 * 1024**2
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_TRANSFER_AGAIN = "transfer it again, and give a checksum"


def _table(pread: Pread, layout: str, offset: int, entries: int) -> tuple[int, ...]:
    data = pread(struct.calcsize(layout) * entries, offset)
    if len(data) < struct.calcsize(layout) * entries:
        reject("the image is truncated: a mapping table lies beyond its end", _TRANSFER_AGAIN)
    return struct.unpack(f"{layout[0]}{entries}{layout[1]}", data)


def _beyond() -> NoReturn:
    reject("the image is truncated: data lies beyond its end", _TRANSFER_AGAIN)


def check_qcow2_tables(file: Reading, size: int) -> None:
    """L1 and L2 tables."""
    cluster_bits, virtual_size, _crypt, _l1_size, l1_offset = struct.unpack(
        ">IQIIQ", file.header(28, 20)
    )
    cluster = 1 << cluster_bits
    # The last cluster may be cut short: QEMU does not pad the file.
    limit = -(-size // cluster) * cluster
    l2_entries = cluster // 8
    budget = _MAX_TABLE_BYTES // cluster

    l1_entries = -(-virtual_size // (l2_entries * cluster))
    for first in range(0, l1_entries, 65536):
        piece = min(65536, l1_entries - first)
        for l1_entry in _table(file.table, ">Q", l1_offset + first * 8, piece):
            l2_offset = l1_entry & _OFFSET_MASK
            if not l2_offset:
                continue
            if l2_offset % cluster:
                reject("the qcow2 image is corrupt: a mapping table is not aligned")
            if not budget:
                return
            budget -= 1
            for entry in _table(file.table, ">Q", l2_offset, l2_entries):
                # A compressed cluster has its own packing, which QEMU bounds by itself.
                if entry and not entry & _COMPRESSED and (entry & _OFFSET_MASK) + cluster > limit:
                    _beyond()


def check_vmdk_tables(file: Reading, size: int) -> None:
    """Grain directory and grain tables, both in sectors of 512 bytes."""
    header = struct.unpack("<4sIIQQQQIQQ", file.header(64, 0))
    capacity, grain, grains, directory = header[3], header[4], header[7], header[9]
    if directory == 0xFFFF_FFFF_FFFF_FFFF:  # in the footer, after its marker
        directory = struct.unpack("<Q", file.header(8, size - 1024 + 56))[0]
    budget = _MAX_TABLE_BYTES // (grains * 4)
    entries = min(-(-capacity // (grain * grains)), _MAX_TABLE_BYTES // 4)
    limit = -(-size // 512)
    for first in range(0, entries, 65536):
        piece = min(65536, entries - first)
        for table in _table(file.table, "<I", directory * 512 + first * 4, piece):
            if not table:
                continue
            if not budget:
                return
            budget -= 1
            # 0: not allocated; 1: zeros. Compressed grains are shorter than a grain.
            if max(_table(file.table, "<I", table * 512, grains)) >= limit:
                _beyond()


def check_vhdx_tables(file: Reading, size: int) -> None:
    """The block allocation table: a state in the low bits, an offset in MiB above."""
    view = View(file.header(HEAD_BYTES, 0), b"", size)
    offset, length, block = vhdx_block_table(view)
    entries = min(length, _MAX_TABLE_BYTES) // 8
    for first in range(0, entries, 65536):
        piece = min(65536, entries - first)
        for entry in _table(file.table, "<Q", offset + first * 8, piece):
            # Sector bitmaps, every so many entries, are only there in differencing disks.
            if entry & 7 in (6, 7) and (entry >> 20 << 20) + block > size:
                _beyond()
