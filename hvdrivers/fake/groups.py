"""Server groups on a fake host: which machines its own hosts keep together, or apart.

A fake host with several hosts behind it (``HostSize.hosts``) does not say on which of them a
machine runs. It keeps the members of each group, and refuses to start a machine whose group wants
more hosts than there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract.errors import InsufficientResources, InvalidRequest
from hvdrivers.models.group import ServerGroup, ServerGroupPolicy

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.records import Machine


@dataclass
class GroupRecord:
    """What the host keeps of a group."""

    policy: ServerGroupPolicy
    members: set[UUID] = field(default_factory=set)


class Groups:
    """The groups of a host. The caller holds the world's lock."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host

    def check_policy(self, group: ServerGroup | None) -> None:
        """Refuse another policy than the members have."""
        found = None if group is None else self.host.groups.get(group.name)
        if group is not None and found is not None and found.policy is not group.policy:
            raise InvalidRequest(
                f"the server group {group.name!r} has members with the policy {found.policy}",
                hint="give that policy, or another group",
            )

    def join(self, machine: Machine) -> None:
        """Take a machine in that has come to the host."""
        group = machine.server_group
        if group is not None:
            record = self.host.groups.setdefault(group.name, GroupRecord(group.policy))
            record.members.add(machine.uuid)

    def leave(self, machine: Machine | None) -> None:
        """Let a machine go that leaves the host; a group without members goes too."""
        group = None if machine is None else machine.server_group
        record = None if group is None else self.host.groups.get(group.name)
        if machine is not None and group is not None and record is not None:
            record.members.discard(machine.uuid)
            if not record.members:
                del self.host.groups[group.name]


def check_hosts_left(host: FakeHost, machine: Machine) -> None:
    """Raise InsufficientResources if the machine's group leaves no host for it to run on."""
    group = machine.server_group
    if group is None or not (group.policy.mandatory and group.policy.apart):
        return
    taken = [
        each
        for each in host.machines.values()
        if each.server_group == group and each.uuid != machine.uuid and each.takes_memory
    ]
    if len(taken) >= host.size.hosts:
        raise InsufficientResources(
            f"the server group {group.name!r} wants a host for each member, and each of the"
            f" {host.size.hosts} hosts has one",
            hint="stop a member, or use soft-anti-affinity",
        )
