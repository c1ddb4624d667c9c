"""Mutants of everything about volumes beyond attach and detach."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import ClassVar
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import AttachedDisk, Machine
from hvdrivers.fake.showing import Showing
from hvdrivers.fake.steps import Task
from hvdrivers.fake.volumes import Volumes
from hvdrivers.models.instance import InstanceInfo, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import AttachedVolume, DiskQos, VolumeAttachment, VolumeConnector

_NUMBERS = count(1)


@mutant("STOR-015")
class ConnectorOfEachConnection(FakeDriver):
    """Each connection makes up an initiator of its own, so that exports to one fail for another."""

    def _connector(self) -> VolumeConnector:
        number = self.__dict__.setdefault("number", next(_NUMBERS))
        name = f"iqn.2026-01.org.example:connection-{number}"
        return super()._connector().model_copy(update={"initiator": name})


@mutant("STOR-016")
class ConnectorWithoutInitiator(FakeDriver):
    """The driver declares iSCSI, and does not tell the host's name there."""

    def _connector(self) -> VolumeConnector:
        return super()._connector().model_copy(update={"initiator": None})


@mutant("STOR-016")
class ConnectorWithoutPorts(FakeDriver):
    """The driver declares Fibre Channel, and names no port."""

    def _connector(self) -> VolumeConnector:
        return super()._connector().model_copy(update={"wwpns": ()})


@mutant("STOR-020")
class ExtendDoesNothing(FakeDriver):
    """extend_volume() checks its arguments, and the machine sees what it saw."""

    def _extend(self, uuid: UUID, volume_id: str, size_bytes: int) -> None:
        disk = self._disk_of("extend_volume", uuid, volume_id)
        seen = disk.seen_bytes
        super()._extend(uuid, volume_id, size_bytes)
        disk.seen_bytes = seen


@mutant("STOR-020")
class ExtendOnlyLive(FakeDriver):
    """extend_volume() tells the running machine alone: at the next start it sees the old size."""

    def _extend(self, uuid: UUID, volume_id: str, size_bytes: int) -> None:
        before = self._disk_of("extend_volume", uuid, volume_id).seen_bytes
        super()._extend(uuid, volume_id, size_bytes)
        self.__dict__.setdefault("_stored", {})[uuid, volume_id] = before

    def _power_off(self, uuid: UUID) -> None:
        super()._power_off(uuid)
        for name, disk in self.machines.find(uuid).volumes.items():
            disk.seen_bytes = self.__dict__.get("_stored", {}).get((uuid, name), disk.seen_bytes)


@mutant("STOR-021")
class ExtendShrinks(FakeDriver):
    """extend_volume() to a smaller size cuts off the end of the guest's file system."""

    def _extend(self, uuid: UUID, volume_id: str, size_bytes: int) -> None:
        self._disk_of("extend_volume", uuid, volume_id).seen_bytes = size_bytes


@mutant("STOR-021")
class ExtendRefusesTheSame(FakeDriver):
    """extend_volume() to the size that is there, as when it is repeated, raises InvalidRequest."""

    def _extend(self, uuid: UUID, volume_id: str, size_bytes: int) -> None:
        if size_bytes == self._disk_of("extend_volume", uuid, volume_id).seen_bytes:
            raise errors.InvalidRequest("the volume has that size already")
        super()._extend(uuid, volume_id, size_bytes)


class _Writable(Volumes):
    _only_at_spawn = False

    def add(self, machine: Machine, attachment: VolumeAttachment) -> AttachedVolume:
        if not self._only_at_spawn or machine.state is InstanceState.BUILDING:
            attachment = attachment.model_copy(update={"read_only": False})
        return super().add(machine, attachment)


@mutant("STOR-018")
class SpawnIgnoresReadOnly(FakeDriver):
    """A volume that spawn() is to attach read-only can be written to, and is shown so."""

    class volumes_type(_Writable):
        _only_at_spawn = True


@mutant("STOR-018")
class HotPlugIgnoresReadOnly(FakeDriver):
    """A volume that is attached read-only while the machine runs can be written to."""

    class volumes_type(Volumes):
        def add(self, machine: Machine, attachment: VolumeAttachment) -> AttachedVolume:
            if machine.state is InstanceState.RUNNING:
                attachment = attachment.model_copy(update={"read_only": False})
            return super().add(machine, attachment)


@mutant("STOR-018")
class ReadOnlyIsOnlyShown(FakeDriver):
    """get_instance() repeats that a volume is read-only; the guest can write to it."""

    class volumes_type(_Writable):
        def add(self, machine: Machine, attachment: VolumeAttachment) -> AttachedVolume:
            asked: dict[str, bool] = self.host.__dict__.setdefault("asked", {})
            asked[attachment.volume_id] = attachment.read_only
            return super().add(machine, attachment)

    class showing_type(Showing):
        def info(self, machine: Machine) -> InstanceInfo:
            info = super().info(machine)
            asked: dict[str, bool] = self.ports.host.__dict__.get("asked", {})
            shown = [
                each.model_copy(update={"read_only": asked.get(each.volume_id, False)})
                for each in info.volumes
            ]
            return info.model_copy(update={"volumes": tuple(shown)})


