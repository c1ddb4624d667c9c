"""What breaks a connection when the deadline of a preparation passes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from typing import Any

from hvdrivers.driverkit.deadline import Deadline


class Alarm:
    """Breaks the connections of one attempt when the deadline passes.

    httpx' timeouts bound each single read, so a server that sends a byte now and then keeps a
    request alive for ever. Shutting the socket down wakes the thread that reads from it. A
    duplicate of the socket is kept because TLS wraps, and so replaces, the original.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._fired = False
        self._timer: threading.Timer | None = None
        if deadline.bounded:
            self._timer = threading.Timer(deadline.left, self._fire)
            self._timer.daemon = True
            self._timer.start()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore's trace extension."""
        if self._timer is None or event != "connection.connect_tcp.complete":
            return
        original = info["return_value"].get_extra_info("socket")
        with self._lock:
            self._sockets.append(original.dup())
        if self._fired:
            self._fire()

    def _fire(self) -> None:
        with self._lock:
            self._fired = True
            for connection in self._sockets:
                with contextlib.suppress(OSError):  # closed by its peer already
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        for connection in self._sockets:
            connection.close()
