"""Mutants of an instance's own disks."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Disk, ImageRecord
from hvdrivers.fake.steps import Task
from hvdrivers.models.disk import OwnDisk
from hvdrivers.models.instance import InstanceSpec, Keep


class _Making(FakeDriver):
    """Changes each disk before it is made."""

    def changed(self, disk: Disk, wish: OwnDisk) -> Disk:
        raise NotImplementedError

    def _wanted_disks(
        self, task: Task, spec: InstanceSpec, image: ImageRecord | None
    ) -> Iterator[tuple[Disk, OwnDisk | None]]:
        for disk, wish in super()._wanted_disks(task, spec, image):
            yield (disk if wish is None else self.changed(disk, wish)), wish


class _Losing(_Making):
    _field = ""

    def changed(self, disk: Disk, wish: OwnDisk) -> Disk:
        return replace(disk, wish=wish.model_copy(update={self._field: None}))


@mutant("FIELD-004")
class DiskBusIsLost(_Losing):
    """The driver takes the bus of an own disk, and puts the disk where it likes."""

    _field = "bus"


@mutant("FIELD-004")
class NothingIsFormatted(_Losing):
    """The driver takes a file system, and leaves the disk empty."""

    _field = "file_system"


@mutant("FIELD-004")
class NothingIsLabelled(_Losing):
    """The driver takes a label, and writes none."""

    _field = "label"


@mutant("LIFE-026")
class FirstDiskGetsAll(_Making):
    """Each ephemeral disk has the whole size of the flavor."""

    def changed(self, disk: Disk, wish: OwnDisk) -> Disk:
        return disk if wish.size_mib is None else replace(disk, size_bytes=1 << 30)


@mutant("LIFE-026")
class OneDiskIsEnough(FakeDriver):
    """Of several ephemeral disks the first is made."""

    def _wanted_disks(
        self, task: Task, spec: InstanceSpec, image: ImageRecord | None
    ) -> Iterator[tuple[Disk, OwnDisk | None]]:
        for disk, wish in super()._wanted_disks(task, spec, image):
            if "-" not in disk.role:
                yield disk, wish


@mutant("LIFE-027")
class OnlyRootIsKept(FakeDriver):
    """destroy(keep=) keeps the root disk, whatever is to be kept."""

    def _delete_disks(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
        super()._delete_disks(uuid, keep and frozenset({Keep.ROOT_DISK}))


@mutant("LIFE-028")
class KeptDiskIsMadeAnew(FakeDriver):
    """A kept disk is taken over, and is empty."""

    def _own_volume(self, task: Task, disk: Disk, volume_id: str) -> None:
        super()._own_volume(task, disk, volume_id)
        mine = self.fake_host.disk(disk.owner, disk.role)
        assert mine is not None  # noqa: S101 - it has just been made
        mine.content = ("empty",)


@mutant("LIFE-028")
class KeptDiskIsLostByAFailure(FakeDriver):
    """A spawn() that fails after it has taken a kept disk over deletes it."""

    def _give_back(self, disk: Disk, volume_id: str, token: int) -> None:
        self.fake_host.remove_disks(disk.owner, disk.role, token=token)


@mutant("LIFE-028")
class AttachedVolumeIsTakenAway(FakeDriver):
    """A volume that a machine has becomes another one's own disk."""

    def _check_kept(self, disk: Disk, volume_id: str) -> None:
        try:
            super()._check_kept(disk, volume_id)
        except errors.DeviceBusy:
            return
