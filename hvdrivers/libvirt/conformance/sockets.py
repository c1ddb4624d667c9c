"""The sockets of this process to the libvirt daemon: for checks that cut a connection,
and of those that find no daemon."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import libvirt

from hvdrivers.conformance.engine.dead_ends import dead_socket
from hvdrivers.conformance.engine.observer import PreconditionMissing


@contextmanager
def nowhere(uri: str, *, silent: bool) -> Iterator[str]:
    """The URI of a daemon of the same kind that is not there; see ``dead_ends``."""
    with dead_socket(silent=silent) as path:
        yield f"qemu+unix://{urlsplit(uri).path}?socket={path}"


def to_daemon(uri: str) -> list[int]:
    """The descriptors of this process's sockets to the daemon.

    Raises:
        PreconditionMissing: there are none: the connection is made by another process (``ssh``).
    """
    daemons, now = servers(uri)
    found = [each for each, server in now.items() if server in daemons]
    if not found:
        raise PreconditionMissing("the connection is not a socket of this process (ssh?)")
    return [descriptor for descriptor, _ in found]


def servers(uri: str) -> tuple[set[object], dict[tuple[int, int], object]]:
    """Who the daemon is, and all sockets of this process."""
    known = set(_sockets())
    # the socket of a new connection shows who the server is
    probe = libvirt.open(uri)
    now = _sockets()
    found = {now[each] for each in now.keys() - known}
    probe.close()
    return found, now


def _sockets() -> dict[tuple[int, int], object]:
    """The connected sockets of this process, by descriptor and inode, as descriptors are used
    again; and the server of each: the process behind a Unix socket, an address."""
    found: dict[tuple[int, int], object] = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own descriptor, one that was closed meanwhile
            status = os.fstat(int(name))
            if not stat.S_ISSOCK(status.st_mode):
                continue
            key = int(name), status.st_ino
            with socket.socket(fileno=os.dup(int(name))) as each:
                if each.family == socket.AF_UNIX:
                    raw = each.getsockopt(
                        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
                    )
                    pid = struct.unpack("3i", raw)[0]
                    if pid not in (0, os.getpid()):
                        found[key] = pid
                else:
                    found[key] = each.getpeername()
    return found
