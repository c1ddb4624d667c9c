"""Mutants of images made of instances, and of backups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Content, ImageRecord
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.image import ImageFormat, ImageInfo, ImageRef
from hvdrivers.models.snapshot import Backup
from hvdrivers.models.state import InstanceState


class _Copies(FakeDriver):
    def snapshot_to_image(
        self, uuid: UUID, target: Path, format: ImageFormat = ImageFormat.QCOW2, **options: Any
    ) -> ImageInfo:
        return self.changed(
            uuid, target, super().snapshot_to_image(uuid, target, format, **options)
        )

    def changed(self, uuid: UUID, target: Path, info: ImageInfo) -> ImageInfo:
        return info


@mutant("COPY-001")
class ImageSizeIsThatOfTheFile(_Copies):
    """The description gives the size of the file as that of the disk."""

    def changed(self, uuid: UUID, target: Path, info: ImageInfo) -> ImageInfo:
        return info.model_copy(update={"virtual_size_bytes": info.file_size_bytes})


@mutant("COPY-001")
class ImageIsAlwaysQcow2(FakeDriver):
    """Whatever format was asked for, qcow2 is written."""

    def snapshot_to_image(
        self, uuid: UUID, target: Path, format: ImageFormat = ImageFormat.QCOW2, **options: Any
    ) -> ImageInfo:
        made = super().snapshot_to_image(uuid, target, ImageFormat.QCOW2, **options)
        return made.model_copy(update={"format": format})


@mutant("COPY-002")
class ImageReplacesAFile(FakeDriver):
    """A file that exists is replaced."""

    def snapshot_to_image(
        self, uuid: UUID, target: Path, format: ImageFormat = ImageFormat.QCOW2, **options: Any
    ) -> ImageInfo:
        target.unlink(missing_ok=True)
        return super().snapshot_to_image(uuid, target, format, **options)


@mutant("COPY-003")
class HalfACopyStays(FakeDriver):
    """After a failure the file that was begun stays."""

    def snapshot_to_image(
        self, uuid: UUID, target: Path, format: ImageFormat = ImageFormat.QCOW2, **options: Any
    ) -> ImageInfo:
        try:
            return super().snapshot_to_image(uuid, target, format, **options)
        except errors.InvalidRequest:
            raise
        except Exception:
            target.write_bytes(b"half")
            raise


@mutant("COPY-004")
class ImageStopsTheMachine(_Copies):
    """The machine is paused while its disk is read, and left so."""

    def changed(self, uuid: UUID, target: Path, info: ImageInfo) -> ImageInfo:
        machine = self.machines.find(uuid)
        if machine.state is InstanceState.RUNNING:
            self.fake_host.set_state(machine, InstanceState.PAUSED, LifecycleKind.PAUSED)
        return info


@mutant("COPY-005")
class ImageHasABackingFile(_Copies):
    """The file is an overlay of the cached image."""

    def changed(self, uuid: UUID, target: Path, info: ImageInfo) -> ImageInfo:
        data = bytearray(target.read_bytes())
        if data[:4] == b"QFI\xfb":
            name = b"/images/base"
            data[8:16] = (104).to_bytes(8, "big")
            data[16:20] = len(name).to_bytes(4, "big")
            data[104 : 104 + len(name)] = name
            target.write_bytes(data)
        return info


@mutant("COPY-007")
class CopiesTheVolume(FakeDriver):
    """snapshot_to_image() of an instance that boots from a volume copies that volume."""

    def _view(self, uuid: UUID) -> tuple[int, Content]:
        for disk in self.machines.checked("snapshot_to_image", uuid).volumes.values():
            if disk.attachment.boot_index == 0:
                return disk.record.size_bytes, disk.record.content
        return super()._view(uuid)


@mutant("BACK-001")
class FullBackupForgetsTheRoot(FakeDriver):
    """A backup covers attached volumes only."""

    def _contents(self, machine: Any) -> Any:
        return {k: v for k, v in super()._contents(machine).items() if k != "root"}


@mutant("BACK-002")
class SecondBackupReplacesTheFirst(FakeDriver):
    """begin_backup() closes one that is open, and opens another."""

    def _begin(self, uuid: UUID, since: str | None) -> Backup:
        for backup in self.machines.find(uuid).backups.values():
            backup.open = False
        return super()._begin(uuid, since)


@mutant("BACK-003")
class IncrementalIsFull(FakeDriver):
    """An incremental backup has everything that is allocated."""

    def _begin(self, uuid: UUID, since: str | None) -> Backup:
        made = super()._begin(uuid, since)
        if since is None:
            return made
        machine = self.machines.find(uuid)
        del machine.backups[made.id]
        whole = super()._begin(uuid, None)
        return whole.model_copy(update={"since": since})


@mutant("BACK-003")
class OnlySinceTheLastBackup(FakeDriver):
    """since= is not looked at: what changed since the last backup is given."""

    def _begin(self, uuid: UUID, since: str | None) -> Backup:
        machine = self.machines.find(uuid)
        if since in machine.backups:
            last = list(machine.backups)[-1]
            return super()._begin(uuid, last).model_copy(update={"since": since})
        return super()._begin(uuid, since)


@mutant("BACK-004")
class UnknownPointIsAFullBackup(FakeDriver):
    """A point that is not there any more gives a full backup, without a word."""

    def _begin(self, uuid: UUID, since: str | None) -> Backup:
        known = since in self.machines.find(uuid).backups
        return super()._begin(uuid, since if known else None)


@mutant("BACK-005")
class EndForgetsTheCheckpoint(FakeDriver):
    """end_backup() deletes the point that the next backup would name."""

    def _end(self, uuid: UUID, backup_id: str | None) -> None:
        super()._end(uuid, backup_id)
        machine = self.machines.find(uuid)
        machine.backups = {k: v for k, v in machine.backups.items() if v.open}


@mutant("BACK-005")
class EndClosesAll(FakeDriver):
    """end_backup() of one closes whatever is open."""

    def _end(self, uuid: UUID, backup_id: str | None) -> None:
        super()._end(uuid, None)


class _Keeping(FakeDriver):
    def _kept(self, uuid: UUID, change: Callable[[], None]) -> None:
        before = dict(self.machines.find(uuid).backups)
        change()
        self.machines.find(uuid).backups = before


@mutant("BACK-006")
class PointsOutliveARevert(_Keeping):
    """A backup since a point before a revert has only what was written after it."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        self._kept(uuid, lambda: FakeDriver._revert(self, uuid, snapshot_id))


