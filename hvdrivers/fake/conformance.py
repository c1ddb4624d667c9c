"""The fake as a target of the conformance suite. Its inventory is the independent observer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from hvdrivers.conformance.target import Observer, Target
from hvdrivers.contract.driver import ComputeDriver, Driver
from hvdrivers.fake.config import FakeConfig
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.world import FakeWorld
from hvdrivers.guard import guarded
from hvdrivers.models.image import HostImage, ImageRef
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import NetworkVif, Vif


class FakeObserver(Observer):
    """Reads the host's records, not the driver."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def states(self) -> dict[UUID, InstanceState]:
        return {each.uuid: each.state for each in self._host.ours()}

    def residue(self) -> frozenset[str]:
        return frozenset(str(item) for item in self._host.inventory().without_cache().items)

    def devices(self, uuid: UUID) -> frozenset[str]:
        return frozenset(
            re.sub(rf" (by|of) {uuid}$", "", item.id)
            for item in self._host.inventory().of(uuid)
            if item.kind in {"lock", "port"}
        )

    def power_off(self, uuid: UUID) -> None:
        self._host.shut_down_guest(uuid)


class FakeTarget(Target):
    """A fake host of its own for each run.

    Args:
        driver: the class to test: FakeDriver, or a mutant of it.
    """

    name = "fake"
    simulated = True

    def __init__(self, driver: type[FakeDriver] = FakeDriver, **options: object) -> None:
        self._driver = driver
        self._world = FakeWorld()
        self._config = FakeConfig.model_validate(
            {"host": "conformance", "world": self._world, **options}
        )
        self.host = self._world.host("conformance", self._config)
        self._observer = FakeObserver(self.host)

    def driver_class(self) -> type[Driver]:
        return self._driver

    def connect(self) -> ComputeDriver:
        return guarded(self._driver.connect(self._config))

    def image(self) -> ImageRef:
        return HostImage(name="cirros")

    def vif(self, vif_id: str) -> Vif:
        return NetworkVif(id=vif_id, network="private")

    def vif_to_nowhere(self, vif_id: str) -> Vif:
        return NetworkVif(id=vif_id, network="hvct-nowhere")

    def observer(self) -> Observer:
        return self._observer

    def crash(self, driver: ComputeDriver, uuid: UUID) -> None:
        self.host.crash(uuid)

    @contextmanager
    def foreign_machine(self) -> Iterator[UUID]:
        uuid = self.host.add_foreign()
        try:
            yield uuid
        finally:
            self.host.remove_foreign(uuid)
