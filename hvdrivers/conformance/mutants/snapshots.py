"""Mutants of snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import SnapshotRecord
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState


@mutant("SNAP-001")
class SnapshotIsNotCurrent(FakeDriver):
    """create_snapshot() returns a snapshot that is not current."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        return super()._take(uuid, name, memory).model_copy(update={"current": False})


@mutant("SNAP-001")
class SnapshotStopsTheMachine(FakeDriver):
    """create_snapshot() pauses a running machine, and leaves it so."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        made = super()._take(uuid, name, memory)
        machine = self.machines.find(uuid)
        if machine.state is InstanceState.RUNNING:
            machine.state = InstanceState.PAUSED
        return made


@mutant("SNAP-002")
class TreeIsFlat(FakeDriver):
    """Snapshots are a list: each is below the one made before it."""

    def _list_tree(self, uuid: UUID) -> list[Snapshot]:
        found = [
            each
            for record in self.machines.find(uuid).snapshots.values()
            for each in super(TreeIsFlat, self)._list_tree(uuid)
            if each.id == record.id
        ]
        parents: Sequence[str | None] = [None, *(each.id for each in found)]
        return [
            each.model_copy(update={"parent": parent})
            for each, parent in zip(found, parents, strict=False)
        ]


@mutant("SNAP-002")
class NewestFirst(FakeDriver):
    """list_snapshots() gives children before their parents."""

    def _list_tree(self, uuid: UUID) -> list[Snapshot]:
        return super()._list_tree(uuid)[::-1]


@mutant("SNAP-003")
class NameIsUniqueOnTheHost(FakeDriver):
    """A name that another instance's snapshot has is taken."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        for machine in self.fake_host.machines.values():
            if any(each.name == name for each in machine.snapshots.values()):
                uuid = machine.uuid
        return super()._take(uuid, name, memory)


@mutant("SNAP-004")
class MemoryIsSilentlyLeftOut(FakeDriver):
    """The memory of a stopped machine is asked for, and a snapshot without it is made."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        running = self.machines.find(uuid).state is not InstanceState.STOPPED
        return super()._take(uuid, name, memory and running)


@mutant("SNAP-005")
class RevertKeepsTheDisks(FakeDriver):
    """revert_snapshot() moves the mark, and leaves the data."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        before = {disk.role: disk.content for _, disk in self.fake_host.disks_of(uuid)}
        super()._revert(uuid, snapshot_id)
        for _, disk in self.fake_host.disks_of(uuid):
            disk.content = before[disk.role]


@mutant("SNAP-005")
class RevertStartsTheMachine(FakeDriver):
    """A machine that ran runs again after a revert without memory."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        before = self.machines.find(uuid).state
        super()._revert(uuid, snapshot_id)
        self.machines.find(uuid).state = before


@mutant("SNAP-006")
class RevertForgetsTheMetadata(FakeDriver):
    """The metadata of the snapshot's time come back with it."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        made = super()._take(uuid, name, memory)
        kept = self.__dict__.setdefault("_metadata", {})
        kept[uuid, made.id] = dict(self.machines.find(uuid).metadata)
        return made

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        super()._revert(uuid, snapshot_id)
        self.machines.find(uuid).metadata = self.__dict__["_metadata"][uuid, snapshot_id]


@mutant("SNAP-006")
class RevertUnplugsNewNics(FakeDriver):
    """NICs that were plugged since the snapshot are gone after the revert."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        super()._revert(uuid, snapshot_id)
        devices = self.machines.find(uuid).snapshots[snapshot_id].devices
        for port in self.ports.of(uuid):
            if port.vif.id not in devices:
                self.fake_host.remove_ports(uuid, vif_id=port.vif.id)


@mutant("SNAP-006")
class RevertDropsLaterSnapshots(FakeDriver):
    """Snapshots that descend from the one that is reverted to are forgotten."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        super()._revert(uuid, snapshot_id)
        machine = self.machines.find(uuid)
        for each in [r for r in machine.snapshots.values() if r.parent == snapshot_id]:
            self._delete_snapshot(uuid, each.id, True)


