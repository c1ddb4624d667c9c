"""Faults for the tests: real cuts of the real connection, and errors as libvirtd has sent them."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import libvirt

from hvdrivers.libvirt.conformance.seam import lose_the_reply
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.link import Link
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until

Send = Callable[[], Any]
Fault = Callable[[str, Send], Any]


def sockets_to(pid: int) -> list[int]:
    """This process's descriptors of connections to a daemon over its Unix socket."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as each:
                if each.family == socket.AF_UNIX and _server_of(each) == pid:
                    found.append(int(name))
        except OSError:
            continue  # the listing's own descriptor, or one that was closed meanwhile
    return found


def _server_of(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", raw)[0]
    return pid


def cut(driver: LibvirtDriver, peer: LibvirtPeer) -> None:
    """Break all connections as a network does."""
    links = driver.connection.links.links
    for descriptor in sockets_to(peer.daemon_pid):
        with socket.socket(fileno=os.dup(descriptor)) as each:
            each.shutdown(socket.SHUT_RDWR)
    sees_the_end(links)


def sees_the_end(links: Sequence[Link]) -> None:
    """Wait until the client library has seen that these connections are dead."""
    wait_until(
        lambda: not any(each.alive for each in links), timeout=120, what="the client sees the end"
    )


class Script:
    """A seam that notes every call, and does ``fault`` once: at the call with the number or the
    name ``at``."""

    def __init__(self, at: int | str = -1, fault: Fault | None = None) -> None:
        self.calls: list[str] = []
        self.reached = False
        self._lock = threading.Lock()
        self._at = at
        self._fault = fault

    def __call__(self, name: str, send: Send) -> Any:
        with self._lock:
            number = len(self.calls)
            self.calls.append(name)
        if self._at in (number, name) and self._fault is not None and not self.reached:
            self.reached = True
            return self._fault(name, send)
        return send()


@contextmanager
def script(
    driver: LibvirtDriver, at: int | str = -1, fault: Fault | None = None
) -> Iterator[Script]:
    """Put a Script into the driver's seam."""
    made = Script(at, fault)
    driver.connection.seam = made
    try:
        yield made
    finally:
        driver.connection.seam = None


def before(driver: LibvirtDriver, peer: LibvirtPeer) -> Fault:
    """The connection breaks before the call is sent."""

    def fault(_name: str, send: Send) -> Any:
        cut(driver, peer)
        return send()

    return fault


def after(driver: LibvirtDriver, peer: LibvirtPeer) -> Fault:
    """The call is made, and its reply is lost."""

    def fault(_name: str, send: Send) -> Any:
        lose_the_reply(send, driver.config, lambda: cut(driver, peer))

    return fault


def in_flight(driver: LibvirtDriver, peer: LibvirtPeer, *, made: bool) -> Fault:
    """The connection breaks while the client waits for the answer: what libvirt raises then has the
    code of a file that cannot be read.

    Args:
        made: the daemon has made the call before.
    """

    def fault(_name: str, send: Send) -> Any:
        if made:
            with suppress(libvirt.libvirtError):  # the reply that is lost may have been an error
                send()
        cut(driver, peer)
        raise HUNG_UP

    return fault


def vendor_error(code: int, message: str, *, domain: int = 0, number: int = 0) -> Exception:
    """A libvirtError as the client library makes it from the daemon's answer."""
    error = libvirt.libvirtError("")
    error.err = (code, domain, message, libvirt.VIR_ERR_ERROR, message, None, None, number, -1)
    return error


# As recorded from libvirt 9.0: the end of a connection on which a call waits, a full file system, a
# file that QEMU's user may not open, a bug.
HUNG_UP = vendor_error(
    libvirt.VIR_ERR_SYSTEM_ERROR,
    "End of file while reading data: Input/output error",
    domain=libvirt.VIR_FROM_RPC,
    number=errno.EIO,
)
NO_SPACE = vendor_error(
    libvirt.VIR_ERR_SYSTEM_ERROR,
    "cannot extend file '/var/lib/libvirt/images/x': No space left on device",
    domain=libvirt.VIR_FROM_STORAGE,
    number=errno.ENOSPC,
)
NO_PERMISSION = vendor_error(
    libvirt.VIR_ERR_SYSTEM_ERROR,
    "cannot open file '/var/lib/libvirt/images/x': Permission denied",
    domain=libvirt.VIR_FROM_STORAGE,
    number=errno.EACCES,
)
INTERNAL = vendor_error(
    libvirt.VIR_ERR_INTERNAL_ERROR,
    "internal error: Child process (qemu-img create) unexpected exit status 1",
    domain=libvirt.VIR_FROM_STORAGE,
)


def answered(error: Exception) -> Fault:
    """The daemon refuses the call."""

    def fault(_name: str, _send: Send) -> Any:
        raise error

    return fault
