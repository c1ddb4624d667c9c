"""Mutants of moves in steps."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Machine
from hvdrivers.models.instance import Flavor, InstanceInfo
from hvdrivers.models.migration import Destination, Move
from hvdrivers.models.progress import ProgressCallback


class _Prepares(FakeDriver):
    def prepare_move(
        self,
        uuid: UUID,
        destination: Destination | None = None,
        *,
        flavor: Flavor | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> Move:
        move = super().prepare_move(
            uuid, destination, flavor=flavor, timeout=timeout, progress=progress
        )
        self.afterwards(self.fake_host.machines[uuid])
        return move

    def afterwards(self, machine: Machine) -> None:
        raise NotImplementedError


@mutant("MOVE-001")
class SourceIsNotMarked(_Prepares):
    """The source can be started while its copy is on the way."""

    def afterwards(self, machine: Machine) -> None:
        machine.move = None


@mutant("MOVE-001")
class SourceHasTheNewFlavor(_Prepares):
    """prepare_move() gives the source the flavor of the move."""

    def afterwards(self, machine: Machine) -> None:
        if machine.move is not None:
            machine.flavor = machine.move.move.flavor


class _Finishes(FakeDriver):
    def finish_move(
        self,
        move: Move,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        super().finish_move(move, timeout=timeout, progress=progress)
        self.afterwards(self.fake_host.machines[move.uuid])
        return self.get_instance(move.uuid)

    def afterwards(self, machine: Machine) -> None:
        raise NotImplementedError


@mutant("MOVE-002")
class ArrivesWithTheOldFlavor(_Finishes):
    """finish_move() makes the instance with the flavor that it had."""

    def afterwards(self, machine: Machine) -> None:
        vcpus = machine.flavor.vcpus - 1
        machine.flavor = machine.flavor.model_copy(update={"vcpus": vcpus})


@mutant("MOVE-002")
class ZeroEmptiesTheDisk(_Finishes):
    """finish_move() with disk_gib=0 makes a new root disk, instead of leaving it as it is."""

    def afterwards(self, machine: Machine) -> None:
        root = self.fake_host.disk(machine.uuid, "root")
        if root is not None and machine.flavor.disk_gib == 0:
            root.content = ()


@mutant("MOVE-003")
class ConfirmLeavesTheCopy(FakeDriver):
    """confirm_move() takes the mark away and leaves the copy."""

    def confirm_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None and machine.move is not None and machine.move.move.destination:
            machine.move = None
            return
        super().confirm_move(uuid, timeout=timeout)


@mutant("MOVE-004")
class RevertKeepsWhatWasWritten(FakeDriver):
    """revert_move() within a host gives the flavor back, and not the bytes."""

    def revert_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        root = self.fake_host.disk(uuid, "root")
        written = None if root is None else root.content
        super().revert_move(uuid, timeout=timeout)
        now = self.fake_host.disk(uuid, "root")
        if now is not None and written is not None:
            now.content = written


@mutant("MOVE-004")
class RevertLeavesWhatWasPrepared(FakeDriver):
    """revert_move() leaves the copy at the destination."""

    def revert_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        machine = self.fake_host.machines[uuid]
        if machine.move is not None and machine.move.move.destination is not None:
            machine.move = None
            return
        super().revert_move(uuid, timeout=timeout)


@mutant("MOVE-005")
class ConfirmDestroysTheOnlyCopy(FakeDriver):
    """confirm_move() removes the source before the destination has the instance."""

    def confirm_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None and machine.move is not None:
            self.destroy(uuid, timeout=timeout)


@mutant("MOVE-006")
class PreparesTwice(FakeDriver):
    """A prepare_move() that is repeated makes another copy under another name."""

    def prepare_move(
        self,
        uuid: UUID,
        destination: Destination | None = None,
        *,
        flavor: Flavor | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> Move:
        if self.fake_host.machines[uuid].move is not None:
            self.revert_move(uuid)
        return super().prepare_move(
            uuid, destination, flavor=flavor, timeout=timeout, progress=progress
        )


@mutant("MOVE-007")
class DestroyLeavesWhatWasPrepared(FakeDriver):
    """destroy() of the source leaves the copy at the destination."""

    def _forget(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None:
            machine.move = None
        super()._forget(uuid)


@mutant("MOVE-010")
class DestroyLeavesTheCopy(FakeDriver):
    """destroy() at the destination takes the copy for no machine, and leaves it."""

    def _delete_incoming(self, uuid: UUID) -> None:
        """Nothing."""


@mutant("MOVE-008")
class PreparesWhatNeverFits(FakeDriver):
    """prepare_move() does not look whether the host has that much."""

    def _copy_machine(
        self, uuid: UUID, destination: Destination | None, flavor: Flavor | None, token: int
    ) -> Move:
        size = self.fake_host.size
        self.fake_host.size = size.model_copy(update={"memory_mib": 1 << 40})
        try:
            return super()._copy_machine(uuid, destination, flavor, token)
        finally:
            self.fake_host.size = size


@mutant("MOVE-008")
class PreparesASmallerDisk(FakeDriver):
    """prepare_move() takes a flavor with a smaller disk."""

    def _check_size_of_move(self, machine: Machine, flavor: Flavor) -> None:
        super()._check_size_of_move(machine, flavor.model_copy(update={"disk_gib": 0}))


@mutant("MOVE-009")
class ConfirmedLeavesSecrets(FakeDriver):
    """The passwords for storage servers stay on the host that the machine has left."""

    def confirm_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        before = dict(self.fake_host.secrets)
        super().confirm_move(uuid, timeout=timeout)
        self.fake_host.secrets |= before
