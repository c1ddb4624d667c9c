"""Mutants that do something else with the disks of an adopted machine than with those of others."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from hvdrivers.conformance.mutants.adopted import AdoptingFake
from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.own_disks import OwnDisks
from hvdrivers.fake.records import Content, Disk, ImageRecord, Machine, VolumeRecord
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.image import HostImage, ImageInfo, ImageRef
from hvdrivers.models.instance import Keep
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState


@mutant("ADOPT-012")
class RescueOverwritesAdoptedDisk(AdoptingFake):
    """rescue() of an adopted machine writes the image over its disk."""

    def _start_rescue(self, uuid: UUID) -> None:
        super()._start_rescue(uuid)
        root = self.fake_host.disk(uuid, "root")
        if root is not None and self.is_adopted(uuid):
            root.content = ("foreign",)


@mutant("ADOPT-012")
class RescueDiskOfAdoptedStays(AdoptingFake):
    """unrescue() of an adopted machine leaves the rescue disk."""

    def _unrescue(self, uuid: UUID) -> None:
        kept = [each for each in self.fake_host.disks_of(uuid) if each[1].role == "rescue"]
        super()._unrescue(uuid)
        if self.is_adopted(uuid):
            for pool, disk in kept:
                pool.disks[disk.name] = disk


@mutant("ADOPT-012")
class RefusedRescueOfAdoptedStops(AdoptingFake):
    """rescue() of an adopted machine is refused when the machine has been stopped."""

    def _rescue_image(self, uuid: UUID, image: ImageRef | None) -> ImageRef:
        found = super()._rescue_image(uuid, image)
        if self.is_adopted(uuid):
            if self.machines.find(uuid).state is InstanceState.RUNNING:
                self.fake_host.shut_down_guest(uuid)
            raise errors.NotSupported("of an adopted machine", hint="repair it by hand")
        return found


@mutant("ADOPT-013")
class RescueOfAdoptedGuesses(AdoptingFake):
    """rescue() without an image boots an adopted machine from some image of the host."""

    def _rescue_image(self, uuid: UUID, image: ImageRef | None) -> ImageRef:
        if image is None and self.is_adopted(uuid):
            image = HostImage(name="cirros")
        return super()._rescue_image(uuid, image)


@mutant("ADOPT-013")
class RescueOfAdoptedSaysNotHow(AdoptingFake):
    """The right error where an adopted machine has no image, and no word of what to do."""

    def _rescue_image(self, uuid: UUID, image: ImageRef | None) -> ImageRef:
        try:
            return super()._rescue_image(uuid, image)
        except errors.InvalidRequest as error:
            if self.is_adopted(uuid):
                error.hint = None
            raise


@mutant("ADOPT-014")
class RebuildOfAdoptedKeepsTheData(AdoptingFake):
    """rebuild() of an adopted machine names the image, and leaves what was on the disk."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        before = self.fake_host.disk(uuid, "root")
        adopted = self.is_adopted(uuid)
        super()._switch_root(uuid, image, record)
        after = self.fake_host.disk(uuid, "root")
        if adopted and before is not None and after is not None:
            after.content = before.content


@mutant("ADOPT-014")
class RebuildOfAdoptedLeavesTheOldDisk(AdoptingFake):
    """rebuild() of an adopted machine leaves its old disk on the host."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        before = self.fake_host.disk(uuid, "root")
        adopted = self.is_adopted(uuid)
        super()._switch_root(uuid, image, record)
        if adopted and before is not None:
            pool, name = self.fake_host.default_pool, f"{uuid}-old"
            left = VolumeRecord(f"{pool.name}/{name}", before.size_bytes, before.content)
            pool.volumes[name] = replace(left, name=name, pool=pool.name)


@mutant("ADOPT-014")
class RebuildOfAdoptedLosesMetadata(AdoptingFake):
    """rebuild() of an adopted machine drops what adopt() has written."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        adopted = self.is_adopted(uuid)
        super()._switch_root(uuid, image, record)
        if adopted:
            self.machines.find(uuid).metadata = {}


