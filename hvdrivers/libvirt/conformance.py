"""A libvirt host as a target of the conformance suite: real QEMU guests, real cuts.

::

    hvdrivers conformance run libvirt --option uri=qemu:///system --option ovs_bridge=br-int

Everything that the suite does beside the driver goes over a libvirt connection of its own, so the
host may be another machine; only what cuts connections needs them to be sockets of this process.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import libvirt

from hvdrivers.conformance import imagefiles
from hvdrivers.conformance.target import FaultSeam, Observer, PreconditionMissing
from hvdrivers.contract.driver import ComputeDriver, Driver
from hvdrivers.guard import guarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.connection import Connection
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.observing import LibvirtObserver, RawHost
from hvdrivers.libvirt.serialguest import SerialGuest, in_time
from hvdrivers.libvirt.xml import el, text
from hvdrivers.models.image import FileImage, ImageFormat, ImageRef
from hvdrivers.models.vif import BridgeVif, NetworkVif, OvsVif, Vif
from hvdrivers.testing.guestimage import GuestImageUnavailable, build_guest_image

_STREAM = frozenset({"Stream.send", "Stream.sendHole", "Stream.recv", "Stream.recvAll"})
"""Parts of one transfer: how many there are is the size of an image."""
_MAKING = frozenset({"StoragePool.createXML", "Connect.createXML", "Connect.defineXMLFlags"})
_LEAST_MADE = 4
"""Calls of these that a spawn makes at least: for its console log, its disk, the machine twice."""
_SLOTS = 6
"""More than the suite plugs at once. An emulated guest starts half a second faster than with the
driver's usual number of PCI Express ports."""
_Send = Callable[[], Any]


class LibvirtSeam(FaultSeam):
    """The driver's own seam: the sockets below its connection are really shut."""

    deadline = 0.8

    def __init__(self, connection: Connection, cut: Callable[[Any], None]) -> None:
        self._connection = connection
        self._cut = cut
        self._lock = threading.Lock()

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        names: list[str] = []

        def note(_number: int, name: str, send: _Send) -> Any:
            names.append(name)
            return send()

        with self._through(note):
            yield names

    @contextmanager
    def cut(self, call: int, kind: str) -> Iterator[None]:
        faults = {
            "before": self._before,
            "after": self._after,
            "timeout": self._hang,
            # libvirt's session is its connection, which the daemon closes
            "expired": self._before,
        }

        def at(number: int, _name: str, send: _Send) -> Any:
            return faults[kind](send) if number == call else send()

        with self._through(at):
            yield

    @contextmanager
    def _through(self, at: Callable[[int, str, _Send], Any]) -> Iterator[None]:
        numbers = itertools.count()

        def seam(name: str, send: _Send) -> Any:
            if name in _STREAM:
                return send()
            with self._lock:
                number = next(numbers)
            return at(number, name, send)

        usual, self._connection.seam = self._connection.seam, seam
        try:
            yield
        finally:
            self._connection.seam = usual

    def _dead(self) -> Any:
        connect = self._connection.remote._object
        self._cut(connect)
        return connect

    def _before(self, send: _Send) -> Any:
        self._dead()
        return send()

    def _after(self, send: _Send) -> Any:
        with suppress(libvirt.libvirtError):  # the reply that is lost may have been an error
            send()
        return self._dead().getLibVersion()  # raises what libvirt raises on a lost connection

    def _hang(self, send: _Send) -> Any:
        time.sleep(self.deadline + 0.1)
        return send()


