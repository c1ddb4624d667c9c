"""Mutants of NICs that ask for a virtual function."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.moving import Moving
from hvdrivers.fake.ports import Ports
from hvdrivers.fake.records import Machine, Port
from hvdrivers.models.migration import Blocker, Destination
from hvdrivers.models.vif import AttachedVif, DvsVif, HypervVif, NetworkVif, Vif


def _plain(vif: Vif) -> Vif:
    asks = isinstance(vif, NetworkVif | DvsVif | HypervVif)
    return vif.model_copy(update={"sriov": False}) if asks else vif


@mutant("SRIOV-001")
class FunctionByChance(FakeDriver):
    """The driver says that it takes the field, and refuses every NIC with it."""

    class ports_type(Ports):
        def check_wiring(self, vif: Vif, host: FakeHost | None = None) -> None:
            if vif != _plain(vif):
                raise errors.NotSupported("a switch is fast enough")
            super().check_wiring(vif, host)


@mutant("SRIOV-001")
class NicGoesThroughTheSwitch(FakeDriver):
    """A NIC that asks for a virtual function is plugged into the switch, and nobody is told."""

    class ports_type(Ports):
        def make(self, uuid: UUID, vif: Vif, token: int) -> None:
            super().make(uuid, _plain(vif), token)


@mutant("SRIOV-001")
class EveryNicHasAFunction(FakeDriver):
    """A NIC that asks for no virtual function shows one too."""

    class ports_type(Ports):
        def shown(self, machine: Machine, port: Port) -> AttachedVif:
            return super().shown(machine, port).model_copy(update={"sriov": True})


@mutant("SRIOV-001")
class StartTakesTheFunctionAway(FakeDriver):
    """A NIC has its virtual function until the machine is started."""

    def _power_on(self, uuid: UUID) -> None:
        super()._power_on(uuid)
        for port in self.fake_host.ports.values():
            if port.owner == uuid:
                port.vif = _plain(port.vif)


@mutant("SRIOV-002")
class FunctionIsNoReason(FakeDriver):
    """A machine moves to a host without virtual functions, and goes on without one."""

    class moving_type(Moving):
        def network_blockers(
            self, machine: Machine, target: FakeHost, destination: Destination
        ) -> Iterator[Blocker]:
            for each in super().network_blockers(machine, target, destination):
                if "virtual functions" not in each.reason:
                    yield each


@mutant("SRIOV-002")
class ReasonNamesNoNic(FakeDriver):
    """The pre-check says that the destination has no virtual functions, and not for which NIC."""

    class moving_type(Moving):
        def network_blockers(
            self, machine: Machine, target: FakeHost, destination: Destination
        ) -> Iterator[Blocker]:
            for each in super().network_blockers(machine, target, destination):
                yield each.model_copy(update={"device": None})