@mutant("ADOPT-014")
class RebuiltAdoptedHasNoImage(AdoptingFake):
    """A rebuilt machine of others is said to be made from no image, as before."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        adopted = self.is_adopted(uuid)
        super()._switch_root(uuid, image, record)
        if adopted:
            self.machines.find(uuid).image = None


@mutant("ADOPT-014")
class RefusedRebuildOfAdoptedDeletes(AdoptingFake):
    """rebuild() of an adopted machine is refused when its disk has been deleted."""

    def _check_rebuild(self, uuid: UUID) -> Machine:
        machine = super()._check_rebuild(uuid)
        if self.is_adopted(uuid):
            self.fake_host.remove_disks(uuid, "root")
            raise errors.NotSupported("of an adopted machine", hint="spawn() another one")
        return machine


class _Keeping(OwnDisks):
    def is_adopted(self, uuid: UUID) -> bool:
        return any("foreign" in disk.content for _, disk in self.host.disks_of(uuid))


@mutant("ADOPT-015")
class NothingOfAdoptedIsKept(AdoptingFake):
    """destroy(keep=) of an adopted machine removes the disk that is to be kept."""

    class own_disks_type(_Keeping):
        def delete(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
            super().delete(uuid, frozenset() if self.is_adopted(uuid) else keep)


@mutant("ADOPT-015")
class KeptOfAdoptedIsEmpty(AdoptingFake):
    """destroy(keep=) of an adopted machine makes a volume with nothing on it."""

    class own_disks_type(_Keeping):
        def delete(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
            if keep and self.is_adopted(uuid):
                for _, disk in self.host.disks_of(uuid):
                    disk.content = ("empty",)
            super().delete(uuid, keep)


@mutant("ADOPT-015")
class DestroyGivesAdoptedBack(AdoptingFake):
    """destroy(keep=) leaves an adopted machine to others, and does not remove it."""

    def _forget(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        volumes = self.fake_host.volumes()
        kept = any(each.name == f"{uuid}-root" and "foreign" in each.content for each in volumes)
        if machine is not None and kept:
            machine.ours = False
        else:
            super()._forget(uuid)


@mutant("ADOPT-016")
class AdoptedDiskDoesNotGrow(AdoptingFake):
    """resize() of an adopted machine tells the new size of its disk, and makes nothing larger."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        before = root.size_bytes
        super()._grow(machine, root, size)
        if self.is_adopted(machine.uuid):
            root.size_bytes = before


@mutant("ADOPT-016")
class AdoptedDiskIsMadeAnew(AdoptingFake):
    """resize() gives an adopted machine a larger disk without what was on the old one."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        super()._grow(machine, root, size)
        if self.is_adopted(machine.uuid):
            root.content = ("foreign",)


@mutant("ADOPT-016")
class AdoptedDiskShrinks(AdoptingFake):
    """resize() cuts off the end of an adopted machine's disk."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        if self.is_adopted(machine.uuid):
            root.size_bytes = size
        else:
            super()._grow(machine, root, size)


@mutant("ADOPT-017")
class CopyOfAdoptedIsEmpty(AdoptingFake):
    """snapshot_to_image() of an adopted machine writes an image of the right size."""

    def _view(self, uuid: UUID) -> tuple[int, Content]:
        size, content = super()._view(uuid)
        return size, ("empty",) if self.is_adopted(uuid) else content


@mutant("ADOPT-017")
class RefusedCopyOfAdoptedIsThere(AdoptingFake):
    """snapshot_to_image() of an adopted machine is refused when the file has been written."""

    def snapshot_to_image(self, uuid: UUID, target: Path, *args: Any, **options: Any) -> ImageInfo:
        found = super().snapshot_to_image(uuid, target, *args, **options)
        if self.is_adopted(uuid):
            raise errors.NotSupported("of an adopted machine", hint="copy the disk by hand")
        return found


@mutant("ADOPT-018")
class MemoryOfAdoptedIsLost(AdoptingFake):
    """create_snapshot(memory=True) of an adopted machine remembers its disks alone."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        return super()._take(uuid, name, memory and not self.is_adopted(uuid))


@mutant("ADOPT-018")
class RevertedAdoptedIsPaused(AdoptingFake):
    """revert_snapshot() brings the memory of an adopted machine back and leaves it paused."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        super()._revert(uuid, snapshot_id)
        machine = self.machines.find(uuid)
        if machine.state is InstanceState.RUNNING and self.is_adopted(uuid):
            self.fake_host.set_state(machine, InstanceState.PAUSED, LifecycleKind.PAUSED)
