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
from hvdrivers.fake.moving import Moving
from hvdrivers.fake.records import Machine, Migration
from hvdrivers.fake.steps import Task
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.instance import Metadata
from hvdrivers.models.migration import Blocker, BlockerKind, Destination, MigrationPlan
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState


@mutant("MIGR-004")
class LiveMigrationBoots(FakeDriver):
    """The guest is started anew at the destination: it was no live migration."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            machine = self.machines.find(uuid)
            super().switch_host(operation, uuid, destination)
            if operation == "live_migrate":
                self.host.boot(machine)


class _Stale(Moving):
    _operation = ""

    def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
        if operation == self._operation:
            for pool, disk in list(self.host.disks_of(uuid)):
                pool.disks[disk.name] = replace(disk, content=disk.content[:1])
        super().switch_host(operation, uuid, destination)


@mutant("MIGR-004")
class LiveMigrationLosesData(FakeDriver):
    """What the guest has written since it was made does not move."""

    class moving_type(_Stale):
        _operation = "live_migrate"


@mutant("MIGR-012")
class ColdMigrationLosesData(FakeDriver):
    """The root disk at the destination is made from the image, and not copied."""

    class moving_type(_Stale):
        _operation = "cold_migrate"


@mutant("MIGR-012")
class SnapshotsStayBehind(FakeDriver):
    """An instance arrives without its snapshots."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            machine = self.machines.find(uuid)
            super().switch_host(operation, uuid, destination)
            machine.snapshots.clear()
            machine.current_snapshot = None


@mutant("MIGR-015")
class CutColdMigrationLeavesACopy(FakeDriver):
    """A cold migration that is cut leaves what it has prepared at the destination."""

    class moving_type(Moving):
        def cancel(self, task: Task, uuid: UUID, destination: Destination) -> None:
            if task.operation != "cold_migrate":
                super().cancel(task, uuid, destination)


class _Careless(Moving):
    _forgets = BlockerKind.STORAGE

    def blockers(
        self, machine: Machine, target: FakeHost | None, moves: list[Any], destination: Any
    ) -> Iterator[Blocker]:
        for each in super().blockers(machine, target, moves, destination):
            if each.kind is not self._forgets or target is None:
                yield each


@mutant("MIGR-016")
class LocalVolumesAreNoReason(FakeDriver):
    """A machine moves away from a volume that only the source has."""

    moving_type = _Careless


@mutant("MIGR-016")
class DevicesAreNoReason(FakeDriver):
    """A machine moves away from its slice of a GPU, which stays taken at the source."""

    class moving_type(_Careless):
        _forgets = BlockerKind.DEVICE


class _LooksNowhere(Moving):
    """Does not see that the destination is the host itself."""

    _operations: frozenset[str] = frozenset()

    def plan(self, operation: str, uuid: UUID, destination: Destination) -> MigrationPlan:
        plan = super().plan(operation, uuid, destination)
        if operation in self._operations and destination.host == self.host.name:
            return plan.model_copy(update={"blockers": ()})
        return plan


@mutant("MIGR-017")
class MovesToItself(FakeDriver):
    """The plan has nothing against the host that the machine is on."""

    class moving_type(_LooksNowhere):
        _operations = frozenset({"check_live_migration"})


@mutant("MIGR-017")
class ItselfIsInItsWay(FakeDriver):
    """The plan calls the machine's own NIC a reason against its own host."""

    class moving_type(Moving):
        def blockers(
            self, machine: Machine, target: FakeHost | None, moves: list[Any], destination: Any
        ) -> Iterator[Blocker]:
            yield from super().blockers(machine, target, moves, destination)
            if target is self.host:
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


class _SharesMove(Moving):
    _operations: frozenset[str] = frozenset()

    def plan(self, operation: str, uuid: UUID, destination: Destination) -> MigrationPlan:
        plan = super().plan(operation, uuid, destination)
        tags = self.machines.find(uuid).shares if operation in self._operations else {}
        left = tuple(each for each in plan.blockers if each.device not in tags)
        return plan.model_copy(update={"blockers": left})


@mutant("MIGR-019")
class SharesAreNoReason(FakeDriver):
    """A running machine moves away from the directory that its guest has mounted."""

    class moving_type(_SharesMove):
        _operations = frozenset({"check_live_migration", "live_migrate"})


