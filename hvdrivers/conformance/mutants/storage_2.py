"""Mutants of detach_volume()."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.conformance.mutants.storage import ForgetsAtPowerOff
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import AttachedDisk, Machine
from hvdrivers.fake.steps import Task
from hvdrivers.fake.volumes import Volumes, shown
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment


@mutant("STOR-010")
class DetachOnlyLive(FakeDriver):
    """detach_volume() changes only the running machine: at the next start the volume is back."""

    taken: ClassVar[dict[UUID, AttachedDisk]] = {}

    def _unplug_disk(self, uuid: UUID, volume_id: str) -> None:
        machine = self.fake_host.machines[uuid]
        if machine.state is InstanceState.RUNNING:
            self.taken[uuid] = machine.volumes[volume_id]
        super()._unplug_disk(uuid, volume_id)

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        super().power_off(uuid, graceful=graceful, timeout=timeout)
        disk = self.taken.pop(uuid, None)
        if disk is not None:
            self.fake_host.machines[uuid].volumes[disk.attachment.volume_id] = disk


@mutant("STOR-010")
class DetachOnlyStored(ForgetsAtPowerOff):
    """detach_volume() changes only the definition: until it is switched off the machine has it."""

    def _unplug_disk(self, uuid: UUID, volume_id: str) -> None:
        if self.fake_host.machines[uuid].state is InstanceState.RUNNING:
            self.lost.setdefault(uuid, set()).add(volume_id)
        else:
            super()._unplug_disk(uuid, volume_id)


@mutant("STOR-010")
class DetachTakesAll(FakeDriver):
    """detach_volume() of one volume takes every volume of the machine away."""

    def _unplug_disk(self, uuid: UUID, volume_id: str) -> None:
        for name in list(self.machines.find(uuid).volumes):
            super()._unplug_disk(uuid, name)


@mutant("STOR-011")
class DetachKeepsTheLock(FakeDriver):
    """A detached volume stays locked for the machine that had it."""

    class volumes_type(Volumes):
        def disconnect(self, uuid: UUID, volume_id: str) -> None:
            return


@mutant("STOR-011")
class DetachKeepsTheSecret(FakeDriver):
    """The passphrase of a detached volume stays on the host."""

    class volumes_type(Volumes):
        def disconnect(self, uuid: UUID, volume_id: str) -> None:
            self.host.unlock(uuid, volume_id=volume_id)


@mutant("STOR-011")
class DetachDeletesTheVolume(FakeDriver):
    """A volume is deleted when it is detached."""

    class volumes_type(Volumes):
        def disconnect(self, uuid: UUID, volume_id: str) -> None:
            super().disconnect(uuid, volume_id)
            for pool in self.host.pools.values():
                pool.volumes = {
                    name: each for name, each in pool.volumes.items() if each.volume_id != volume_id
                }


@mutant("STOR-012")
class DetachDoesNotWait(FakeDriver):
    """detach_volume() returns when the guest was asked, not when it has let go."""

    def _wait_for_guest(self, task: Task, machine: Machine, device: str) -> None:
        return


@mutant("STOR-012")
class FailedDetachIsForLater(ForgetsAtPowerOff):
    """The right error, but the definition was changed before the guest was asked."""

    def _ask_unplug(self, machine: Machine, device: str) -> None:
        self.lost.setdefault(machine.uuid, set()).add(device)
        super()._ask_unplug(machine, device)


@mutant("STOR-012")
class StubbornGuestIsATimeout(FakeDriver):
    """A guest that does not let go is an OperationTimeout, which promises that all was undone."""

    def _wait_for_guest(self, task: Task, machine: Machine, device: str) -> None:
        task.wait(machine.guest.detach_seconds)


@mutant("STOR-013")
class DetachOfAbsentRaises(FakeDriver):
    """Detaching a volume that was detached before raises VolumeNotFound."""

    def _check_detach(self, uuid: UUID, volume_id: str) -> Machine:
        machine = super()._check_detach(uuid, volume_id)
        known = {each.volume_id for each in self.fake_host.volumes()}
        if volume_id in known and volume_id not in machine.volumes:
            raise errors.VolumeNotFound("the volume is not attached")
        return machine


@mutant("STOR-013")
class DetachTakesItFromWhoeverHasIt(FakeDriver):
    """detach_volume() looks for the volume and not for the instance."""

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        owners = [each.uuid for each in self.fake_host.ours() if volume_id in each.volumes]
        super().detach_volume((owners or [uuid])[0], volume_id, timeout=timeout)


@mutant("STOR-014")
class BootDiskCanBeTaken(FakeDriver):
    """The disk that a stopped instance boots from can be detached."""

    def _check_detach(self, uuid: UUID, volume_id: str) -> Machine:
        return self.machines.checked("detach_volume", uuid)


@mutant("STOR-014")
class BootDiskIsUnlockedFirst(FakeDriver):
    """The right error for the boot disk, after its lock has been given up."""

    def _check_detach(self, uuid: UUID, volume_id: str) -> Machine:
        disk = self.machines.find(uuid).volumes.get(volume_id)
        if disk is not None:
            disk.record.locks = {
                key: replace(lock, token=0)
                for key, lock in disk.record.locks.items()
                if disk.attachment.boot_index != 0
            }
        return super()._check_detach(uuid, volume_id)


@mutant("STOR-017")
class DetachWipesTheVolume(FakeDriver):
    """A detached volume is emptied for the next one."""

    def _unplug_disk(self, uuid: UUID, volume_id: str) -> None:
        disk = self.machines.find(uuid).volumes.get(volume_id)
        super()._unplug_disk(uuid, volume_id)
        if disk is not None:
            disk.record.content = ("empty",)


@mutant("STOR-017")
class DestroyWipesVolumes(FakeDriver):
    """destroy() empties the volumes that were attached."""

    def _release_volumes(self, uuid: UUID) -> None:
        for disk in self.fake_host.machines[uuid].volumes.values():
            disk.record.content = ("empty",)
        super()._release_volumes(uuid)


@mutant("STOR-074")
class BackEndNeedsAPassphrase(FakeDriver):
    """A volume that its storage decrypts is refused for want of a passphrase."""

    class volumes_type(Volumes):
        def passphrase(self, attachment: VolumeAttachment) -> SecretStr | None:
            if attachment.encryption is not None and attachment.encryption.secret is None:
                raise errors.InvalidRequest("the passphrase is not there")
            return super().passphrase(attachment)


class _RemembersWhatItAsked(FakeDriver):
    """Knows which volumes guests were asked for in vain."""

    asked: ClassVar[dict[UUID, AttachedDisk]] = {}

    def _wait_for_guest(self, task: Task, machine: Machine, device: str) -> None:
        self.asked[machine.uuid] = machine.volumes[device]
        super()._wait_for_guest(task, machine, device)
        del self.asked[machine.uuid]


@mutant("STOR-075")
class LateUnplugComesBack(_RemembersWhatItAsked):
    """What a guest lets go of late is back at the next start."""

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        disk = self.asked.pop(uuid, None)
        if disk is not None:
            self.fake_host.machines[uuid].volumes[disk.attachment.volume_id] = disk
        super().power_on(uuid, timeout=timeout)


@mutant("STOR-075")
class LateUnplugIsShown(_RemembersWhatItAsked):
    """A guest lets go late: get_instance() goes on to show the volume."""

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        info = super().get_instance(uuid, timeout=timeout)
        disk = self.asked.get(uuid)
        if disk is not None and not any(
            each.volume_id == disk.attachment.volume_id for each in info.volumes
        ):
            return info.model_copy(update={"volumes": (*info.volumes, shown(disk))})
        return info
