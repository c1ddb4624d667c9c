"""Mutants of attach_volume()."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Lock, Machine, Secret, VolumeRecord
from hvdrivers.fake.volumes import Volumes
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import (
    AttachedVolume,
    DiskBus,
    LocalVolume,
    PoolVolume,
    VolumeAttachment,
)


@mutant("STOR-001")
class AttachTellsAnotherDevice(FakeDriver):
    """attach_volume() returns the device that was wished for, not the one that it became."""

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        attached = super().attach_volume(uuid, attachment, timeout=timeout)
        return attached.model_copy(update={"device": attachment.device or "vdz"})


@mutant("STOR-001")
class AttachSeenByOneConnection(FakeDriver):
    """attach_volume() changes only what this connection remembers of the machine."""

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        attached = super().attach_volume(uuid, attachment, timeout=timeout)
        remembered = self.__dict__.setdefault("remembered", {})
        remembered[uuid] = attached
        with self.fake_host.world.lock:
            self._unplug_disk(uuid, attachment.volume_id)
        return attached

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        info = super().get_instance(uuid, timeout=timeout)
        volume = self.__dict__.get("remembered", {}).get(uuid)
        return info.model_copy(update={"volumes": (*info.volumes, volume)}) if volume else info


@mutant("STOR-001")
class AttachedSizeIsTheDefault(FakeDriver):
    """A volume is shown with 1 GiB, whatever size it has."""

    class volumes_type(Volumes):
        def add(self, machine: Machine, attachment: VolumeAttachment) -> AttachedVolume:
            attached = super().add(machine, attachment)
            machine.volumes[attachment.volume_id].seen_bytes = 1 << 30
            return attached.model_copy(update={"size_bytes": 1 << 30})


class ForgetsAtPowerOff(FakeDriver):
    """What is said to be of the running machine alone is undone when it is switched off."""

    lost: ClassVar[dict[UUID, set[str]]] = {}

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        super().power_off(uuid, graceful=graceful, timeout=timeout)
        for volume_id in self.lost.pop(uuid, set()):
            with self.fake_host.world.lock:
                self.fake_host.machines[uuid].volumes.pop(volume_id, None)
                self.volumes.disconnect(uuid, volume_id)


@mutant("STOR-002")
class AttachOnlyLive(ForgetsAtPowerOff):
    """A volume attached to a running machine is gone after its next power_off()."""

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        attached = super().attach_volume(uuid, attachment, timeout=timeout)
        if self.fake_host.machines[uuid].state is InstanceState.RUNNING:
            self.lost.setdefault(uuid, set()).add(attachment.volume_id)
        return attached


@mutant("STOR-003")
class AttachNotIdempotent(FakeDriver):
    """Attaching a volume that is there already raises DeviceBusy."""

    def _check_attach(self, uuid: UUID, attachment: VolumeAttachment) -> AttachedVolume | None:
        if super()._check_attach(uuid, attachment) is not None:
            raise errors.DeviceBusy("the volume is attached already")
        return None


@mutant("STOR-003")
class SecondAttachRepliesByRequest(FakeDriver):
    """Attaching a volume that is there already returns the options of the second request."""

    def _check_attach(self, uuid: UUID, attachment: VolumeAttachment) -> AttachedVolume | None:
        there = super()._check_attach(uuid, attachment)
        return there and there.model_copy(update={"read_only": attachment.read_only})


@mutant("STOR-003")
class SecondAttachChangesOptions(FakeDriver):
    """Attaching a volume that is there already gives it the options of the second request."""

    def _check_attach(self, uuid: UUID, attachment: VolumeAttachment) -> AttachedVolume | None:
        disk = self.machines.find(uuid).volumes.get(attachment.volume_id)
        if disk is not None:
            disk.attachment = attachment
        return super()._check_attach(uuid, attachment)


@mutant("STOR-004")
class AttachIgnoresReadOnly(FakeDriver):
    """A volume asked for read-only can be written to."""

    class volumes_type(Volumes):
        def add(self, machine: Machine, attachment: VolumeAttachment) -> AttachedVolume:
            return super().add(machine, attachment.model_copy(update={"read_only": False}))


@mutant("STOR-004")
class AttachReplacesBus(FakeDriver):
    """A bus that is not there is replaced silently instead of being refused."""

    class volumes_type(Volumes):
        def add(self, machine: Machine, attachment: VolumeAttachment) -> AttachedVolume:
            if attachment.bus in {DiskBus.IDE, DiskBus.NVME}:
                attachment = attachment.model_copy(update={"bus": DiskBus.SATA})
            return super().add(machine, attachment)


@mutant("STOR-004")
class AttachForgetsBootOrder(FakeDriver):
    """attach_volume() returns the place in the boot order, and does not keep it."""

    class volumes_type(Volumes):
        def add(self, machine: Machine, attachment: VolumeAttachment) -> AttachedVolume:
            attached = super().add(machine, attachment)
            if attachment.boot_index:
                disk = machine.volumes[attachment.volume_id]
                disk.attachment = attachment.model_copy(update={"boot_index": None})
            return attached


@mutant("STOR-005")
class AttachMakesWhatIsAbsent(FakeDriver):
    """A volume that is not there is attached as an empty one."""

    class volumes_type(Volumes):
        def pool_volume(self, volume: PoolVolume) -> VolumeRecord:
            try:
                return super().pool_volume(volume)
            except errors.VolumeNotFound:
                return self.anything(volume.volume_id)


@mutant("STOR-005")
class AbsentVolumeIsInvalid(FakeDriver):
    """A volume that is not there is an InvalidRequest."""

    class volumes_type(Volumes):
        def pool_volume(self, volume: PoolVolume) -> VolumeRecord:
            try:
                return super().pool_volume(volume)
            except errors.VolumeNotFound as error:
                raise errors.InvalidRequest("no such volume") from error


@mutant("STOR-005")
class AnyPathWillDo(FakeDriver):
    """A path at which the host has nothing is attached all the same."""

    class volumes_type(Volumes):
        def local_volume(self, volume: LocalVolume) -> VolumeRecord:
            return self.anything(volume.volume_id)


@mutant("STOR-019")
class PassphraseIsGuessed(FakeDriver):
    """An encrypted volume without its passphrase is attached as if it were none."""

    class volumes_type(Volumes):
        def passphrase(self, attachment: VolumeAttachment) -> SecretStr | None:
            encryption = attachment.encryption
            if encryption is not None and encryption.secret is None:
                return None
            return super().passphrase(attachment)


@mutant("STOR-005")
class RefusedAttachLeavesCredentials(FakeDriver):
    """The right error, but the credentials for the volume stay on the host."""

    def _check_attach(self, uuid: UUID, attachment: VolumeAttachment) -> AttachedVolume | None:
        try:
            return super()._check_attach(uuid, attachment)
        except errors.VolumeNotFound:
            name = f"{uuid}/{attachment.volume_id}/chap"
            self.fake_host.secrets[name] = Secret(uuid, 0, SecretStr("hvct-left-behind"))
            raise


@mutant("STOR-006")
class SharesWithAnybody(FakeDriver):
    """A volume in use is attached to a second machine, whose writes destroy it."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            return self.find(attachment)


