"""Server groups: DRS rules of the cluster that keep machines together on a host, or apart.

A member has its group in its mark. From the second member on the cluster has a rule of the group's
name, which lists the members: vCenter takes no rule of fewer than two machines. The marks say who
is to be in the rule, and the driver makes the rule so after each change: it reads both in one call,
writes the rule if it is another, and reads again. The cluster's configuration has no version that
would tell a client that another one has written meanwhile. So the one that has written last finds
whom it has left out, as each member is there, with its mark, before its own client writes.

What others have put into such a rule stays in it, and whether the rule is enabled is left to them.
Other rules are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.models.group import ServerGroup
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.migration import Blocker, BlockerKind
from hvdrivers.vmware.machines import STATE, Machine, Machines, uuid_in
from hvdrivers.vmware.names import rule_name
from hvdrivers.vmware.place import Places, Surroundings
from hvdrivers.vmware.reader import IN_POOL, Reader, Row
from hvdrivers.vmware.record import mark_in
from hvdrivers.vmware.tasks import Tasks

_CONFIGURATION = "configurationEx"
_ON = "poweredOn"


@dataclass(frozen=True)
class _Seen:
    """A group as the server shows it: the machines of the place, its members, its rule."""

    rows: Sequence[Row]
    members: Sequence[tuple[UUID, ServerGroup, Row]]
    rule: Any
    """None: there is none."""

    @property
    def listed(self) -> frozenset[str]:
        """The ids of the machines in the rule."""
        return frozenset(each._moId for each in (self.rule.vm or ())) if self.rule else frozenset()

    def wanted(self, *, without: UUID | None) -> dict[str, Any]:
        """The machines that the rule shall list, by id; none, where there shall be no rule."""
        ours = {row.moid: row.obj for uuid, each, row in self.members if uuid != without}
        if not ours:
            return {}
        known = {row.moid for _, _, row in self.members}
        guests = {row.moid: row.obj for row in self.rows if row.moid in self.listed - known}
        found = ours | guests
        return found if len(found) > 1 else {}

    def is_kept(self, group: ServerGroup, wanted: dict[str, Any]) -> bool:
        """Whether the rule is as it shall be."""
        if self.rule is None or not wanted:
            return self.rule is None and not wanted
        fits = isinstance(self.rule, _kind(group)) and (
            bool(self.rule.mandatory) is group.policy.mandatory
        )
        return fits and self.listed == wanted.keys()


class Groups:
    """Keeps the rules of server groups."""

    def __init__(self, reader: Reader, tasks: Tasks, places: Places, machines: Machines) -> None:
        self._reader = reader
        self._tasks = tasks
        self._places = places
        self._machines = machines

    def checked(self, spec: InstanceSpec, around: Surroundings) -> Surroundings:
        """The same surroundings, if a new machine can be a member of its group there. 1 read; none
        without a group.

        Raises:
            NotSupported: the cluster does not place machines by rules any more.
            InvalidRequest: the group has members with another policy.
            InsufficientResources: it shall run, and each host has a member that runs.
        """
        group = spec.server_group
        if group is None:
            return around
        if not around.keeps_rules:
            raise errors.NotSupported(
                "DRS of the cluster does not place machines by itself, so no rule is kept",
                hint="let DRS be partially or fully automated",
            )
        seen = self._look(group, self._places)
        _require_policy(seen, group)
        if spec.start:
            _require_host(seen, group, around)
        return around

    def check_start(self, found: Machine, around: Surroundings) -> None:
        """Look whether a machine that shall be started finds a host. 1 read for a member of a group
        whose members are to be apart; else none.

        Raises:
            InsufficientResources: each host has a member that runs.
        """
        group = found.mark.server_group
        if group is not None and group.policy.mandatory and group.policy.apart:
            seen = self._look(group, self._places)
            _require_host(seen, group, around, besides=found.uuid)

    def settle(
        self,
        group: ServerGroup | None,
        *,
        joins: UUID | None = None,
        without: UUID | None = None,
        places: Places | None = None,
    ) -> None:
        """Make the rule of a group what its members want. 1 read; where the rule changes, 3 calls
        more; none without a group, and where there is no cluster.

        Args:
            joins: a member that was made a moment ago. Of two with different policies, made at the
                same moment, at least one is refused.
            without: a member that is about to go.

        Raises:
            InvalidRequest: the group has members with another policy than ``joins``.
        """
        where = places or self._places
        if group is None or not where.get().is_cluster:
            return
        before = None
        while True:
            seen = self._look(group, where)
            if joins is not None:
                _require_policy(seen, group, besides=joins)
            wanted = seen.wanted(without=without)
            if seen.is_kept(group, wanted):
                return
            now = seen.listed, frozenset(wanted), getattr(seen.rule, "key", None)
            current_deadline().check("another client changed the rule again and again")
            try:
                self._write(group, where.get().compute, seen, wanted)
            except errors.OutcomeUnknown:
                before = None  # the next look tells whether it was done
            except (errors.InvalidRequest, errors.HypervisorFault) as refused:
                # another client has made or removed the rule, or a machine has gone
                if before == now:
                    raise refused
                before = now
            else:
                before = None

    def blockers(
        self, found: Machine, places: Places, around: Surroundings, host: Any, *, running: bool
    ) -> Iterator[Blocker]:
        """What a group has against a machine's move. 1 read; none without a group.

        Args:
            places: the destination.
            host: one host of it; None: the cluster chooses.
            running: it runs while it moves.
        """
        group, uuid = found.mark.server_group, found.uuid
        if group is None:
            return
        if not around.keeps_rules and places is not self._places:
            yield Blocker(
                kind=BlockerKind.STATE,
                reason=f"nothing there keeps the policy of the server group {group.name!r}",
                hint="move it to a cluster whose DRS places machines",
            )
            return
        seen = self._look(group, places)
        try:
            _require_policy(seen, group, besides=uuid)
        except errors.InvalidRequest as error:
            yield Blocker(kind=BlockerKind.STATE, reason=error.message, hint=error.hint)
        if not running or not group.policy.mandatory:
            return
        others = {row.get("runtime.host") for each, _, row in _running(seen) if each != uuid}
        hosts = {host} if host is not None else {each.obj for each in around.usable_hosts}
        left = hosts - others if group.policy.apart else hosts & others if others else hosts
        if not left:
            yield Blocker(
                kind=BlockerKind.RESOURCES,
                reason=f"the server group {group.name!r} ({group.policy}) leaves no host for it",
                hint="move it to another host, or its other members first",
            )

    # ---- the rule -------------------------------------------------------------------------------

    def _look(self, group: ServerGroup, places: Places) -> _Seen:
        place = places.get()
        wanted = [
            (vim.VirtualMachine, STATE),
            (vim.ResourcePool, ("name",)),
            (vim.ClusterComputeResource, (_CONFIGURATION,)),
        ]
        rows = self._reader.read(wanted, [(place.root_pool, IN_POOL), (place.compute, [])])
        machines = [
            self._machines.known.restored(row)
            for row in rows
            if isinstance(row.obj, vim.VirtualMachine)
        ]
        members = []
        for row in machines:
            uuid = uuid_in(row)
            mark = mark_in(row, uuid)
            theirs = None if mark is None else mark.server_group
            if uuid is not None and theirs is not None and theirs.name == group.name:
                members.append((uuid, theirs, row))
        cluster = next((row for row in rows if row.obj == place.compute), None)
        configuration = None if cluster is None else cluster.get(_CONFIGURATION)
        name = rule_name(group.name)
        rules = [each for each in getattr(configuration, "rule", None) or () if each.name == name]
        rule = next(iter(rules), None)
        if rule is not None and not isinstance(rule, (_AFFINE, _APART)):
            raise errors.InvalidRequest(
                f"the cluster has a rule {name!r} of another kind", hint="remove or rename that one"
            )
        return _Seen(machines, members, rule)

    def _write(self, group: ServerGroup, compute: Any, seen: _Seen, wanted: dict[str, Any]) -> None:
        """2 calls."""
        rule = seen.rule
        if not wanted:
            change = vim.cluster.RuleSpec(operation="remove", removeKey=rule.key)
            changes = [change]
        else:
            kind = _kind(group)
            made = kind(
                name=rule_name(group.name),
                enabled=True if rule is None else rule.enabled,
                mandatory=group.policy.mandatory,
                vm=[wanted[each] for each in sorted(wanted)],
            )
            if rule is None:
                changes = [vim.cluster.RuleSpec(operation="add", info=made)]
            elif isinstance(rule, kind):
                made.key, made.ruleUuid = rule.key, rule.ruleUuid
                changes = [vim.cluster.RuleSpec(operation="edit", info=made)]
            else:  # what an earlier group of this name has left
                gone = vim.cluster.RuleSpec(operation="remove", removeKey=rule.key)
                changes = [gone, vim.cluster.RuleSpec(operation="add", info=made)]
        config = vim.cluster.ConfigSpecEx(rulesSpec=changes)
        self._tasks.run(
            lambda: compute.ReconfigureComputeResource_Task(config, True), entity=compute
        )


_AFFINE, _APART = vim.cluster.AffinityRuleSpec, vim.cluster.AntiAffinityRuleSpec


def _kind(group: ServerGroup) -> Any:
    return _APART if group.policy.apart else _AFFINE


def _require_policy(seen: _Seen, group: ServerGroup, *, besides: UUID | None = None) -> None:
    for uuid, each, _ in seen.members:
        if each.policy is not group.policy and uuid != besides:
            raise errors.InvalidRequest(
                f"the server group {group.name!r} has members with the policy {each.policy}",
                hint="give that policy, or another group",
            )


def _running(seen: _Seen) -> list[tuple[UUID, ServerGroup, Row]]:
    return [each for each in seen.members if each[2].get("runtime.powerState") == _ON]


def _require_host(
    seen: _Seen, group: ServerGroup, around: Surroundings, *, besides: UUID | None = None
) -> None:
    if not (group.policy.mandatory and group.policy.apart):
        return
    running = [uuid for uuid, _, _ in _running(seen) if uuid != besides]
    hosts = len(around.usable_hosts)
    if len(running) >= hosts:
        raise errors.InsufficientResources(
            f"the server group {group.name!r} wants a host for each member: {len(running)} run, and"
            f" {hosts} hosts take machines",
            hint="stop a member, or use soft-anti-affinity",
        )
