"""Mutants of what moves along, and of what a failure leaves."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.steps import Task
from hvdrivers.models.migration import Destination


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