@mutant("STOR-006")
class PausedMachineLetsGo(FakeDriver):
    """Only RUNNING machines keep others from a volume; a PAUSED one writes on later."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            record = self.find(attachment)
            states = {self.host.machines[owner].state for _, owner in record.locks if owner != uuid}
            if InstanceState.RUNNING not in states:
                return record
            return super().check_free(uuid, attachment)


@mutant("STOR-006")
class OneSideDecidesSharing(FakeDriver):
    """A volume is shared where only those who have it said multiattach."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            record = self.find(attachment)
            if record.locks and all(lock.multiattach for lock in record.locks.values()):
                return record
            return super().check_free(uuid, attachment)


@mutant("STOR-006")
class NewcomerDecidesSharing(FakeDriver):
    """A volume is shared where only the one who asks for it said multiattach."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            if attachment.volume.multiattach:
                return self.find(attachment)
            return super().check_free(uuid, attachment)


@mutant("STOR-006")
class BusyVolumeIsLockedAllTheSame(FakeDriver):
    """The right error, but the machine that was refused holds the volume from then on."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            try:
                return super().check_free(uuid, attachment)
            except errors.DeviceBusy:
                record = self.find(attachment)
                record.locks[self.host.name, uuid] = Lock(0, False, attachment.volume_id)
                raise


@mutant("STOR-007")
class PoweredOffMachineHolds(FakeDriver):
    """A volume of a machine that is switched off cannot be attached to another."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            record = super().check_free(uuid, attachment)
            shared = attachment.volume.multiattach
            if not shared and any(owner != uuid for _, owner in record.locks):
                raise errors.DeviceBusy("the volume is in use")
            return record


@mutant("STOR-008")
class MultiattachIsOneByOne(FakeDriver):
    """A multiattach volume is refused while another machine has it."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            alone = attachment.volume.model_copy(update={"multiattach": False})
            return super().check_free(uuid, attachment.model_copy(update={"volume": alone}))


@mutant("STOR-008")
class DetachFreesForAll(FakeDriver):
    """Detaching a shared volume from one machine takes the lock of the other too."""

    class volumes_type(Volumes):
        def disconnect(self, uuid: UUID, volume_id: str) -> None:
            super().disconnect(uuid, volume_id)
            for volume in self.host.volumes():
                if volume.volume_id == volume_id:
                    volume.locks.clear()


@mutant("STOR-009")
class FullMachineIsAFault(FakeDriver):
    """A machine without a free slot is a HypervisorFault, of which no caller can make anything."""

    class volumes_type(Volumes):
        def check_slot(self, machine: Machine) -> None:
            try:
                super().check_slot(machine)
            except errors.InsufficientResources as error:
                raise errors.HypervisorFault("internal error") from error
