"""Mutants of what moves along, and of what a failure leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.clock import Wake
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.records import Machine, Migration
from hvdrivers.fake.steps import Task
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.migration import Blocker, BlockerKind, Destination, MigrationPlan
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState


@mutant("MIGR-004")
class LiveMigrationBoots(FakeDriver):
    """The guest is started anew at the destination: it was no live migration."""

    def _switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        machine = self.machines.find(uuid)
        super()._switch_host(operation, uuid, destination)
        if operation == "live_migrate":
            self.fake_host.boot(machine)


class _Stale(FakeDriver):
    _operation = ""

    def _switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        if operation == self._operation:
            for pool, disk in list(self.fake_host.disks_of(uuid)):
                pool.disks[disk.name] = replace(disk, content=disk.content[:1])
        super()._switch_host(operation, uuid, destination)


@mutant("MIGR-004")
class LiveMigrationLosesData(_Stale):
    """What the guest has written since it was made does not move."""

    _operation = "live_migrate"


@mutant("MIGR-012")
class ColdMigrationLosesData(_Stale):
    """The root disk at the destination is made from the image, and not copied."""

    _operation = "cold_migrate"


@mutant("MIGR-012")
class SnapshotsStayBehind(FakeDriver):
    """An instance arrives without its snapshots."""

    def _switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        machine = self.machines.find(uuid)
        super()._switch_host(operation, uuid, destination)
        machine.snapshots.clear()
        machine.current_snapshot = None


@mutant("MIGR-015")
class CutColdMigrationLeavesACopy(FakeDriver):
    """A cold migration that is cut leaves what it has prepared at the destination."""

    def _cancel(self, task: Task, uuid: UUID, destination: Destination) -> None:
        if task.operation != "cold_migrate":
            super()._cancel(task, uuid, destination)


class _Careless(FakeDriver):
    _forgets = BlockerKind.STORAGE

    def _blockers(
        self, machine: Machine, target: FakeHost | None, moves: list[Any], destination: Any
    ) -> Iterator[Blocker]:
        for each in super()._blockers(machine, target, moves, destination):
            if each.kind is not self._forgets or target is None:
                yield each


@mutant("MIGR-016")
class LocalVolumesAreNoReason(_Careless):
    """A machine moves away from a volume that only the source has."""


@mutant("MIGR-016")
class DevicesAreNoReason(_Careless):
    """A machine moves away from its slice of a GPU, which stays taken at the source."""

    _forgets = BlockerKind.DEVICE


class _LooksNowhere(FakeDriver):
    """Does not see that the destination is the host itself."""

    _operations: frozenset[str] = frozenset()

    def _plan(self, operation: str, uuid: UUID, destination: Destination) -> MigrationPlan:
        plan = super()._plan(operation, uuid, destination)
        if operation in self._operations and destination.host == self.fake_host.name:
            return plan.model_copy(update={"blockers": ()})
        return plan


@mutant("MIGR-017")
class MovesToItself(_LooksNowhere):
    """The plan has nothing against the host that the machine is on."""

    _operations = frozenset({"check_live_migration"})


@mutant("MIGR-017")
class ItselfIsInItsWay(FakeDriver):
    """The plan calls the machine's own NIC a reason against its own host."""

    def _blockers(
        self, machine: Machine, target: FakeHost | None, moves: list[Any], destination: Any
    ) -> Iterator[Blocker]:
        yield from super()._blockers(machine, target, moves, destination)
        if target is self.fake_host:
            yield Blocker(kind=BlockerKind.NETWORK, reason="the MAC address is in use")


@mutant("MIGR-018")
class ArrivesWhereItIs(FakeDriver):
    """cold_migrate() to the host that the machine is on returns as if it had moved."""

    def cold_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        if destination.host != self.fake_host.name:
            super().cold_migrate(uuid, destination, timeout=timeout, progress=progress)


class _SharesMove(FakeDriver):
    _operations: frozenset[str] = frozenset()

    def _plan(self, operation: str, uuid: UUID, destination: Destination) -> MigrationPlan:
        plan = super()._plan(operation, uuid, destination)
        tags = self.machines.find(uuid).shares if operation in self._operations else {}
        left = tuple(each for each in plan.blockers if each.device not in tags)
        return plan.model_copy(update={"blockers": left})


