"""Mutants that do not leave the machines of others alone."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.machines import Machines
from hvdrivers.fake.own_disks import OwnDisks
from hvdrivers.fake.records import Machine
from hvdrivers.models.instance import (
    ForeignInstance,
    InstanceInfo,
    InstanceSummary,
    Keep,
    Metadata,
)
from hvdrivers.models.state import InstanceState


@mutant("FOREIGN-001")
class ForeignRunningAreHidden(FakeDriver):
    """list_foreign() leaves out what runs."""

    def _foreign(self) -> list[ForeignInstance]:
        return [each for each in super()._foreign() if each.state is not InstanceState.RUNNING]


@mutant("FOREIGN-002")
class ForeignIncludesOurs(FakeDriver):
    """list_foreign() lists all machines."""

    def _foreign(self) -> list[ForeignInstance]:
        return [
            ForeignInstance(uuid=each.uuid, name=each.name, state=each.state)
            for each in self.fake_host.machines.values()
        ]


@mutant("FOREIGN-002")
class MetadataIsTheMark(FakeDriver):
    """An instance without metadata counts as foreign."""

    def _foreign(self) -> list[ForeignInstance]:
        return super()._foreign() + [
            ForeignInstance(uuid=each.uuid, name=each.name, state=each.state)
            for each in self.fake_host.ours()
            if not each.metadata
        ]


@mutant("FOREIGN-003")
class DestroyTouchesForeign(FakeDriver):
    """destroy() of a foreign machine says InstanceNotFound, and has stopped it."""

    def _leftovers(self, uuid: UUID, keep: AbstractSet[Keep]) -> set[str]:
        self._cut_power(uuid)
        return super()._leftovers(uuid, keep)


@mutant("FOREIGN-003")
class DestroyRemovesForeignDisks(FakeDriver):
    """destroy() of a foreign machine succeeds, and removes its disks as leftovers."""

    def _leftovers(self, uuid: UUID, keep: AbstractSet[Keep]) -> set[str]:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None and not machine.ours:
            return {"delete-disks"}
        return super()._leftovers(uuid, keep)


@mutant("FOREIGN-003")
class ForeignIsForbidden(FakeDriver):
    """A foreign machine is PermissionDenied instead of InstanceNotFound."""

    class machines_type(Machines):
        def find(self, uuid: UUID) -> Machine:
            machine = self.host.machines.get(uuid)
            if machine is not None and not machine.ours:
                raise errors.PermissionDenied("that is somebody else's", instance=uuid)
            return super().find(uuid)


@mutant("FOREIGN-004")
class SpawnTakesForeignUuid(FakeDriver):
    """spawn() replaces a foreign machine with the same UUID."""

    def _check_new(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is None or machine.ours:
            super()._check_new(uuid)


@mutant("FOREIGN-005")
class AbsentIsOff(FakeDriver):
    """power_off() of an instance that does not exist succeeds."""

    def _power_off(self, uuid: UUID) -> None:
        if uuid in self.fake_host.machines:
            super()._power_off(uuid)


@mutant("FOREIGN-005")
class AbsentIsAnInvalidRequest(FakeDriver):
    """A UUID that does not exist raises InvalidRequest: an error of the wrong class."""

    class machines_type(Machines):
        def find(self, uuid: UUID) -> Machine:
            try:
                return super().find(uuid)
            except errors.InstanceNotFound as error:
                raise errors.InvalidRequest("no such UUID", instance=uuid) from error


@mutant("FOREIGN-006")
class ForeignAreAllRunning(FakeDriver):
    """Every foreign machine is said to run."""

    def _foreign(self) -> list[ForeignInstance]:
        on = {"state": InstanceState.RUNNING}
        return [each.model_copy(update=on) for each in super()._foreign()]


@mutant("FOREIGN-006")
class ForeignAreNumbers(FakeDriver):
    """A foreign machine is called by its UUID."""

    def _foreign(self) -> list[ForeignInstance]:
        return [each.model_copy(update={"name": str(each.uuid)}) for each in super()._foreign()]


@mutant("ADOPT-001")
class AdoptForgetsMetadata(FakeDriver):
    """adopt() returns the metadata it was given, and does not keep them."""

    def _adopt(self, uuid: UUID, name: str | None, metadata: Metadata | None) -> InstanceInfo:
        info = super()._adopt(uuid, name, metadata)
        self.machines.find(uuid).metadata = {}
        return info


@mutant("ADOPT-002")
class AdoptRestarts(FakeDriver):
    """adopt() restarts the machine, so that its configuration takes effect."""

    def _adopt(self, uuid: UUID, name: str | None, metadata: Metadata | None) -> InstanceInfo:
        info = super()._adopt(uuid, name, metadata)
        self.fake_host.boot(self.machines.find(uuid))
        return info


@mutant("ADOPT-002")
class AdoptMovesDisks(FakeDriver):
    """adopt() brings the disks into a shape of its own."""

    def _adopt(self, uuid: UUID, name: str | None, metadata: Metadata | None) -> InstanceInfo:
        info = super()._adopt(uuid, name, metadata)
        for _, disk in self.fake_host.disks_of(uuid):
            disk.size_bytes = max(disk.size_bytes, 4 << 30)
        return info


@mutant("ADOPT-003")
class AdoptRenamesOurs(FakeDriver):
    """adopt() of an instance of ours gives it the new name."""

    def _adopt(self, uuid: UUID, name: str | None, metadata: Metadata | None) -> InstanceInfo:
        info = super()._adopt(uuid, name, metadata)
        machine = self.machines.find(uuid)
        machine.name = name or info.name
        return self.showing.info(machine)


@mutant("ADOPT-004")
class AdoptOfNothing(FakeDriver):
    """adopt() of a machine that does not exist raises InvalidState."""

    def _adopt(self, uuid: UUID, name: str | None, metadata: Metadata | None) -> InstanceInfo:
        if uuid not in self.fake_host.machines:
            raise errors.InvalidState("it is in no state", hint="make it first")
        return super()._adopt(uuid, name, metadata)


@mutant("ADOPT-005")
class AdoptedKeepsItsDisks(FakeDriver):
    """destroy() of an adopted machine only forgets it."""

    class own_disks_type(OwnDisks):
        def delete(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
            if not any("foreign" in disk.content for _, disk in self.host.disks_of(uuid)):
                super().delete(uuid, keep)


@mutant("ADOPT-006")
class AdoptInventsAName(FakeDriver):
    """A machine whose name is no valid label is adopted under its UUID."""

    def _adopt(self, uuid: UUID, name: str | None, metadata: Metadata | None) -> InstanceInfo:
        try:
            return super()._adopt(uuid, name, metadata)
        except errors.InvalidRequest:
            return super()._adopt(uuid, str(uuid), metadata)


@mutant("ADOPT-006")
class RefusedAdoptionIsMarked(FakeDriver):
    """The right error for a name that is no label, after the machine was marked as ours."""

    def _adopt(self, uuid: UUID, name: str | None, metadata: Metadata | None) -> InstanceInfo:
        try:
            return super()._adopt(uuid, name, metadata)
        except errors.InvalidRequest:
            self.fake_host.machines[uuid].name = str(uuid)
            self.fake_host.machines[uuid].ours = True
            raise


@mutant("FOREIGN-010")
class CopyIsTakenForOurs(FakeDriver):
    """Whatever carries the mark is ours, though it is on a copy."""

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        copies = [each for each in self.fake_host.machines.values() if each.copy_of is not None]
        shown = [self.showing.info(each).summary() for each in copies]
        return [*super().list_instances(timeout=timeout), *shown]
