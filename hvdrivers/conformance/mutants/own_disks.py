"""Mutants of an instance's own disks."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.own_disks import OwnDisks
from hvdrivers.fake.records import Disk, ImageRecord
from hvdrivers.fake.steps import Task
from hvdrivers.models.disk import OwnDisk
from hvdrivers.models.instance import InstanceSpec, Keep


class _Making(OwnDisks):
    """Changes each disk before it is made."""

    def changed(self, disk: Disk, wish: OwnDisk) -> Disk:
        raise NotImplementedError

    def wanted(
        self, task: Task, spec: InstanceSpec, image: ImageRecord | None
    ) -> Iterator[tuple[Disk, OwnDisk | None]]:
        for disk, wish in super().wanted(task, spec, image):
            yield (disk if wish is None else self.changed(disk, wish)), wish


class _Losing(_Making):
    _field = ""

    def changed(self, disk: Disk, wish: OwnDisk) -> Disk:
        return replace(disk, wish=wish.model_copy(update={self._field: None}))


@mutant("FIELD-004")
class DiskBusIsLost(FakeDriver):
    """The driver takes the bus of an own disk, and puts the disk where it likes."""

    class own_disks_type(_Losing):
        _field = "bus"


@mutant("FIELD-004")
class NothingIsFormatted(FakeDriver):
    """The driver takes a file system, and leaves the disk empty."""

    class own_disks_type(_Losing):
        _field = "file_system"


@mutant("FIELD-004")
class NothingIsLabelled(FakeDriver):
    """The driver takes a label, and writes none."""

    class own_disks_type(_Losing):
        _field = "label"


@mutant("LIFE-026")
class FirstDiskGetsAll(FakeDriver):
    """Each ephemeral disk has the whole size of the flavor."""

    class own_disks_type(_Making):
        def changed(self, disk: Disk, wish: OwnDisk) -> Disk:
            return disk if wish.size_mib is None else replace(disk, size_bytes=1 << 30)


@mutant("LIFE-026")
class OneDiskIsEnough(FakeDriver):
    """Of several ephemeral disks the first is made."""

    class own_disks_type(OwnDisks):
        def wanted(
            self, task: Task, spec: InstanceSpec, image: ImageRecord | None
        ) -> Iterator[tuple[Disk, OwnDisk | None]]:
            for disk, wish in super().wanted(task, spec, image):
                if "-" not in disk.role:
                    yield disk, wish


@mutant("LIFE-027")
class OnlyRootIsKept(FakeDriver):
    """destroy(keep=) keeps the root disk, whatever is to be kept."""

    class own_disks_type(OwnDisks):
        def delete(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
            super().delete(uuid, keep and frozenset({Keep.ROOT_DISK}))


@mutant("LIFE-028")
class KeptDiskIsMadeAnew(FakeDriver):
    """A kept disk is taken over, and is empty."""

    class own_disks_type(OwnDisks):
        def own_volume(self, task: Task, disk: Disk, volume_id: str) -> None:
            super().own_volume(task, disk, volume_id)
            mine = self.host.disk(disk.owner, disk.role)
            assert mine is not None  # noqa: S101 - it has just been made
            mine.content = ("empty",)


@mutant("LIFE-028")
class KeptDiskIsLostByAFailure(FakeDriver):
    """A spawn() that fails after it has taken a kept disk over deletes it."""

    class own_disks_type(OwnDisks):
        def give_back(self, disk: Disk, volume_id: str, token: int) -> None:
            self.host.remove_disks(disk.owner, disk.role, token=token)


@mutant("LIFE-028")
class AttachedVolumeIsTakenAway(FakeDriver):
    """A volume that a machine has becomes another one's own disk."""

    class own_disks_type(OwnDisks):
        def check_kept(self, disk: Disk, volume_id: str) -> None:
            try:
                super().check_kept(disk, volume_id)
            except errors.DeviceBusy:
                return
