"""Mutants of swap_volume()."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Lock, VolumeRecord
from hvdrivers.fake.volumes import Volumes
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.volume import AttachedVolume, VolumeAttachment


@mutant("STOR-030")
class SwapKeepsTheOldLock(FakeDriver):
    """After swap_volume() the old volume stays locked, and cannot be deleted."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        record = self._disk_of("swap_volume", uuid, volume_id).record
        locks = dict(record.locks)
        swapped = super()._switch_volume(uuid, volume_id, replacement)
        record.locks = locks
        return swapped


@mutant("STOR-030")
class SwapAddsADisk(FakeDriver):
    """swap_volume() attaches the replacement beside the old volume."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        self._disk_of("swap_volume", uuid, volume_id)
        return self.volumes.add(self.machines.find(uuid), replacement)


@mutant("STOR-030")
class SwapMovesTheDisk(FakeDriver):
    """After swap_volume() the guest finds its disk at another place."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        swapped = super()._switch_volume(uuid, volume_id, replacement)
        self.machines.find(uuid).volumes[replacement.volume_id].device = "vdy"
        return swapped.model_copy(update={"device": "vdy"})


@mutant("STOR-030")
class SwapOnlyLive(FakeDriver):
    """swap_volume() changes the running machine alone: at the next start the old volume is back."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        machine = self.machines.find(uuid)
        self.__dict__.setdefault("_stored", {})[uuid] = dict(machine.volumes)
        return super()._switch_volume(uuid, volume_id, replacement)

    def _power_off(self, uuid: UUID) -> None:
        super()._power_off(uuid)
        stored = self.__dict__.get("_stored", {}).pop(uuid, None)
        if stored is not None:
            self.machines.find(uuid).volumes = stored


@mutant("STOR-031")
class RepeatedSwapSucceeds(FakeDriver):
    """A swap_volume() that was done returns the replacement again, whatever was asked for."""

    def _check_swap(self, uuid: UUID, volume_id: str, replacement: VolumeAttachment) -> None:
        if replacement.volume_id not in self.machines.find(uuid).volumes:
            super()._check_swap(uuid, volume_id, replacement)

    def swap_volume(
        self,
        uuid: UUID,
        volume_id: str,
        replacement: VolumeAttachment,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> AttachedVolume:
        info = self.get_instance(uuid)
        for volume in info.volumes:
            if volume.volume_id == replacement.volume_id:
                return volume
        return super().swap_volume(uuid, volume_id, replacement, timeout=timeout, progress=progress)


@mutant("STOR-032")
class SwapTakesSmaller(FakeDriver):
    """swap_volume() to a smaller volume loses the end of the data."""

    def _check_swap(self, uuid: UUID, volume_id: str, replacement: VolumeAttachment) -> None:
        self._disk_of("swap_volume", uuid, volume_id)


@mutant("STOR-032")
class RefusedSwapHoldsTheReplacement(FakeDriver):
    """The right error, but the replacement is locked for the machine from then on."""

    def _check_swap(self, uuid: UUID, volume_id: str, replacement: VolumeAttachment) -> None:
        try:
            super()._check_swap(uuid, volume_id, replacement)
        except errors.InvalidRequest:
            record = self.volumes.find(replacement)
            record.locks[self.fake_host.name, uuid] = Lock(0, False, replacement.volume_id)
            raise


@mutant("STOR-034")
class SwapMergesTwoVolumes(FakeDriver):
    """swap_volume() to another volume of the same machine leaves it with one of the two."""

    def _check_swap(self, uuid: UUID, volume_id: str, replacement: VolumeAttachment) -> None:
        with suppress(errors.InvalidRequest):
            super()._check_swap(uuid, volume_id, replacement)


@mutant("STOR-034")
class SwapTakesWhatIsInUse(FakeDriver):
    """swap_volume() copies over a volume that another machine writes to."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            try:
                return super().check_free(uuid, attachment)
            except errors.DeviceBusy:
                return self.find(attachment)


@mutant("STOR-033")
class SwapDoesNotCopy(FakeDriver):
    """swap_volume() gives the guest an empty volume."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        content = self.volumes.find(replacement).content
        swapped = super()._switch_volume(uuid, volume_id, replacement)
        self.volumes.find(replacement).content = content
        return swapped


@mutant("STOR-033")
class SwapStaysOnTheOldVolume(FakeDriver):
    """After swap_volume() the guest is shown the replacement, and writes to the old volume."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        old = self._disk_of("swap_volume", uuid, volume_id).record
        swapped = super()._switch_volume(uuid, volume_id, replacement)
        self.machines.find(uuid).volumes[replacement.volume_id].record = old
        return swapped


@mutant("STOR-030")
class SwapForgetsTheBootOrder(FakeDriver):
    """The machine boots from nothing after the volume that it boots from was swapped."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        swapped = super()._switch_volume(uuid, volume_id, replacement)
        self.machines.find(uuid).volumes[replacement.volume_id].attachment = replacement
        return swapped


@mutant("STOR-042")
class SwapIgnoresTheLimits(FakeDriver):
    """The limits that the replacement of a swap names are not set."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        swapped = super()._switch_volume(uuid, volume_id, replacement)
        self.machines.find(uuid).volumes[replacement.volume_id].qos = None
        return swapped
