"""The other hosts of a run: one that machines can move to, and one that they cannot."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

from hvdrivers.hyperv.conformance.observer import HypervObserver
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.wsman import WsmanServer

SWITCH: Final = "hvct private"
"""The switch of every host that is fit."""


FAST = "hvct fast"
"""Another one, on an adapter with SR-IOV."""


def with_functions() -> Switch:
    """A switch whose NICs can have virtual functions."""
    return Switch(FAST, kind="External", iov=True, functions=8)


class OtherHost:
    """Another host of the same world, which the first one may migrate machines to."""

    def __init__(self, first: SimulatedHost, name: str, *, fit: bool) -> None:
        self.host = SimulatedHost(name, world=first.world)
        self.host.start()
        self.host.meet(first)
        with first.world.lock:
            for state in (first.state, self.host.state):
                state.settings.migration = True
                # both belong to one domain, and trust the keys of each other's TPMs
                state.delegation = True
                state.guardian_trust = True
            if fit:
                for switch in (Switch(SWITCH), with_functions()):
                    self.host.state.switches[switch.id] = switch
            else:
                self.host.state.hardware.memory = self.host.state.hardware.reserved = 8 << 20
        self.service = WsmanServer(
            self.host, users={"operator": "hvct-secret"}, machine=name, warm=True
        )
        self.observer = HypervObserver(self.host)

    @contextmanager
    def without_functions(self) -> Iterator[None]:
        """Its adapter has no virtual functions during the block."""
        with self.host.world.lock:
            fast = next(s for s in self.host.state.switches.values() if s.name == FAST)
            usual, fast.functions = fast.functions, 0
        try:
            yield
        finally:
            with self.host.world.lock:
                fast.functions = usual

    def close(self) -> None:
        self.service.close()
        self.host.close()


def lent(driver: HypervDriver) -> HypervDriver:
    """The same driver for one check, which closes it: its connection stays."""
    found = copy.copy(driver)
    stays = {"close": lambda *_, **__: None}
    found.__class__ = cast("type[HypervDriver]", type("Lent", (type(driver),), stays))
    return found
