"""Opening a connection, and libvirt's event loop, which must run before the first one."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any
from urllib.parse import urlsplit

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.refused_by import refusal

_HOLDING = 0.25
"""Seconds that the event loop stands still at most, for one connection."""
_loop_lock = threading.Lock()
_loop_pid: int | None = None

_LONGEST_SOCKET = 107
"""Bytes of a UNIX socket's path (``sun_path`` of unix(7), less the final zero)."""


def _run_event_loop() -> None:
    one_round = libvirt.virEventRunDefaultImpl
    while True:
        # an error of one round (a descriptor closed in between) must not end all events
        with suppress(libvirt.libvirtError):
            while True:  # each call of any thread makes two rounds: nothing else is done in one
                one_round()


def ensure_event_loop() -> None:
    """Start libvirt's event loop, once a process: libvirt has exactly one, and it must be there
    before the first connection. It is a daemon thread and stays until the process ends.

    Raises:
        ConnectionFailed: this process was forked from one that has the loop. Libvirt cannot start
            another: the child shares the descriptors by which the parent's is woken.
    """
    global _loop_pid  # noqa: PLW0603 - libvirt's loop is itself global to the process
    with _loop_lock:
        if _loop_pid is None:
            libvirt.virEventRegisterDefaultImpl()
            libvirt.registerErrorHandler(lambda _context, _error: None, None)  # no prints
            threading.Thread(
                target=_run_event_loop, name="hvdrivers-libvirt-events", daemon=True
            ).start()
            _loop_pid = os.getpid()
        elif _loop_pid != os.getpid():
            raise forked("libvirt was used before this process was forked")


def forked(message: str) -> errors.ConnectionFailed:
    """What a forked child gets."""
    return errors.ConnectionFailed(
        message,
        hint="start the process with multiprocessing's 'spawn' or 'forkserver', or connect for"
        " the first time after fork()",
        retryable=False,
    )


class _Brake:
    """Keeps libvirt's event loop from doing anything, for a short time at most.

    One timer for the whole process, which is armed anew for each use: libvirt-python never frees
    what belongs to a timer, also when that is removed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timer: int | None = None
        self._waiting: deque[tuple[threading.Event, threading.Event]] = deque()

    @contextmanager
    def on(self) -> Iterator[None]:
        """The loop stands still in the block."""
        held, over = threading.Event(), threading.Event()
        self._waiting.append((held, over))
        with self._lock:
            if self._timer is None:
                self._timer = libvirt.virEventAddTimeout(_NEVER, self._stand, None)
            libvirt.virEventUpdateTimeout(self._timer, 0)
        held.wait(_HOLDING)
        try:
            yield
        finally:
            over.set()

    def _stand(self, timer: int, _opaque: object) -> None:
        libvirt.virEventUpdateTimeout(timer, _NEVER)
        while self._waiting:
            held, over = self._waiting.popleft()
            held.set()
            over.wait(_HOLDING)


_NEVER = -1
_brake = _Brake()


def session_socket(uri: str, environment: Mapping[str, str]) -> str | None:
    """Where the client library looks for the session daemon of this machine; None for any other
    URI. (``virGetUserRuntimeDirectory()``: XDG_RUNTIME_DIR, else the user's cache folder.)"""
    parts = urlsplit(uri)
    if parts.hostname or parts.path != "/session" or "socket=" in parts.query:
        return None
    home = environment.get("HOME") or os.path.expanduser("~")
    cache = environment.get("XDG_CACHE_HOME") or f"{home}/.cache"
    return f"{environment.get('XDG_RUNTIME_DIR') or cache}/libvirt/libvirt-sock"


def require_short_socket(uri: str, environment: Mapping[str, str]) -> None:
    """Refuse a session daemon whose socket cannot exist: the library's own error names neither the
    limit nor what sets the path."""
    path = session_socket(uri, environment)
    if path is not None and len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise errors.ConnectionFailed(
            f"the socket of the session daemon would have a path of {len(os.fsencode(path))} bytes,"
            f" and Linux allows {_LONGEST_SOCKET}: {path}",
            hint="set XDG_RUNTIME_DIR to a shorter folder (/run/user/UID) for the daemon and for"
            " this program, or name the socket: qemu+unix:///session?socket=PATH",
            retryable=False,
        )


def open_connection(config: LibvirtConfig, *, hangs_up: bool = False) -> Any:
    """Open a connection, with keepalive. Blocks without any limit on a host that accepts and never
    answers.

    Args:
        hangs_up: the host has accepted a connection and hung up before. Libvirt loses the client
            object, with a descriptor, where its event loop sees the end of the connection before
            the opening thread does (45 of 45 such attempts of 100; none in 100 with the loop held).
            So the loop stands still meanwhile. Other hosts' events wait for that, a moment at most.
    """
    require_short_socket(config.uri, os.environ)
    ensure_event_loop()

    def credentials(wanted: list[list[Any]], _opaque: object) -> int:
        for each in wanted:
            if each[0] in (libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_USERNAME):
                each[4] = config.username or ""
            elif each[0] in (libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT):
                secret = config.password
                each[4] = secret.get_secret_value() if secret else ""
        return 0

    kinds = [
        libvirt.VIR_CRED_AUTHNAME,
        libvirt.VIR_CRED_USERNAME,
        libvirt.VIR_CRED_PASSPHRASE,
        libvirt.VIR_CRED_NOECHOPROMPT,
    ]
    with _brake.on() if hangs_up else nullcontext():
        try:
            connect = libvirt.openAuth(config.uri, [kinds, credentials, None], 0)
        except libvirt.libvirtError as error:
            refused = refusal(config.uri, error)
            if refused is None:
                raise
            raise refused from error
    with suppress(libvirt.libvirtError):  # local test drivers have no keepalive
        connect.setKeepAlive(config.keepalive_interval, config.keepalive_count)
    return connect
