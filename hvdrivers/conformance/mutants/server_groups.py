"""Mutants of server groups."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.groups import Groups
from hvdrivers.fake.moving import Moving
from hvdrivers.fake.records import Machine
from hvdrivers.fake.starting import Starting
from hvdrivers.fake.steps import Task
from hvdrivers.models.group import ServerGroup, ServerGroupPolicy
from hvdrivers.models.instance import InstanceInfo, InstanceSpec, InstanceSummary
from hvdrivers.models.migration import Destination


@mutant("GROUP-001")
class GroupIsForgotten(FakeDriver):
    """The group is kept by the host, and no instance shows that it is in it."""

    def _set_group(self, machine: Machine, spec: InstanceSpec) -> None:
        super()._set_group(machine, spec)
        if spec.server_group is not None:
            self.groups.join(machine)
            machine.server_group = None


@mutant("GROUP-001")
class ListHasNoGroups(FakeDriver):
    """get_instance() shows the group, and the list does not."""

    def _summaries(self) -> list[InstanceSummary]:
        found = super()._summaries()
        return [each.model_copy(update={"server_group": None}) for each in found]


@mutant("GROUP-001")
class RenamedMachineLeavesItsGroup(FakeDriver):
    """rename() writes a record without the group."""

    def _rename(self, uuid: UUID, name: str) -> None:
        super()._rename(uuid, name)
        self.fake_host.machines[uuid].server_group = None


@mutant("GROUP-001")
class AdoptedMachineIsInAGroup(FakeDriver):
    """adopt() puts each machine into a group of adopted ones."""

    def _adopt(self, uuid: UUID, name: str | None, metadata: object) -> InstanceInfo:
        info = super()._adopt(uuid, name, metadata)  # type: ignore[arg-type]
        group = ServerGroup(name="adopted", policy=ServerGroupPolicy.SOFT_AFFINITY)
        return info.model_copy(update={"server_group": group})


@mutant("GROUP-002")
class GroupIsANote(FakeDriver):
    """Each instance shows its group, and nothing keeps its policy."""

    class groups_type(Groups):
        def join(self, machine: Machine) -> None:
            pass


@mutant("GROUP-002")
class SecondMemberIsNotKept(FakeDriver):
    """A group is what its first member has made of it: later ones are kept with nobody."""

    class groups_type(Groups):
        def join(self, machine: Machine) -> None:
            group = machine.server_group
            if group is not None and group.name not in self.host.groups:
                super().join(machine)


@mutant("GROUP-002")
class DestroyLeavesTheRule(FakeDriver):
    """destroy() leaves the policy behind, and the machine in it."""

    class groups_type(Groups):
        def leave(self, machine: Machine | None) -> None:
            pass


@mutant("GROUP-002")
class DestroyEndsTheGroup(FakeDriver):
    """When one member is destroyed, nothing keeps the others apart any more."""

    class groups_type(Groups):
        def leave(self, machine: Machine | None) -> None:
            if machine is not None and machine.server_group is not None:
                self.host.groups.pop(machine.server_group.name, None)


@mutant("GROUP-002")
class SoftIsMandatory(FakeDriver):
    """The host keeps every policy as if it were mandatory."""

    class groups_type(Groups):
        def join(self, machine: Machine) -> None:
            super().join(machine)
            if machine.server_group is not None:
                record = self.host.groups[machine.server_group.name]
                record.policy = ServerGroupPolicy(record.policy.removeprefix("soft-"))


@mutant("GROUP-003")
class AnyPolicyIsTaken(FakeDriver):
    """A machine with another policy joins the group, which keeps the one that it had."""

    class groups_type(Groups):
        def check_policy(self, group: ServerGroup | None) -> None:
            pass


@mutant("GROUP-003")
class OtherPolicyIsBusy(FakeDriver):
    """Another policy raises DeviceBusy, as if the group would take it in the end."""

    class groups_type(Groups):
        def check_policy(self, group: ServerGroup | None) -> None:
            try:
                super().check_policy(group)
            except errors.InvalidRequest as error:
                raise errors.DeviceBusy(error.message) from error


@mutant("GROUP-004")
class LastOneWins(FakeDriver):
    """A connection writes the members that it knows: those that it has spawned itself."""

    def _define(self, task: Task, spec: InstanceSpec, image: object) -> None:
        super()._define(task, spec, image)  # type: ignore[arg-type]
        group = spec.server_group
        if group is not None:
            own = self.__dict__.setdefault("own", {}).setdefault(group.name, set())
            own.add(spec.uuid)
            self.fake_host.groups[group.name].members = own & self.fake_host.machines.keys()


@mutant("GROUP-005")
class StartLooksAtNoGroup(FakeDriver):
    """spawn() refuses the member for which there is no host, and power_on() starts it."""

    class starting_type(Starting):
        def check(self, machine: Machine) -> None:
            group, machine.server_group = machine.server_group, None
            try:
                super().check(machine)
            finally:
                machine.server_group = group


@mutant("GROUP-005")
class FullGroupIsBusy(FakeDriver):
    """A member for which there is no host raises DeviceBusy."""

    def _check_size(self, machine: Machine, spec: InstanceSpec) -> None:
        try:
            super()._check_size(machine, spec)
        except errors.InsufficientResources as error:
            if spec.server_group is None:
                raise
            raise errors.DeviceBusy(error.message) from error


@mutant("GROUP-005")
class SoftIsRefused(FakeDriver):
    """A member of a group with a soft policy is refused where the hosts run out."""

    def _set_group(self, machine: Machine, spec: InstanceSpec) -> None:
        super()._set_group(machine, spec)
        group = spec.server_group
        if group is not None and group.policy is ServerGroupPolicy.SOFT_ANTI_AFFINITY:
            record = self.fake_host.groups.get(group.name)
            if record is not None and len(record.members) >= self.fake_host.size.hosts:
                raise errors.InsufficientResources("there is no host left")


@mutant("GROUP-006")
class NamesAreFolded(FakeDriver):
    """Groups whose names differ in case only are one."""

    class groups_type(Groups):
        def join(self, machine: Machine) -> None:
            group = machine.server_group
            if group is not None:
                machine.server_group = group.model_copy(update={"name": group.name.casefold()})
                super().join(machine)
                machine.server_group = group

        def leave(self, machine: Machine | None) -> None:
            if machine is not None and machine.server_group is not None:
                for name, record in list(self.host.groups.items()):
                    record.members.discard(machine.uuid)
                    if not record.members:
                        del self.host.groups[name]


@mutant("GROUP-006")
class NamesAreCleaned(FakeDriver):
    """The name of a group comes back without what a path cannot have."""

    def _set_group(self, machine: Machine, spec: InstanceSpec) -> None:
        super()._set_group(machine, spec)
        group = spec.server_group
        if group is not None:
            name = group.name.replace("/", "_").replace("\\", "_")
            machine.server_group = group.model_copy(update={"name": name})


@mutant("GROUP-007")
class MoveLosesTheGroup(FakeDriver):
    """A machine that has moved is in no group any more."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            super().switch_host(operation, uuid, destination)
            there = self.host.world.find(destination.host)
            assert there is not None  # noqa: S101 - it has just moved there
            Groups(there).leave(there.machines[uuid])
            there.machines[uuid].server_group = None


@mutant("GROUP-007")
class MoveStaysInTheRule(FakeDriver):
    """The host that a machine has left goes on to keep the others apart from it."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: Destination) -> None:
            machine = self.host.machines[uuid]
            super().switch_host(operation, uuid, destination)
            Groups(self.host).join(machine)
