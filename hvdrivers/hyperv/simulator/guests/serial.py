"""The named pipes of a machine's serial ports."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from hvdrivers.hyperv.simulator.state.machine import Machine


class SerialPipes:
    """The named pipes of a machine's serial ports.

    A named pipe of .NET on this system is a UNIX socket ``CoreFxPipe_<name>`` in the folder for
    temporary files; so a script's ``NamedPipeClientStream`` reaches it. Text that nobody reads is
    kept up to a limit, and the first reader gets it.
    """

    LIMIT = 1 << 16

    def __init__(self, machine: Machine, typed: Callable[[bytes], None] | None = None) -> None:
        self._machine = machine
        self._typed = typed
        self._lock = threading.Lock()
        self._listeners: dict[str, socket.socket] = {}
        self._paths: dict[str, Path] = {}
        self._readers: dict[str, socket.socket] = {}
        self._kept = b""
        self._closed = False
        self.received = b""
        self.written = b""
        self.refresh()

    def refresh(self) -> None:
        """Open the pipes that the machine's ports name now."""
        if self._closed:
            return
        wanted = {port.path.rsplit("\\", 1)[-1] for port in self._machine.config.com if port.path}
        with self._lock:
            gone = [name for name in self._listeners if name not in wanted]
            fresh = [name for name in wanted if name not in self._listeners]
        for name in gone:
            self._drop(name)
        for name in fresh:
            self._listen(name)

    def move(self) -> None:
        """Open the pipes again, on the host that the machine is on now."""
        for name in list(self._listeners):
            self._drop(name)
        self.refresh()

    def write(self, text: str) -> None:
        """Text from the guest."""
        self.write_bytes(text.encode())

    def write_bytes(self, sent: bytes) -> None:
        """Bytes from the guest; ``written`` keeps the last of them for observers."""
        with self._lock:
            self.written = (self.written + sent)[-self.LIMIT :]
            self._kept = (self._kept + sent)[-self.LIMIT :]
            readers = list(self._readers.items())
            if readers:
                data, self._kept = self._kept, b""
        for name, reader in readers:
            try:
                reader.sendall(data)
            except OSError:
                self._forget(name)

    def close(self) -> None:
        """Close every pipe."""
        self._closed = True
        for name in list(self._listeners):
            self._drop(name)

    def _listen(self, name: str) -> None:
        path = self._machine.host.pipes / f"CoreFxPipe_{name}"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(1)
        with self._lock:
            self._listeners[name] = listener
            self._paths[name] = path
        threading.Thread(
            target=self._serve, args=(name, listener), daemon=True, name="hyperv-com"
        ).start()

    def _serve(self, name: str, listener: socket.socket) -> None:
        while True:
            try:
                reader, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._readers[name] = reader
                data, self._kept = self._kept, b""
            try:
                reader.sendall(data)
                while got := reader.recv(4096):
                    self.received = (self.received + got)[-self.LIMIT :]
                    if self._typed is not None:
                        self._typed(got)
            except OSError:
                pass
            self._forget(name)

    def _forget(self, name: str) -> None:
        with self._lock:
            reader = self._readers.pop(name, None)
        if reader is not None:
            reader.close()

    def _drop(self, name: str) -> None:
        with self._lock:
            listener = self._listeners.pop(name, None)
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self._paths.pop(name).unlink(missing_ok=True)
        self._forget(name)
