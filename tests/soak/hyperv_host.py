"""A simulated Hyper-V host for the soak: clients are processes, faults are in the service."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.hyperv.conformance.observer import ROOT, HypervObserver
from hvdrivers.hyperv.naming import volume_file
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.state.vhd import image_format
from hvdrivers.hyperv.simulator.wsman import WsmanServer
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from hvdrivers.hyperv.simulator.wsman_shell import NoEngine
from hvdrivers.models.image import FileImage, ImageFormat, ImageRef
from hvdrivers.models.vif import HypervVif, Vif
from hvdrivers.models.volume import PoolVolume
from hvdrivers.plugins import connect
from tests.peers.precondition import missing
from tests.soak.hosts import Fault, SoakHost

Mark = Callable[[object], None]
_SWITCH = "soak"
_PASSWORD = "soak-secret"


class HypervSoakHost(SoakHost):
    """Played guests, a real PowerShell for each client."""

    driver = "hyperv"
    volume_format = ImageFormat.VHDX

    def __init__(self, index: int) -> None:
        self._folder = TemporaryDirectory(prefix="hvsoak-")
        self._image = Path(self._folder.name) / "image.raw"
        self._image.write_bytes(b"image" * 1024 + bytes((1 << 20) - 5120))
        self.host = SimulatedHost(f"SOAK{index}")
        self.host.start()
        with self.host.world.lock:
            switch = Switch(_SWITCH)
            self.host.state.switches[switch.id] = switch
        try:
            self.service = WsmanServer(self.host, users={"soak": _PASSWORD})
        except NoEngine as error:
            self.host.close()
            missing(str(error))
        self._observer = HypervObserver(self.host)
        self._active = ExitStack()

    def options(self) -> Mapping[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.service.port,
            "tls": False,
            "username": "soak",
            "password": _PASSWORD,
            "folder": ROOT,
        }

    def direct(self) -> ComputeDriver:
        return connect("hyperv", **self.options())

    def image(self) -> ImageRef:
        return FileImage(path=self._image, format=ImageFormat.RAW)

    def vif(self, vif_id: str) -> Vif:
        return HypervVif(id=vif_id, switch=_SWITCH)

    def faults(self) -> Sequence[Fault]:
        def rule(kind: Strike, action: str, **more: Any) -> Callable[[random.Random, Mark], None]:
            def strike(_rng: random.Random, _: Mark) -> None:
                made = FaultRule(kind, action=action, **more)
                self._active.enter_context(self.service.faults.add(made))

            return strike

        def restart(_rng: random.Random, _: Mark) -> None:
            self.service.restart()

        return [
            Fault("messages cut", rule(Strike.CUT_BEFORE, "Send"), self._heal),
            Fault("replies cut", rule(Strike.CUT_AFTER, "Receive"), self._heal),
            Fault("shells die", rule(Strike.SHELL_LOST_AFTER, "Send"), self._heal, 0.5),
            Fault("logons refused", rule(Strike.UNAUTHORISED, "Send"), self._heal, 1.0),
            Fault("service restarts", restart, self._heal, 0.5),
        ]

    def _heal(self) -> None:
        self._active.close()
        self._active = ExitStack()

    def residue(self) -> set[str]:
        return set(self._observer.residue())

    def _io(self, volume: PoolVolume, command: str, *, write: bool) -> None:
        file = self.host.drive / "hvct" / "volumes" / volume_file(volume.data.name)
        flags = [] if write else ["-r", "-U"]
        subprocess.run(
            ["qemu-io", *flags, "-f", image_format(file) or "raw", "-c", command, str(file)],
            check=True,
            capture_output=True,
        )

    def write(self, volume: PoolVolume, data: bytes) -> None:
        source = Path(self._folder.name) / "pattern"
        source.write_bytes(data)
        self._io(volume, f"write -s {source} 0 {len(data)}", write=True)

    def read(self, volume: PoolVolume, length: int) -> bytes:
        file = self.host.drive / "hvct" / "volumes" / volume_file(volume.data.name)
        target = Path(self._folder.name) / "read.raw"
        convert = ["qemu-img", "convert", "-q", "-U", "-O", "raw", str(file), str(target)]
        subprocess.run(convert, check=True, capture_output=True)
        with target.open("rb") as data:
            return data.read(length)

    def close(self) -> None:
        self._heal()
        self.service.close()
        self.host.close()
        self._folder.cleanup()
