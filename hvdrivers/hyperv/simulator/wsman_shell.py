"""Shells and the processes in them: what a WinRM command shell does with a real PowerShell."""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Protocol
from uuid import uuid4

_COMMAND_LINE_LIMIT = 8191
"""Characters that cmd.exe takes."""
_ENGINES = frozenset({"powershell", "powershell.exe", "pwsh", "pwsh.exe"})
_BUFFER_LIMIT = 64 << 20


class Host(Protocol):
    """What a server needs to know of the simulated host (see the package)."""

    def environment(self) -> Mapping[str, str]:
        """Variables for every PowerShell process."""

    def prelude(self) -> str:
        """PowerShell text in front of each command's own."""

    @property
    def up(self) -> bool:
        """Whether it answers anybody."""

    def on_down(self, told: Callable[[], None]) -> None:
        """Have a function called when it goes down."""


class BareHost:
    """A host without Hyper-V: the engine as it is, for tests of the wire."""

    def environment(self) -> Mapping[str, str]:
        """Nothing beside the usual."""
        return {}

    def prelude(self) -> str:
        """Nothing."""
        return ""

    up = True

    def on_down(self, told: Callable[[], None]) -> None:
        """It never does."""


ENGINE_HINT: Final = (
    "install PowerShell 7, for instance by unpacking powershell-VERSION-linux-x64.tar.gz of"
    " https://github.com/PowerShell/PowerShell/releases; then put its program pwsh on the PATH, or"
    " name it in HVDRIVERS_PWSH"
)


class NoEngine(RuntimeError):
    """There is no PowerShell engine on this machine."""


def find_engine() -> str:
    """The PowerShell engine: ``HVDRIVERS_PWSH``, else ``pwsh`` on PATH, else the one that a
    checkout of the project has beside it.

    Raises:
        NoEngine: none is there.
    """
    named = os.environ.get("HVDRIVERS_PWSH")
    if named:
        if shutil.which(named) is None:
            raise NoEngine(f"HVDRIVERS_PWSH names {named!r}: there is no such program")
        return named
    found = shutil.which("pwsh")
    if found:
        return found
    checkout = Path(__file__).resolve().parents[3]
    beside = checkout.parent / "shared" / "tools" / "pwsh" / "pwsh"
    if beside.exists():
        return str(beside)
    raise NoEngine("there is no PowerShell on this machine")


class Output:
    """What a command has written and nobody has taken so far, and how it ended."""

    def __init__(self) -> None:
        self.id = str(uuid4()).upper()
        self.condition = threading.Condition()
        self.exit_code: int | None = None
        self._streams: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    def came(self, name: str, data: bytes) -> None:
        """It has written this."""
        with self.condition:
            if len(self._streams[name]) < _BUFFER_LIMIT:
                self._streams[name] += data
            self.condition.notify_all()

    def ended(self, code: int) -> None:
        """It writes no more."""
        with self.condition:
            self.exit_code = code
            self.condition.notify_all()

    def wait(self, timeout: float) -> bool:
        """Whether there is output, or the end, within ``timeout`` seconds."""
        with self.condition:
            return self.condition.wait_for(
                lambda: self.exit_code is not None or any(self._streams.values()), timeout
            )

    def take(self, limit: int) -> tuple[dict[str, bytes], int | None]:
        """Output so far, at most ``limit`` bytes, and the exit code once all of it was taken."""
        with self.condition:
            taken: dict[str, bytes] = {}
            for name, data in self._streams.items():
                part = bytes(data[:limit])
                del data[: len(part)]
                limit -= len(part)
                if part:
                    taken[name] = part
            done = self.exit_code is not None and not any(self._streams.values())
            return taken, self.exit_code if done else None


