"""Mutants of the inventory."""

from __future__ import annotations

from collections.abc import Sequence

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract.capabilities import declared
from hvdrivers.contract.resources import Placement
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.resources import HostResources, LargestMachine, PciDevice, PlacementProvider
from hvdrivers.models.state import InstanceState
from hvdrivers.openstack.placement import providers


def _used(found: HostResources, *, cpus: int, memory_mib: int) -> HostResources:
    return found.model_copy(
        update={
            "cpu": found.cpu.model_copy(update={"used": cpus}),
            "memory": found.memory.model_copy(update={"used_mib": memory_mib}),
        }
    )


@mutant("RES-001")
class InventoryOfAnotherHost(FakeDriver):
    """The inventory names another host than host() does."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        return found.model_copy(
            update={"host": found.host.model_copy(update={"hostname": "localhost"})}
        )


@mutant("RES-001")
class DevicesAreListedTwice(FakeDriver):
    """A device with functions is in the inventory twice."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        twice = tuple(each for each in found.devices if each.virtual_functions)
        return found.model_copy(update={"devices": found.devices + twice})


@mutant("RES-001")
class SocketsAreThreads(FakeDriver):
    """The number of CPUs does not fit to the host's topology."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        return found.model_copy(
            update={"cpu": found.cpu.model_copy(update={"total": 2 * found.cpu.total})}
        )


@mutant("RES-002")
class NothingIsGivenBack(FakeDriver):
    """What was used once stays used."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        peak: dict[str, int] = self.fake_host.__dict__.setdefault("peak", {"cpus": 0, "memory": 0})
        peak["cpus"] = max(peak["cpus"], found.cpu.used)
        peak["memory"] = max(peak["memory"], found.memory.used_mib)
        return _used(found, cpus=peak["cpus"], memory_mib=peak["memory"])


@mutant("RES-002")
class InventoryIsRemembered(FakeDriver):
    """A connection asks the host once, and repeats that answer."""

    def _resources(self) -> HostResources:
        found: HostResources = self.__dict__.setdefault("found", super()._resources())
        return found


@mutant("RES-002")
class EachMachineHasOneCpu(FakeDriver):
    """A machine counts as one CPU, however many it has."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        machines = sum(each.takes_memory for each in self.fake_host.machines.values())
        return _used(found, cpus=machines, memory_mib=found.memory.used_mib)


@mutant("RES-003")
class StoppedMachinesAreUsed(FakeDriver):
    """A machine that is switched off counts as if it ran."""

    def _resources(self) -> HostResources:
        flavors = [each.flavor for each in self.fake_host.machines.values()]
        return _used(
            super()._resources(),
            cpus=sum(each.vcpus for each in flavors),
            memory_mib=sum(each.memory_mib for each in flavors),
        )


@mutant("RES-003")
class StoppedMachinesAreNotCounted(FakeDriver):
    """The number of instances is that of those that are on."""

    def _resources(self) -> HostResources:
        on = sum(each.takes_memory for each in self.fake_host.ours())
        return super()._resources().model_copy(update={"instances": on})


@mutant("RES-003")
class PausedMachinesAreFree(FakeDriver):
    """The memory of a PAUSED machine counts as free."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        paused = [
            each.flavor
            for each in self.fake_host.machines.values()
            if each.state is InstanceState.PAUSED
        ]
        return _used(
            found,
            cpus=found.cpu.used - sum(each.vcpus for each in paused),
            memory_mib=found.memory.used_mib - sum(each.memory_mib for each in paused),
        )


@mutant("RES-004")
class ForeignMachinesAreFree(FakeDriver):
    """What machines of others use counts as free."""

    def _resources(self) -> HostResources:
        on = [each.flavor for each in self.fake_host.ours() if each.takes_memory]
        return _used(
            super()._resources(),
            cpus=sum(each.vcpus for each in on),
            memory_mib=sum(each.memory_mib for each in on),
        )


@mutant("RES-004")
class ForeignMachinesAreInstances(FakeDriver):
    """Machines of others are counted as instances."""

    def _resources(self) -> HostResources:
        count = len(self.fake_host.machines)
        return super()._resources().model_copy(update={"instances": count})


def _space(found: HostResources, used: dict[str, float]) -> HostResources:
    pools = tuple(pool.model_copy(update={"used_gib": used[pool.name]}) for pool in found.storage)
    return found.model_copy(update={"storage": pools})


@mutant("RES-005")
class VolumesTakeNoSpace(FakeDriver):
    """The used space of a pool is that of instances' disks alone."""

    def _resources(self) -> HostResources:
        return _space(
            super()._resources(),
            {
                pool.name: sum(disk.size_bytes for disk in pool.disks.values()) / (1 << 30)
                for pool in self.fake_host.pools.values()
            },
        )


@mutant("RES-005")
class SpaceIsNotGivenBack(FakeDriver):
    """The used space of a pool only grows."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        peak: dict[str, float] = self.fake_host.__dict__.setdefault("space", {})
        for pool in found.storage:
            peak[pool.name] = max(peak.get(pool.name, 0.0), pool.used_gib)
        return _space(found, peak)


@mutant("RES-006")
class SlicesAreNotCounted(FakeDriver):
    """The number of slices that are left is that of all."""

    def _left(self, device: PciDevice) -> PciDevice:
        return device


@mutant("RES-007")
class PagesAreNotCounted(FakeDriver):
    """All huge pages are always free."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        pages = tuple(
            each.model_copy(update={"free": each.total}) for each in found.memory.hugepages
        )
        return found.model_copy(
            update={"memory": found.memory.model_copy(update={"hugepages": pages})}
        )


