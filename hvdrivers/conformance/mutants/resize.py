"""Mutants of resize, cold and hot."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Disk, Machine
from hvdrivers.models.instance import Flavor


@mutant("RESIZE-001")
class ResizeForgetsMemory(FakeDriver):
    """resize() changes the CPUs and the disk alone."""

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        before = self.machines.checked("resize", uuid).flavor
        super()._resize(uuid, flavor)
        kept = {"memory_mib": before.memory_mib}
        self.machines.find(uuid).flavor = flavor.model_copy(update=kept)


@mutant("RESIZE-002")
class ResizeShrinksTheDisk(FakeDriver):
    """resize() to a smaller disk cuts it off."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        root.size_bytes = size


@mutant("RESIZE-002")
class ResizeRefusesTooLate(FakeDriver):
    """resize() to a smaller disk raises InvalidRequest after it has changed the CPUs."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        if size < root.size_bytes:
            machine.flavor = machine.flavor.model_copy(update={"vcpus": machine.flavor.vcpus + 1})
        super()._grow(machine, root, size)


@mutant("RESIZE-003")
class ResizeTakesSwap(FakeDriver):
    """resize() says another swap disk, and changes nothing of it."""

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        before = self.machines.checked("resize", uuid).flavor
        super()._resize(uuid, flavor.model_copy(update={"swap_mib": before.swap_mib}))


@mutant("RESIZE-004")
class ResizeGrowsFirst(FakeDriver):
    """resize() beyond the host's memory is refused after the disk has grown."""

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        root = self.fake_host.disk(uuid, "root")
        if root is not None:
            root.size_bytes = max(root.size_bytes, flavor.disk_gib << 30)
        super()._resize(uuid, flavor)


@mutant("RESIZE-005")
class ResizeMakesANewDisk(FakeDriver):
    """resize() makes a larger disk and copies nothing onto it."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        super()._grow(machine, root, size)
        root.content = root.content[:1]


@mutant("RESIZE-005")
class ResizeWipesVolumes(FakeDriver):
    """resize() makes every disk of the machine anew, its volumes too."""

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        super()._resize(uuid, flavor)
        for disk in self.machines.find(uuid).volumes.values():
            disk.record.content = ("empty",)


@mutant("RESIZE-006")
class SnapshotsAreInTheWay(FakeDriver):
    """resize() of a disk with snapshots raises DeviceBusy after the flavor has changed."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        if machine.snapshots:
            machine.flavor = machine.flavor.model_copy(update={"disk_gib": size >> 30})
        super()._grow(machine, root, size)


class _Hot(FakeDriver):
    _wrong = ""

    def _resize_hot(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        if field == self._wrong:
            self._do(operation, uuid, field, wanted)
        else:
            super()._resize_hot(operation, uuid, field, wanted)

    def _do(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        raise NotImplementedError


class _AfterRestart(_Hot):
    def _do(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        machine = self.machines.checked(operation, uuid)
        before = machine.flavor
        FakeDriver._resize_hot(self, operation, uuid, field, wanted)
        machine.flavor = before


@mutant("HOTCPU-001")
class CpusComeAtTheNextStart(_AfterRestart):
    """hot_resize_cpu() succeeds and changes nothing while the machine runs."""

    _wrong = "vcpus"


@mutant("HOTMEMORY-001")
class MemoryComesAtTheNextStart(_AfterRestart):
    """hot_resize_memory() succeeds and changes nothing while the machine runs."""

    _wrong = "memory_mib"


class _Capped(_Hot):
    def _do(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        flavor = self.machines.checked(operation, uuid).flavor
        most = getattr(flavor, f"max_{field}") or getattr(flavor, field)
        FakeDriver._resize_hot(self, operation, uuid, field, min(wanted, most))


@mutant("HOTCPU-002")
class CpusAreCapped(_Capped):
    """hot_resize_cpu() beyond the headroom gives what there is."""

    _wrong = "vcpus"


@mutant("HOTMEMORY-002")
class MemoryIsCapped(_Capped):
    """hot_resize_memory() beyond the headroom gives what there is."""

    _wrong = "memory_mib"


class _Stubborn(_Hot):
    def _do(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        machine = self.machines.checked(operation, uuid)
        try:
            FakeDriver._resize_hot(self, operation, uuid, field, wanted)
        except errors.DeviceBusy:
            machine.flavor = machine.flavor.model_copy(update={field: wanted})
            raise


@mutant("HOTCPU-003")
class CpusAreShownAnyway(_Stubborn):
    """hot_resize_cpu() that the guest refused raises DeviceBusy, and the new number is shown."""

    _wrong = "vcpus"


@mutant("HOTMEMORY-003")
class MemoryIsShownAnyway(_Stubborn):
    """hot_resize_memory() that the guest refused raises DeviceBusy, and the new size is shown."""

    _wrong = "memory_mib"


@mutant("HOTMEMORY-004")
class MemoryIsPromised(_Hot):
    """hot_resize_memory() gives a guest more than the host has."""

    _wrong = "memory_mib"

    def _do(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        machine = self.machines.checked(operation, uuid)
        before = machine.flavor
        try:
            FakeDriver._resize_hot(self, operation, uuid, field, wanted)
        except errors.InsufficientResources:
            machine.flavor = before.model_copy(update={field: wanted})


@mutant("RESIZE-001")
class ZeroIsASize(FakeDriver):
    """resize() with disk_gib=0, which leaves the disk, is refused as a smaller disk."""

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        if not flavor.disk_gib and self.machines.checked("resize", uuid).flavor.disk_gib:
            raise errors.InvalidRequest("the root disk would shrink, which destroys data")
        super()._resize(uuid, flavor)


class _UntilItStops(_Hot):
    def _do(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        before = self.machines.checked(operation, uuid).flavor
        FakeDriver._resize_hot(self, operation, uuid, field, wanted)
        self.__dict__.setdefault("_stored", {}).setdefault(uuid, before)

    def _power_off(self, uuid: UUID) -> None:
        super()._power_off(uuid)
        machine = self.machines.find(uuid)
        machine.flavor = self.__dict__.get("_stored", {}).pop(uuid, machine.flavor)


@mutant("HOTCPU-001")
class CpusGoAtTheNextStart(_UntilItStops):
    """What hot_resize_cpu() gave is gone when the machine is switched off."""

    _wrong = "vcpus"


@mutant("HOTMEMORY-001")
class MemoryGoesAtTheNextStart(_UntilItStops):
    """What hot_resize_memory() gave is gone when the machine is switched off."""

    _wrong = "memory_mib"


@mutant("RESIZE-010")
class DiskStaysAsItIs(FakeDriver):
    """resize() notes a larger disk down, and does not make it larger."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        before = root.size_bytes
        super()._grow(machine, root, size)
        root.size_bytes = before
