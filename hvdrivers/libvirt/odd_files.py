"""Paths that name no disk, and files that QEMU cannot write to: their size is no multiple of the
sectors below them.

Libvirt opens what a disk is named after, and waits for ever for the other end of a named pipe. The
machine is locked meanwhile, and with it every list of machines. So what a path names is looked at
before. A pool shows the files, folders and block devices of its folder, and nothing else.

Past the host's cache (cache=none, directsync) QEMU reads and writes whole sectors, 512 or 4096
bytes as the disk below has them, and a raw file ends where its last sector ends. What QEMU answers
has libvirt's code for any failure, so after one, and only then, the driver asks for the sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from secrets import randbelow, token_hex

from hvdrivers.contract import errors
from hvdrivers.libvirt.device_names import is_device
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.files import clean
from hvdrivers.libvirt.pools import LOOK, find
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import last_calls
from hvdrivers.libvirt.xml import Element, attribute, el, parse, text

SECTOR, LARGEST_SECTOR = 512, 4096
"""Bytes of a sector: the least, and the most."""
_NOT_LOOKED_AT = ("/proc/", "/sys/")
"""Libvirt opens every file of a folder that it looks at, and there, as below /dev, that has
consequences."""
_DISKS = "name a regular file; or a block device by its path below /dev (ls -l, lsblk)"
_NOT_A_DISK = frozenset({"VIR_ERR_SYSTEM_ERROR/EISDIR", "VIR_ERR_SYSTEM_ERROR/ENXIO"})
"""What libvirt answers about the size of a folder, and of a socket or a terminal."""


def require_file(remote: Remote, path: str) -> Element | None:
    """See that a path, which is in no pool and not below /dev, names a file. Four calls.

    Returns:
        What libvirt says of the file, as of a volume; None if it does not tell.

    Raises:
        VolumeNotFound: it names nothing, or what is no file.
        InvalidRequest: it is of the kernel's own file systems.
    """
    if is_not_looked_at(path):
        raise no_disk(path)
    path = clean(path)
    try:
        with pool_on(remote, str(PurePosixPath(path).parent)) as pool:
            return parse(pool.storageVolLookupByName(PurePosixPath(path).name).XMLDesc(0))
    except errors.VolumeNotFound as error:
        raise errors.VolumeNotFound(
            f"the host has no file {path!r}", vendor_code=error.vendor_code, hint=_DISKS
        ) from error
    except (errors.HypervisorFault, errors.PermissionDenied):
        return None  # the daemon may not list the folder, and may open the file all the same


def odd_file(remote: Remote, disks: Iterable[Element]) -> errors.InvalidRequest | None:
    """After a failure: which of these ``<disk>`` elements is such a file. Up to six calls for each
    file."""
    for disk in disks:
        path = source_of(disk)
        if not path or disk.get("type") != "file" or is_not_looked_at(path):
            continue
        found = _look(remote, path)
        if found is None:
            continue
        if found.get("type") in {"dir", "block"}:
            return no_disk(path)
        plain = attribute(disk, "driver", "type") == "raw" and disk.find("readonly") is None
        size = int(found.findtext("physical") or found.findtext("capacity") or 0)
        if plain and size % LARGEST_SECTOR:
            return refusal(path, size)
    return None


def is_not_looked_at(path: str) -> bool:
    """Whether a path is of the kernel's own file systems, where no folder is to be looked at."""
    return is_device(path) or f"{clean(path)}/".startswith(_NOT_LOOKED_AT)


def refusal(path: str, size: int) -> errors.InvalidRequest:
    """What to say about an odd size."""
    return errors.InvalidRequest(
        f"{path} has {size} bytes, which is no multiple of the host's sectors (512 or 4096 bytes)",
        hint="grow the file on the host (truncate -s %4096 FILE), or attach it with cache=writeback"
        " or read_only",
    )


def no_disk(path: str) -> errors.InvalidRequest:
    """What to say about a folder, a socket, a character device."""
    return errors.InvalidRequest(f"{path} is no file, and no block device below /dev", hint=_DISKS)


def empty_device(path: str) -> errors.InvalidRequest:
    """What to say about a path below /dev of which libvirt says that it has no bytes."""
    return errors.InvalidRequest(
        f"{path} holds no bytes: it is a character device, or nothing is connected to it",
        hint=_DISKS,
    )


def is_no_disk(error: errors.HypervisorError) -> bool:
    """Whether libvirt says so by the code of its answer about the size of a path."""
    return error.vendor_code in _NOT_A_DISK


def _look(remote: Remote, path: str) -> Element | None:
    """What libvirt says of a file; None if it does not tell."""
    name, folder = PurePosixPath(path).name, str(PurePosixPath(path).parent)
    with suppress(errors.HypervisorError):
        return parse(remote.storageVolLookupByPath(path).XMLDesc(0))
    with suppress(errors.HypervisorError):
        pool = remote.storagePoolLookupByTargetPath(folder)
        return parse(find(pool, name).XMLDesc(0))
    with suppress(errors.HypervisorError), pool_on(remote, folder) as pool:
        return parse(pool.storageVolLookupByName(name).XMLDesc(0))
    return None


@contextmanager
def pool_on(remote: Remote, folder: str) -> Iterator[Remote]:
    """A pool that is there for the look. Two calls."""
    # Libvirt refuses a second pool on a folder and compares text; the dots keep two looks apart
    target = el("target", el("path", folder + "/." * (1 + randbelow(200))))
    xml = el("pool", el("name", f"{LOOK}{token_hex(8)}"), target, type="dir")
    pool = remote.storagePoolCreateXML(text(xml), 0)
    try:
        yield pool
    finally:
        with last_calls():
            pool.destroy()
