"""A vSphere simulator as a host of the soak."""

from __future__ import annotations

import random
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyVmomi import vmodl

from hvdrivers import connect
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.image import FileImage, ImageFormat, ImageRef
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import NetworkVif, Vif
from hvdrivers.models.volume import PoolVolume
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.observer import VmwareObserver
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.conformance.seam import end_sessions
from tests.peers.vcsim import VcsimPeer
from tests.peers.waiting import wait_until
from tests.soak.hosts import Fault, SoakHost
from tests.soak.proxy import Proxy

Mark = Callable[[object], None]
_VOLUME = 8 << 20


class VmwareSoakHost(SoakHost):
    """A vCenter and an ESXi host by turns, with a proxy in front. The simulator keeps everything in
    memory, so that it is not among the faults that it ends."""

    driver = "vmware"
    volume_format = ImageFormat.VMDK

    def __init__(self, index: int) -> None:
        self.peer = VcsimPeer("esx" if index % 2 else "vpx")
        address = (str(self.peer.options["host"]), int(self.peer.options["port"]))
        self.proxy = Proxy(lambda: socket.create_connection(address))
        self._folder = tempfile.TemporaryDirectory(prefix="hvdrivers-soak-")
        self._image = Path(self._folder.name) / "empty.raw"
        self._image.write_bytes(bytes(1 << 20))
        config = VmwareConfig(**self.peer.options)
        self.server = RawServer(config)
        self._observer = VmwareObserver(self.server, config.directory, config.compute)

    def options(self) -> Mapping[str, Any]:
        return self.peer.options | {"port": self.proxy.port}

    def direct(self) -> ComputeDriver:
        return connect("vmware", **self.peer.options)

    def image(self) -> ImageRef:
        return FileImage(path=self._image, format=ImageFormat.RAW)

    def vif(self, vif_id: str) -> Vif | None:
        return NetworkVif(id=vif_id, network="VM Network")

    def faults(self) -> Sequence[Fault]:
        def delay(rng: random.Random, _: Mark) -> None:
            self.proxy.delay = rng.choice((0.02, 0.1))

        def swallow(_rng: random.Random, _: Mark) -> None:
            self.proxy.swallow = True

        def refuse(_rng: random.Random, _: Mark) -> None:
            self.proxy.refuse = True
            self.proxy.cut()

        def expire(_rng: random.Random, _: Mark) -> None:
            end_sessions(self.server)

        return [
            Fault("connections cut", lambda _rng, _: self.proxy.cut(), self.proxy.heal, 0.1),
            Fault("calls delayed", delay, self.proxy.heal),
            Fault("calls swallowed", swallow, self.proxy.heal),
            Fault("connections refused", refuse, self.proxy.heal),
            Fault("sessions end", expire, lambda: None, 0.1),
            Fault("guest dies", self._die, lambda: None, 0.1),
        ]

    def _die(self, rng: random.Random, mark: Mark) -> None:
        states = self._observer.states()
        running = sorted(uuid for uuid, each in states.items() if each is InstanceState.RUNNING)
        if running:
            uuid = rng.choice(running)
            mark(uuid)
            # it may have gone, or off, meanwhile
            with suppress(PreconditionMissing, vmodl.MethodFault):
                self._observer.power_off(uuid)

    def residue(self) -> set[str]:
        return set(self._observer.residue())

    def _file(self, volume: PoolVolume) -> str:
        return f"[{volume.data.pool}] hvdrivers/volumes/{volume.data.name}-flat.vmdk"

    def write(self, volume: PoolVolume, data: bytes) -> None:
        self.server.file(self._file(volume), data.ljust(_VOLUME, b"\0"))

    def read(self, volume: PoolVolume, length: int) -> bytes:
        return (self.server.file(self._file(volume)) or b"")[:length]

    def healthy(self, driver: ComputeDriver) -> None:
        self.peer.require_alive()
        wait_until(lambda: driver.ping() is None, timeout=60, what="the server answers")

    def close(self) -> None:
        self.proxy.close()
        self.server.drop()
        self.peer.close()
        self._folder.cleanup()
