"""Mutants of what moves along, and of what a failure leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.records import Machine
from hvdrivers.fake.steps import Task
from hvdrivers.models.migration import Blocker, BlockerKind, Destination


@mutant("MIGR-004")
class LiveMigrationBoots(FakeDriver):
    """The guest is started anew at the destination: it was no live migration."""

    def _switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        machine = self._machine(uuid)
        super()._switch_host(operation, uuid, destination)
        if operation == "live_migrate":
            self._host.boot(machine)


class _Stale(FakeDriver):
    _operation = ""

    def _switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        if operation == self._operation:
            for pool, disk in list(self._host.disks_of(uuid)):
                pool.disks[disk.name] = replace(disk, content=disk.content[:1])
        super()._switch_host(operation, uuid, destination)


@mutant("MIGR-004")
class LiveMigrationLosesData(_Stale):
    """What the guest has written since it was made does not move."""

    _operation = "live_migrate"


@mutant("MIGR-012")
class ColdMigrationLosesData(_Stale):
    """The root disk at the destination is made from the image, and not copied."""

    _operation = "cold_migrate"


@mutant("MIGR-012")
class SnapshotsStayBehind(FakeDriver):
    """An instance arrives without its snapshots."""

    def _switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        machine = self._machine(uuid)
        super()._switch_host(operation, uuid, destination)
        machine.snapshots.clear()
        machine.current_snapshot = None


@mutant("MIGR-015")
class CutColdMigrationLeavesACopy(FakeDriver):
    """A cold migration that is cut leaves what it has prepared at the destination."""

    def _cancel(self, task: Task, uuid: UUID, destination: Destination) -> None:
        if task.operation != "cold_migrate":
            super()._cancel(task, uuid, destination)


class _Careless(FakeDriver):
    _forgets = BlockerKind.STORAGE

    def _blockers(
        self, machine: Machine, target: FakeHost | None, moves: list[Any]
    ) -> Iterator[Blocker]:
        for each in super()._blockers(machine, target, moves):
            if each.kind is not self._forgets or target is None:
                yield each


@mutant("MIGR-016")
class LocalVolumesAreNoReason(_Careless):
    """A machine moves away from a volume that only the source has."""


@mutant("MIGR-016")
class DevicesAreNoReason(_Careless):
    """A machine moves away from its slice of a GPU, which stays taken at the source."""

    _forgets = BlockerKind.DEVICE