@mutant("MIGR-019")
class SharesAreNoReason(_SharesMove):
    """A running machine moves away from the directory that its guest has mounted."""

    _operations = frozenset({"check_live_migration", "live_migrate"})


@mutant("MIGR-020")
class ShareIsFoundAtTheNextStart(_SharesMove):
    """A stopped machine moves to a host that has another directory, or none."""

    _operations = frozenset({"cold_migrate"})


@mutant("MIGR-012")
class TpmStateStaysBehind(FakeDriver):
    """The state of the TPM of an instance that has moved is still at the source."""

    def _switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        state = self.fake_host.tpm.get(uuid)
        super()._switch_host(operation, uuid, destination)
        if state is not None and operation == "cold_migrate":
            self.fake_host.tpm[uuid] = state


@mutant("MIGR-004")
class NvramStaysBehind(FakeDriver):
    """The UEFI variables of an instance that has moved are still at the source."""

    def _switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        variables = self.fake_host.nvram.get(uuid)
        super()._switch_host(operation, uuid, destination)
        if variables is not None:
            self.fake_host.nvram[uuid] = variables


class _Overlooking(FakeDriver):
    """Does not see reasons that have these words in them."""

    _words = ""

    def _blockers(
        self, machine: Machine, target: FakeHost | None, moves: list[Any], destination: Any
    ) -> Iterator[Blocker]:
        for each in super()._blockers(machine, target, moves, destination):
            if self._words not in each.reason:
                yield each


@mutant("MIGR-023")
class PortsThereAreNoReason(_Overlooking):
    """The plan asks for networks alone: two machines run on one port in the end."""

    _words = "in use on the destination"


@mutant("MIGR-024")
class TheOtherIsReplaced(_Overlooking):
    """A machine moves over one that has the same UUID at the destination."""

    _words = "has this UUID"


@mutant("MIGR-024")
class MaintenanceIsForOthers(_Overlooking):
    """A host in maintenance takes machines that move to it."""

    _words = "maintenance"


@mutant("MIGR-025")
class RoomIsFoundOnTheWay(_Overlooking):
    """The plan does not ask whether the disks fit into the destination's pool."""

    _words = "of room left"


@mutant("MIGR-002")
class NetworksAreNoReason(_Careless):
    """The plan does not look whether the destination has the networks of the NICs."""

    _forgets = BlockerKind.NETWORK


@mutant("MIGR-026")
class MovesWhatIsNotThere(FakeDriver):
    """A migration of a machine that was destroyed goes on until its deadline."""

    def _copy_memory(self, task: Task, machine: Machine | None, migration: Migration) -> None:
        while machine is not None and not (machine.guest.converges or migration.aborted):
            self.fake_host.clock.wait(0.05, Wake())
        super()._copy_memory(task, machine, migration)


@mutant("MIGR-026")
class DestroyedHereIsPreparedThere(FakeDriver):
    """What a migration has prepared stays at the destination if the machine is destroyed."""

    def _cancel(self, task: Task, uuid: UUID, destination: Destination) -> None:
        if uuid in self.fake_host.machines:
            super()._cancel(task, uuid, destination)


@mutant("MIGR-027")
class GoesToADeadHost(FakeDriver):
    """The switch does not look whether the destination still answers: the machine is lost."""

    def _switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        there = self.fake_host.world.find(destination.host)
        answers = there is None or there.reachable
        if there is not None:
            there.reachable = True
        try:
            super()._switch_host(operation, uuid, destination)
        finally:
            if there is not None:
                there.reachable = answers


@mutant("MIGR-027")
class DiesWithItsDestination(FakeDriver):
    """The machine stands still at the source when the destination has died at the switch."""

    def _switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        try:
            super()._switch_host(operation, uuid, destination)
        except errors.ConnectionFailed:
            machine = self.machines.find(uuid)
            self.fake_host.set_state(machine, InstanceState.PAUSED, LifecycleKind.PAUSED)
            raise


@mutant("MIGR-028")
class NeighboursNicsBlock(FakeDriver):
    """The pre-check looks at the NICs of all machines."""

    def _network_blockers(
        self, machine: Machine, target: FakeHost, destination: Destination
    ) -> Iterator[Blocker]:
        for each in self.fake_host.ours():
            yield from super()._network_blockers(each, target, destination)