class Command(Output):
    """One process and its streams."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        super().__init__()
        self._open = 2
        self._input = threading.Lock()
        self._process = subprocess.Popen(  # noqa: S603 - the engine
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._pump, args=(name, stream), daemon=True)
            for name, stream in (
                ("stdout", self._process.stdout),
                ("stderr", self._process.stderr),
            )
        ]
        for thread in self._threads:
            thread.start()

    def _pump(self, name: str, stream: IO[bytes] | None) -> None:
        assert stream is not None  # noqa: S101 - it was asked for
        while data := os.read(stream.fileno(), 1 << 16):
            self.came(name, data)
        with self.condition:
            self._open -= 1
            last = self._open == 0
        if last:
            code = self._process.wait()
            self.ended(code if code >= 0 else 1)

    def write(self, data: bytes, *, end: bool) -> None:
        """To standard input; a process that does not read any more loses it."""
        with self._input:
            stream = self._process.stdin
            if stream is None or stream.closed:
                return
            with suppress(BrokenPipeError, OSError):
                stream.write(data)
                stream.flush()
            if end:
                with suppress(BrokenPipeError, OSError):
                    stream.close()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def kill(self) -> None:
        """End the process and what it has started, and wait for it."""
        # the number of a process that was waited for may be another's by now
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for thread in self._threads:
            thread.join(10)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


class Refused:
    """A command that cmd.exe itself refuses, with its own words."""

    def __init__(self, text: str) -> None:
        self.id = str(uuid4()).upper()
        self._text: bytes = text.encode()

    def write(self, data: bytes, *, end: bool) -> None:
        """Nobody reads it."""

    def wait(self, timeout: float) -> bool:
        """It has ended."""
        return True

    def take(self, limit: int) -> tuple[dict[str, bytes], int | None]:
        """The words, and 1."""
        text, self._text = self._text, b""
        return ({"stderr": text} if text else {}), 1

    def kill(self) -> None:
        """Nothing runs."""


class AnyCommand(Protocol):
    """A command of a shell."""

    id: str

    def write(self, data: bytes, *, end: bool) -> None:
        """To its standard input."""

    def wait(self, timeout: float) -> bool:
        """Whether there is output, or the end, within ``timeout`` seconds."""

    def take(self, limit: int) -> tuple[dict[str, bytes], int | None]:
        """Output so far, and the exit code once all of it was taken."""

    def kill(self) -> None:
        """End it."""


Start = Callable[[list[str], Mapping[str, str]], AnyCommand]
"""Starts an engine with arguments and an environment."""


def start_process(arguments: list[str], environment: Mapping[str, str]) -> AnyCommand:
    """A process of its own."""
    return Command([find_engine(), *arguments], environment)


class Shell:
    """One shell of one user.

    Args:
        start: starts the engines of its commands.
    """

    def __init__(
        self,
        host: Host,
        environment: Mapping[str, str],
        *,
        owner: str,
        idle_timeout: float,
        start: Start = start_process,
    ) -> None:
        self.id = str(uuid4()).upper()
        self.owner = owner
        self.idle_timeout = idle_timeout
        self.used = time.monotonic()
        self.made = time.monotonic()
        self.commands: dict[str, AnyCommand] = {}
        self.lock = threading.Lock()
        self.dead = False
        self._host = host
        self._environment = dict(environment)
        self._start_engine = start

    def run(self, command: str, arguments: list[str], *, skip_cmd: bool) -> AnyCommand:
        """Start a command."""
        line = " ".join([command, *arguments])
        started: AnyCommand
        if not skip_cmd and len(line) > _COMMAND_LINE_LIMIT:
            started = Refused("The command line is too long.\r\n")
        else:
            started = self._start(line, arguments)
        with self.lock:
            dead = self.dead
            self.commands[started.id] = started
        if dead:
            started.kill()
        return started

    def _start(self, line: str, arguments: list[str]) -> AnyCommand:
        try:
            words = shlex.split(line.replace("\\", "\\\\"))
        except ValueError:
            words = line.split()
        program = words[0].rpartition("\\")[2].lower() if words else ""
        if program not in _ENGINES:
            return Refused(
                f"'{words[0] if words else ''}' is not recognized as an internal or external"
                " command,\r\noperable program or batch file.\r\n"
            )
        return self._start_engine(
            with_prelude(words[1:], self._host.prelude()),
            process_environment(self._host, self._environment),
        )

    def kill(self) -> None:
        """The shell and its processes die."""
        with self.lock:
            self.dead = True
            commands = list(self.commands.values())
        for command in commands:
            command.kill()


def process_environment(host: Host, extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of an engine process: no more of this process's own than it needs."""
    kept = ("PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "LD_LIBRARY_PATH", "HVDRIVERS_PWSH")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PSHOST_CRLF": "1",
        # A process lives for seconds: what it would compile a second time is not worth it.
        "DOTNET_TieredCompilation": "0",
        # Nobody waits for its pauses, and a second thread for them costs more than it saves.
        "DOTNET_gcConcurrent": "0",
        **host.environment(),
        **extra,
    }


def with_prelude(arguments: list[str], prelude: str) -> list[str]:
    """The arguments of a PowerShell process, its text with ``prelude`` in front."""
    if not prelude:
        return arguments
    changed = list(arguments)
    for place, word in enumerate(arguments[:-1]):
        name = word.lstrip("-/").lower()
        if (len(name) > 0 and "encodedcommand".startswith(name)) or name == "ec":
            with suppress(binascii.Error, UnicodeDecodeError):
                text = base64.b64decode(arguments[place + 1], validate=True).decode("utf-16-le")
                changed[place + 1] = base64.b64encode(
                    f"{prelude}\n{text}".encode("utf-16-le")
                ).decode()
            return changed
        if re.fullmatch(r"c(o(m(m(a(nd?)?)?)?)?)?", name):
            if arguments[place + 1] != "-":
                changed[place + 1 :] = [f"{prelude}\n{' '.join(arguments[place + 1 :])}"]
            return changed
    return changed