@mutant("RES-008")
class OneCallForEachMachine(FakeDriver):
    """get_available_resource() asks for each machine what it has."""

    def get_available_resource(self, *, timeout: float | None = None) -> HostResources:
        for each in self.list_instances(timeout=timeout):
            self.get_instance(each.uuid, timeout=timeout)
        return super().get_available_resource(timeout=timeout)


class _Placing(FakeDriver, Placement):
    """Changes what Placement is told."""

    def placement_inventories(self, *, timeout: float | None = None) -> Sequence[PlacementProvider]:
        capabilities = declared(type(self)) - self.without.keys()
        found = providers(self.get_available_resource(timeout=timeout), capabilities)
        return self.changed(list(found))

    def changed(self, found: list[PlacementProvider]) -> list[PlacementProvider]:
        return found


@mutant("RES-010")
class ParentComesLast(_Placing):
    """Children come before their parent."""

    def changed(self, found: list[PlacementProvider]) -> list[PlacementProvider]:
        return found[::-1]


@mutant("RES-010")
class ChildComesBeforeItsParent(_Placing):
    """The root is first, but a device below another one comes before that."""

    def changed(self, found: list[PlacementProvider]) -> list[PlacementProvider]:
        last = found[-1].model_copy(update={"parent": found[-2].name})
        return [*found[:-2], last, found[-2]]


@mutant("RES-010")
class ProvidersShareAName(_Placing):
    """Two devices have providers of one name, of which Placement keeps one."""

    def changed(self, found: list[PlacementProvider]) -> list[PlacementProvider]:
        return [*found, found[-1]]


@mutant("RES-011")
class TraitsOfOurOwn(_Placing):
    """A trait that os-traits does not have, without CUSTOM_."""

    def changed(self, found: list[PlacementProvider]) -> list[PlacementProvider]:
        traits = found[0].traits | {"HVDRIVERS_FAKE"}
        return [found[0].model_copy(update={"traits": traits}), *found[1:]]


@mutant("RES-011")
class ClassesInLowerCase(_Placing):
    """A custom resource class that Placement refuses for its lower case."""

    def changed(self, found: list[PlacementProvider]) -> list[PlacementProvider]:
        stocks = {**found[0].inventories, "CUSTOM_gpu": found[0].inventories["VCPU"]}
        return [found[0].model_copy(update={"inventories": stocks}), *found[1:]]


class _Restocking(_Placing):
    """Changes one inventory of the root."""

    def restock(
        self, found: list[PlacementProvider], name: str, **changes: int
    ) -> list[PlacementProvider]:
        root = found[0]
        stocks = dict(root.inventories)
        stocks[name] = stocks[name].model_copy(update=changes)
        return [root.model_copy(update={"inventories": stocks}), *found[1:]]


@mutant("RES-012")
class TotalIsWhatIsLeft(_Restocking):
    """The total of VCPU shrinks as machines start; Placement subtracts them once more."""

    def changed(self, found: list[PlacementProvider]) -> list[PlacementProvider]:
        used = sum(each.flavor.vcpus for each in self.fake_host.ours() if each.takes_memory)
        total = found[0].inventories["VCPU"].total - used
        return self.restock(found, "VCPU", total=total, max_unit=total)


@mutant("RES-012")
class MemoryInKibibytes(_Restocking):
    """MEMORY_MB is in KiB."""

    def changed(self, found: list[PlacementProvider]) -> list[PlacementProvider]:
        total = found[0].inventories["MEMORY_MB"].total * 1024
        return self.restock(found, "MEMORY_MB", total=total, max_unit=total)


@mutant("RES-012")
class UnitsBeyondTheTotal(_Restocking):
    """One allocation may be larger than all that there is."""

    def changed(self, found: list[PlacementProvider]) -> list[PlacementProvider]:
        return self.restock(found, "VCPU", max_unit=1 << 30)


@mutant("RES-013")
class LargestMachineIsTwiceTheHost(FakeDriver):
    """The largest machine has more CPUs than the host."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        larger = LargestMachine(vcpus=2 * found.cpu.total, memory_mib=found.memory.total_mib)
        return found.model_copy(update={"largest_machine": larger})


@mutant("RES-013")
class UnitsBeyondTheLargestMachine(_Restocking):
    """Placement is told of a cluster's memory as if one machine could have it."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        half = LargestMachine(vcpus=1, memory_mib=found.memory.total_mib // 2)
        return found.model_copy(update={"largest_machine": half})

    def changed(self, found: list[PlacementProvider]) -> list[PlacementProvider]:
        return self.restock(found, "MEMORY_MB", max_unit=found[0].inventories["MEMORY_MB"].total)


@mutant("RES-001")
class SiblingsOfAnotherCell(FakeDriver):
    """Each NUMA cell names the cores of the first."""

    def _resources(self) -> HostResources:
        found = super()._resources()
        first = found.numa_cells[0].siblings
        cells = tuple(each.model_copy(update={"siblings": first}) for each in found.numa_cells)
        return found.model_copy(update={"numa_cells": cells})
