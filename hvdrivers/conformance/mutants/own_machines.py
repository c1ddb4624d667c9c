"""What mutants need that find machines in another way than the fake."""

from __future__ import annotations

from typing import ClassVar

from hvdrivers.contract.capabilities import declared
from hvdrivers.fake.config import FakeConfig
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.machines import Machines


class WithMachines(FakeDriver):
    """A driver with its own ``machines``."""

    look: ClassVar[type[Machines]]

    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        super().__init__(host, config)
        self.machines = self.look(host, declared(type(self)), self.without)