@mutant("BACK-006")
class PointsOutliveARebuild(_Keeping):
    """A backup since a point before a rebuild has nothing of the new disk."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        self._kept(uuid, lambda: FakeDriver._switch_root(self, uuid, image, record))


@mutant("COPY-005")
class ImageIsThatOfTheStart(FakeDriver):
    """The image of an instance is the one that it was made from."""

    def _view(self, uuid: UUID) -> tuple[int, Content]:
        size, content = super()._view(uuid)
        return size, content[:1]


@mutant("BACK-005")
class StoppedBackupsStayOpen(FakeDriver):
    """A backup that is open when the machine stops can only be closed while it runs again."""

    def _power_off(self, uuid: UUID) -> None:
        machine = self.machines.find(uuid)
        still = [each for each in machine.backups.values() if each.open]
        super()._power_off(uuid)
        for each in still:
            each.open = True

    def _end(self, uuid: UUID, backup_id: str | None) -> None:
        if self.machines.find(uuid).state is not InstanceState.STOPPED:
            super()._end(uuid, backup_id)


@mutant("COPY-006")
class CopyDropsTheMemory(FakeDriver):
    """snapshot_to_image() of a SUSPENDED machine throws its saved memory away."""

    def _view(self, uuid: UUID) -> tuple[int, Content]:
        found = super()._view(uuid)
        machine = self.machines.find(uuid)
        if machine.state is InstanceState.SUSPENDED:
            self.fake_host.remove_disks(uuid, "memory")
            self.fake_host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)
        return found


@mutant("COPY-006")
class CopyRefusesWhatIsSuspended(FakeDriver):
    """snapshot_to_image() takes a machine that is off only without saved memory."""

    def _view(self, uuid: UUID) -> tuple[int, Content]:
        if self.machines.find(uuid).state is InstanceState.SUSPENDED:
            raise errors.InvalidState("the machine is suspended", hint="resume() it first")
        return super()._view(uuid)
