"""Mutants that do less with an adopted machine than they say."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import Destination
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.volume import AttachedVolume, VolumeAttachment


class AdoptingFake(FakeDriver):
    """Tells which machines others have made, for as long as they have their disk."""

    def is_adopted(self, uuid: UUID) -> bool:
        return any("foreign" in disk.content for _, disk in self.fake_host.disks_of(uuid))


@mutant("ADOPT-007")
class SnapshotOfAdoptedIsLost(AdoptingFake):
    """create_snapshot() of an adopted machine returns a snapshot that is not there."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        made = super()._take(uuid, name, memory)
        if self.is_adopted(uuid):
            del self.machines.find(uuid).snapshots[made.id]
            self.machines.find(uuid).current_snapshot = None
        return made


@mutant("ADOPT-007")
class RevertedIsForeign(AdoptingFake):
    """revert_snapshot() brings an adopted machine back to what it was without the mark."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        super()._revert(uuid, snapshot_id)
        if self.is_adopted(uuid):
            self.machines.find(uuid).metadata = {}


@mutant("ADOPT-007")
class RefusalLeavesASnapshot(AdoptingFake):
    """create_snapshot() of an adopted machine is refused when it has been made."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        made = super()._take(uuid, name, memory)
        if self.is_adopted(uuid):
            raise errors.NotSupported("of an adopted machine", hint="make it by hand")
        return made


@mutant("ADOPT-008")
class AdoptedKeepsItsSize(AdoptingFake):
    """resize() of an adopted machine does nothing."""

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        if not self.is_adopted(uuid):
            super()._resize(uuid, flavor)


@mutant("ADOPT-009")
class AdoptedHasNoVolumes(AdoptingFake):
    """attach_volume() to an adopted machine tells what it would be, and plugs nothing."""

    def _plug_disk(self, uuid: UUID, attachment: VolumeAttachment) -> AttachedVolume:
        attached = super()._plug_disk(uuid, attachment)
        if self.is_adopted(uuid):
            del self.machines.find(uuid).volumes[attachment.volume_id]
        return attached


@mutant("ADOPT-010")
class AdoptedLosesMetadataOnItsWay(AdoptingFake):
    """cold_migrate() takes an adopted machine along without what adopt() has written."""

    def cold_migrate(self, uuid: UUID, destination: Destination, **options: Any) -> None:
        if self.is_adopted(uuid):
            self.machines.find(uuid).metadata = {}
        super().cold_migrate(uuid, destination, **options)


@mutant("ADOPT-011")
class AdoptedLosesItsLabelOnItsWay(AdoptingFake):
    """live_migrate() takes an adopted machine along under another name."""

    def live_migrate(self, uuid: UUID, destination: Destination, **options: Any) -> None:
        if self.is_adopted(uuid):
            self.machines.find(uuid).name = "moved"
        super().live_migrate(uuid, destination, **options)
