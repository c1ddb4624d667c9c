"""A libvirt host of our own: libvirtd and virtlogd with private folders, beside any real one.

::

    with LibvirtPeer() as peer:
        connection = libvirt.open(peer.uri)
        before = peer.residue()
        ...
        assert not changed(before, peer.residue())

As root the daemon is a ``qemu:///system`` in its own mount namespace: it believes in
``/var/lib/libvirt`` and ``/etc/libvirt``, which are folders below ``peer.root``. Taps, bridges and
Open vSwitch are the machine's. As another user it is a ``qemu:///session`` with its own XDG
folders, without taps. Several peers may run at once; each is a host with an own UUID and own port
ranges, so machines can migrate between two of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from hvdrivers.testing.guestimage import cache_folder
from tests.peers import observer
from tests.peers.janitor import Janitor
from tests.peers.place import Place
from tests.peers.precondition import PreconditionMissing
from tests.peers.reaper import Daemon
from tests.peers.waiting import wait_until

_BINDS = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
    "run": "/run/libvirt",
    "swtpm": "/var/lib/swtpm-localca",
    # without the system bus: systemd-machined would see two machines named qemu-1-...
    "empty": "/run/dbus",
}
_SESSION = {
    "etc": "config/libvirt",
    "lib": "config/libvirt/qemu/lib",
    "cache": "cache/libvirt",
    "log": "cache/libvirt/qemu/log",
    "run": "run/libvirt",
    "images": "data/libvirt/images",
}
POOL = "default"


class LibvirtPeer:
    """One private libvirt host. A context manager; `close` ends everything that runs on it.

    Attributes:
        root: the folder that holds all of its state; see `path`.
        uri: what a driver is given.
        privileged: whether it is a system daemon (root), with taps and bridges.
        host_uuid: the host's UUID in its capabilities.
        address: of a host with a network of its own; None: it has that of the machine.

    Args:
        network: it has network devices of its own, and a wire to this machine: two such hosts may
            have bridges and taps of the same names.
        qemu: further settings of ``qemu.conf``.
    """

    def __init__(
        self,
        *,
        privileged: bool | None = None,
        network: bool = False,
        qemu: Mapping[str, object] | None = None,
    ) -> None:
        self.address: str | None = None
        self._qemu = qemu or {}
        self._network = network
        self.privileged = os.geteuid() == 0 if privileged is None else privileged
        self.host_uuid = str(uuid.uuid4())
        self._daemons: dict[str, Daemon] = {}
        self._ended: list[Daemon] = []
        self.programs = _find_programs()
        # short, because the path of a unix socket may have 107 characters
        self.root = Path(tempfile.mkdtemp(prefix="hvp-", dir="/tmp"))
        try:
            self._make_folders()
            self._write_configuration()
            self._copy_probes(to_host=True)
            self._janitor = self._start_janitor()
            if network:
                self._make_wire()
            self.start()
            self._copy_probes(to_host=False)
            self._make_pool()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- where things are ---------------------------------------------------------------------

    @property
    def socket(self) -> Path:
        return self.folder("run") / "libvirt-sock"

    @property
    def uri(self) -> str:
        mode = "system" if self.privileged else "session"
        return f"qemu+unix:///{mode}?socket={self.socket}"

    @property
    def host_root(self) -> Path:
        """Where the tests see the host's file system as the daemon does."""
        return Path(f"/proc/{self._janitor.pid}/root")

    @property
    def images(self) -> str:
        """The folder of the pool ``default``, as the daemon names it."""
        if self.privileged:
            return "/var/lib/libvirt/images"
        return str(self.root / _SESSION["images"])

    def folder(self, name: str) -> Path:
        """One of ``etc``, ``lib``, ``cache``, ``log``, ``run``, seen from outside."""
        return self.root / (name if self.privileged else _SESSION[name])

    def path(self, inside: str | Path) -> Path:
        """Where a path that the daemon names (of a volume, a log) is found by the tests."""
        path = Path(inside)
        if self.privileged:
            for name, target in _BINDS.items():
                if path.is_relative_to(target):
                    return self.root / name / path.relative_to(target)
        return path

    def environment(self) -> dict[str, str]:
        """What the daemon and its clients get."""
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "USER") if name in os.environ}
        keep |= {"LC_ALL": "C", "PATH": f"{keep.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
        if not self.privileged:
            for name, folder in {
                "XDG_RUNTIME_DIR": "run",
                "XDG_CONFIG_HOME": "config",
                "XDG_CACHE_HOME": "cache",
                "XDG_DATA_HOME": "data",
            }.items():
                keep[name] = str(self.root / folder)
        return keep

    # -- life of the daemon -------------------------------------------------------------------

    def start(self, *, timeout: float = 60) -> None:
        """Start the daemons and wait until the host answers; machines that run are kept."""
        for name in ("virtlogd", "libvirtd"):
            if self._running(name):
                continue
            log = (self.folder("log") / f"{name}.log").open("ab")
            command = [
                *(self.programs[name], "--config", self._inside_etc(f"{name}.conf")),
                *("--pid-file", self._inside_run(f"{name}.pid")),
            ]
            if name == "libvirtd" and self.privileged:
                command.append("--listen")
            if name in self._daemons:
                self._ended.append(self._daemons[name])
            with log:
                self._daemons[name] = Daemon(
                    self._janitor.inside(*command), log=log, env=self.environment()
                )
        wait_until(
            lambda: not self._running("libvirtd") or self._answer(),
            timeout=timeout,
            what=f"libvirtd listens on {self.socket}",
        )
        if not self._running("libvirtd"):
            raise PreconditionMissing(f"libvirtd ended at once: {self.log()[-400:]}")
        self.virsh("version", timeout=timeout)

    @contextmanager
    def tls(self, pki: Path) -> Iterator[int]:
        """The host takes connections over TLS in the block, at the port that it gives. System
        daemons only.

        Args:
            pki: a folder with ``cacert.pem``, ``servercert.pem`` and ``serverkey.pem``; they are
                read anew by ``restart()``.
        """
        file = self.folder("etc") / "libvirtd.conf"
        before = file.read_text()
        settings = {
            "listen_tls": 1,
            "tls_port": str(self._ports.tls),
            "ca_file": str(pki / "cacert.pem"),
            "cert_file": str(pki / "servercert.pem"),
            "key_file": str(pki / "serverkey.pem"),
        }
        lines = [each for each in before.splitlines() if not each.startswith("listen_tls ")]
        lines += [f"{key} = {_setting(value)}" for key, value in settings.items()]
        file.write_text("\n".join(lines) + "\n")
        self.restart()
        try:
            yield self._ports.tls
        finally:
            file.write_text(before)
            self.restart()

    def stop(self) -> None:
        """End libvirtd as a service manager does; machines go on running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End libvirtd as a crash does; `start` finds the machines again."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def sigstop(self) -> None:
        """Let the host fall silent: connections stay open, nothing answers."""
        os.kill(self.daemon_pid, signal.SIGSTOP)

    def sigcont(self) -> None:
        os.kill(self.daemon_pid, signal.SIGCONT)

    def kill_virtlogd(self) -> None:
        """End virtlogd as a crash does: without it no machine with a log starts."""
        if self._running("virtlogd"):
            os.kill(self._daemons["virtlogd"].pid, signal.SIGKILL)
            wait_until(lambda: not self._running("virtlogd"), timeout=30, what="virtlogd is gone")

    @contextmanager
    def small(self, folder: str, size: int) -> Iterator[None]:
        """A folder of the host (as the daemon names it) is an empty file system of ``size`` bytes
        in the block. System daemons only."""
        mount = ("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
        subprocess.run(self._janitor.inside(*mount), check=True)
        try:
            yield
        finally:
            subprocess.run(self._janitor.inside("umount", "--lazy", folder), check=True)

    def inside(self, *command: str, check: bool = True) -> None:
        """Run a command with the host's own view of the file system."""
        subprocess.run(self._janitor.inside(*command), check=check, capture_output=True)

    @property
    def daemon_pid(self) -> int:
        """Process id of libvirtd."""
        return self._daemons["libvirtd"].pid

    def close(self) -> None:
        """End everything and remove every trace. Idempotent."""
        if "_janitor" in self.__dict__:
            self._janitor.finish()
        for daemon in (*self._ended, *self._daemons.values()):
            daemon.close()
        shutil.rmtree(self.root, ignore_errors=True)
        for place in ("_ports", "_wire"):
            if place in self.__dict__:
                self.__dict__[place].close()

    # -- the independent observer -------------------------------------------------------------

    def virsh(self, *arguments: str, timeout: float = 60) -> str:
        """What virsh prints. Raises `observer.VirshError` with its message."""
        return observer.virsh(self.uri, *arguments, timeout=timeout, env=self.environment())

    def residue(self) -> set[str]:
        """Everything on the host that a driver could leave behind, one sentence each.

        Domains, volumes, pools, secrets, networks and their ports, filter bindings, files (also
        those that no pool lists), QEMU and swtpm processes, network devices of guests. Compare
        one set with another; the host itself contributes constant entries only.
        """
        return observer.residue(self)

    def processes(self) -> dict[int, list[str]]:
        """Command lines by process id, of all that runs on this host, daemons included."""
        return self._janitor.processes()

    def qemu_pid(self, domain: str) -> int:
        """The QEMU process of a running domain (by UUID), for tests that crash it."""
        for pid, command in self.processes().items():
            if "qemu" in command[0] and domain in command:
                return pid
        raise AssertionError(f"no QEMU process of {domain}")

    def log(self) -> str:
        """What libvirtd has complained of."""
        return (self.folder("log") / "libvirtd.log").read_text(errors="replace")

    def run_at_end(self, *command: str) -> None:
        """Have a command run when the peer ends, however it ends."""
        self._janitor.run_at_end(*command)

    # -- how it is made -----------------------------------------------------------------------

    def _make_folders(self) -> None:
        names = _BINDS if self.privileged else _SESSION
        for name in names:
            if name != "images":
                self.folder(name).mkdir(parents=True, exist_ok=True)
        self.path(self.images).mkdir(parents=True, exist_ok=True)
        filters = Path("/etc/libvirt/nwfilter")
        if self.privileged and os.access(filters, os.R_OK | os.X_OK):
            shutil.copytree(filters, self.folder("etc") / "nwfilter")

    def _start_janitor(self) -> Janitor:
        if not self.privileged:
            return Janitor(self.root)
        # the namespace can only cover folders that exist
        for target in ("/run/libvirt", "/var/cache/libvirt", "/var/log/libvirt"):
            Path(target).mkdir(parents=True, exist_ok=True)
        binds = {
            str(self.root / name): target
            for name, target in _BINDS.items()
            if Path(target).is_dir()
        }
        try:
            return Janitor(self.root, binds, network=self._network)
        except OSError as error:
            raise PreconditionMissing(f"a mount namespace: {error}") from error

    def _make_wire(self) -> None:
        """A pair of devices, one on either side, with addresses of a small network of their own."""
        self._wire = Place("wires", 256)
        network = f"10.213.{self._wire.number}"
        name = f"hvw{uuid.uuid4().hex[:8]}"
        here = (
            (
                "link",
                "add",
                name,
                "type",
                "veth",
                "peer",
                "hvwire",
                "netns",
                str(self._janitor.pid),
            ),
            ("addr", "add", f"{network}.1/30", "dev", name),
            ("link", "set", name, "up"),
        )
        for command in here:
            done = subprocess.run(["ip", *command], capture_output=True, text=True, check=False)
            if done.returncode:
                raise PreconditionMissing(f"a pair of network devices: {done.stderr.strip()}")
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "addr", "add", f"{network}.2/30", "dev", "hvwire")
        self.inside("ip", "link", "set", "hvwire", "up")
        self.address = f"{network}.2"

    def add_bridge(self, name: str) -> None:
        """A bridge among the host's own network devices."""
        self.inside("ip", "link", "add", name, "type", "bridge")
        self.inside("ip", "link", "set", name, "up")

    def _write_configuration(self) -> None:
        self._ports = _Ports()
        self.tcp_port = self._ports.tcp
        display, migration = self._ports.display, self._ports.migration
        settings: dict[str, dict[str, object]] = {
            "libvirtd.conf": {
                "host_uuid": self.host_uuid,
                "auth_unix_rw": "none",
                "auth_tcp": "none",
                "listen_tls": 0,
                "listen_tcp": int(self.privileged),
                "listen_addr": "127.0.0.1",
                "tcp_port": str(self.tcp_port),
                "log_outputs": "3:stderr",
            },
            "virtlogd.conf": {"log_outputs": "3:stderr"},
            "qemu.conf": {
                "security_driver": "none",
                "remote_display_port_min": display,
                "remote_display_port_max": display + 99,
                "migration_port_min": migration,
                "migration_port_max": migration + 49,
            },
        }
        if self.privileged:
            settings["qemu.conf"] |= {
                "user": "root",
                "group": "root",
                "swtpm_user": "root",
                "swtpm_group": "root",
                "remember_owner": 0,
                "namespaces": [],
            }
        settings["qemu.conf"] |= self._qemu
        for name, values in settings.items():
            lines = (f"{key} = {_setting(value)}\n" for key, value in values.items())
            (self.folder("etc") / name).write_text("".join(lines))

    def _copy_probes(self, *, to_host: bool) -> None:
        """Keep what libvirt learned about the QEMU binaries: asking them takes 7 seconds.

        libvirt itself checks that an entry still fits the programs and the machine.
        """
        here = self.folder("cache") / "qemu/capabilities"
        kept = cache_folder() / "libvirt-probes"
        source, target = (kept, here) if to_host else (here, kept)
        if not source.is_dir():
            return
        target.mkdir(parents=True, exist_ok=True)
        for entry in source.glob("*.xml"):
            new = target / entry.name
            if not new.exists() or new.stat().st_mtime < entry.stat().st_mtime:
                with tempfile.NamedTemporaryFile(dir=target, delete=False) as part:
                    part.write(entry.read_bytes())
                os.replace(part.name, new)

    def _make_pool(self) -> None:
        """Real hosts come with the pool ``default``; a daemon without systemd does not make it."""
        self.virsh("pool-define-as", POOL, "dir", "--target", self.images)
        self.virsh("pool-start", POOL)
        self.virsh("pool-autostart", POOL)

    @property
    def tcp_uri(self) -> str:
        """The same daemon over TCP (system daemons only): for proxies that cut or delay it."""
        return f"qemu+tcp://127.0.0.1:{self.tcp_port}/system"

    def _inside_etc(self, name: str) -> str:
        return f"/etc/libvirt/{name}" if self.privileged else str(self.folder("etc") / name)

    def _inside_run(self, name: str) -> str:
        return f"/run/libvirt/{name}" if self.privileged else str(self.folder("run") / name)

    def _running(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].running()

    def _answer(self) -> bool:
        """Whether both daemons take connections."""
        for each in (self.socket, self.socket.with_name("virtlogd-sock")):
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(str(each))
                except OSError:
                    return False
        return True

    def _end(self, number: signal.Signals) -> None:
        daemon = self._daemons["libvirtd"]
        daemon.send_signal(number)
        if number != signal.SIGKILL:
            daemon.send_signal(signal.SIGCONT)  # a stopped process does not notice a request
        daemon.wait(120)  # it gives what it is doing 30 s before it ends all the same


