"""Files that QEMU cannot write to: their size is no multiple of the sectors below them.

Past the host's cache (cache=none, directsync) QEMU reads and writes whole sectors, 512 or 4096
bytes as the disk below has them, and a raw file ends where its last sector ends. What QEMU answers
has libvirt's code for any failure, so after one, and only then, the driver asks for the sizes.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import PurePosixPath
from secrets import token_hex

from hvdrivers.contract import errors
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.pools import LOOK, find
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import last_calls
from hvdrivers.libvirt.xml import Element, attribute, el, parse, text

SECTOR, LARGEST_SECTOR = 512, 4096
"""Bytes of a sector: the least, and the most."""


def odd_file(remote: Remote, disks: Iterable[Element]) -> errors.InvalidRequest | None:
    """After a failure: which of these ``<disk>`` elements is such a file. Up to six calls for each
    raw file."""
    for disk in disks:
        path = source_of(disk)
        plain = disk.get("type") == "file" and attribute(disk, "driver", "type") == "raw"
        if not path or not plain or disk.find("readonly") is not None:
            continue
        size = _size(remote, path)
        if size is not None and size % LARGEST_SECTOR:
            return refusal(path, size)
    return None


def refusal(path: str, size: int) -> errors.InvalidRequest:
    """What to say about it."""
    return errors.InvalidRequest(
        f"{path} has {size} bytes, which is no multiple of the host's sectors (512 or 4096 bytes)",
        hint="grow the file on the host (truncate -s %4096 FILE), or attach it with cache=writeback"
        " or read_only",
    )


def _size(remote: Remote, path: str) -> int | None:
    with suppress(errors.HypervisorError):
        return _physical(remote.storageVolLookupByPath(path))
    folder = PurePosixPath(path).parent
    with suppress(errors.HypervisorError):
        pool = remote.storagePoolLookupByTargetPath(str(folder))
        return _physical(find(pool, PurePosixPath(path).name))
    pool_xml = el(
        "pool",
        el("name", f"{LOOK}{token_hex(8)}"),
        el("target", el("path", str(folder))),
        type="dir",
    )
    with suppress(errors.HypervisorError):
        pool = remote.storagePoolCreateXML(text(pool_xml), 0)
        try:
            return _physical(pool.storageVolLookupByName(PurePosixPath(path).name))
        finally:
            with last_calls():
                pool.destroy()
    return None


def _physical(volume: Remote) -> int:
    description = parse(volume.XMLDesc(0))
    return int(description.findtext("physical") or description.findtext("capacity") or 0)
