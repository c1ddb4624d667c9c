"""A client of QEMU's monitor: commands with their answers, and events on a thread of their own."""

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Json = Mapping[str, object]


class QmpError(RuntimeError):
    """QEMU refused a command, or is gone."""


class Qmp:
    """One connection to the monitor at a UNIX socket.

    ``heard`` is called with the name and the data of each event, on a thread that may wait for
    locks; it is called with ``"GONE"`` once, when QEMU has closed the connection.
    """

    def __init__(
        self, path: Path, heard: Callable[[str, Json], None], alive: Callable[[], bool]
    ) -> None:
        self._socket = _connect(path, alive)
        self._stream = self._socket.makefile("rb")
        self._answers: queue.Queue[Json | None] = queue.Queue()
        self._events: queue.Queue[tuple[str, Json]] = queue.Queue()
        self._lock = threading.Lock()
        self._heard = heard
        self.told = threading.Condition()
        self.history: list[tuple[str, Json]] = []
        self._stream.readline()
        threading.Thread(target=self._read, daemon=True, name="hyperv-qmp").start()
        threading.Thread(target=self._tell, daemon=True, name="hyperv-qmp-events").start()
        self("qmp_capabilities")

    def __call__(self, command: str, /, **arguments: object) -> object:
        """Run a command; ``_`` in the names of arguments stands for ``-``.

        Raises:
            QmpError: QEMU refused it, or is gone.
        """
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        with self._lock:
            line = json.dumps({"execute": command, "arguments": names}) + "\n"
            try:
                self._socket.sendall(line.encode())
            except OSError as error:
                raise QmpError("QEMU is gone") from error
            answer = self._answers.get()
        if answer is None:
            self._answers.put(None)
            raise QmpError("QEMU is gone")
        if "error" in answer:
            raise QmpError(f"{command}: {answer['error']}")
        return answer["return"]

    def wait_event(self, name: str, holds: Callable[[Json], bool], seconds: float) -> bool:
        """Wait until an event with this name and such data was heard; whether it was."""
        limit = time.monotonic() + seconds
        with self.told:
            while not any(each == name and holds(data) for each, data in self.history):
                left = limit - time.monotonic()
                if left <= 0 or any(each == "GONE" for each, _ in self.history):
                    return False
                self.told.wait(left)
        return True

    def close(self) -> None:
        """End the connection."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _read(self) -> None:
        try:
            for line in self._stream:
                message = json.loads(line)
                if "event" in message:
                    self._note(message["event"], message.get("data") or {})
                else:
                    self._answers.put(message)
        except (OSError, ValueError):
            pass
        finally:
            self._answers.put(None)
            self._note("GONE", {})
            self._stream.close()
            self._socket.close()

    def _note(self, name: str, data: Json) -> None:
        with self.told:
            self.history.append((name, data))
            self.told.notify_all()
        self._events.put((name, data))

    def _tell(self) -> None:
        while True:
            name, data = self._events.get()
            self._heard(name, data)
            if name == "GONE":
                return


def _connect(path: Path, alive: Callable[[], bool]) -> socket.socket:
    """Connect as soon as QEMU listens."""
    while True:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(str(path))
        except OSError as error:
            link.close()
            if not alive():
                raise QmpError("QEMU did not start") from error
            time.sleep(0.01)
        else:
            return link
