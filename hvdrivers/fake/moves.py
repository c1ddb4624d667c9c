"""Fake machines move in steps: prepared, finished, then confirmed or reverted."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.migration import MoveInSteps
from hvdrivers.driverkit.checks import require_growth
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.capacity import Taken, check_fits, check_placement, check_room
from hvdrivers.fake.connections import replace_connections, volumes_at
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.moving import stand_alone
from hvdrivers.fake.records import Lock, Machine, MoveRecord, Port
from hvdrivers.hints import SAME_DISKS
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.instance import Flavor, InstanceInfo
from hvdrivers.models.migration import Destination, Move, MovePhase
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState

_KEPT = "before-"
"""Role of the copy of a disk as it was before a move within the host."""


class FakeMoveInSteps(FakeBase, MoveInSteps):
    """The source stays until the move is confirmed."""

    def prepare_move(
        self,
        uuid: UUID,
        destination: Destination | None = None,
        *,
        flavor: Flavor | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> Move:
        """2 calls."""
        with self.link.task(
            "prepare_move", uuid, timeout, progress=progress, slow="copy-machine"
        ) as task:
            there = task.call(
                "check-move", lambda: self._check_move(uuid, destination, flavor), changes=False
            )
            if there is not None:
                return there
            return task.call(
                "copy-machine", lambda: self._copy_machine(uuid, destination, flavor, task.token)
            )

    def _check_move(
        self, uuid: UUID, destination: Destination | None, flavor: Flavor | None
    ) -> Move | None:
        machine = self.machines.checked("prepare_move", uuid)
        wanted = flavor or machine.flavor
        if machine.move is not None:
            found = machine.move.move
            if (found.destination, found.flavor) == (destination, wanted):
                return found
            raise errors.InvalidState(
                "another move of the instance has begun", hint="confirm_move() or revert_move()"
            )
        self._check_size_of_move(machine, wanted)
        if destination is not None:
            self.moving.possible("prepare_move", uuid, destination)
        return None

    def _check_size_of_move(self, machine: Machine, flavor: Flavor) -> None:
        check_placement(machine, flavor)
        before = machine.flavor
        extra = (flavor.ephemeral_gib, flavor.swap_mib)
        if extra != (before.ephemeral_gib, before.swap_mib):
            raise errors.InvalidRequest("the ephemeral or swap disk would change", hint=SAME_DISKS)
        root = self.fake_host.disk(machine.uuid, "root")
        if root is not None and flavor.disk_gib:
            require_growth("the root disk", root.size_bytes, flavor.disk_gib << 30)

    def _copy_machine(
        self, uuid: UUID, destination: Destination | None, flavor: Flavor | None, token: int
    ) -> Move:
        machine = self.machines.checked("prepare_move", uuid)
        wanted = flavor or machine.flavor
        self._check_size_of_move(machine, wanted)
        move = Move(
            uuid=uuid,
            source=self.fake_host.label,
            destination=destination,
            flavor=wanted,
            token=str(token),
        )
        record = MoveRecord(
            move=move,
            flavor=machine.flavor,
            vifs=tuple(port.vif for port in self.ports.of(uuid)),
            secrets={k: v.value for k, v in self.fake_host.secrets.items() if v.owner == uuid},
            tpm=uuid in self.fake_host.tpm,
            nvram=uuid in self.fake_host.nvram,
        )
        if destination is None:
            alone = Taken()
            alone.add(wanted, sev=machine.sev)
            check_fits(self.fake_host.size, alone)
            disks = list(self.fake_host.disks_of(uuid))
            for pool, disk in disks:
                check_room(pool, disk.size_bytes)
                kept = replace(disk, role=f"{_KEPT}{disk.role}", token=token)
                pool.disks[kept.name] = kept
        else:
            target = self.moving.possible("prepare_move", uuid, destination)
            if any(not each.copies for each in self.moving.moves(uuid, target, destination)):
                raise errors.NotSupported(
                    "a disk is in a pool that both hosts have: it would change under the source",
                    hint="name another pool in Destination.storage",
                )
            for each in self.moving.moves(uuid, target, destination):
                if each.target is not None and each.copies:
                    copy = replace(each.disk, token=token)
                    each.target.disks[copy.name] = copy
            target.incoming[uuid] = _clone(machine, token=token, flavor=wanted, move=record)
        machine.move = record
        return move

    # ---- the destination -------------------------------------------------------------------------

    def finish_move(
        self,
        move: Move,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        """1 call."""
        with self.link.task("finish_move", move.uuid, timeout, progress=progress) as task:
            return task.call("finish-machine", lambda: self._finish_move(move))

    def _finish_move(self, move: Move) -> InstanceInfo:
        machine = self.fake_host.machines.get(move.uuid)
        if machine is not None and machine.move is not None and machine.move.move == move:
            if move.destination is None:
                return self._finish_here(machine, move)
            raise errors.InvalidRequest(
                "this host is the source of the move",
                hint="call finish_move() of a driver that is connected to the destination",
            )
        if machine is not None and machine.arrived == move.token:
            return self.showing.info(machine)
        incoming = self.fake_host.incoming.get(move.uuid)
        if incoming is None or incoming.move is None or incoming.move.move != move:
            raise errors.InstanceNotFound(
                "nothing has been prepared on this host for that move", instance=move.uuid
            )
        return self._arrive(incoming, incoming.move, move)

    def _finish_here(self, machine: Machine, move: Move) -> InstanceInfo:
        if machine.move is not None and machine.move.phase is MovePhase.PREPARED:
            self._grow_root(self.fake_host, machine, move.flavor)
            machine.flavor = move.flavor
            machine.move.phase = MovePhase.FINISHED
        return self.showing.info(machine)

    def _arrive(self, machine: Machine, record: MoveRecord, move: Move) -> InstanceInfo:
        uuid, host = move.uuid, self.fake_host
        destination = move.destination or Destination(host=host.name)
        replaced = {each.id: each for each in destination.vifs}
        for vif in record.vifs:
            self.ports.check_wiring(replaced.get(vif.id, vif))
        self._grow_root(host, machine, move.flavor)
        stand_alone(host, uuid)
        del host.incoming[uuid]
        machine.move, machine.arrived = None, move.token
        host.machines[uuid] = machine
        self.groups.join(machine)
        for vif in record.vifs:
            host.ports[uuid, vif.id] = Port(vif, uuid, machine.token, plugged=True)
        for disk in machine.volumes.values():
            shared = disk.attachment.volume.multiattach
            lock = Lock(machine.token, shared, disk.attachment.volume_id)
            disk.record.locks[host.name, uuid] = lock
        for name, value in record.secrets.items():
            volumes_at(host).store_secrets(uuid, machine.token, {name: value})
        if record.nvram:
            host.nvram[uuid] = machine.token
        if record.tpm:
            host.tpm[uuid] = machine.token
        replace_connections(host, machine, destination.volumes, destination.vifs)
        host.tell_lifecycle(machine, LifecycleKind.MIGRATED, InstanceState.STOPPED)
        return self.showing.info(machine)

    def _grow_root(self, host: FakeHost, machine: Machine, flavor: Flavor) -> None:
        root = host.disk(machine.uuid, "root")
        if root is not None and flavor.disk_gib:
            size = flavor.disk_gib << 30
            check_room(host.home(machine.uuid), size - root.size_bytes)
            root.size_bytes = size

    # ---- the end ---------------------------------------------------------------------------------

    def confirm_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("confirm_move", uuid, timeout) as task:
            task.call("confirm-move", lambda: self._confirm_move(uuid))

    def _confirm_move(self, uuid: UUID) -> None:
        if uuid not in self.fake_host.machines:
            return  # confirmed already
        machine = self.machines.checked("confirm_move", uuid)
        if machine.move is None:
            return
        move = machine.move.move
        if move.destination is None:
            if machine.move.phase is MovePhase.PREPARED:
                raise _unfinished(uuid)
            self._drop_kept(uuid)
            machine.move = None
            return
        target = self.fake_host.world.find(move.destination.host)
        if target is None or not target.reachable:
            raise errors.ConnectionFailed("the destination does not answer", retryable=True)
        if uuid not in target.machines:
            raise _unfinished(uuid)
        self._forget_source(machine)

    def _forget_source(self, machine: Machine) -> None:
        host, uuid = self.fake_host, machine.uuid
        host.remove_disks(uuid)
        host.unlock(uuid)
        host.remove_ports(uuid)
        host.remove_secrets(uuid)
        host.release(uuid)
        host.nvram.pop(uuid, None)
        host.tpm.pop(uuid, None)
        del host.machines[uuid]
        self.groups.leave(machine)
        host.tell_lifecycle(machine, LifecycleKind.MIGRATED, None)

    def revert_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("revert_move", uuid, timeout) as task:
            task.call("revert-move", lambda: self._revert_move(uuid))

    def _revert_move(self, uuid: UUID) -> None:
        machine = self.machines.checked("revert_move", uuid)
        if machine.move is None:
            return
        record = machine.move
        if record.move.destination is None:
            for pool, disk in list(self.fake_host.disks_of(uuid)):
                if disk.role.startswith(_KEPT):
                    del pool.disks[disk.name]
                    role = disk.role.removeprefix(_KEPT)
                    back = replace(disk, role=role, token=machine.token)
                    pool.disks[back.name] = back
            machine.flavor = record.flavor
        else:
            self._clear_destination(uuid, record)
        machine.move = None

    def _clear_destination(self, uuid: UUID, record: MoveRecord) -> None:
        assert record.move.destination is not None  # noqa: S101 - the caller has looked
        target = self.fake_host.world.find(record.move.destination.host)
        if target is None or not target.reachable:
            raise errors.ConnectionFailed("the destination does not answer", retryable=True)
        if uuid in target.machines:
            raise errors.InvalidState(
                "the instance is at the destination", instance=uuid, hint="destroy() it there first"
            )
        if uuid in target.incoming:
            token = int(record.move.token)
            del target.incoming[uuid]
            target.remove_disks(uuid, token=token)

    def _drop_kept(self, uuid: UUID) -> None:
        for pool, disk in list(self.fake_host.disks_of(uuid)):
            if disk.role.startswith(_KEPT):
                del pool.disks[disk.name]


def _clone(machine: Machine, *, token: int, flavor: Flavor, move: MoveRecord) -> Machine:
    """The machine at the destination: nothing that changes there changes the source."""
    return replace(
        machine,
        token=token,
        flavor=flavor,
        move=move,
        guest=machine.guest.copy(),
        metadata=dict(machine.metadata),
        volumes={name: replace(disk) for name, disk in machine.volumes.items()},
        shares=dict(machine.shares),
        snapshots=dict(machine.snapshots),
        backups=dict(machine.backups),
        passwords=dict(machine.passwords),
        console=bytearray(machine.console),
    )


def _unfinished(uuid: UUID) -> errors.InvalidState:
    return errors.InvalidState(
        "the move is not finished", instance=uuid, hint="finish_move() at the destination first"
    )
