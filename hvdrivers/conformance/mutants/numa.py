"""Mutants of a NUMA placement."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Machine
from hvdrivers.models.instance import Flavor, InstanceSpec


class _Placing(FakeDriver):
    """Changes where the machine is put."""

    def changed(self, spec: InstanceSpec) -> InstanceSpec:
        raise NotImplementedError

    def _set_firmware(self, machine: Machine, spec: InstanceSpec) -> None:
        super()._set_firmware(machine, self.changed(spec) if spec.numa else spec)


@mutant("LIFE-029")
class PlacementIsForgotten(_Placing):
    """The driver takes a NUMA placement, and lets the hypervisor choose."""

    def changed(self, spec: InstanceSpec) -> InstanceSpec:
        return spec.model_copy(update={"numa": ()})


@mutant("LIFE-029")
class EveryNodeIsOnTheFirstCell(_Placing):
    """All nodes are on the host's first cell."""

    def changed(self, spec: InstanceSpec) -> InstanceSpec:
        nodes = tuple(node.model_copy(update={"cell": 0}) for node in spec.numa)
        return spec.model_copy(update={"numa": nodes})


@mutant("LIFE-030")
class CpusAreSharedAfterAll(_Placing):
    """Two machines have the same CPU of the host to themselves."""

    def changed(self, spec: InstanceSpec) -> InstanceSpec:
        nodes = tuple(node.model_copy(update={"cpus": {}}) for node in spec.numa)
        return spec.model_copy(update={"numa": nodes})


@mutant("LIFE-030")
class AbsentCellIsAnother(_Placing):
    """A node for a cell that is not there goes to the first one."""

    def changed(self, spec: InstanceSpec) -> InstanceSpec:
        sockets = self.fake_host.size.sockets
        nodes = tuple(
            node.model_copy(update={"cell": node.cell if node.cell < sockets else 0})
            for node in spec.numa
        )
        return spec.model_copy(update={"numa": nodes})


@mutant("RESIZE-009")
class PlacedMachineGrows(FakeDriver):
    """resize() gives a placed machine CPUs that are in none of its nodes."""

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        machine = self.machines.find(uuid)
        nodes, machine.numa = machine.numa, ()
        try:
            super()._resize(uuid, flavor)
        finally:
            machine.numa = nodes
