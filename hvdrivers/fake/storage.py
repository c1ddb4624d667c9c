"""Volumes of fake machines: attach, detach, and what happens to them while a guest runs."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared, provides
from hvdrivers.contract.storage import (
    DiskQosControl,
    ExtendVolume,
    HostVolumes,
    Storage,
    StorageMigration,
    SwapVolume,
)
from hvdrivers.driverkit.checks import require_growth
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.capacity import check_room
from hvdrivers.fake.records import AttachedDisk, Disk, Machine, VolumeRecord
from hvdrivers.fake.steps import Task
from hvdrivers.fake.volumes import Volumes, shown
from hvdrivers.hints import ATTACHED, BOOTS, DETACH_FIRST, GUEST_KEEPS, VOLUMES
from hvdrivers.models.events import DeviceKind
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.volume import (
    AttachedVolume,
    DiskQos,
    HostVolume,
    Volume,
    VolumeAttachment,
    VolumeConnector,
    VolumeSpec,
)

_COPY = ".copy"


class FakeStorage(FakeBase, Storage):
    """The storage topic of Core."""

    @provides(*declared(Volumes))
    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        """3 calls, 4 with secrets, 1 if it is there already."""
        with self.link.task("attach_volume", uuid, timeout, slow="plug-disk") as task:
            there = task.call(
                "look-up", lambda: self._check_attach(uuid, attachment), changes=False
            )
            if there is not None:
                return there
            self.volumes.connect(task, uuid, attachment)
            return task.call("plug-disk", lambda: self._plug_disk(uuid, attachment))

    def _check_attach(self, uuid: UUID, attachment: VolumeAttachment) -> AttachedVolume | None:
        machine = self.machines.checked("attach_volume", uuid)
        disk = machine.volumes.get(attachment.volume_id)
        if disk is not None:
            return shown(disk)
        self.volumes.check_free(uuid, attachment)
        self.volumes.check_slot(machine)
        return None

    def _plug_disk(self, uuid: UUID, attachment: VolumeAttachment) -> AttachedVolume:
        machine = self.machines.checked("attach_volume", uuid)
        if attachment.volume_id in machine.volumes:
            return shown(machine.volumes[attachment.volume_id])
        attached = self.volumes.add(machine, attachment)
        self.fake_host.tell_device(machine, DeviceKind.ADDED, attachment.volume_id)
        return attached

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        """2 calls, 4 while the machine runs."""
        with self.link.task("detach_volume", uuid, timeout) as task:
            machine = task.call(
                "look-up", lambda: self._check_detach(uuid, volume_id), changes=False
            )
            if self.machines.asks(machine) and volume_id in machine.volumes:
                task.call("ask-unplug", lambda: self._ask_unplug(machine, volume_id), changes=False)
                self._wait_for_guest(task, machine, volume_id)
            if volume_id in machine.volumes:
                task.call("unplug-disk", lambda: self._unplug_disk(uuid, volume_id))
            task.call("disconnect-volume", lambda: self.volumes.disconnect(uuid, volume_id))

    @provides(Capability.DETACH_PAUSED)
    def _check_detach(self, uuid: UUID, volume_id: str) -> Machine:
        machine = self.machines.checked("detach_volume", uuid)
        disk = machine.volumes.get(volume_id)
        if disk is not None and disk.attachment.boot_index == 0:
            raise errors.InvalidRequest("the instance boots from this volume", hint=BOOTS)
        return machine

    def _ask_unplug(self, machine: Machine, device: str) -> None:
        if machine.guest.refuses_unplug:
            self.fake_host.tell_device(machine, DeviceKind.REMOVAL_FAILED, device)
            raise errors.DeviceBusy(f"the guest refuses to let go of {device!r}", hint=GUEST_KEEPS)

    def _wait_for_guest(self, task: Task, machine: Machine, device: str) -> None:
        if not task.wait_for(machine.guest.detach_seconds):
            machine.asked_for.add(device)
            raise errors.DeviceBusy(
                f"the guest did not let go of {device!r} within the deadline", hint=GUEST_KEEPS
            )

    def _unplug_disk(self, uuid: UUID, volume_id: str) -> None:
        machine = self.machines.checked("detach_volume", uuid)
        if machine.volumes.pop(volume_id, None) is not None:
            self.fake_host.tell_device(machine, DeviceKind.REMOVED, volume_id)

    def get_volume_connector(
        self, uuid: UUID | None = None, *, timeout: float | None = None
    ) -> VolumeConnector:
        """1 call. The host is one host: the instance makes no difference."""
        del uuid
        with self.link.task("get_volume_connector", None, timeout) as task:
            return task.call("read-connector", self._connector, changes=False)

    def _connector(self) -> VolumeConnector:
        name = self.fake_host.name
        number = sum(name.encode()) % 256
        return VolumeConnector(
            host=name,
            ip=f"192.0.2.{1 + number % 254}",
            initiator=f"iqn.2026-01.org.example:{name}",
            wwpns=(f"50014380{number:08x}",),
            wwnns=(f"50014381{number:08x}",),
            nqn=f"nqn.2014-08.org.nvmexpress:{name}",
            platform=self.fake_host.size.architecture,
            os_type="linux",
        )


class _Attached(FakeBase):
    def _disk_of(self, operation: str, uuid: UUID, volume_id: str) -> AttachedDisk:
        machine = self.machines.checked(operation, uuid)
        if volume_id not in machine.volumes:
            raise errors.VolumeNotFound(
                f"volume {volume_id!r} is not attached to this instance", hint=ATTACHED
            )
        return machine.volumes[volume_id]


class FakeExtendVolume(_Attached, ExtendVolume):
    """A volume has grown."""

    def extend_volume(
        self, uuid: UUID, volume_id: str, size_bytes: int, *, timeout: float | None = None
    ) -> None:
        """1 call."""
        with self.link.task("extend_volume", uuid, timeout) as task:
            task.call("resize-disk", lambda: self._extend(uuid, volume_id, size_bytes))

    def _extend(self, uuid: UUID, volume_id: str, size_bytes: int) -> None:
        disk = self._disk_of("extend_volume", uuid, volume_id)
        require_growth(f"volume {volume_id!r}", disk.seen_bytes, size_bytes)
        disk.seen_bytes = size_bytes
        disk.record.size_bytes = max(size_bytes, disk.record.size_bytes)


class FakeSwapVolume(_Attached, SwapVolume):
    """Another volume under a running guest."""

    @provides(*declared(Volumes))
    def swap_volume(
        self,
        uuid: UUID,
        volume_id: str,
        replacement: VolumeAttachment,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> AttachedVolume:
        """4 calls, 5 with secrets."""
        with self.link.task(
            "swap_volume", uuid, timeout, progress=progress, slow="copy-volume"
        ) as task:
            task.call(
                "look-up", lambda: self._check_swap(uuid, volume_id, replacement), changes=False
            )
            self.volumes.connect(task, uuid, replacement)
            task.call(
                "copy-volume", lambda: self._disk_of("swap_volume", uuid, volume_id), covered=True
            )
            return task.call(
                "switch-volume",
                lambda: self._switch_volume(uuid, volume_id, replacement),
            )

    def _check_swap(self, uuid: UUID, volume_id: str, replacement: VolumeAttachment) -> None:
        disk = self._disk_of("swap_volume", uuid, volume_id)
        if replacement.volume_id in self.machines.find(uuid).volumes:
            raise errors.InvalidRequest(
                "the replacement is attached to this instance already",
                hint="name another one, or detach_volume() it first",
            )
        if self.volumes.check_free(uuid, replacement).size_bytes < disk.seen_bytes:
            raise errors.InvalidRequest(
                "the replacement is smaller than the volume",
                hint="make one that is at least as large",
            )

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        old = self._disk_of("swap_volume", uuid, volume_id)
        machine = self.machines.find(uuid)
        record = self.volumes.find(replacement)
        record.content = old.record.content
        new = AttachedDisk(
            # the guest's view stays: place, device name and boot order are those of the old one
            attachment=replacement.model_copy(update={"boot_index": old.attachment.boot_index}),
            record=record,
            device=old.device,
            seen_bytes=record.size_bytes,
            qos=replacement.qos,
        )
        machine.volumes = {
            (replacement.volume_id if name == volume_id else name): (
                new if name == volume_id else disk
            )
            for name, disk in machine.volumes.items()
        }
        self.volumes.disconnect(uuid, volume_id)
        return shown(new)


class FakeDiskQos(_Attached, DiskQosControl):
    """Limits of a disk."""

    def set_disk_qos(
        self, uuid: UUID, volume_id: str, qos: DiskQos | None, *, timeout: float | None = None
    ) -> None:
        """1 call."""
        with self.link.task("set_disk_qos", uuid, timeout) as task:
            task.call("limit-disk", lambda: self._limit_disk(uuid, volume_id, qos))

    def _limit_disk(self, uuid: UUID, volume_id: str, qos: DiskQos | None) -> None:
        self._disk_of("set_disk_qos", uuid, volume_id).qos = qos


class FakeHostVolumes(FakeBase, HostVolumes):
    """Volumes of the host's own pools."""

    def create_volume(self, spec: VolumeSpec, *, timeout: float | None = None) -> Volume:
        """1 call."""
        with self.link.task("create_volume", None, timeout) as task:
            return task.call("create-volume", lambda: self._create_volume(spec, task.token))

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        pool = self.fake_host.pool(spec.pool)
        name = spec.name or f"volume-{token}"
        if name in pool.volumes:
            raise errors.VolumeExists(f"pool {pool.name} has a volume {name!r} already")
        check_room(pool, spec.capacity_bytes)
        record = VolumeRecord(
            volume_id=f"{pool.name}/{name}",
            size_bytes=spec.capacity_bytes,
            content=("empty",),
            name=name,
            pool=pool.name,
            format=spec.format or ImageFormat.RAW,
        )
        pool.volumes[name] = record
        return _as_host_volume(record).to_volume()

    def list_volumes(self, *, timeout: float | None = None) -> Sequence[HostVolume]:
        """1 call."""
        with self.link.task("list_volumes", None, timeout) as task:
            return task.call("list-volumes", self._list_volumes, changes=False)

    def _list_volumes(self) -> list[HostVolume]:
        return [
            _as_host_volume(record)
            for pool in self.fake_host.pools.values()
            for record in pool.volumes.values()
        ]

    def get_volume(self, volume_id: str, *, timeout: float | None = None) -> HostVolume:
        """1 call."""
        with self.link.task("get_volume", None, timeout) as task:
            return task.call("read-volume", lambda: self._get_volume(volume_id), changes=False)

    def _get_volume(self, volume_id: str) -> HostVolume:
        for volume in self._list_volumes():
            if volume.volume_id == volume_id:
                return volume
        raise errors.VolumeNotFound(f"there is no volume {volume_id!r}", hint=VOLUMES)

    def delete_volume(self, volume_id: str, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("delete_volume", None, timeout) as task:
            task.call("delete-volume", lambda: self._delete_volume(volume_id))

    def _delete_volume(self, volume_id: str) -> None:
        for pool in self.fake_host.pools.values():
            for record in list(pool.volumes.values()):
                if record.volume_id != volume_id:
                    continue
                if record.locks:
                    raise errors.DeviceBusy(
                        f"volume {volume_id!r} is attached to a machine",
                        retryable=False,
                        hint=DETACH_FIRST,
                    )
                del pool.volumes[record.name]


def _as_host_volume(record: VolumeRecord) -> HostVolume:
    pool = record.pool or ""
    return HostVolume(
        volume_id=record.volume_id,
        name=record.name,
        pool=pool,
        capacity_bytes=record.size_bytes,
        allocation_bytes=record.size_bytes,
        format=record.format,
        path=f"/fake/{pool}/{record.name}",
    )


class FakeStorageMigration(FakeBase, StorageMigration):
    """The instance's own disks move to another pool."""

    def migrate_storage(
        self,
        uuid: UUID,
        pool: str,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """3 calls, 1 if they are there already."""
        with self.link.task(
            "migrate_storage", uuid, timeout, progress=progress, slow="copy-disks"
        ) as task:
            if task.call("look-up", lambda: not self._to_move(uuid, pool), changes=False):
                return
            task.call(
                "copy-disks",
                lambda: self._copy_disks(uuid, pool, task.token),
                undo=("delete-copies", lambda: self._drop_copies(uuid, task.token)),
            )
            task.call("switch-disks", lambda: self._switch_pool(uuid, pool, task.token))

    def _to_move(self, uuid: UUID, pool: str) -> list[Disk]:
        self.machines.checked("migrate_storage", uuid)
        target = self.fake_host.pool(pool)
        return [
            disk
            for place, disk in self.fake_host.disks_of(uuid)
            if place is not target and not disk.role.endswith(_COPY)
        ]

    def _copy_disks(self, uuid: UUID, pool: str, token: int) -> None:
        disks = self._to_move(uuid, pool)
        target = self.fake_host.pool(pool)
        check_room(target, sum(disk.size_bytes for disk in disks))
        for disk in disks:
            copy = Disk(uuid, disk.role + _COPY, disk.size_bytes, disk.content, token, disk.base)
            target.disks[copy.name] = copy

    def _drop_copies(self, uuid: UUID, token: int) -> None:
        for place, disk in self.fake_host.disks_of(uuid):
            if disk.role.endswith(_COPY) and disk.token == token:
                del place.disks[disk.name]

    def _switch_pool(self, uuid: UUID, pool: str, token: int) -> None:
        self.machines.checked("migrate_storage", uuid)
        target = self.fake_host.pool(pool)
        for place, disk in list(self.fake_host.disks_of(uuid)):
            if place is not target:
                # written while it was copied: a mirror job sees that
                copy = target.disks.pop(disk.name + _COPY, None)
                if copy is not None:
                    del place.disks[disk.name]
                    target.disks[disk.name] = disk
        self._drop_copies(uuid, token)