def _find_programs() -> dict[str, str]:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    packages = {
        "libvirtd": "libvirt-daemon-system",
        "virtlogd": "libvirt-daemon-system",
        "virsh": "libvirt-clients",
        "qemu-system-x86_64": "qemu-system-x86",
    }
    found = {name: shutil.which(name, path=path) for name in packages}
    for name, package in packages.items():
        if found[name] is None:
            raise PreconditionMissing(f"{name} (package {package}; run `make setup`)")
    return {name: program for name, program in found.items() if program}


def _setting(value: object) -> str:
    match value:
        case list():
            return f"[ {', '.join(_setting(item) for item in value)} ]"
        case int():
            return str(value)
        case _:
            return f'"{value}"'


_FIRST, _RANGE, _TCP = 20000, 200, 150


def _free_place() -> Place:
    """A place whose port of the daemon is free: a process that was killed has let go of its place,
    and its daemon may still be about to end."""
    taken: list[Place] = []
    try:
        while True:
            place = Place("ports", 60)
            with socket.socket() as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    tried.bind(("127.0.0.1", _FIRST + _RANGE * place.number + _TCP))
                except OSError:
                    taken.append(place)
                else:
                    return place
    finally:
        for each in taken:
            each.close()


class _Ports:
    """Ports of one peer: a range of 200 that no other peer on this machine has at the same time.

    libvirt looks for a free port in its range, and two daemons that look at the same moment find
    the same: QEMU then fails with "Address already in use".
    """

    def __init__(self) -> None:
        self._place = _free_place()
        self.display = _FIRST + _RANGE * self._place.number
        """The first of 100 for displays."""
        self.migration = self.display + 100
        """The first of 50."""
        self.tcp = self.display + _TCP
        self.tls = self.display + 151
        """The daemon's own."""

    def close(self) -> None:
        self._place.close()