@mutant("SNAP-006")
class RevertTakesTheFlavorBack(FakeDriver):
    """The definition of the snapshot's time comes back with it: CPUs and memory too."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        super()._revert(uuid, snapshot_id)
        machine = self.machines.find(uuid)
        machine.flavor = machine.snapshots[snapshot_id].flavor


@mutant("SNAP-007")
class RevertWithMemoryBoots(FakeDriver):
    """A revert to a snapshot with memory starts the guest from its disks."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        super()._revert(uuid, snapshot_id)
        machine = self.machines.find(uuid)
        if machine.snapshots[snapshot_id].memory:
            self.fake_host.boot(machine)


@mutant("SNAP-007")
class RevertWithMemoryAlwaysRuns(FakeDriver):
    """A machine that was paused when its memory was taken runs after the revert."""

    def _continue(self, machine: object, state: InstanceState) -> None:
        if state is InstanceState.PAUSED:
            state = InstanceState.RUNNING
        super()._continue(machine, state)  # type: ignore[arg-type]


@mutant("SNAP-008")
class MemoryOfOtherDevices(FakeDriver):
    """Memory is brought back although the machine has got another NIC since."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        record = self.machines.find(uuid).snapshots.get(snapshot_id)
        if record is not None:
            record.devices = self._devices(self.machines.find(uuid))
        super()._revert(uuid, snapshot_id)


@mutant("SNAP-008")
class MemoryOfAnotherFlavor(FakeDriver):
    """Memory is brought back into a machine that has got other CPUs since."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        machine = self.machines.find(uuid)
        record = machine.snapshots.get(snapshot_id)
        if record is not None:
            record.flavor = machine.flavor
        super()._revert(uuid, snapshot_id)


@mutant("SNAP-009")
class RevertToNothing(FakeDriver):
    """A revert to a snapshot that is not there only stops the machine."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        if snapshot_id in self.machines.find(uuid).snapshots:
            super()._revert(uuid, snapshot_id)


@mutant("SNAP-010")
class DeletedParentStays(FakeDriver):
    """Children of a deleted snapshot become roots."""

    def _delete_snapshot(self, uuid: UUID, snapshot_id: str, children: bool) -> None:
        super()._delete_snapshot(uuid, snapshot_id, children)
        machine = self.machines.find(uuid)
        if snapshot_id not in machine.snapshots and len(machine.snapshots) == 3:
            for each in machine.snapshots.values():
                if each.name == "c":
                    each.parent = None


@mutant("SNAP-010")
class DeleteLeavesTheSpace(FakeDriver):
    """delete_snapshot() forgets the record, and leaves its file on the host."""

    def _delete_snapshot(self, uuid: UUID, snapshot_id: str, children: bool) -> None:
        kept = {disk.name: (pool, disk) for pool, disk in self.fake_host.disks_of(uuid)}
        super()._delete_snapshot(uuid, snapshot_id, children)
        for name, (pool, disk) in kept.items():
            pool.disks.setdefault(name, disk)


@mutant("SNAP-010")
class DeleteReverts(FakeDriver):
    """delete_snapshot() throws away what was written since, instead of keeping it."""

    def _delete_snapshot(self, uuid: UUID, snapshot_id: str, children: bool) -> None:
        record = self.machines.find(uuid).snapshots.get(snapshot_id)
        super()._delete_snapshot(uuid, snapshot_id, children)
        for _, disk in self.fake_host.disks_of(uuid):
            if record is not None and disk.role in record.contents:
                disk.content = record.contents[disk.role]


@mutant("SNAP-011")
class GrandchildrenStay(FakeDriver):
    """delete_snapshot(children=True) takes the snapshot alone; its children move up."""

    def _delete_snapshot(self, uuid: UUID, snapshot_id: str, children: bool) -> None:
        super()._delete_snapshot(uuid, snapshot_id, False)


@mutant("SNAP-011")
class DeleteTakesTheSiblings(FakeDriver):
    """delete_snapshot(children=True) deletes the whole tree."""

    def _delete_snapshot(self, uuid: UUID, snapshot_id: str, children: bool) -> None:
        if children and snapshot_id in self.machines.find(uuid).snapshots:
            for each in list(self.machines.find(uuid).snapshots):
                super()._delete_snapshot(uuid, each, False)
        super()._delete_snapshot(uuid, snapshot_id, children)


@mutant("SNAP-012")
class AbsentSnapshotIsAnyone(FakeDriver):
    """delete_snapshot() of an unknown id deletes the current one."""

    def _delete_snapshot(self, uuid: UUID, snapshot_id: str, children: bool) -> None:
        machine = self.machines.find(uuid)
        if snapshot_id not in machine.snapshots and machine.current_snapshot is not None:
            snapshot_id = machine.current_snapshot
        super()._delete_snapshot(uuid, snapshot_id, children)


@mutant("SNAP-013")
class RevertTakesVolumesBack(FakeDriver):
    """A revert brings the data of attached volumes back too."""

    def _revert(self, uuid: UUID, snapshot_id: str) -> None:
        super()._revert(uuid, snapshot_id)
        for disk in self.machines.find(uuid).volumes.values():
            disk.record.content = disk.record.content[:1]


@mutant("SNAP-014")
class NoRoomLeavesHalfASnapshot(FakeDriver):
    """The right error when there is no room, and a snapshot that can never be reverted to."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        try:
            return super()._take(uuid, name, memory)
        except errors.InsufficientResources:
            machine = self.machines.checked("create_snapshot", uuid)
            number = f"snapshot-{machine.number()}"
            machine.snapshots[number] = SnapshotRecord(
                id=number,
                name=name,
                parent=machine.current_snapshot,
                created_at=self.fake_host.clock.wall(),
                state=machine.state,
                memory=memory,
                contents={},
                flavor=machine.flavor,
                devices=frozenset(),
            )
            raise


