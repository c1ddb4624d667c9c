"""Snapshots, images and backups of fake machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.snapshots import IncrementalBackup, Snapshots, SnapshotToImage
from hvdrivers.driverkit.files import new_file
from hvdrivers.fake import diskfile
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.capacity import check_room
from hvdrivers.fake.own_disks import role_of
from hvdrivers.fake.records import BackupRecord, Content, Disk, Machine, SnapshotRecord
from hvdrivers.hints import (
    COPY_VOLUME,
    NO_MEMORY,
    OTHER_HARDWARE,
    SNAPSHOTS,
    TAKEN_SNAPSHOT,
)
from hvdrivers.models.base import Name
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.image import ImageFormat, ImageInfo
from hvdrivers.models.progress import Phase, ProgressCallback
from hvdrivers.models.snapshot import Backup, ChangedExtent, Snapshot
from hvdrivers.models.state import POWERED_ON, InstanceState

_OVERHEAD = 1 << 20
_EXTENT = 65536


class FakeSnapshots(FakeBase, Snapshots):
    """A tree of snapshots."""

    @provides(Capability.SNAPSHOT_MEMORY)
    def create_snapshot(
        self, uuid: UUID, name: Name, *, memory: bool = False, timeout: float | None = None
    ) -> Snapshot:
        """1 call."""
        with self.link.task("create_snapshot", uuid, timeout) as task:
            return task.call("take-snapshot", lambda: self._take(uuid, name, memory))

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        machine = self.machines.checked("create_snapshot", uuid)
        if any(each.name == name for each in machine.snapshots.values()):
            raise errors.InvalidRequest(
                f"there is a snapshot {name!r} of this instance already", hint=TAKEN_SNAPSHOT
            )
        if memory and machine.state not in POWERED_ON:
            raise errors.InvalidRequest("a stopped machine has no memory to keep", hint=NO_MEMORY)
        size = _OVERHEAD + ((machine.flavor.memory_mib << 20) if memory else 0)
        pool = self.fake_host.home(uuid)
        check_room(pool, size)
        own = {d.role: d for _, d in self.fake_host.disks_of(uuid) if role_of(d.role) is not None}
        record = SnapshotRecord(
            id=f"snapshot-{machine.number()}",
            name=name,
            parent=machine.current_snapshot,
            created_at=self.fake_host.clock.wall(),
            state=machine.state if memory else InstanceState.STOPPED,
            memory=memory,
            contents={role: disk.content for role, disk in own.items()},
            flavor=machine.flavor,
            devices=self._devices(machine),
        )
        machine.snapshots[record.id] = record
        machine.current_snapshot = record.id
        disk = Disk(uuid, f"snapshot:{record.id}", size, (record.id,), token=0)
        pool.disks[disk.name] = disk
        return _shown(machine, record)

    def list_snapshots(self, uuid: UUID, *, timeout: float | None = None) -> Sequence[Snapshot]:
        """1 call."""
        with self.link.task("list_snapshots", uuid, timeout) as task:
            return task.call("list-snapshots", lambda: self._list_tree(uuid), changes=False)

    def _list_tree(self, uuid: UUID) -> list[Snapshot]:
        machine = self.machines.checked("list_snapshots", uuid)
        below: dict[str | None, list[SnapshotRecord]] = {}
        for record in machine.snapshots.values():
            below.setdefault(record.parent, []).append(record)
        ordered, queue = [], below.get(None, [])
        while queue:
            ordered += queue
            queue = [child for record in queue for child in below.get(record.id, [])]
        return [_shown(machine, record) for record in ordered]

    def revert_snapshot(
        self, uuid: UUID, snapshot_id: str, *, timeout: float | None = None
    ) -> None:
        """1 call."""
        with self.link.task("revert_snapshot", uuid, timeout) as task:
            task.call("revert-snapshot", lambda: self._revert(uuid, snapshot_id))

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        machine = self.machines.checked("revert_snapshot", uuid)
        record = machine.snapshots.get(snapshot_id)
        if record is None:
            raise errors.VolumeNotFound(
                f"the instance has no snapshot {snapshot_id!r}", hint=SNAPSHOTS
            )
        if record.memory:
            # the guest in that memory knows these CPUs and devices, and no others
            if (record.flavor, record.devices) != (machine.flavor, self._devices(machine)):
                raise errors.InvalidRequest(
                    "flavor or devices differ from those of the snapshot's memory",
                    hint=OTHER_HARDWARE,
                )
            self.starting.check(machine)
        for _, disk in self.fake_host.disks_of(uuid):
            # a disk does not grow while it has snapshots: its size is that of the snapshot
            disk.content = record.contents.get(disk.role, disk.content)
        machine.current_snapshot = record.id
        machine.backups.clear()
        self._continue(machine, record.state)

    def _devices(self, machine: Machine) -> frozenset[str]:
        nics = {port.vif.id for port in self.ports.of(machine.uuid)}
        return frozenset(machine.volumes.keys() | nics)

    def _continue(self, machine: Machine, state: InstanceState) -> None:
        kinds = {
            InstanceState.RUNNING: LifecycleKind.RESUMED,
            InstanceState.PAUSED: LifecycleKind.PAUSED,
        }
        if machine.state is not state or state in POWERED_ON:
            kind = kinds.get(state, LifecycleKind.STOPPED)
            if machine.state is InstanceState.STOPPED and state in POWERED_ON:
                kind = LifecycleKind.STARTED
            self.fake_host.set_state(machine, state, kind)

    def delete_snapshot(
        self,
        uuid: UUID,
        snapshot_id: str,
        *,
        children: bool = False,
        timeout: float | None = None,
    ) -> None:
        """1 call."""
        with self.link.task("delete_snapshot", uuid, timeout) as task:
            task.call("delete-snapshot", lambda: self._delete_snapshot(uuid, snapshot_id, children))

    def _delete_snapshot(self, uuid: UUID, snapshot_id: str, children: bool) -> None:
        machine = self.machines.checked("delete_snapshot", uuid)
        gone = machine.snapshots.get(snapshot_id)
        if gone is None:
            return
        doomed = {snapshot_id}
        if children:
            grown = True
            while grown:
                more = {r.id for r in machine.snapshots.values() if r.parent in doomed}
                grown = not more <= doomed
                doomed |= more
        for name in doomed:
            del machine.snapshots[name]
            self.fake_host.remove_disks(uuid, f"snapshot:{name}")
        for record in machine.snapshots.values():
            if record.parent in doomed:
                record.parent = gone.parent
        if machine.current_snapshot in doomed:
            machine.current_snapshot = gone.parent


def _shown(machine: Machine, record: SnapshotRecord) -> Snapshot:
    return Snapshot(
        id=record.id,
        name=record.name,
        parent=record.parent,
        created_at=record.created_at,
        with_memory=record.memory,
        current=record.id == machine.current_snapshot,
    )


class FakeSnapshotToImage(FakeBase, SnapshotToImage):
    """Root disks into files."""

    def snapshot_to_image(
        self,
        uuid: UUID,
        target: Path,
        format: ImageFormat = ImageFormat.QCOW2,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """3 calls."""
        with self.link.task(
            "snapshot_to_image", uuid, timeout, progress=progress, slow="read-disk"
        ) as task:
            if format not in {ImageFormat.RAW, ImageFormat.QCOW2}:
                raise errors.NotSupported(
                    f"the fake writes raw and qcow2 images, not {format}", hint="take raw or qcow2"
                )
            size, content = task.call("look-up", lambda: self._view(uuid), changes=False)
            with new_file(target) as file:
                task.call("open-disk", lambda: self._view(uuid), changes=False)
                task.call("read-disk", lambda: self._view(uuid), changes=False)
                task.check_deadline()
                length = diskfile.write(file, format, size, content)
                task.report(Phase.SNAPSHOT, size, size)
            return ImageInfo(
                format=format,
                virtual_size_bytes=size,
                file_size_bytes=length,
                subformat="compat=1.1" if format is ImageFormat.QCOW2 else None,
            )

    def _view(self, uuid: UUID) -> tuple[int, Content]:
        self.machines.checked("snapshot_to_image", uuid)
        root = self.fake_host.disk(uuid, "root")
        if root is None:
            raise errors.InvalidRequest(
                "the instance boots from a volume: it has no root disk", hint=COPY_VOLUME
            )
        return root.size_bytes, root.content


class FakeIncrementalBackup(FakeBase, IncrementalBackup):
    """What changed since the last time."""

    def begin_backup(
        self, uuid: UUID, *, since: str | None = None, timeout: float | None = None
    ) -> Backup:
        """1 call."""
        with self.link.task("begin_backup", uuid, timeout) as task:
            return task.call("open-backup", lambda: self._begin(uuid, since))

    def _begin(self, uuid: UUID, since: str | None) -> Backup:
        machine = self.machines.checked("begin_backup", uuid)
        if any(backup.open for backup in machine.backups.values()):
            raise errors.DeviceBusy(
                "a backup of this instance is open already",
                hint="end_backup() closes it, also if its client has died",
            )
        if since is not None and since not in machine.backups:
            raise errors.VolumeNotFound(
                f"there is no checkpoint {since!r} any more", hint="make a full backup"
            )
        contents = self._contents(machine)
        known = machine.backups[since].writes if since is not None else {}
        extents = tuple(
            # each write stands for one extent of 64 KiB
            ChangedExtent(disk=disk, offset=number * _EXTENT, length=_EXTENT)
            for disk, content in contents.items()
            for number in range(known.get(disk, 0), len(content))
        )
        record = BackupRecord(
            id=f"checkpoint-{machine.number()}",
            writes={disk: len(content) for disk, content in contents.items()},
            open=True,
        )
        machine.backups[record.id] = record
        return Backup(
            id=record.id,
            since=since,
            disks=tuple(contents),
            extents=extents,
            location=f"nbd://{self.fake_host.name}.invalid:10809/{record.id}",
        )

    def _contents(self, machine: Machine) -> dict[str, Content]:
        root = self.fake_host.disk(machine.uuid, "root")
        own = {} if root is None else {"root": root.content}
        return own | {name: disk.record.content for name, disk in machine.volumes.items()}

    def end_backup(
        self, uuid: UUID, backup_id: str | None = None, *, timeout: float | None = None
    ) -> None:
        """1 call."""
        with self.link.task("end_backup", uuid, timeout) as task:
            task.call("close-backup", lambda: self._end(uuid, backup_id))

    def _end(self, uuid: UUID, backup_id: str | None) -> None:
        for backup in self.machines.checked("end_backup", uuid).backups.values():
            if backup_id in {None, backup.id}:
                backup.open = False
