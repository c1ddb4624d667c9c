"""Mutants that break a law common to all operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.machines import Machines
from hvdrivers.fake.records import Machine, VolumeRecord
from hvdrivers.fake.volumes import Volumes
from hvdrivers.models.instance import InstanceSummary, Metadata
from hvdrivers.models.resources import HostResources
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import AttachedVolume, VolumeAttachment

_T = TypeVar("_T")
_FIRST_NAMES: WeakKeyDictionary[object, dict[UUID, str]] = WeakKeyDictionary()


@mutant("LAW-001")
class ReadingWrites(FakeDriver):
    """get_available_resource() leaves a temporary file on the host."""

    def get_available_resource(self, *, timeout: float | None = None) -> HostResources:
        found = super().get_available_resource(timeout=timeout)
        for machine in self.fake_host.ours():
            machine.passwords.setdefault("probe", "")  # type: ignore[arg-type]
        return found


@mutant("LAW-002")
class SecondResumeStarts(FakeDriver):
    """The second power_on() in a row starts the guest anew, if another connection asks."""

    def _power_on(self, uuid: UUID) -> None:
        running = self.machines.checked("power_on", uuid).state is InstanceState.RUNNING
        super()._power_on(uuid)
        if running:
            self.fake_host.boot(self.machines.find(uuid))


@mutant("LAW-002")
class SecondSuspendSavesAgain(FakeDriver):
    """suspend() of a suspended machine writes an empty memory image over the saved one."""

    def _save(self, uuid: UUID, token: int) -> bool:
        saved = super()._save(uuid, token)
        memory = self.fake_host.disk(uuid, "memory")
        if not saved and memory is not None:
            memory.content = ()
        return saved


@mutant("LAW-007")
class ListsDoNotKnowOfSavedMemory(FakeDriver):
    """list_instances() shows a suspended machine as stopped."""

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        stopped = {"state": InstanceState.STOPPED}
        return [
            each.model_copy(update=stopped) if each.state is InstanceState.SUSPENDED else each
            for each in super().list_instances(timeout=timeout)
        ]


@mutant("LAW-007")
class ListsKeepTheFirstName(FakeDriver):
    """rename() leaves the name that list_instances() shows."""

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        listed = super().list_instances(timeout=timeout)
        names = _FIRST_NAMES.setdefault(self.fake_host, {})
        return [
            each.model_copy(update={"name": names.setdefault(each.uuid, each.name)})
            for each in listed
        ]


class _Restarting(FakeDriver):
    def _restart(self, uuid: UUID) -> None:
        machine = self.machines.find(uuid)
        if machine.state is InstanceState.RUNNING:
            self.fake_host.boot(machine)


@mutant("LAW-003")
class MetadataNeedARestart(_Restarting):
    """set_metadata() defines the machine anew, and starts it from that."""

    def _set_metadata(self, uuid: UUID, metadata: Metadata) -> None:
        super()._set_metadata(uuid, metadata)
        self._restart(uuid)


@mutant("LAW-003")
class DisksComeByARestart(_Restarting):
    """attach_volume() resets a running machine, so that its guest finds the new disk."""

    def _plug_disk(self, uuid: UUID, attachment: VolumeAttachment) -> AttachedVolume:
        attached = super()._plug_disk(uuid, attachment)
        self._restart(uuid)
        return attached


@mutant("LAW-003")
class NicsGoByARestart(_Restarting):
    """unplug_vif() resets a running machine, so that its guest lets go of the NIC."""

    def _unplug_nic(self, uuid: UUID, vif_id: str) -> None:
        super()._unplug_nic(uuid, vif_id)
        self._restart(uuid)


@mutant("LAW-003")
class SizesComeByARestart(_Restarting):
    """A hot resize is a resize and a reset."""

    def _resize_hot(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        super()._resize_hot(operation, uuid, field, wanted)
        self._restart(uuid)


@mutant("LAW-003")
class DisksMoveWhileItIsOff(_Restarting):
    """migrate_storage() stops a running machine, moves its disks, and starts it again."""

    def _switch_pool(self, uuid: UUID, pool: str, token: int) -> None:
        super()._switch_pool(uuid, pool, token)
        self._restart(uuid)


@mutant("LAW-003")
class SnapshotsResetTheGuest(_Restarting):
    """create_snapshot() takes the disks of a machine that it has stopped for that."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        made = super()._take(uuid, name, memory)
        self._restart(uuid)
        return made


@mutant("LAW-004")
class BusyIsForEver(FakeDriver):
    """A volume that another machine has is DeviceBusy, and not to be asked for again."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            try:
                return super().check_free(uuid, attachment)
            except errors.DeviceBusy as error:
                error.retryable = False
                raise


@mutant("LAW-004")
class AbsentMayComeBack(FakeDriver):
    """InstanceNotFound says that the same call may succeed later."""

    class machines_type(Machines):
        def find(self, uuid: UUID) -> Machine:
            try:
                return super().find(uuid)
            except errors.InstanceNotFound as error:
                error.retryable = True
                raise


class _Hopeful(FakeDriver):
    """Says of everything that is in use that it may be free later."""

    def _hoping(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except errors.DeviceBusy as error:
            error.retryable = True
            raise


@mutant("LAW-004")
class AttachedMayGoByItself(_Hopeful):
    """delete_volume() of an attached volume says that the same call may succeed later."""

    def delete_volume(self, volume_id: str, *, timeout: float | None = None) -> None:
        self._hoping(partial(super().delete_volume, volume_id, timeout=timeout))


@mutant("LAW-004")
class SnapshotsMayGoByThemselves(_Hopeful):
    """rebuild() of an instance with snapshots says that the same call may succeed later."""

    def _check_rebuild(self, uuid: UUID) -> Machine:
        return self._hoping(partial(super()._check_rebuild, uuid))


@mutant("LAW-004")
class DisksMayLeaveByThemselves(_Hopeful):
    """evict_image() of an image in use says that the same call may succeed later."""

    def _evict(self, key: str) -> None:
        self._hoping(partial(super()._evict, key))
