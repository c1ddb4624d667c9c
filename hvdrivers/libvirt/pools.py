"""The two storage pools: disks and images in one, console logs in the other.

Everything the driver writes on a host goes through these, by libvirt's storage API; their paths
are used only inside domain XML, for QEMU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.connection import Connection, Remote
from hvdrivers.libvirt.xml import attribute, el, parse, text

_T = TypeVar("_T")
_FILE_POOLS = {"dir", "fs", "netfs"}


class Pools:
    """Finds the pools, makes them where they are missing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

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
        return pool

    def _pool(self, name: str, folder: str) -> Remote:
        def find(remote: Remote) -> Remote:
            try:
                pool: Remote = remote.storagePoolLookupByName(name)
                made = False
            except errors.VolumeNotFound:
                pool = self._make(remote, name, folder)
                made = True
            if not pool.isActive():
                _activate(pool, made)
            return pool

        return self._connection.fact(f"pool:{name}", find)

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
            el("target", el("format", type=format_)),
            backing_xml,
        )
    )


def in_time(act: Callable[[], _T], busy: type[errors.HypervisorError]) -> _T:
    """The result of ``act``, which raises ``busy`` while the daemon makes a volume.

    That takes a few milliseconds, and libvirt has no event for its end. The code for "wait" is
    also one for worse, so there is an end to it.
    """
    for pause in (0.01, 0.03, 0.1, 0.3, 1.0):
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
        raise errors.DeviceBusy(error.message, vendor_code=error.vendor_code) from error


def refresh(pool: Remote) -> None:
    """Look at the pool's folder again. One call, more while the daemon makes a volume in it."""
    in_time(lambda: pool.refresh(0), errors.HypervisorFault)


def backing_of(description: Any) -> tuple[str, str] | None:
    """Path and format of the base in a volume's XML."""
    path = description.findtext("backingStore/path")
    format_ = attribute(description, "backingStore/format", "type")
    return (path, format_) if path and format_ else None
