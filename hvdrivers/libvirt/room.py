"""Whether it was for want of room that something failed.

Libvirt writes disks and saved memory with helper programs (qemu-img, its own iohelper). Where such
a program fails, libvirt's code is the same whatever the reason. So after a failure, and only then,
the driver asks the host how much room there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import cast
from urllib.parse import urlsplit

from hvdrivers.contract import errors
from hvdrivers.libvirt.chains import described
from hvdrivers.libvirt.device_names import is_device
from hvdrivers.libvirt.encrypted_memory import is_encrypted
from hvdrivers.libvirt.files import base_path, clean
from hvdrivers.libvirt.odd_files import pool_on
from hvdrivers.libvirt.pools import LOOK, refresh, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import last_calls
from hvdrivers.libvirt.xml import Element, parse

_MIB, _GIB = 1 << 20, 1 << 30
_LEAST = _MIB
"""Bytes: more than the header and the tables of a new qcow2 file."""
_UNSAVED = (
    "devices/filesystem",
    "devices/hostdev",
    "devices/interface[@type='hostdev']",
    "devices/interface[@type='vdpa']",
)
_DAEMON_FOLDER = "/var/lib/libvirt/qemu"
_RUN_FOLDER = "/run/libvirt/qemu"
_SAVE_FOLDER = f"{_DAEMON_FOLDER}/save"
_HELPER = "VIR_ERR_INTERNAL_ERROR"
"""What libvirt says of nearly everything that it could not write."""
_CHANNELS = "/channel/target/"


@contextmanager
def needing_room(pool: Remote, size: int = 0, *, capacity: int = 0) -> Iterator[None]:
    """Around the making of a volume. No call; two after a failure.

    Args:
        size: bytes of content that it takes at once, beside its tables.
        capacity: bytes that it may take in the end.

    Raises:
        InsufficientResources: the making failed, and the pool has less room than that, or could
            never hold the whole.
    """
    try:
        yield
    except errors.HypervisorFault as error:
        refuse_larger(pool, capacity, error)
        lacking = lacking_room(pool, size, error)
        if lacking is None:
            raise
        raise lacking from error


@contextmanager
def needing_room_alone(pool: Remote, original: Remote) -> Iterator[None]:
    """Around a copy that stands alone: it takes what the original takes, and what that stands on.
    No call; after a failure three, and two for each file of the chain.

    Raises:
        InsufficientResources: the copy failed, and the pool has less room than that.
    """
    try:
        yield
    except errors.HypervisorFault as error:
        size = 0
        with suppress(errors.HypervisorError):
            size = size_alone(original.connect(), str(original.path()))
        lacking = lacking_room(pool, size, error)
        if lacking is None:
            raise
        raise lacking from error


def size_alone(remote: Remote, path: str) -> int:
    """Bytes that a disk takes on the host, with all that it stands on. Two calls for each file."""
    total = 0
    while path:
        try:
            description = described(remote.storageVolLookupByPath(path))
        except errors.VolumeNotFound:
            break
        if description is None:
            break
        total += int(description.findtext("allocation") or 0)
        path = base_path(description)
    return total


@contextmanager
def growing(
    remote: Remote, paths: Iterable[str], size: int = _LEAST, *, capacity: int = 0
) -> Iterator[None]:
    """Around what makes files of the host larger, each in the storage pool that has it: a disk or a
    volume is not always in the driver's own. No call; after a failure three for each file, and for
    each pool those of needing_room(); four for a file in no pool.

    Args:
        size: bytes that they take at once, in one of the pools.
        capacity: bytes that one of them may take in the end.

    Raises:
        InsufficientResources: it failed, and one of the pools has less room than that.
    """
    try:
        yield
    except errors.HypervisorFault as error:
        pools: dict[str, Remote] = {}
        for path in paths:
            pool = _pool_of(remote, path)
            lacking = None
            if pool is None:
                lacking = _lacking_beside(remote, path, error)
            elif pools.setdefault(pool.name(), pool) is pool:
                refuse_larger(pool, capacity, error)
                lacking = lacking_room(pool, size, error)
            if lacking is not None:
                raise lacking from error
        raise


def explained_write(
    remote: Remote, path: str, error: errors.HypervisorFault
) -> errors.HypervisorError:
    """After a file of the host could not be written: whether it was for want of room. Four
    calls."""
    pool = _pool_of(remote, path)
    if pool is None:
        return _lacking_beside(remote, path, error) or error
    return lacking_room(pool, 0, error) or error


def _pool_of(remote: Remote, path: str) -> Remote | None:
    """The pool that has a file; None: none knows it. Two calls."""
    try:
        return cast(Remote, remote.storageVolLookupByPath(clean(path)).storagePoolLookupByVolume())
    except errors.VolumeNotFound:
        return None


def _lacking_beside(
    remote: Remote, path: str, error: errors.HypervisorError
) -> errors.InsufficientResources | None:
    """The error for a file in no pool whose file system is full; None if it is not. Three calls."""
    folder = clean(path).rpartition("/")[0] or "/"
    if is_device(folder):
        return None  # a pool over its folder would open each of them
    free = _free_in(remote, folder)
    if free is None or free >= _LEAST:
        return None
    return errors.InsufficientResources(
        f"the file system of {folder} has {free / _MIB:.1f} MiB of room left",
        vendor_code=error.vendor_code,
        hint="free room there on the host, or choose another place",
    )


@contextmanager
def full_while_sent(pool_now: Callable[[], Remote]) -> Iterator[None]:
    """Around an upload. No call; after the connection has broken those of a new one, and two.

    On a full file system the daemon's refusal may cross with the end of the upload. The client
    library of libvirt 9.0 then closes the connection.

    Args:
        pool_now: looks the pool up.

    Raises:
        InsufficientResources: the connection broke, and the pool is full.
    """
    try:
        yield
    except (errors.ConnectionFailed, errors.OutcomeUnknown) as error:
        lacking = None
        with suppress(errors.HypervisorError), last_calls():
            lacking = lacking_room(pool_now(), 0, error)
        if lacking is None:
            raise
        raise lacking from error


def lacking_room(
    pool: Remote, size: int, error: errors.HypervisorError
) -> errors.InsufficientResources | None:
    """The error for a pool that has less room than this and a file's tables; None if it has as
    much. Two calls.

    Args:
        size: bytes of content.
        error: what has failed.
    """
    free = _free(pool)
    content = max(size, 0)
    # what was written before the failure is removed by now, and has given its room back
    if free is None or free >= content + (content >> 10) + _LEAST:
        return None
    return errors.InsufficientResources(
        f"storage pool '{pool.name()}' has {free / _MIB:.1f} MiB of room left",
        vendor_code=error.vendor_code,
        hint="free room in the pool, or choose another host or pool",
    )


def require_room(pool: Remote, size: int) -> None:
    """Raise InsufficientResources if a pool has less room than this. Two calls."""
    free = _free(pool)
    if free is not None and free < size:
        raise errors.InsufficientResources(
            f"storage pool '{pool.name()}' has {free / _MIB:.1f} MiB of room left, and"
            f" {size / _MIB:.1f} MiB are needed",
            hint="free room in the pool, or choose another one",
        )


def refuse_larger(pool: Remote, capacity: int, error: errors.HypervisorFault) -> None:
    """After a failure: raise InsufficientResources if the pool could never hold so many bytes. One
    call."""
    room = int(pool.info()[1]) if capacity else 0
    if capacity > room:
        raise errors.InsufficientResources(
            f"{capacity / _GIB:.0f} GiB are more than storage pool '{pool.name()}' has in all,"
            f" {room / _GIB:.0f} GiB",
            vendor_code=error.vendor_code,
            hint="choose a smaller size, or another pool",
        ) from error


def unsaved_device(domain: Remote, error: errors.InvalidState) -> errors.HypervisorError:
    """What libvirt means by "invalid operation" of a machine whose memory cannot be saved, as it
    has a device that cannot. One call."""
    xml = parse(domain.XMLDesc(0))
    found = unsaved_in(xml) if xml.get("id") is not None else None
    if found is None:
        return error
    found.vendor_code = error.vendor_code
    return found


def unsaved_in(xml: Element) -> errors.NotSupported | None:
    """Why a machine's memory cannot be saved; None if it can."""
    if is_encrypted(xml):
        return errors.NotSupported(
            "QEMU saves no memory that is encrypted (SEV)",
            hint="power_off() it instead, or leave the memory out",
        )
    if not any(xml.find(each) is not None for each in _UNSAVED):
        return None
    return errors.NotSupported(
        "QEMU saves no memory of a machine that has a device or a directory of the host",
        hint="power_off() it instead, or leave the memory out; detach_share() takes a share away",
    )


