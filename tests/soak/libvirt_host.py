"""A private libvirt daemon as a host of the soak."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import libvirt

from hvdrivers import connect
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.states import is_starting
from hvdrivers.libvirt.xml import parse
from hvdrivers.models.image import FileImage, ImageFormat, ImageRef
from hvdrivers.models.migration import Destination
from hvdrivers.models.vif import UserVif, Vif
from hvdrivers.models.volume import PoolVolume
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until
from tests.soak.hosts import Fault, SoakHost
from tests.soak.proxy import Proxy

Mark = Callable[[object], None]

_SAVED = "/var/lib/libvirt/qemu/save"
_ROOM = 128 << 20
"""Bytes for saved memory: all machines that a host of the soak has, several times."""
_POOLS = "/var/lib/libvirt/hvdrivers"
_ROOM_FOR_DISKS = 384 << 20
"""Bytes for the volumes and disks that a host of the soak has, several times."""
_OF_NOBODY = re.compile(
    r"hv-image-|hv-deleting-|proxy|^tap |^file lib/qemu/(channel/target/)?domain-\d+-"
)
"""What is no residue: the cached image; the mark of a deletion that was cut, which the first
deletion ten minutes later removes; the proxy's socket; taps, which are others' here,
as no machine of the soak has a NIC; and the folder of a running machine, which libvirtd makes for
each start and forgets where it is killed before it has noted the start. No remote call removes
that."""


class LibvirtSoakHost(SoakHost):
    """A daemon with a proxy in front of it; machines have no operating system, so that they start
    in half a second and write nothing."""

    driver = "libvirt"
    forgets_crashes = True  # at the daemon's next start
    runs_to_the_end = True  # VIR_DOMAIN_SHUTDOWN

    def __init__(self, index: int) -> None:
        self.peer = LibvirtPeer()
        cpus = sorted(os.sched_getaffinity(0))
        self._aside = str(cpus[0]) if index % 2 and len(cpus) > 1 else None
        """A CPU that every second host sets aside."""
        self._socket = self.peer.root / "proxy"
        self.proxy = Proxy(self._to_daemon, self._socket)
        self._image = self.peer.root / "empty.raw"
        self._image.write_bytes(bytes(1 << 20))
        self._ending = ExitStack()
        if self.peer.privileged:
            self._ending.enter_context(self.peer.small(_SAVED, _ROOM))
        self._small_pools = self.peer.privileged and _direct_io_in_memory()
        if self._small_pools:
            self.peer.inside("mkdir", "--parents", _POOLS)
            self._ending.enter_context(self.peer.small(_POOLS, _ROOM_FOR_DISKS))

    def _to_daemon(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.connect(str(self.peer.socket))
        except OSError:
            made.close()
            raise
        return made

    def options(self) -> dict[str, Any]:
        mode = "system" if self.peer.privileged else "session"
        return {
            "uri": f"qemu+unix:///{mode}?socket={self._socket}",
            "virt_type": "qemu",
            "dedicated_cpus": self._aside,
            "host_root": str(self.peer.host_root),
        }

    def destination(self) -> Destination:
        return Destination(host=self.options()["uri"], address="127.0.0.1")

    def direct(self) -> ComputeDriver:
        return connect("libvirt", **(self.options() | {"uri": self.peer.uri}))

    def image(self) -> ImageRef:
        return FileImage(path=self._image, format=ImageFormat.RAW)

    def vif(self, vif_id: str) -> Vif:
        return UserVif(id=vif_id)

    # -- faults -----------------------------------------------------------------------------------

    def faults(self) -> Sequence[Fault]:
        def delay(rng: random.Random, _: Mark) -> None:
            self.proxy.delay = rng.choice((0.02, 0.1))

        def swallow(_rng: random.Random, _: Mark) -> None:
            self.proxy.swallow = True

        def refuse(_rng: random.Random, _: Mark) -> None:
            self.proxy.refuse = True
            self.proxy.cut()

        def restart(rng: random.Random, _: Mark) -> None:
            (self.peer.kill if rng.random() < 0.5 else self.peer.stop)()

        def fall_silent(_rng: random.Random, _: Mark) -> None:
            self.peer.sigstop()

        proxied = [
            Fault("connections cut", lambda _rng, _: self.proxy.cut(), self.proxy.heal, 0.1),
            Fault("calls delayed", delay, self.proxy.heal),
            Fault("calls swallowed", swallow, self.proxy.heal),
            Fault("connections refused", refuse, self.proxy.heal),
        ]
        found = [
            *proxied,
            Fault("daemon ends", restart, self.peer.start, 2.0),
            Fault("daemon stands still", fall_silent, self.peer.sigcont),
            Fault("log daemon dies", lambda _rng, _: self.peer.kill_virtlogd(), self.peer.start),
            Fault("guest dies", self._kill_guest, lambda: None, 0.1),
        ]
        if self.peer.privileged:
            found.append(self._full("no room to suspend", _SAVED))
        if self._small_pools:
            found.append(self._full("pools full", _POOLS))
        return found

    def _full(self, name: str, folder: str) -> Fault:
        ballast = f"{folder}/ballast"
        fill = ("dd", "if=/dev/zero", f"of={ballast}", "bs=64k")
        return Fault(
            name,
            # dd ends with an error, as it does when the file system is full
            lambda _rng, _: self.peer.inside(*fill, check=False),
            lambda: self.peer.inside("rm", "--force", ballast),
        )

    def _kill_guest(self, rng: random.Random, mark: Mark) -> None:
        machines = {
            pid: command
            for pid, command in self.peer.processes().items()
            if "qemu-system" in command[0] and "-uuid" in command
        }
        if not machines:
            return
        pid = rng.choice(sorted(machines))
        mark(machines[pid][machines[pid].index("-uuid") + 1])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    # -- the observer -----------------------------------------------------------------------------

    def conflicts(self) -> list[str]:
        """CPUs that two machines have to themselves. One that runs keeps the CPUs that it has, so
        two that ran before the look at their CPUs, and run after it, had them at the same time."""
        if not self._aside:
            return []
        owners: dict[str, list[str]] = {}
        try:
            with libvirt.open(self.peer.uri) as raw:
                before = {each.UUIDString(): each.ID() for each in raw.listAllDomains(1)}
                for uuid in before:
                    xml = parse(raw.lookupByUUIDString(uuid).XMLDesc(0))
                    for pin in xml.iterfind("cputune/vcpupin"):
                        if (cpu := pin.get("cpuset") or "") == self._aside:
                            owners.setdefault(cpu, []).append(uuid)
                after = {each.UUIDString(): each.ID() for each in raw.listAllDomains(1)}
        except libvirt.libvirtError:
            return []
        found = []
        for cpu, uuids in owners.items():
            ran = [each for each in uuids if before[each] == after.get(each)]
            if len(ran) > 1:
                found.append(f"CPU {cpu} belongs to {sorted(ran)} at the same time")
        return found

    def residue(self) -> set[str]:
        return {each for each in self.peer.residue() if not _OF_NOBODY.search(each)}

    def _path(self, volume: PoolVolume) -> Path:
        with libvirt.open(self.peer.uri) as raw:
            pool = raw.storagePoolLookupByName(volume.data.pool)
            path: str = pool.storageVolLookupByName(volume.data.name).path()
        # as the daemon sees it: what is mounted for it is not mounted here
        return Path(f"/proc/{self.peer.daemon_pid}/root{path}")

    def write(self, volume: PoolVolume, data: bytes) -> None:
        with self._path(volume).open("r+b") as file:
            file.write(data)

    def read(self, volume: PoolVolume, length: int) -> bytes:
        with self._path(volume).open("rb") as file:
            return file.read(length)

    def healthy(self, driver: ComputeDriver) -> None:
        for pid, command in self.peer.processes().items():
            if "qemu-system" in command[0]:  # one that was stopped in its start holds the daemon up
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self.peer.start()
        wait_until(lambda: driver.ping() is None, timeout=60, what="the host answers")
        if self._aside is not None:
            # a client that was killed has left its turn at the host's CPUs: the next one that wants
            # a CPU takes over
            fields = {name: value for name, value in self.options().items() if name != "uri"}
            config = LibvirtConfig(uri=self.peer.uri, **fields)
            with (
                closing(LibvirtDriver.connect(config)) as late,
                late.turns.take_host(Deadline(120)),
            ):
                pass
        try:
            wait_until(self._quiet, timeout=120, what="no machine is being started any more")
        except AssertionError:
            # A daemon that was killed in the middle of a start waits for that QEMU for ever, also
            # when it is started again. Whoever runs such a host does what the driver's hint says.
            with libvirt.open(self.peer.uri) as raw:
                left = [each.name() for each in raw.listAllDomains() if is_starting(*each.state())]
            self.peer.kill()
            for name in left:
                for file in self.peer.folder("run").rglob(f"{name}.xml"):
                    file.unlink()
            self.peer.start()
            try:
                wait_until(self._quiet, timeout=120, what="no machine is being started any more")
            except AssertionError as error:
                raise AssertionError(f"{error}: {self._starting()}") from None

    def _quiet(self) -> bool:
        return not self._starting()

    def _starting(self) -> list[str]:
        """What the daemon says of the machines that it starts, with QEMU's process of each."""
        processes = self.peer.processes().items()
        with libvirt.open(self.peer.uri) as raw:
            return [
                f"{each.UUIDString()} is {at}, "
                + ("defined" if each.isPersistent() else "not defined")
                + f", processes {[pid for pid, words in processes if each.UUIDString() in words]}"
                for each in raw.listAllDomains()
                if is_starting(*(at := each.state()))
            ]

    def close(self) -> None:
        self.proxy.close()
        self._ending.close()
        self.peer.close()


def _direct_io_in_memory() -> bool:
    """Whether disks can lie on a tmpfs: QEMU opens them with O_DIRECT (Linux 6.6 and later)."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return False
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.close(os.open(file.name, os.O_RDWR | os.O_DIRECT))
        except OSError:
            return False
    return True
