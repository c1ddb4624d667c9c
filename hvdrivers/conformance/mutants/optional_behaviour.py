"""Mutants of what a driver may do: they say that they do it, and do not, or not right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.moving import Moving
from hvdrivers.fake.records import Machine
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.instance import Flavor, InstanceInfo, InstanceSpec
from hvdrivers.models.migration import Blocker, BlockerKind, Destination
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import Volume, VolumeSpec


@mutant("RESIZE-007")
class SnapshotsSwallowTheResize(FakeDriver):
    """resize() of a disk with snapshots returns, and has changed nothing."""

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        if not self.machines.find(uuid).snapshots:
            super()._resize(uuid, flavor)


class _NeverLess(FakeDriver):
    _field = ""

    def _resize_hot(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        if field != self._field or wanted >= getattr(self.machines.find(uuid).flavor, field):
            super()._resize_hot(operation, uuid, field, wanted)


@mutant("HOTCPU-004")
class CpusStayAfterAll(_NeverLess):
    """A decrease of CPUs returns, and has changed nothing."""

    _field = "vcpus"


@mutant("HOTMEMORY-005")
class MemoryStaysAfterAll(_NeverLess):
    """A decrease of memory returns, and has changed nothing."""

    _field = "memory_mib"


@mutant("POWER-026")
class TooLargeToStart(FakeDriver):
    """A machine with more CPUs than the host has threads is made, and silently not started."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        if spec.flavor.vcpus > self.fake_host.size.threads:
            spec = spec.model_copy(update={"start": False})
        return super().spawn(spec, timeout=timeout, progress=progress)


@mutant("STOR-065")
class PromisesAreRoundedDown(FakeDriver):
    """create_volume() of more than there is makes a volume of what there is."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        try:
            return super()._create_volume(spec, token)
        except errors.InsufficientResources:
            small = {"size_bytes": 1 << 20, "size_gib": None}
            return super()._create_volume(spec.model_copy(update=small), token)


@mutant("EVENT-016")
class BuildingIsToldTooLate(FakeDriver):
    """A machine is told of as RUNNING, and then as BUILDING."""

    def _finish(self, task: Any, spec: InstanceSpec) -> InstanceInfo:
        info = super()._finish(task, spec)
        machine = self.fake_host.machines[spec.uuid]
        self.fake_host.tell_lifecycle(machine, LifecycleKind.CREATED, InstanceState.BUILDING)
        return info


@mutant("EVENT-016")
class BuildingIsNotTold(FakeDriver):
    """Who watches learns of a new machine when it is complete."""

    def _define(self, task: Any, spec: InstanceSpec, image: Any) -> None:
        waiting, self.fake_host.streams = self.fake_host.streams, set()
        try:
            super()._define(task, spec, image)
        finally:
            self.fake_host.streams = waiting


@mutant("MIGR-021")
class ArrivesWithoutItsVolume(FakeDriver):
    """A volume is no reason against a move, and stays where it is."""

    class moving_type(Moving):
        def blockers(
            self, machine: Machine, target: FakeHost | None, moves: list[Any], destination: Any
        ) -> Iterator[Blocker]:
            for each in super().blockers(machine, target, moves, destination):
                if each.kind is not BlockerKind.STORAGE or target is None:
                    yield each

        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            self.host.unlock(uuid)
            self.machines.find(uuid).volumes.clear()
            super().switch_host(operation, uuid, destination)


@mutant("MIGR-022")
class ArrivesWithoutItsSnapshots(FakeDriver):
    """cold_migrate() of an instance with snapshots leaves them out."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            self.machines.find(uuid).snapshots.clear()
            super().switch_host(operation, uuid, destination)


@mutant("EVENT-017")
class SwitchOverComesLate(FakeDriver):
    """The source tells the switch-over when the instance has gone already."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            machine = self.machines.find(uuid)
            waiting, self.host.streams = self.host.streams, set()
            try:
                super().switch_host(operation, uuid, destination)
            finally:
                self.host.streams = waiting
            self.host.tell_lifecycle(machine, LifecycleKind.MIGRATED, None)
            self.host.tell_lifecycle(machine, LifecycleKind.SWITCHING, machine.state)
