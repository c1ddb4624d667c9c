"""A proxy before a libvirt daemon's socket: it counts calls, delays, and swallows them.

The frames are those of libvirt's RPC: length, program, version, procedure, type, serial, status,
each in four bytes (https://libvirt.org/kbase/internals/rpc.html). A message of type 0 is a call.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

_REMOTE_PROGRAM = 0x20008086
_HEAD = struct.Struct(">7I")


class Wire:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.calls = 0
        """Calls of the client, without keepalive."""
        self.ends = (client, server)

    def cut(self) -> None:
        for each in self.ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class LibvirtProxy:
    """Listens on ``path`` for what is then sent to the daemon at ``daemon``. A context manager.

    Attributes:
        delay: seconds that each message takes, each way.
        swallows: nothing gets through, and nobody is told.
        hangs_up: so many of the next connections are accepted and closed.
        loses: number of a procedure whose next reply is lost: the connection breaks instead.
        loses_call: of one whose next call is lost.
        hangs_up_then: so many connections after either are accepted and closed; all that there are
            break.
    """

    def __init__(self, daemon: Path, path: Path) -> None:
        self.path = path
        self.delay = 0.0
        self.swallows = False
        self.hangs_up = 0
        self.loses: int | None = None
        self.loses_call: int | None = None
        self.hangs_up_then = 0
        self.wires: list[Wire] = []
        self._daemon = daemon
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def uri(self, uri: str) -> str:
        """The daemon's URI, with this socket in the place of its own."""
        return f"{uri.partition('?')[0]}?socket={self.path}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self.path.unlink(missing_ok=True)

    def cut(self) -> None:
        """Cut every connection."""
        for wire in self.wires:
            wire.cut()

    def _hang_up(self) -> None:
        self.hangs_up = self.hangs_up_then
        if self.hangs_up:
            self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.hangs_up:
                self.hangs_up -= 1
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._daemon))
            except OSError:
                client.close()
                server.close()
                continue
            wire = Wire(client, server)
            self.wires.append(wire)
            for source, sink, calls in ((client, server, True), (server, client, False)):
                queue: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                threading.Thread(
                    target=self._read, args=(wire, source, queue, calls), daemon=True
                ).start()
                threading.Thread(target=self._write, args=(wire, sink, queue), daemon=True).start()

    def _read(
        self,
        wire: Wire,
        source: socket.socket,
        queue: SimpleQueue[tuple[float, bytes]],
        calls: bool,
    ) -> None:
        with suppress(OSError):
            while (head := _exactly(source, _HEAD.size)) is not None:
                length, program, _, procedure, kind, _, _ = _HEAD.unpack(head)
                body = _exactly(source, length - _HEAD.size)
                if body is None:
                    break
                remote = program == _REMOTE_PROGRAM
                wire.calls += calls and remote and kind == 0
                if remote and not calls and kind == 1 and procedure == self.loses:
                    self.loses = None
                    self._hang_up()
                    break
                if remote and calls and kind == 0 and procedure == self.loses_call:
                    self.loses_call = None
                    self._hang_up()
                    break
                queue.put((time.monotonic() + self.delay, head + body))
        queue.put((0.0, b""))

    def _write(
        self, wire: Wire, sink: socket.socket, queue: SimpleQueue[tuple[float, bytes]]
    ) -> None:
        while True:
            at, message = queue.get()
            if not message:
                break
            time.sleep(max(0.0, at - time.monotonic()))
            if not self.swallows:
                try:
                    sink.sendall(message)
                except OSError:
                    break
        wire.cut()
        sink.close()


def _exactly(source: socket.socket, count: int) -> bytes | None:
    found = b""
    while len(found) < count:
        more = source.recv(count - len(found))
        if not more:
            return None
        found += more
    return found
