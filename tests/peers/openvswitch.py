"""Open vSwitch without its kernel module: the machine's own if it runs, else one of ours.

libvirt's daemon calls ``ovs-vsctl``, which talks to ``/var/run/openvswitch/db.sock``, and the
userspace datapath exists once per network namespace. So there can only be one Open vSwitch: the
test sessions of a machine share it, and the last one that leaves ends it.

Run as a script (by a janitor), this file ends an Open vSwitch that nobody uses any more; therefore
it imports nothing of ours before it knows that it was not run as a script.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.peers.dhcp import DhcpServer

_RUN = Path("/var/run/openvswitch")
_OURS = Path("/run/hvdrivers-openvswitch")
_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def vsctl(*arguments: str) -> str:
    """What ``ovs-vsctl`` prints."""
    done = subprocess.run(
        ["ovs-vsctl", "--timeout=20", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": _PATH},
    )
    if done.returncode:
        raise OSError(done.stderr.strip())
    return done.stdout.strip()


class OvsBridge:
    """A bridge (``datapath_type=netdev``) with a name of its own, and DHCP for the guests on it.

    A context manager; the bridge goes when the peer ends, and Open vSwitch too if it is ours.

    Attributes:
        name: of the bridge, and of the device by which the host is on it.
    """

    def __init__(self, *, dhcp: bool = True) -> None:
        from tests.peers.dhcp import DhcpServer, run_ip
        from tests.peers.janitor import Janitor
        from tests.peers.precondition import PreconditionMissing

        if os.geteuid() != 0:
            raise PreconditionMissing("root, for Open vSwitch")
        for program in ("ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovsdb-tool"):
            if shutil.which(program, path=_PATH) is None:
                raise PreconditionMissing(f"{program} (package openvswitch-switch)")
        self.name = f"hvovs{uuid.uuid4().hex[:8]}"
        self._dhcp: DhcpServer | None = None
        # Opened before the janitor's pipe: when the test run dies, descriptors close in their
        # order, and the janitor must find the lock free.
        self._lock = _open_lock()
        self.root = Path(tempfile.mkdtemp(prefix="hvo-", dir="/tmp"))
        self._janitor = Janitor(self.root)
        try:
            self._janitor.run_at_end(sys.executable, "-I", __file__)
            try:
                with _one_at_a_time():
                    if not _answers():
                        _start()
            except OSError as error:
                raise PreconditionMissing(f"a working Open vSwitch: {error}") from error
            self._janitor.run_at_end(
                "ovs-vsctl", "--timeout=10", "--if-exists", "del-br", self.name
            )
            bridge = ("set", "bridge", self.name, "datapath_type=netdev")
            vsctl("add-br", self.name, "--", *bridge)
            run_ip("link", "set", self.name, "up").check_returncode()
            if dhcp:
                self._dhcp = DhcpServer(self.name, self.root)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> OvsBridge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str | None:
        """The host's own address on it, or None without DHCP."""
        return self._dhcp.address if self._dhcp else None

    def ports(self) -> set[str]:
        """Names of the ports, without the host's own."""
        return set(vsctl("list-ports", self.name).split())

    def interface(self, port: str, column: str) -> str:
        """One column of a port's interface, such as ``external_ids`` or ``link_state``."""
        return vsctl("get", "interface", port, column)

    def close(self) -> None:
        """Remove the bridge. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._janitor.finish()
        if self._dhcp:
            self._dhcp.wait()


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Nobody else starts or ends Open vSwitch meanwhile.

    A lock of its own: a session that asked for the other lock alone would wait until each session
    that uses Open vSwitch has ended.
    """
    descriptor = os.open(f"{_OURS}.start", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_lock() -> int:
    """Say that a session uses Open vSwitch, until the descriptor is closed."""
    descriptor = os.open(f"{_OURS}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _answers() -> bool:
    try:
        vsctl("--no-wait", "show")
    except OSError:
        return False
    return True


def _start() -> None:
    """Start both daemons, their state in a folder of ours, their socket where libvirt looks."""
    environment = {**os.environ, "PATH": _PATH}
    _OURS.mkdir(parents=True, exist_ok=True)
    _RUN.mkdir(parents=True, exist_ok=True)
    database = _OURS / "conf.db"
    database.unlink(missing_ok=True)
    (_RUN / "db.sock").unlink(missing_ok=True)

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            raise OSError(f"{program}: {done.stderr.strip()[-300:]}")

    def daemon(program: str, *arguments: str) -> None:
        run(
            program,
            *arguments,
            *("--detach", f"--pidfile={_OURS}/{program}.pid", f"--log-file={_OURS}/{program}.log"),
            *("-vconsole:off", f"--unixctl={_OURS}/{program}.ctl"),
        )

    run("ovsdb-tool", "create", str(database), str(_SCHEMA))
    daemon("ovsdb-server", str(database), f"--remote=punix:{_RUN}/db.sock")
    vsctl("--no-wait", "init")
    daemon("ovs-vswitchd", f"unix:{_RUN}/db.sock", "--disable-system")


def _leave() -> None:
    """End our Open vSwitch unless another test session still uses it."""
    with _one_at_a_time():
        descriptor = os.open(f"{_OURS}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        _end()


def _end() -> None:
    for program in ("ovs-vswitchd", "ovsdb-server"):
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int((_OURS / f"{program}.pid").read_text())
            if Path(f"/proc/{pid}/comm").read_text().strip() == program[:15]:
                # not asked first: the datapath lives in the process, and a request takes 4 s
                os.kill(pid, signal.SIGKILL)
    if _OURS.is_dir():
        (_RUN / "db.sock").unlink(missing_ok=True)
        shutil.rmtree(_OURS)


if __name__ == "__main__":
    _leave()
