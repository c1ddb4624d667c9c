"""Clauses of server groups: machines that a cluster keeps on one of its hosts, or apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.assertions import larger
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.concurrency_tools import together
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.group import ServerGroup, ServerGroupPolicy
from hvdrivers.models.migration import Destination

_NEEDS = [Capability.SERVER_GROUP]

GROUP_001 = clause(
    "GROUP-001",
    "an instance shows the server group that it was spawned into, alone and in the list, on each"
    " connection; rename(), set_metadata(), resize(), rebuild() and starts leave it there, and an"
    " adopted machine is in none",
    operation="spawn",
    needs=_NEEDS,
)
GROUP_002 = clause(
    "GROUP-002",
    "the hypervisor keeps the policy of a server group for its members, from the second one on, and"
    " for no other machine; a member that is destroyed is kept with nobody, and nothing of a group"
    " is left when its last member is gone",
    operation="spawn",
    needs=_NEEDS,
)
GROUP_003 = clause(
    "GROUP-003",
    "spawn() into a server group that has members with another policy raises InvalidRequest and"
    " makes nothing",
    operation="spawn",
    needs=_NEEDS,
)
GROUP_004 = clause(
    "GROUP-004",
    "of members of a server group that several connections spawn at the same moment, or destroy,"
    " each one is kept with all the others that are there in the end",
    operation="spawn",
    needs=_NEEDS,
)
GROUP_005 = clause(
    "GROUP-005",
    "a member of a server group for whose policy there is no host is not started: spawn() and"
    " power_on() raise InsufficientResources, and change nothing; a soft policy lets it start",
    operation="spawn",
    needs=_NEEDS,
    level=Level.SHOULD,
)
GROUP_006 = clause(
    "GROUP-006",
    "the name of a server group is any label, and comes back unchanged; groups with different names"
    " are different groups",
    operation="spawn",
    needs=_NEEDS,
)
GROUP_007 = clause(
    "GROUP-007",
    "an instance that moves stays in its server group, and is kept with the members that are where"
    " it is; a destination that keeps no policies, or whose members have another one, is a blocker",
    operation="cold_migrate",
    needs=[*_NEEDS, Capability.COLD_MIGRATION],
)

_APART, _TOGETHER = ServerGroupPolicy.ANTI_AFFINITY, ServerGroupPolicy.AFFINITY
_MOST_HOSTS = 8
"""A larger cluster is not filled with machines."""
_NAMES = (
    "a",
    "A",
    "a.b",
    "a/b",
    "a%2fb",
    "a\\b",
    "$(reboot)",
    "'; Remove-VM *; '",
    "<rule name='x'/>",
    "\u00e4\u6f22\U0001f600",
    "x" * 63,
)


def _group(policy: ServerGroupPolicy, name: str | None = None) -> ServerGroup:
    """A group that nobody else has."""
    return ServerGroup(name=name or f"hvct-{uuid4().hex[:12]}", policy=policy)


def _member(trial: Trial, group: ServerGroup, *, start: bool = False) -> UUID:
    return trial.spawn(server_group=group, start=start).uuid


def _kept(trial: Trial, uuid: UUID) -> tuple[ServerGroupPolicy, frozenset[UUID]] | None:
    if trial.observer is None:
        raise PreconditionMissing("there is no observer, and no operation shows who is kept apart")
    return trial.observer.kept_with(uuid)


def _expect(trial: Trial, group: ServerGroup, members: set[UUID], when: str) -> None:
    """These are in the group: as they show it, and as the hypervisor does."""
    for each in members:
        shown = trial.driver.get_instance(each).server_group
        trial.equal(shown, group, f"the group that a member shows {when}")
        wanted = (group.policy, frozenset(members)) if len(members) > 1 else None
        trial.equal(_kept(trial, each), wanted, f"who is kept with a member {when}")


def _is_shown(trial: Trial, uuid: UUID, group: ServerGroup | None, when: str) -> None:
    for driver in (trial.driver, trial.other):
        one = driver.get_instance(uuid).server_group
        listed = {each.uuid: each.server_group for each in driver.list_instances()}
        trial.equal(one, group, f"the group {when}")
        trial.equal(listed[uuid], group, f"the group in the list {when}")


@check(GROUP_001, cases=[Case(each.value, (each,)) for each in ServerGroupPolicy])
def group_comes_back(trial: Trial, policy: ServerGroupPolicy) -> None:
    group = _group(policy)
    made = trial.spawn(server_group=group)
    trial.equal(made.server_group, group, "the group that spawn() returns")
    _is_shown(trial, made.uuid, group, "after spawn()")
    trial.driver.power_off(made.uuid)
    trial.driver.rename(made.uuid, f"{trial.journal.prefix}other")
    trial.driver.set_metadata(made.uuid, {**made.metadata, "a": "b"})
    if trial.has(Capability.RESIZE):
        size = larger(trial.target.flavor, memory_mib=trial.target.flavor.memory_mib + 64)
        trial.driver.resize(made.uuid, size)
    if trial.has(Capability.REBUILD):
        trial.driver.rebuild(made.uuid, trial.target.image())
    trial.driver.power_on(made.uuid)
    _is_shown(trial, made.uuid, group, "after changes and a start")
    alone = trial.spawn(start=False).uuid
    _is_shown(trial, alone, None, "of an instance that was spawned into none")


@check(GROUP_001, needs=[Capability.ADOPT])
def adopted_is_in_none(trial: Trial) -> None:
    with trial.target.foreign_machine(f"{trial.journal.prefix}adopted") as uuid:
        trial.will_destroy(uuid)
        trial.equal(trial.driver.adopt(uuid).server_group, None, "the group of an adopted machine")


@check(GROUP_002, cases=[Case(each.value, (each,)) for each in ServerGroupPolicy])
def policy_is_kept(trial: Trial, policy: ServerGroupPolicy) -> None:
    group, other = _group(policy), _group(policy)
    with trial.unchanged():
        first = _member(trial, group)
        stranger, outsider = _member(trial, other), trial.spawn(start=False).uuid
        _expect(trial, group, {first}, "alone")
        second = _member(trial, group)
        _expect(trial, group, {first, second}, "with a second one")
        third = _member(trial, group)
        _expect(trial, group, {first, second, third}, "with a third one")
        for each in (stranger, outsider):
            trial.equal(_kept(trial, each), None, "who is kept with a machine of no such group")
        trial.driver.destroy(first)
        _expect(trial, group, {second, third}, "when the first one is gone")
        trial.driver.destroy(third)
        _expect(trial, group, {second}, "when one is left")
        for each in (second, stranger, outsider):
            trial.driver.destroy(each)


@check(GROUP_003, cases=[Case("opposite", (_TOGETHER,)), Case("soft", (_APART,))])
def policy_is_one(trial: Trial, policy: ServerGroupPolicy) -> None:
    wrong = _APART if policy is _TOGETHER else ServerGroupPolicy.SOFT_ANTI_AFFINITY
    group = _group(policy)
    members = {_member(trial, group)}
    for _ in range(2):  # whether the hypervisor keeps the policy already or not
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            _member(trial, _group(wrong, group.name))
        members.add(_member(trial, group))
    _expect(trial, group, members, "after another policy was refused")
    for each in members:
        trial.driver.destroy(each)
    again = _member(trial, _group(wrong, group.name))
    _is_shown(trial, again, _group(wrong, group.name), "of a name that is free again")


@check(GROUP_004, cases=[Case("come", (0,)), Case("come-and-go", (2,))])
def all_are_in(trial: Trial, going: int) -> None:
    group = _group(_APART)
    before = [_member(trial, group) for _ in range(going)]
    specs = [trial.spec(server_group=group, start=False) for _ in range(3)]
    for each in specs:
        trial.will_destroy(each.uuid)
    drivers = [trial.driver, trial.other, trial.connect()]
    calls: list[Callable[[], object]] = [
        partial(driver.spawn, spec) for driver, spec in zip(drivers, specs, strict=True)
    ]
    calls += [
        partial(driver.destroy, uuid)
        for driver, uuid in zip((trial.connect(), trial.connect()), before, strict=False)
    ]
    for result in together(trial, calls):
        trial.check(not isinstance(result, Exception), f"one of several got {result!r}")
    _expect(trial, group, {each.uuid for each in specs}, "of several that came at once")


@check(GROUP_005)
def hosts_run_out(trial: Trial) -> None:
    group = _group(_APART)
    made: list[UUID] = []
    try:
        while len(made) < _MOST_HOSTS:
            made.append(_member(trial, group, start=True))
    except errors.InsufficientResources:
        trial.check(made, "not one member is started")
    else:
        raise PreconditionMissing(f"the host has {_MOST_HOSTS} hosts or more")
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        _member(trial, group, start=True)
    stopped = _member(trial, group)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.power_on(stopped)
    trial.driver.power_off(made[0])
    trial.driver.power_on(stopped)
    trial.driver.destroy(stopped)
    for each in made:
        trial.driver.destroy(each)
    soft = _group(ServerGroupPolicy.SOFT_ANTI_AFFINITY)
    for _ in range(len(made) + 1):
        _member(trial, soft, start=True)


@check(GROUP_006)
def names_are_labels(trial: Trial) -> None:
    groups = [_group(_APART, name) for name in _NAMES]
    members = [{_member(trial, each)} for each in groups]
    for group, there in zip(groups, members, strict=True):
        there.add(_member(trial, group))
    for group, there in zip(groups, members, strict=True):
        _expect(trial, group, there, f"of the group {group.name!r}")


@check(GROUP_007)
def moves_in_its_group(trial: Trial) -> None:
    destination, there = trial.target.other_host()
    trial.after(there.close)
    if Capability.SERVER_GROUP not in there.capabilities:
        _stays_where_groups_are(trial, destination)
        return
    group = _group(_APART)
    uuid, rest = _member(trial, group), [_member(trial, group) for _ in range(2)]
    other = trial.spec(server_group=_group(_TOGETHER, group.name), start=False)
    trial.after(lambda: there.destroy(other.uuid))
    there.spawn(other)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.cold_migrate(uuid, destination)
    there.destroy(other.uuid)
    trial.after(lambda: there.destroy(uuid))
    trial.driver.cold_migrate(uuid, destination)
    trial.equal(there.get_instance(uuid).server_group, group, "the group after a move")
    _expect(trial, group, set(rest), "that have stayed")
    second = trial.spec(server_group=group, start=False)
    trial.after(lambda: there.destroy(second.uuid))
    there.spawn(second)
    observer = trial.target.other_observer()
    if observer is not None:
        wanted = (group.policy, frozenset({uuid, second.uuid}))
        trial.equal(observer.kept_with(uuid), wanted, "who is kept with it where it is now")


def _stays_where_groups_are(trial: Trial, destination: Destination) -> None:
    """A destination whose driver has no groups keeps no policy: the instance does not go there."""
    uuid = _member(trial, _group(_APART))
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.cold_migrate(uuid, destination)
