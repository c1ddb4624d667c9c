"""The fake as a host of the soak: its clients are threads of one process, its faults are rules."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any
from uuid import uuid4

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.fake.faults import FaultKind, FaultRule
from hvdrivers.fake.observer import FakeObserver
from hvdrivers.fake.world import default_world
from hvdrivers.models.image import HostImage, ImageRef
from hvdrivers.models.migration import Destination
from hvdrivers.models.vif import UserVif, Vif
from hvdrivers.models.volume import PoolVolume
from tests.soak.hosts import Fault, SoakHost, pattern

Mark = Callable[[object], None]
_SIZE = re.compile(r"(?<=^volume )(\S+) \(\d+ .*\)$")


class FakeSoakHost(SoakHost):
    """One host of the default world."""

    driver = "fake"
    parallel_clients = False

    def __init__(self, index: int) -> None:
        self.name = f"soak-{index}-{uuid4().hex[:8]}"
        self.host = default_world().host(self.name)
        self._active = ExitStack()

    def options(self) -> Mapping[str, Any]:
        return {"host": self.name}

    def direct(self) -> ComputeDriver:
        return self.host.connect()

    def destination(self) -> Destination:
        return Destination(host=self.name)

    def image(self) -> ImageRef:
        return HostImage(name="cirros")

    def vif(self, vif_id: str) -> Vif:
        return UserVif(id=vif_id)

    def faults(self) -> Sequence[Fault]:
        def cut(kind: FaultKind) -> Fault:
            def strike(rng: random.Random, _: Mark) -> None:
                rule = FaultRule(when=kind, probability=rng.choice((0.05, 0.2)))
                self._active.enter_context(self.host.faults.add(rule))

            return Fault(f"calls cut {kind}", strike, self._heal)

        def die(rng: random.Random, mark: Mark) -> None:
            running = [each.uuid for each in self.host.ours() if each.state == "running"]
            if not running:
                return
            uuid = rng.choice(running)
            mark(uuid)
            with suppress(InvalidRequest):  # it has gone off meanwhile
                self.host.crash(uuid)

        return [cut(FaultKind.BEFORE), cut(FaultKind.AFTER), Fault("guest dies", die, self._heal)]

    def _heal(self) -> None:
        self._active.close()
        self._active = ExitStack()

    def residue(self) -> set[str]:
        # a volume is there, whatever its size: extend_volume() changes that
        return {_SIZE.sub(r"\1", each) for each in FakeObserver(self.host).residue()}

    def write(self, volume: PoolVolume, data: bytes) -> None:
        assert data == pattern(volume.volume_id)  # the fake keeps no bytes of volumes

    def read(self, volume: PoolVolume, length: int) -> bytes:
        return pattern(volume.volume_id)[:length]

    def close(self) -> None:
        self._heal()