@mutant("SNAP-014")
class RoomForSnapshotsIsNotCounted(FakeDriver):
    """create_snapshot() overfills the pool."""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        pool = self.fake_host.default_pool
        before, pool.total_bytes = pool.total_bytes, pool.total_bytes << 1
        try:
            return super()._take(uuid, name, memory)
        finally:
            pool.total_bytes = before


@mutant("SNAP-007")
class ListForgetsTheMemory(FakeDriver):
    """list_snapshots() shows every snapshot as one without memory."""

    def _list_tree(self, uuid: UUID) -> list[Snapshot]:
        found = super()._list_tree(uuid)
        return [each.model_copy(update={"with_memory": False}) for each in found]


@mutant("SNAP-001")
class ListKnowsNoneWithoutMemory(FakeDriver):
    """list_snapshots() shows every snapshot of a running machine as one with memory."""

    def _list_tree(self, uuid: UUID) -> list[Snapshot]:
        found = super()._list_tree(uuid)
        if self.machines.find(uuid).state is not InstanceState.RUNNING:
            return found
        return [each.model_copy(update={"with_memory": True}) for each in found]


class _Selective(FakeDriver):
    _role = ""

    def _take(self, uuid: UUID, name: str, memory: bool) -> Snapshot:
        made = super()._take(uuid, name, memory)
        self.machines.find(uuid).snapshots[made.id].contents.pop(self._role, None)
        return made


@mutant("SNAP-005")
class SnapshotLacksTheEphemeralDisk(_Selective):
    """A revert brings the root disk back, and leaves the ephemeral disk as it is."""

    _role = "ephemeral"


@mutant("SNAP-005")
class SnapshotLacksTheSwapDisk(_Selective):
    """A revert brings the root disk back, and leaves the swap disk as it is."""

    _role = "swap"


@mutant("SNAP-020")
class DeletedSnapshotIsAParent(FakeDriver):
    """A snapshot after a deleted one names that as its parent."""

    def create_snapshot(
        self, uuid: UUID, name: str, *, memory: bool = False, timeout: float | None = None
    ) -> Snapshot:
        gone = self.__dict__.get("_gone")
        made = super().create_snapshot(uuid, name, memory=memory, timeout=timeout)
        record = self.fake_host.machines[uuid].snapshots.get(made.id)
        if record is not None and gone is not None and record.parent is None:
            record.parent = gone
        return made

    def delete_snapshot(
        self,
        uuid: UUID,
        snapshot_id: str,
        *,
        children: bool = False,
        timeout: float | None = None,
    ) -> None:
        super().delete_snapshot(uuid, snapshot_id, children=children, timeout=timeout)
        self.__dict__["_gone"] = snapshot_id
