"""A proxy between clients and a host that cuts, delays, swallows and refuses."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path


class Proxy:
    """Listens on a unix socket or on a loopback port, and passes bytes on.

    Attributes:
        delay: seconds that each piece waits, both ways.
        swallow: pieces disappear, connections stay.
        refuse: new connections are closed at once.
    """

    def __init__(self, connect: Callable[[], socket.socket], path: Path | None = None) -> None:
        self.delay = 0.0
        self.swallow = False
        self.refuse = False
        self._connect = connect
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        if path is not None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(path))
            self._listener.listen(128)
        else:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        threading.Thread(target=self._accept, name="soak-proxy", daemon=True).start()

    @property
    def port(self) -> int:
        """The loopback port, where it listens on one."""
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """End all connections at once."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            _end(*pair)

    def heal(self) -> None:
        """Pass everything on again. What was swallowed is lost, so those connections end."""
        swallowed, self.swallow = self.swallow, False
        self.delay, self.refuse = 0.0, False
        if swallowed:
            self.cut()

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuse:
                client.close()
                continue
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            for each in (client, server):
                if each.family != socket.AF_UNIX:
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.add((client, server))
            for source, target in ((client, server), (server, client)):
                threading.Thread(
                    target=self._pump, args=(source, target, (client, server)), daemon=True
                ).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, pair: tuple[socket.socket, ...]
    ) -> None:
        try:
            while data := source.recv(65536):
                if self.delay:
                    time.sleep(self.delay)
                if not self.swallow:
                    target.sendall(data)
        except OSError:
            pass
        _end(*pair)
        with self._lock:
            self._pairs.discard(pair)  # type: ignore[arg-type]


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
