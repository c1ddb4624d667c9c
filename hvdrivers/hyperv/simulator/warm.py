"""Engines that outlive the shells that use them, for a server whose shells are killed all the time.

PowerShell takes a second of a processor to start, and three more until it has compiled what the
driver sends. A command that is ended while nothing of it runs therefore gives its engine back: its
runspaces are disposed of, and the next command gets one of its own in the same process. A command
that is ended in the middle of a request has its process killed, as always: the fault checks look
for what a dead process leaves. A stream of events that waits leaves nothing: it is stopped, and the
process is kept.

What is a request is told by the lines of the driver's loop (``scripts/loop.ps1``).
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import IO

from hvdrivers.hyperv.simulator.wsman_shell import AnyCommand, Output, find_engine, start_process

_MOST_COMMANDS = 40
"""Of one engine: what a command has compiled stays in the process."""
_MOST_IDLE = 3
_PATIENCE = 10.0
"""Seconds to wait for an engine that is about to be idle."""
_REST = 1.0
"""Seconds to wait for the rest of a line."""
_SENT = re.compile(rb"(\d+) run (?:\d+ \d+ (\w+) )?.* \.")
_CAME = re.compile(rb"HV1 \S+ (\d+) reply .*")
_WAITS = frozenset({b"Events"})
"""Operations that look, wait, and hold nothing of the host."""
_COMES = re.compile(rb"HV1 \S+ \d+ reply ")


class WarmEngines:
    """The engines of one server. ``start`` is what its shells start their commands with."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="hvsim-"))
        self._changed = threading.Condition()
        self._engines: set[_Engine] = set()
        self._idle: list[_Engine] = []
        self._made = 0
        self._closed = False

    def start(self, arguments: list[str], environment: Mapping[str, str]) -> AnyCommand:
        """A command in an engine that is idle, or in a new one."""
        if len(arguments) < 2 or arguments[-2].lower() != "-encodedcommand":
            return start_process(arguments, environment)
        with self._changed:
            if self._closed:
                return start_process(arguments, environment)
            self._made += 1
            path = self._folder / str(self._made)
            mine = [each for each in self._engines if each.environment == environment]
            # one that ends its last command is there in a moment, and a new one in seconds
            self._changed.wait_for(lambda: not any(each.ends for each in mine), _PATIENCE)
            engine = next((each for each in self._idle if each in mine), None)
            if engine is not None:
                self._idle.remove(engine)
            else:
                engine = _Engine(arguments[:-2], environment, self)
                self._engines.add(engine)
        return engine.run(path, arguments[-1])

    def back(self, engine: _Engine) -> None:
        """An engine has nothing to do any more."""
        with self._changed:
            engine.ends = False
            kept = (
                not self._closed
                and engine.commands < _MOST_COMMANDS
                and len(self._idle) < _MOST_IDLE
            )
            if kept:
                self._idle.append(engine)
            self._changed.notify_all()
        if not kept:
            engine.kill()

    def gone(self, engine: _Engine) -> None:
        """The process of an engine has ended."""
        with self._changed:
            engine.ends = False
            self._engines.discard(engine)
            if engine in self._idle:
                self._idle.remove(engine)
            self._changed.notify_all()

    def close(self) -> None:
        """End every process, and wait for it."""
        with self._changed:
            self._closed = True
            engines = list(self._engines)
        for each in engines:
            each.kill()
        for each in engines:
            each.join()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Engine:
    """One process."""

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], owner: WarmEngines
    ) -> None:
        self.environment = dict(environment)
        self.commands = 0
        """How many it has had."""
        self.ends = False
        """Whether it is about to be idle."""
        self._owner = owner
        self._lock = threading.Lock()
        self._command: _Lent | None = None
        text = resources.files("hvdrivers.hyperv.simulator") / "warm.ps1"
        packed = base64.b64encode(text.read_text(encoding="utf-8").encode("utf-16-le")).decode()
        self._process = subprocess.Popen(  # noqa: S603 - the engine
            [find_engine(), *arguments, "-EncodedCommand", packed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._complain, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def run(self, path: Path, text: str) -> _Lent:
        """Run a command, in a runspace of its own."""
        self.commands += 1
        command = _Lent(self, path, text)
        with self._lock:
            self._command = command
        stream = self._process.stdin
        assert stream is not None  # noqa: S101 - it was asked for
        with suppress(OSError):
            stream.write(f"{path}\n".encode())
            stream.flush()
        if self._process.poll() is not None:
            command.abandon()
        return command

    def give_up(self, command: _Lent, *, idle: bool) -> None:
        """Nobody wants a command any more. Unless it is idle, the process ends with it."""
        with self._lock:
            if self._command is not command:
                return  # it has ended by itself, and the process may be at another one
            self.ends = True
        if not idle:
            self.kill()

    def kill(self) -> None:
        """End the process at once. Twice is allowed."""
        # the number of a process that was waited for may be another's by now
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def join(self) -> None:
        """Wait for what reads from it."""
        for thread in self._threads:
            thread.join(10)

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            if line.strip() == b"ended":
                with self._lock:
                    command, self._command = self._command, None
                if command is not None:
                    command.abandon()
                self._owner.back(self)
        self._process.wait()
        self._owner.gone(self)
        with self._lock:
            command = self._command
        if command is not None:
            command.abandon()
        for each in (self._process.stdin, self._process.stdout):
            if each is not None:
                with suppress(OSError):
                    each.close()

    def _complain(self, stream: IO[bytes]) -> None:
        while data := os.read(stream.fileno(), 1 << 16):
            with self._lock:
                command = self._command
            if command is not None:
                command.came("stderr", data)
        stream.close()


class _Lent(Output):
    """A command in an engine that is there already."""

    def __init__(self, engine: _Engine, path: Path, text: str) -> None:
        super().__init__()
        self._engine = engine
        self._path = path
        self._text = text
        self._lock = threading.Lock()
        self._connected = threading.Event()
        """Set when the engine has come for the command, or never will."""
        self._link: socket.socket | None = None
        self._requests = _Requests()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process that it runs in."""
        return self._engine.pid

    def _pump(self) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError:
            link = None
        self._listener.close()
        self._path.unlink(missing_ok=True)
        if link is not None:
            with suppress(OSError):
                link.sendall(f"{self._text}\n".encode())
            self._link = link
        self._connected.set()
        with suppress(OSError):
            while link is not None and (data := link.recv(1 << 16)):
                self._requests.came(data)
                self.came("stdout", data)
        self.ended(0 if link is not None else 1)
        with self._lock:
            if link is not None:
                link.close()

    def write(self, data: bytes, *, end: bool) -> None:
        """To standard input."""
        self._connected.wait()
        if self._link is None:
            return
        with self._lock, suppress(OSError):  # it may be closed
            self._requests.sent(data)
            self._link.sendall(data)
            if end:
                self._link.shutdown(socket.SHUT_WR)

    def abandon(self) -> None:
        """The engine has ended, or has ended the command."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        link = self._link
        if link is not None:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End it; with its engine if it is at something.

        The rest of a reply is no work any more, and comes in a moment.
        """
        self._requests.wait_for_rest(_REST)
        with self._lock:
            self._engine.give_up(self, idle=self._requests.idle)
            self.abandon()
        self._thread.join(10)


class _Requests:
    """Which requests have no reply so far, but for those that only wait."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._begun = False
        """Whether the loop takes requests."""
        self._open: set[bytes] = set()
        self._rest = {"sent": b"", "came": b""}

    def _lines(self, way: str, data: bytes) -> list[bytes]:
        *lines, self._rest[way] = (self._rest[way] + data).split(b"\n")
        return [line.strip() for line in lines]

    def sent(self, data: bytes) -> None:
        """Bytes for the loop."""
        with self._lock:
            for line in self._lines("sent", data):
                if (found := _SENT.fullmatch(line)) and found[2] not in _WAITS:
                    self._open.add(found[1])

    def came(self, data: bytes) -> None:
        """Bytes from the loop."""
        with self._lock:
            for line in self._lines("came", data):
                self._begun = self._begun or line.startswith(b"HV1 ")
                if found := _CAME.fullmatch(line):
                    self._open.discard(found[1])
            self._lock.notify_all()

    def wait_for_rest(self, seconds: float) -> None:
        """Wait until no reply is there in part."""
        with self._lock:
            self._lock.wait_for(lambda: not _COMES.match(self._rest["came"]), seconds)

    @property
    def idle(self) -> bool:
        """Whether every request has its reply, or only waits."""
        with self._lock:
            return self._begun and not self._open and not any(self._rest.values())
