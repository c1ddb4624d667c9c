"""What live and cold migration have in common: what speaks against it, and how it is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.fake.capacity import check_power, check_room, claimed_by
from hvdrivers.fake.connections import replace_connections, volumes_at
from hvdrivers.fake.groups import Groups
from hvdrivers.fake.ports import port_names
from hvdrivers.fake.records import Disk, Machine, Pool
from hvdrivers.fake.steps import Task
from hvdrivers.hints import MEND_MOVE
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.migration import (
    Blocker,
    BlockerKind,
    Destination,
    MigrationPhase,
    MigrationPlan,
)
from hvdrivers.models.state import InstanceState

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.machines import Machines
    from hvdrivers.fake.ports import Ports


@dataclass(frozen=True)
class _Move:
    """One disk, from here to there."""

    disk: Disk
    source: Pool
    target: Pool | None
    """None: there is no such pool."""

    @property
    def copies(self) -> bool:
        return self.target is not self.source


class Moving:
    """Plan, prepare, switch."""

    def __init__(self, host: FakeHost, machines: Machines, ports: Ports) -> None:
        self.host = host
        self.machines = machines
        self.ports = ports

    def plan(self, operation: str, uuid: UUID, destination: Destination) -> MigrationPlan:
        machine = self.machines.checked(operation, uuid)
        target = self.host.world.find(destination.host)
        moves = [] if target is None else self.moves(uuid, target, destination)
        return MigrationPlan(
            destination=destination,
            copy_storage=any(move.copies for move in moves),
            blockers=tuple(self.blockers(machine, target, moves, destination)),
        )

    def moves(self, uuid: UUID, target: FakeHost, destination: Destination) -> list[_Move]:
        return [
            _Move(disk, pool, target.pools.get(destination.storage or pool.name))
            for pool, disk in list(self.host.disks_of(uuid))
        ]

    def blockers(
        self,
        machine: Machine,
        target: FakeHost | None,
        moves: list[_Move],
        destination: Destination,
    ) -> Iterator[Blocker]:
        if target is None or not target.reachable:
            yield Blocker(kind=BlockerKind.CONNECTION, reason="the destination does not answer")
            return
        if target is self.host:
            yield Blocker(kind=BlockerKind.STATE, reason="the instance is on that host already")
            return
        if machine.uuid in target.machines or machine.uuid in target.incoming:
            yield Blocker(kind=BlockerKind.STATE, reason="the destination has this UUID already")
        yield from self._hardware_blockers(machine, target)
        try:
            Groups(target).check_policy(machine.server_group)
        except errors.InvalidRequest as error:
            yield Blocker(kind=BlockerKind.STATE, reason=error.message, hint=error.hint)
        yield from self._storage_blockers(machine, moves)
        yield from self._volume_blockers(machine, target, destination)
        yield from self.network_blockers(machine, target, destination)
        if target.maintenance:
            yield Blocker(kind=BlockerKind.RESOURCES, reason="the destination is in maintenance")
        if machine.takes_memory:
            try:
                check_power(target, machine)
            except errors.InsufficientResources as error:
                yield Blocker(kind=BlockerKind.RESOURCES, reason=error.message)

    def _hardware_blockers(self, machine: Machine, target: FakeHost) -> Iterator[Blocker]:
        here, there = self.host.size, target.size
        if there.product_version < here.product_version:
            yield Blocker(
                kind=BlockerKind.VERSION,
                reason=f"the destination runs {there.product_version}, older than this host",
            )
        if there.architecture != here.architecture:
            yield Blocker(
                kind=BlockerKind.CPU, reason=f"the destination's CPUs are {there.architecture}"
            )
        missing = sorted(here.cpu_features - there.cpu_features)
        if missing and machine.state is not InstanceState.STOPPED:
            yield Blocker(
                kind=BlockerKind.CPU,
                reason=f"the destination's CPU lacks {', '.join(missing)}",
                hint="choose a host with the same CPUs, or move it stopped",
            )
        if claimed_by(self.host, machine.uuid):
            yield Blocker(kind=BlockerKind.DEVICE, reason="the instance has devices of this host")
        for share in machine.shares.values():
            yield Blocker(
                kind=BlockerKind.DEVICE,
                reason="the instance has a directory of this host",
                device=share.tag,
            )

    def _storage_blockers(self, machine: Machine, moves: list[_Move]) -> Iterator[Blocker]:
        lacking = sorted({move.source.name for move in moves if move.target is None})
        for name in lacking:
            yield Blocker(
                kind=BlockerKind.STORAGE, reason=f"the destination has no pool for that of {name}"
            )
        wanted: dict[str, tuple[Pool, int]] = {}
        for move in moves:
            if move.target is not None and move.copies:
                pool, size = wanted.get(move.target.name, (move.target, 0))
                wanted[pool.name] = (pool, size + move.disk.size_bytes)
        for pool, size in wanted.values():
            try:
                check_room(pool, size)
            except errors.InsufficientResources as error:
                yield Blocker(kind=BlockerKind.STORAGE, reason=error.message)

    def _volume_blockers(
        self, machine: Machine, target: FakeHost, destination: Destination
    ) -> Iterator[Blocker]:
        replaced = {each.volume_id: each for each in destination.volumes}
        for volume_id in sorted(replaced.keys() - machine.volumes.keys()):
            yield Blocker(
                kind=BlockerKind.STORAGE, reason="it has no such volume", device=volume_id
            )
        served = self.host.world.volumes.values()
        shared = [pool for pool in self.host.pools.values() if pool.shared]
        for volume_id, disk in machine.volumes.items():
            if volume_id in replaced:
                try:
                    volumes_at(target).check_free(machine.uuid, replaced[volume_id])
                except (errors.VolumeNotFound, errors.DeviceBusy) as error:
                    yield Blocker(kind=BlockerKind.STORAGE, reason=error.message, device=volume_id)
                continue
            reachable = any(disk.record is each for each in served) or any(
                disk.record is each for pool in shared for each in pool.volumes.values()
            )
            if not reachable:
                yield Blocker(
                    kind=BlockerKind.STORAGE,
                    reason="the volume is on this host alone",
                    device=disk.attachment.volume_id,
                )

    def network_blockers(
        self, machine: Machine, target: FakeHost, destination: Destination
    ) -> Iterator[Blocker]:
        replaced = {each.id: each for each in destination.vifs}
        taken = {
            name
            for port in target.ports.values()
            if (other := target.machines.get(port.owner)) is not None and other.takes_memory
            for name in port_names(port.vif)
        }
        for port in self.host.ports.values():
            if port.owner != machine.uuid:
                continue
            try:
                self.ports.check_wiring(replaced.get(port.vif.id, port.vif), target)
            except (errors.NetworkNotFound, errors.NotSupported) as error:
                yield Blocker(kind=BlockerKind.NETWORK, reason=error.message, device=port.vif.id)
            if machine.takes_memory and taken & port_names(port.vif):
                yield Blocker(
                    kind=BlockerKind.NETWORK,
                    reason="the port or its MAC address is in use on the destination",
                    device=port.vif.id,
                )

    # ---- doing it ------------------------------------------------------------------------------

    def prepare(self, task: Task, operation: str, uuid: UUID, destination: Destination) -> None:
        """Check again, and make room at the destination: 2 calls."""
        task.call(
            "check-migration",
            lambda: self.possible(operation, uuid, destination),
            changes=False,
        )
        task.call(
            "prepare-destination",
            lambda: self._receive(task, operation, uuid, destination),
            undo=("cancel-incoming", lambda: self.cancel(task, uuid, destination)),
        )

    def possible(self, operation: str, uuid: UUID, destination: Destination) -> FakeHost:
        plan = self.plan(operation, uuid, destination)
        target = self.host.world.find(destination.host)
        if not plan.possible or target is None:
            reasons = "; ".join(f"{each.kind}: {each.reason}" for each in plan.blockers)
            raise errors.InvalidRequest(
                f"the instance cannot move: {reasons}",
                instance=uuid,
                hint=MEND_MOVE,
            )
        return target

    def _receive(self, task: Task, operation: str, uuid: UUID, destination: Destination) -> None:
        target = self.possible(operation, uuid, destination)
        for move in self.moves(uuid, target, destination):
            if move.copies and move.target is not None:
                copy = replace(move.disk, token=task.token)
                move.target.disks[copy.name] = copy
        target.incoming[uuid] = replace(self.machines.find(uuid), token=task.token)

    def cancel(self, task: Task, uuid: UUID, destination: Destination) -> None:
        target = self.host.world.find(destination.host)
        if target is None:
            return
        there = target.incoming.get(uuid)
        if there is not None and there.token == task.token:
            del target.incoming[uuid]
            target.remove_disks(uuid, token=task.token)

    def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        """The instance is there now, and here no more: one moment for both hosts."""
        machine = self.machines.checked(operation, uuid)
        here, there = self.host, self.host.world.find(destination.host)
        if there is None or not there.reachable or uuid not in there.incoming:
            raise errors.ConnectionFailed("the destination does not answer any more")
        for move in self.moves(uuid, there, destination):
            if move.copies and move.target is not None:
                del move.source.disks[move.disk.name]
                move.target.disks[move.disk.name] = move.disk
        stand_alone(there, uuid)
        del there.incoming[uuid]
        here.end_programs(uuid)  # who waits for one here has lost it
        del here.machines[uuid]
        there.machines[uuid] = machine
        Groups(here).leave(machine)
        Groups(there).join(machine)
        for key, port in list(here.ports.items()):
            if port.owner == uuid:
                there.ports[key] = here.ports.pop(key)
        for name, secret in list(here.secrets.items()):
            if secret.owner == uuid:
                there.secrets[name] = here.secrets.pop(name)
        for mine, theirs in ((here.nvram, there.nvram), (here.tpm, there.tpm)):
            if uuid in mine:
                theirs[uuid] = mine.pop(uuid)
        for volume in here.volumes():
            lock = volume.locks.pop((here.name, uuid), None)
            if lock is not None:
                volume.locks[there.name, uuid] = lock
        replace_connections(there, machine, destination.volumes, destination.vifs)
        if machine.migration is not None:
            here.tell_lifecycle(machine, LifecycleKind.SWITCHING, machine.state)
            machine.migration.phase = MigrationPhase.COMPLETED
            machine.migration.remaining_bytes = 0
        here.tell_lifecycle(machine, LifecycleKind.MIGRATED, None)
        there.tell_lifecycle(machine, LifecycleKind.MIGRATED, machine.state)


def stand_alone(host: FakeHost, uuid: UUID) -> None:
    """What a disk was based on elsewhere is part of it where that is not."""
    for _, disk in host.disks_of(uuid):
        if not host.has_image(disk.base):
            disk.base = None
