"""Mutants that overfill a pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.capacity import check_room
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.own_disks import OwnDisks
from hvdrivers.fake.records import Disk, ImageRecord, Machine
from hvdrivers.fake.steps import Task


@contextmanager
def _roomy(host: FakeHost) -> Iterator[None]:
    pool = host.default_pool
    before, pool.total_bytes = pool.total_bytes, pool.total_bytes * 2
    try:
        yield
    finally:
        pool.total_bytes = before


@mutant("LIFE-023")
class SpawnOverfills(FakeDriver):
    """spawn() makes a disk where there is no room for it."""

    class own_disks_type(OwnDisks):
        def place(self, task: Task, disk: Disk, seed: object) -> None:
            with _roomy(self.host):
                super().place(task, disk, seed)  # type: ignore[arg-type]


@mutant("RESCUE-007")
class RescueOverfills(FakeDriver):
    """rescue() makes a disk where there is no room for it."""

    def _place_rescue(self, disk: Disk) -> None:
        with _roomy(self.fake_host):
            super()._place_rescue(disk)


@mutant("RESIZE-008")
class ResizeOverfills(FakeDriver):
    """resize() makes a disk larger where there is no room for it."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        with _roomy(self.fake_host):
            super()._grow(machine, root, size)


@mutant("REBUILD-008")
class RebuildOverfills(FakeDriver):
    """rebuild() makes a disk beside the old one where there is no room for it."""

    def _place_new(self, uuid: UUID, record: ImageRecord, token: int) -> None:
        with _roomy(self.fake_host):
            super()._place_new(uuid, record, token)


@mutant("RESIZE-012")
class GrowthNeedsTheWholeSize(FakeDriver):
    """resize() asks for room for the whole disk anew."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        check_room(self.fake_host.home(machine.uuid), size)
        super()._grow(machine, root, size)


@mutant("STOR-066")
class DisksThatAreThereNeedRoom(FakeDriver):
    """migrate_storage() asks for room in the pool before it looks where the disks are."""

    def _to_move(self, uuid: UUID, pool: str) -> list[Disk]:
        own = sum(disk.size_bytes for _, disk in self.fake_host.disks_of(uuid))
        check_room(self.fake_host.pool(pool), own)
        return super()._to_move(uuid, pool)
