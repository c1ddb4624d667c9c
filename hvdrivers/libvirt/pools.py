"""The two storage pools: disks and images in one, console logs in the other.

Everything the driver writes on a host goes through these, by libvirt's storage API; their paths
are used only inside domain XML, for QEMU.
"""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.files import clean
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import attribute, el, parse, text

_T = TypeVar("_T")
_FILE_POOLS = {"dir", "fs", "netfs"}
_FILE_KINDS = (
    libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_DIR
    | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_FS
    | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_NETFS
)
LOOK = "hv-look-"
"""Names of pools that the driver makes for a moment, to look into a folder, begin so."""

LOOK_ENDS_WITHIN = 600.0
"""Seconds. A look takes no more than a few; the pool of one whose client was killed stays."""

_ACTIVE_FILE_POOLS = _FILE_KINDS | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE


class Pools:
    """Finds the pools, makes them where they are missing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._looks: dict[str, float] = {}

    def disks(self) -> Remote:
        """The pool for disks, images and volumes."""
        return self._pool(self._connection.config.pool, "disks")

    def consoles(self) -> Remote:
        """The pool for console logs."""
        return self._pool(self._connection.config.console_pool, "consoles")

    def disk_path(self, name: str) -> str:
        """Where a volume of the disk pool is on the host."""
        return f"{self.path(self.disks())}/{name}"

    def console_path(self, name: str) -> str:
        """Where a volume of the console pool is on the host."""
        return f"{self.path(self.consoles())}/{name}"

    def path(self, pool: Remote) -> str:
        """The folder of a pool."""
        return self._connection.fact(
            f"pool-path:{pool.name()}", lambda _: _file_pool_path(parse(pool.XMLDesc(0)))
        )

    def named(self, name: str | None) -> Remote:
        """Any pool of the host; None is the disk pool."""
        if name is None or name == self._connection.config.pool:
            return self.disks()
        pool: Remote = self._connection.remote.storagePoolLookupByName(name)
        self.path(pool)
        if not pool.isActive():
            # a call that waits for it would wait for ever: the driver starts only its own pools
            raise errors.VolumeNotFound(
                f"storage pool '{name}' is not active",
                hint=f"start it on the host: virsh pool-start {name}",
            )
        return pool

    def files(self) -> list[Remote]:
        """The active pools of files, with the disk pool. One call; one more if someone has stopped
        the disk pool, which is started again; and one for each look that a
        killed client has left."""
        disks = self.disks()  # makes it where it is missing
        found: list[Remote] = self._connection.remote.listAllStoragePools(_ACTIVE_FILE_POOLS)
        names = {pool.name(): pool for pool in found}
        looks = {name: names.pop(name) for name in list(names) if name.startswith(LOOK)}
        pools = list(names.values())
        self._end_left(looks)
        if disks.name() not in {pool.name() for pool in pools}:
            _activate(disks, made=False)
            pools.append(disks)
        return pools

    def _end_left(self, looks: dict[str, Remote]) -> None:
        """End the looks of clients that were killed: those that this connection has seen for longer
        than any look takes. The clocks of other clients do not count."""
        now = time.monotonic()
        seen = self._looks  # never changed, but replaced: other threads list pools too
        self._looks = {name: seen.get(name, now) for name in looks}
        for name in seen.keys() & looks.keys():
            if now - seen[name] >= LOOK_ENDS_WITHIN:
                with suppress(errors.HypervisorError):  # another client has ended it
                    looks[name].destroy()

    def for_disks(self) -> list[Remote]:
        """The active pools that the disks of instances can be in, the disk pool first. Calls as for
        files()."""
        first, consoles = self._connection.config.pool, self._connection.config.console_pool
        pools = {pool.name(): pool for pool in self.files() if pool.name() != consoles}
        return [pools.pop(first), *(pools[name] for name in sorted(pools))]

    def volumes(self, pool: Remote) -> dict[str, Remote]:
        """The volumes of a pool by name. One call; four if someone has stopped a pool of the
        driver's own, which is started again. Another pool that is stopped meanwhile has none.

        A file's name may be any bytes. One that is no UTF-8 is none of the driver's, and libvirt's
        binding has no name for it: it is left out."""
        try:
            volumes = pool.listAllVolumes(0)
        except (errors.VolumeNotFound, errors.HypervisorFault):
            if pool.isActive():
                raise
            if pool.name() not in {
                self._connection.config.pool,
                self._connection.config.console_pool,
            }:
                return {}
            _activate(pool, made=False)
            volumes = pool.listAllVolumes(0)
        found = {}
        for volume in volumes:
            with suppress(UnicodeDecodeError):
                found[volume.name()] = volume
        return found

    def holding(self, path: str) -> Remote:
        """The pool that a file of an instance lies in. No call for the disk pool, else two.

        Raises:
            DeviceBusy: no active pool has it.
        """
        disks = self.disks()
        if posixpath.dirname(clean(path)) == self.path(disks):
            return disks
        try:
            volume = self._connection.remote.storageVolLookupByPath(path)
            return cast(Remote, volume.storagePoolLookupByVolume())
        except errors.VolumeNotFound as error:
            raise errors.DeviceBusy(
                f"no active storage pool has the file {path}",
                vendor_code=error.vendor_code,
                hint="start its pool on the host: virsh pool-start",
                retryable=False,
            ) from error

    def delete_disk(self, name: str, pool: str | None = None) -> None:
        """Delete a volume of the disk pool, or of another; one that is not there is as good. Two
        calls; four in another pool."""
        # the pool is looked up now: this is how things are undone after a connection was lost
        try:
            delete(self.named(pool).storageVolLookupByName(name))
        except errors.VolumeNotFound:
            return

    def _pool(self, name: str, folder: str) -> Remote:
        def find(remote: Remote) -> Remote:
            try:
                pool: Remote = remote.storagePoolLookupByName(name)
                made = False
            except errors.VolumeNotFound:
                pool = self._make(remote, name, folder)
                made = True
            self.path(pool)  # what holds no files is not started: an iSCSI pool would log in
            self._connection.fact(f"pool-active:{name}", lambda _: _require_active(pool, made))
            return pool

        return self._connection.bound(f"pool:{name}", find)

    def _make(self, remote: Remote, name: str, folder: str) -> Remote:
        target = str(self._base() / folder)
        xml = el("pool", el("name", name), el("target", el("path", target)), type="dir")
        try:
            pool: Remote = remote.storagePoolDefineXML(text(xml), 0)
        except errors.HypervisorFault:
            # another process made it at the same moment: its pool serves as well
            return cast(Remote, remote.storagePoolLookupByName(name))
        pool.setAutostart(1)
        return pool

    def _base(self) -> PurePosixPath:
        config = self._connection.config
        if config.pool_path is not None:
            return config.pool_path
        parts = urlsplit(config.uri)
        if not parts.path.startswith("/session"):
            return PurePosixPath("/var/lib/libvirt/hvdrivers")
        if not parts.hostname:
            return PurePosixPath(os.path.expanduser("~/.local/share/hvdrivers"))
        raise errors.InvalidRequest(
            f"the session daemon has no storage pool '{config.pool}'",
            hint="give pool_path=, a folder on the host in which it may be made",
        )


def _require_active(pool: Remote, made: bool) -> bool:
    if not pool.isActive():
        _activate(pool, made)
    return True


def _activate(pool: Remote, made: bool) -> None:
    """Start a pool; with its folder made, if it is new, or whoever defined it died before that."""
    build = libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD
    for flags in (build,) if made else (0, build):
        try:
            pool.create(flags)
        except errors.InvalidState:
            return  # another process has started it meanwhile
        except (errors.VolumeNotFound, errors.HypervisorFault):
            if flags:
                raise
        else:
            return


def _file_pool_path(pool: Any) -> str:
    kind = pool.get("type")
    if kind not in _FILE_POOLS:
        raise errors.NotSupported(
            f"storage pool '{pool.findtext('name')}' is of type {kind}",
            hint="disks are qcow2 files: use a pool of type dir, fs or netfs",
        )
    return str(pool.findtext("target/path")).rstrip("/")


def volume_xml(
    name: str,
    capacity: int,
    format_: str,
    *,
    backing: tuple[str, str] | None = None,
    allocation: int = 0,
) -> str:
    """Description of a new volume.

    Args:
        capacity: bytes that a guest sees.
        backing: path and format of the base that it is an overlay of. The format is always
            written: a base of which nobody wrote it would be probed, and a guest can write any
            header to the beginning of its disk.
    """
    backing_xml = None
    if backing is not None:
        path, backing_format = backing
        backing_xml = el("backingStore", el("path", path), el("format", type=backing_format))
    return text(
        el(
            "volume",
            el("name", name),
            el("capacity", str(capacity), unit="bytes"),
            el("allocation", str(allocation), unit="bytes"),
            # without "compat" libvirt makes version 2, in which QEMU drops guests' discards
            el(
                "target",
                el("format", type=format_),
                el("compat", "1.1") if format_ == "qcow2" else None,
            ),
            backing_xml,
        )
    )


_PAUSES = (0.01, 0.03, 0.1, 0.3, 1.0)


def in_time(
    act: Callable[[], _T],
    busy: type[errors.HypervisorError],
    pauses: Iterable[float] = _PAUSES,
) -> _T:
    """The result of ``act``, which raises ``busy`` while the daemon makes a volume.

    That takes a few milliseconds, and libvirt has no event for its end. The code for "wait" is
    also one for worse, so there is an end to it.
    """
    for pause in pauses:
        try:
            return act()
        except busy:
            time.sleep(pause)
    return act()


def delete(volume: Remote) -> None:
    """Delete a volume; one that has gone meanwhile is as good. One call, more while the daemon is
    still making it for somebody else, or for a process that died meanwhile."""
    try:
        in_time(lambda: volume.delete(0), errors.InvalidState)
    except errors.VolumeNotFound:
        return
    except errors.InvalidState as error:
        raise errors.DeviceBusy(
            error.message,
            vendor_code=error.vendor_code,
            hint="another client reads, writes or copies it: call again when that has ended",
        ) from error


def find(pool: Remote, name: str) -> Remote:
    """A volume that a caller has named. One call; three if it is not there: someone may have copied
    a file into the pool's folder, which the pool sees when it is refreshed."""
    try:
        return cast(Remote, pool.storageVolLookupByName(name))
    except errors.VolumeNotFound:
        refresh(pool)
        return cast(Remote, pool.storageVolLookupByName(name))


def refresh(pool: Remote) -> None:
    """Look at the pool's folder again. One call, more while the daemon makes a volume in it.

    Raises:
        DeviceBusy: it still does.
    """
    try:
        # among many spawns there is a moment without one; a copy takes minutes
        in_time(lambda: pool.refresh(0), errors.HypervisorFault, (*_PAUSES[:3], *[0.2] * 20))
    except errors.HypervisorFault as error:
        # "asynchronous jobs running"; of a folder that has gone libvirt tells the errno, and stops
        # the pool
        if error.vendor_code != "VIR_ERR_INTERNAL_ERROR" or not pool.isActive():
            raise
        raise errors.DeviceBusy(
            f"another client makes or copies a volume in storage pool '{pool.name()}'",
            vendor_code=error.vendor_code,
            hint="call again when that has ended",
        ) from error


def backing_of(description: Any) -> tuple[str, str] | None:
    """Path and format of the base in a volume's XML."""
    path = description.findtext("backingStore/path")
    format_ = attribute(description, "backingStore/format", "type")
    return (path, format_) if path and format_ else None