class _Owned(FakeDriver):
    """Takes a volume for attached to this instance when any instance has it."""

    everywhere: ClassVar[frozenset[str]] = frozenset()

    def _disk_of(self, operation: str, uuid: UUID, volume_id: str) -> AttachedDisk:
        if operation in self.everywhere:
            for machine in self.fake_host.ours():
                if volume_id in machine.volumes:
                    return machine.volumes[volume_id]
        return super()._disk_of(operation, uuid, volume_id)


@mutant("STOR-022")
class ExtendOfAnothersVolume(_Owned):
    """extend_volume() finds the volume in whatever machine has it."""

    everywhere = frozenset({"extend_volume"})


@mutant("STOR-022")
class ExtendOfAbsentIsInvalid(FakeDriver):
    """extend_volume() of a volume that is not attached raises InvalidRequest."""

    def _extend(self, uuid: UUID, volume_id: str, size_bytes: int) -> None:
        try:
            super()._extend(uuid, volume_id, size_bytes)
        except errors.VolumeNotFound as error:
            raise errors.InvalidRequest("not attached") from error


@mutant("STOR-040")
class DiskQosIgnored(FakeDriver):
    """set_disk_qos() accepts limits and sets none."""

    def _limit_disk(self, uuid: UUID, volume_id: str, qos: DiskQos | None) -> None:
        self._disk_of("set_disk_qos", uuid, volume_id)


@mutant("STOR-040")
class DiskQosCannotBeRemoved(FakeDriver):
    """set_disk_qos(None) leaves the limits that there are."""

    def _limit_disk(self, uuid: UUID, volume_id: str, qos: DiskQos | None) -> None:
        disk = self._disk_of("set_disk_qos", uuid, volume_id)
        disk.qos = qos or disk.qos


@mutant("STOR-040")
class DiskQosAddsUp(FakeDriver):
    """set_disk_qos() leaves limits in force that the new ones do not name."""

    def _limit_disk(self, uuid: UUID, volume_id: str, qos: DiskQos | None) -> None:
        disk = self._disk_of("set_disk_qos", uuid, volume_id)
        before = disk.qos.limits() if disk.qos is not None and qos is not None else {}
        disk.qos = qos and DiskQos.model_construct(None, **(before | qos.limits()))


@mutant("STOR-040")
class DiskQosOfAll(FakeDriver):
    """set_disk_qos() of one volume limits every volume of the machine."""

    def _limit_disk(self, uuid: UUID, volume_id: str, qos: DiskQos | None) -> None:
        super()._limit_disk(uuid, volume_id, qos)
        for disk in self.machines.find(uuid).volumes.values():
            disk.qos = qos


@mutant("STOR-040")
class DiskQosOnlyLive(FakeDriver):
    """Limits are gone after the next power_off()."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        super().power_off(uuid, graceful=graceful, timeout=timeout)
        for disk in self.fake_host.machines[uuid].volumes.values():
            disk.qos = None


@mutant("STOR-041")
class DiskQosOfAnothersVolume(_Owned):
    """set_disk_qos() limits the volume in whatever machine has it."""

    everywhere = frozenset({"set_disk_qos"})


@mutant("STOR-041")
class DiskQosOfAbsentSucceeds(FakeDriver):
    """set_disk_qos() of a volume that is not attached is taken for done."""

    def _limit_disk(self, uuid: UUID, volume_id: str, qos: DiskQos | None) -> None:
        try:
            super()._limit_disk(uuid, volume_id, qos)
        except errors.VolumeNotFound:
            return


@mutant("STOR-042")
class AttachIgnoresQos(FakeDriver):
    """A volume is attached without the limits that its attachment names."""

    class volumes_type(Volumes):
        def add(self, machine: Machine, attachment: VolumeAttachment) -> AttachedVolume:
            attached = super().add(machine, attachment)
            disk = machine.volumes[attachment.volume_id]
            machine.volumes[attachment.volume_id] = replace(disk, qos=None)
            return attached


@mutant("STOR-042")
class SpawnIgnoresTheLimits(FakeDriver):
    """A volume that a machine is spawned with has no limits."""

    def _add_volumes(self, task: Task, spec: InstanceSpec) -> None:
        super()._add_volumes(task, spec)
        for disk in self.machines.find(spec.uuid).volumes.values():
            disk.qos = None


@mutant("STOR-070")
class DetachForgetsAllSecrets(FakeDriver):
    """detach_volume() forgets the secrets of every volume of the instance."""

    class volumes_type(Volumes):
        def disconnect(self, uuid: UUID, volume_id: str) -> None:
            super().disconnect(uuid, volume_id)
            self.host.remove_secrets(uuid)
