"""Mutants of rescue and rebuild."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import ImageRecord, Machine
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.image import ImageRef
from hvdrivers.models.state import InstanceState


@mutant("RESCUE-001")
class RescueDoesNotRestart(FakeDriver):
    """rescue() puts the disk in and calls the machine rescued; its guest runs on."""

    def _start_rescue(self, uuid: UUID) -> None:
        boots = self.machines.find(uuid).boots
        super()._start_rescue(uuid)
        self.machines.find(uuid).boots = boots


@mutant("RESCUE-002")
class UnrescueKeepsTheDisk(FakeDriver):
    """unrescue() leaves the rescue disk."""

    def _unrescue(self, uuid: UUID) -> None:
        kept = [each for each in self.fake_host.disks_of(uuid) if each[1].role == "rescue"]
        super()._unrescue(uuid)
        for pool, disk in kept:
            pool.disks[disk.name] = disk


@mutant("RESCUE-002")
class RescueOverwritesRoot(FakeDriver):
    """rescue() writes the image over the root disk."""

    def _start_rescue(self, uuid: UUID) -> None:
        super()._start_rescue(uuid)
        root = self.fake_host.disk(uuid, "root")
        if root is not None:
            root.content = root.content[:1]


@mutant("RESCUE-003")
class RescueNeedsAnImage(FakeDriver):
    """rescue() without an image is refused."""

    def _rescue_image(self, uuid: UUID, image: ImageRef | None) -> ImageRef:
        if image is None:
            raise errors.InvalidRequest("name an image")
        return super()._rescue_image(uuid, image)


@mutant("RESCUE-004")
class RefusedRescueStops(FakeDriver):
    """rescue() stops the machine before it looks for the image."""

    def _rescue_image(self, uuid: UUID, image: ImageRef | None) -> ImageRef:
        found = super()._rescue_image(uuid, image)
        if self.machines.find(uuid).state is InstanceState.RUNNING:
            self.fake_host.shut_down_guest(uuid)
        return found


@mutant("RESCUE-005")
class UnrescueOfStoppedStarts(FakeDriver):
    """unrescue() of a machine that was powered off starts it."""

    def _unrescue(self, uuid: UUID) -> None:
        stopped = self.machines.find(uuid).state is InstanceState.STOPPED
        super()._unrescue(uuid)
        if stopped:
            self._power_on(uuid)


@mutant("RESCUE-006")
class RescueOfVolumeGuesses(FakeDriver):
    """rescue() without an image of a machine that boots from a volume raises VolumeNotFound."""

    def _rescue_image(self, uuid: UUID, image: ImageRef | None) -> ImageRef:
        try:
            return super()._rescue_image(uuid, image)
        except errors.InvalidRequest as error:
            raise errors.VolumeNotFound("there is no image") from error


@mutant("REBUILD-001")
class RebuildLosesMetadata(FakeDriver):
    """rebuild() makes the machine anew, without its metadata."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        super()._switch_root(uuid, image, record)
        self.machines.find(uuid).metadata = {}


@mutant("REBUILD-001")
class RebuildStops(FakeDriver):
    """rebuild() of a running machine leaves it stopped."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        super()._switch_root(uuid, image, record)
        machine = self.machines.find(uuid)
        if machine.state is InstanceState.RUNNING:
            self.fake_host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)


@mutant("REBUILD-002")
class RebuildKeepsTheData(FakeDriver):
    """rebuild() leaves the old disk's data."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        before = self.fake_host.disk(uuid, "root")
        super()._switch_root(uuid, image, record)
        after = self.fake_host.disk(uuid, "root")
        if before is not None and after is not None:
            after.content = before.content


@mutant("REBUILD-002")
class RebuildLeavesTheOldDisk(FakeDriver):
    """rebuild() leaves the old disk beside the new one."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        old = self.fake_host.disk(uuid, "root")
        super()._switch_root(uuid, image, record)
        if old is not None:
            old.role = "root.old"
            self.fake_host.default_pool.disks[old.name] = old


@mutant("REBUILD-003")
class RebuildOfVolumeDoesNothing(FakeDriver):
    """rebuild() of a machine that boots from a volume succeeds."""

    def rebuild(self, uuid: UUID, image: ImageRef, **options: object) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is None or machine.image_key is not None:
            super().rebuild(uuid, image, **options)  # type: ignore[arg-type]


@mutant("REBUILD-004")
class RebuildDeletesFirst(FakeDriver):
    """rebuild() deletes the old disk before it has the image."""

    def _check_rebuild(self, uuid: UUID) -> Machine:
        machine = super()._check_rebuild(uuid)
        self.fake_host.remove_disks(uuid, "root")
        return machine


@mutant("REBUILD-005")
class RebuildDropsSnapshots(FakeDriver):
    """rebuild() deletes the snapshots that are in its way."""

    def _check_rebuild(self, uuid: UUID) -> Machine:
        machine = self.machines.checked("rebuild", uuid)
        machine.snapshots.clear()
        machine.current_snapshot = None
        return super()._check_rebuild(uuid)


@mutant("REBUILD-004")
class RebuildGrowsTheDisk(FakeDriver):
    """rebuild() from an image that is larger than the disk makes the disk larger, unasked."""

    def _place_new(self, uuid: UUID, record: ImageRecord, token: int) -> None:
        machine = self.machines.find(uuid)
        before = machine.flavor
        machine.flavor = before.model_copy(update={"disk_gib": 0})
        try:
            super()._place_new(uuid, record, token)
        finally:
            machine.flavor = before


class _Wiping(FakeDriver):
    def _wipe(self, uuid: UUID) -> None:
        for disk in self.machines.find(uuid).volumes.values():
            disk.record.content = ("empty",)


@mutant("REBUILD-001")
class RebuildWipesVolumes(_Wiping):
    """rebuild() makes every disk of the machine anew, its volumes too."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        super()._switch_root(uuid, image, record)
        self._wipe(uuid)


@mutant("RESCUE-002")
class RescueWipesVolumes(_Wiping):
    """rescue() writes its image over the volumes."""

    def _start_rescue(self, uuid: UUID) -> None:
        super()._start_rescue(uuid)
        self._wipe(uuid)


@mutant("REBUILD-006")
class RebuildKeepsTheName(FakeDriver):
    """A rebuilt instance is said to be made from the image that it was spawned from."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        key = self.machines.find(uuid).image_key
        super()._switch_root(uuid, image, record)
        self.machines.find(uuid).image_key = key