def explained_save(domain: Remote, error: errors.HypervisorFault) -> errors.HypervisorError:
    """Why saving a machine's memory failed. Five calls.

    Libvirt tells nothing of the folder in which it keeps saved memory. A storage pool over that
    folder, which exists only for this question, does.
    """
    xml = parse(domain.XMLDesc(0))
    needed = int(xml.findtext("memory") or 0) << 10
    free = _free_in(domain.connect(), _save_folder(xml))
    if free is None or free >= needed:
        return error
    return errors.InsufficientResources(
        f"the host has {free / _MIB:.0f} MiB of room for saved memory, and the machine has"
        f" {needed / _MIB:.0f} MiB of memory",
        vendor_code=error.vendor_code,
        hint="free room on the host; a paused machine must run again before it can be saved",
    )


def full_daemon(
    remote: Remote, error: errors.HypervisorFault
) -> errors.InsufficientResources | None:
    """After a failure: the system daemon has no room for what it writes down of its machines; None
    if it has some, or does not tell. Eleven calls."""
    if error.vendor_code != _HELPER:
        return None
    with last_calls(), suppress(errors.HypervisorError):
        if urlsplit(str(remote.getURI())).path == "/session":
            return None
        for folder in (_RUN_FOLDER, _DAEMON_FOLDER):
            lacking = _lacking_of_daemon(remote, folder)
            if lacking is not None:
                return errors.InsufficientResources(
                    f"the host has {lacking} in {folder}, where libvirt"
                    f" writes down what it knows of its machines: {error.message}",
                    vendor_code=error.vendor_code,
                    hint=f"free room on the host (df {folder}; df -i {folder})",
                )
    return None