class LibvirtTarget(SerialGuest):
    """One libvirt daemon.

    Args:
        driver: the class to test.
        image: None: a tiny Linux, made from packages of this machine.
        bridge: a Linux bridge of the host for NICs, or
        ovs_bridge: a bridge of Open vSwitch, or
        network: a network of libvirt's.
        options: fields of LibvirtConfig; ``hotplug_slots`` is 6 if it is not among them.
    """

    name = "libvirt"
    time_scale = 2.0
    """Emulated guests share few cores."""

    def __init__(
        self,
        driver: type[LibvirtDriver] = LibvirtDriver,
        *,
        image: ImageRef | None = None,
        bridge: str | None = None,
        ovs_bridge: str | None = None,
        network: str | None = None,
        **options: Any,
    ) -> None:
        self._driver = driver
        self._config = LibvirtConfig(**{"hotplug_slots": _SLOTS} | options)
        self._image = image
        self._bridge, self._ovs_bridge, self._network = bridge, ovs_bridge, network
        self._slowness = 0.0
        super().__init__(RawHost(self._config.uri))
        self._observer = LibvirtObserver(self._raw)
        self._folder: TemporaryDirectory[str] | None = None

    def driver_class(self) -> type[Driver]:
        return self._driver

    def connect(self) -> ComputeDriver:
        driver = self._driver.connect(self._config)
        driver.connection.seam = self._slow
        return guarded(driver)

    def _slow(self, name: str, send: _Send) -> Any:
        if self._slowness and name in _MAKING:
            time.sleep(self._slowness)
        return send()

    def image(self) -> ImageRef:
        if self._image is None:
            try:
                path = build_guest_image()
            except GuestImageUnavailable as error:
                raise PreconditionMissing(f"no image to boot: {error}") from error
            self._image = FileImage(path=path, format=ImageFormat.QCOW2)
        return self._image

    def vif(self, vif_id: str) -> Vif:
        if self._bridge is not None:
            return BridgeVif(id=vif_id, bridge=self._bridge)
        if self._ovs_bridge is not None:
            return OvsVif(id=vif_id, bridge=self._ovs_bridge)
        if self._network is not None:
            return NetworkVif(id=vif_id, network=self._network)
        raise PreconditionMissing("no network was named (bridge=, ovs_bridge=, network=)")

    def vif_to_nowhere(self, vif_id: str) -> Vif:
        if self._ovs_bridge is not None:
            return OvsVif(id=vif_id, bridge="hvct-nowhere")
        return BridgeVif(id=vif_id, bridge="hvct-nowhere")

    @contextmanager
    def passing_network(self, vif_id: str) -> Iterator[Vif]:
        """A network of libvirt's own, on a bridge that nothing is ever plugged into."""
        name = f"hvct-{uuid4().hex[:8]}"
        parts = [el("name", name), el("forward", mode="bridge"), el("bridge", name="hvct-nowhere")]
        try:
            network = self._raw.connect.networkCreateXML(text(el("network", *parts)))
        except libvirt.libvirtError as error:
            raise PreconditionMissing(f"the daemon makes no network: {error}") from error
        try:
            yield NetworkVif(id=vif_id, network=name)
        finally:
            network.destroy()

    def observer(self) -> Observer:
        return self._observer

    def faults(self, driver: ComputeDriver) -> FaultSeam:
        self._to_daemon()  # what cannot be cut is known before anything is tried
        return LibvirtSeam(_inner(driver).connection, self._cut)

    @contextmanager
    def slowed(self, operation: str, seconds: float) -> Iterator[None]:
        """Each call that makes a part of the machine takes its share of the time; none so long
        that the driver, which cannot take a call back, would have no time left to undo."""
        if operation != "spawn":
            raise PreconditionMissing(f"the target slows only spawn() down, not {operation}()")
        self._slowness = min(seconds / _LEAST_MADE, 0.3 * self.time_scale)
        try:
            yield
        finally:
            self._slowness = 0.0

    def hostile_images(self) -> Sequence[tuple[str, ImageRef]]:
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="hvct-")
        return imagefiles.hostile(Path(self._folder.name))

    def close(self) -> None:
        super().close()
        self._raw.drop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    # ---- guests ---------------------------------------------------------------------------------

    def crash(self, driver: ComputeDriver, uuid: UUID) -> None:
        """QEMU dies: it may start no program, and is killed when it tries; or it starts this one,
        which kills it."""
        import libvirt_qemu  # type: ignore[import-untyped]

        domain = self._raw.domain(uuid)
        arguments = {"uri": "exec:kill -9 $PPID"}
        command = json.dumps({"execute": "migrate", "arguments": arguments})
        with suppress(libvirt.libvirtError):  # the one that would answer has died
            libvirt_qemu.qemuMonitorCommand(domain, command, 0)
        if not in_time(lambda: not self._raw.domain(uuid).isActive(), 15):
            raise PreconditionMissing("QEMU survives what should kill it")

    def lose_volume(self, driver: ComputeDriver, volume_id: str) -> None:
        path = next(each.path for each in driver.list_volumes() if each.volume_id == volume_id)
        self._raw.connect.storageVolLookupByPath(path).delete(0)

    # ---- machines of others, and the connection -------------------------------------------------

    @contextmanager
    def foreign_machine(self, name: str | None = None) -> Iterator[UUID]:
        uuid = uuid4()
        connect = self._raw.connect
        xml = el(
            "domain",
            el("name", name or f"foreign-{uuid.hex[:8]}"),
            el("uuid", str(uuid)),
            el("memory", "32", unit="MiB"),
            el("os", el("type", "hvm", arch=str(connect.getInfo()[0]))),
            type="qemu",
        )
        domain = connect.defineXML(text(xml))
        try:
            domain.create()
            yield uuid
        finally:
            domain = self._raw.domain(uuid)
            if domain.isActive():
                domain.destroy()
            domain.undefine()

    @contextmanager
    def broken_connection(self, driver: ComputeDriver) -> Iterator[None]:
        self._cut(_inner(driver).connection.remote._object)
        yield

    def _cut(self, connect: Any) -> None:
        """Shut every socket from this process to the daemon, and wait until ``connect`` knows."""
        found = self._to_daemon()
        for descriptor in found:
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as each:
                each.shutdown(socket.SHUT_RDWR)
        if not in_time(lambda: not connect.isAlive(), 10):
            raise PreconditionMissing("the connection survives the end of its socket")

    def _to_daemon(self) -> list[int]:
        """The descriptors of this process's sockets to the daemon."""
        known = set(_sockets())
        # the socket of a new connection shows who the server is
        probe = libvirt.open(self._config.uri)
        now = _sockets()
        servers = {now[each] for each in now.keys() - known}
        probe.close()
        found = [each for each, server in now.items() if server in servers]
        if not found:
            raise PreconditionMissing("the connection is not a socket of this process (ssh?)")
        return [descriptor for descriptor, _ in found]


def _inner(driver: ComputeDriver) -> LibvirtDriver:
    inner = getattr(driver, "_driver", driver)
    if not isinstance(inner, LibvirtDriver):
        raise PreconditionMissing("there is a seam only in the driver of this package")
    return inner


def _sockets() -> dict[tuple[int, int], object]:
    """The connected sockets of this process, by descriptor and inode, as descriptors are used
    again; and the server of each: the process behind a Unix socket, an address."""
    found: dict[tuple[int, int], object] = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own descriptor, one that was closed meanwhile
            status = os.fstat(int(name))
            if not stat.S_ISSOCK(status.st_mode):
                continue
            key = int(name), status.st_ino
            with socket.socket(fileno=os.dup(int(name))) as each:
                if each.family == socket.AF_UNIX:
                    raw = each.getsockopt(
                        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
                    )
                    pid = struct.unpack("3i", raw)[0]
                    if pid not in (0, os.getpid()):
                        found[key] = pid
                else:
                    found[key] = each.getpeername()
    return found