@mutant("MIGR-020")
class ShareIsFoundAtTheNextStart(FakeDriver):
    """A stopped machine moves to a host that has another directory, or none."""

    class moving_type(_SharesMove):
        _operations = frozenset({"cold_migrate"})


@mutant("MIGR-012")
class TpmStateStaysBehind(FakeDriver):
    """The state of the TPM of an instance that has moved is still at the source."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            state = self.host.tpm.get(uuid)
            super().switch_host(operation, uuid, destination)
            if state is not None and operation == "cold_migrate":
                self.host.tpm[uuid] = state


@mutant("MIGR-004")
class NvramStaysBehind(FakeDriver):
    """The UEFI variables of an instance that has moved are still at the source."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            variables = self.host.nvram.get(uuid)
            super().switch_host(operation, uuid, destination)
            if variables is not None:
                self.host.nvram[uuid] = variables


class _Overlooking(Moving):
    """Does not see reasons that have these words in them."""

    _words = ""

    def blockers(
        self, machine: Machine, target: FakeHost | None, moves: list[Any], destination: Any
    ) -> Iterator[Blocker]:
        for each in super().blockers(machine, target, moves, destination):
            if self._words not in each.reason:
                yield each


@mutant("MIGR-023")
class PortsThereAreNoReason(FakeDriver):
    """The plan asks for networks alone: two machines run on one port in the end."""

    class moving_type(_Overlooking):
        _words = "in use on the destination"


@mutant("MIGR-024")
class TheOtherIsReplaced(FakeDriver):
    """A machine moves over one that has the same UUID at the destination."""

    class moving_type(_Overlooking):
        _words = "has this UUID"


@mutant("MIGR-024")
class MaintenanceIsForOthers(FakeDriver):
    """A host in maintenance takes machines that move to it."""

    class moving_type(_Overlooking):
        _words = "maintenance"


@mutant("MIGR-025")
class RoomIsFoundOnTheWay(FakeDriver):
    """The plan does not ask whether the disks fit into the destination's pool."""

    class moving_type(_Overlooking):
        _words = "of room left"


@mutant("MIGR-002")
class NetworksAreNoReason(FakeDriver):
    """The plan does not look whether the destination has the networks of the NICs."""

    class moving_type(_Careless):
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

    class moving_type(Moving):
        def cancel(self, task: Task, uuid: UUID, destination: Destination) -> None:
            if uuid in self.host.machines:
                super().cancel(task, uuid, destination)


@mutant("MIGR-027")
class GoesToADeadHost(FakeDriver):
    """The switch does not look whether the destination still answers: the machine is lost."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            there = self.host.world.find(destination.host)
            answers = there is None or there.reachable
            if there is not None:
                there.reachable = True
            try:
                super().switch_host(operation, uuid, destination)
            finally:
                if there is not None:
                    there.reachable = answers


@mutant("MIGR-027")
class DiesWithItsDestination(FakeDriver):
    """The machine stands still at the source when the destination has died at the switch."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            try:
                super().switch_host(operation, uuid, destination)
            except errors.ConnectionFailed:
                machine = self.machines.find(uuid)
                self.host.set_state(machine, InstanceState.PAUSED, LifecycleKind.PAUSED)
                raise


@mutant("MIGR-028")
class NeighboursNicsBlock(FakeDriver):
    """The pre-check looks at the NICs of all machines."""

    class moving_type(Moving):
        def network_blockers(
            self, machine: Machine, target: FakeHost, destination: Destination
        ) -> Iterator[Blocker]:
            for each in self.host.ours():
                yield from super().network_blockers(each, target, destination)


@mutant("MIGR-029")
class TakesTheSecretsOfOthers(FakeDriver):
    """All secrets of the host move with the first machine that does."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            super().switch_host(operation, uuid, destination)
            self.host.secrets.clear()


@mutant("MIGR-029")
class TakesTheVariablesOfOthers(FakeDriver):
    """So do the firmware variables."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            super().switch_host(operation, uuid, destination)
            self.host.nvram.clear()


@mutant("MIGR-030")
class LosesWhatIsChangedMeanwhile(FakeDriver):
    """What is written to the source while its machine leaves is told as done, and gone."""

    def set_metadata(self, uuid: UUID, metadata: Metadata, *, timeout: float | None = None) -> None:
        machine = self.fake_host.machines.get(uuid)
        leaves = machine is not None and machine.migration is not None and machine.migration.active
        if not leaves:
            super().set_metadata(uuid, metadata, timeout=timeout)