def _lacking_of_daemon(remote: Remote, folder: str) -> str | None:
    """What one of the daemon's folders lacks: bytes, or files, of which a file system has so many;
    None if it lacks neither, or does not tell. Five calls."""
    try:
        with pool_on(remote, folder) as pool:
            free = int(pool.info()[3])
            if free < _LEAST:
                return f"{free / _MIB:.1f} MiB of room left"
            try:
                pool.createXML(volume_xml(f"{LOOK}{token_hex(8)}", 0, "raw"), 0).delete(0)
            except errors.InsufficientResources:
                return "no room for one more file"
    except errors.InsufficientResources:
        # libvirt writes down below /run which pools are active, this one too
        return "no room left" if folder == _RUN_FOLDER else None
    except errors.HypervisorError:
        return None
    return None


def _free_in(remote: Remote, folder: str) -> int | None:
    """Bytes of room in a folder of the host; None if it does not tell. Three calls."""
    with suppress(errors.HypervisorError), pool_on(remote, folder) as pool:
        return int(pool.info()[3])
    return None


def _free(pool: Remote) -> int | None:
    # what the pool has told before is as old as its last refresh
    with suppress(errors.HypervisorError):
        refresh(pool)
        return int(pool.info()[3])
    return None


def _save_folder(xml: Element) -> str:
    """The folder of saved memory; a session daemon has its own, beside that of the channels."""
    for source in xml.iterfind("devices/channel/source"):
        before, found, _ = source.get("path", "").partition(_CHANNELS)
        if found:
            return f"{before}/save"
    return _SAVE_FOLDER
