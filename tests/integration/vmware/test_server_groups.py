"""Server groups on a vCenter: the rules of the cluster, beside those of others and of clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.driverkit.seam import cut_after, cut_before
from hvdrivers.models.group import ServerGroup, ServerGroupPolicy
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.driver import VmwareDriver
from hvdrivers.vmware.names import rule_name
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.integration.vmware.test_budgets import READ, calls
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer

WEB = ServerGroup(name="web", policy=ServerGroupPolicy.ANTI_AFFINITY)
NAME = rule_name("web")
RULE = "ReconfigureComputeResource_Task"


@pytest.fixture(scope="module")
def own_peer() -> Iterator[VcsimPeer]:
    """A vCenter of this file's own: the tests change its cluster."""
    with started(lambda: VcsimPeer("vpx", standalone=1, hosts=3, clusters=2)) as peer:
        yield peer


@pytest.fixture
def peer(own_peer: VcsimPeer) -> Iterator[VcsimPeer]:
    yield own_peer
    own_peer.ask("/fault", "DELETE")
    own_peer.require_alive()


@pytest.fixture
def driver(peer: VcsimPeer) -> Iterator[VmwareDriver]:
    made = connected(peer)
    yield made
    for each in made.list_instances():
        made.destroy(each.uuid)
    assert rules(made) == {}
    made.close()


def rules(driver: VmwareDriver) -> dict[str, Any]:
    cluster = driver.places.get().compute
    found = driver.reader.one(cluster, "configurationEx")["configurationEx"].rule or ()
    return {each.name: each for each in found}


def reconfigured(driver: VmwareDriver, **values: Any) -> None:
    cluster = driver.places.get().compute
    spec = vim.cluster.ConfigSpecEx(**values)
    driver.tasks.run(lambda: cluster.ReconfigureComputeResource_Task(spec, True), entity=cluster)


def changed(driver: VmwareDriver, operation: str, rule: Any) -> None:
    key = rule.key if operation == "remove" else None
    info = None if operation == "remove" else rule
    change = vim.cluster.RuleSpec(operation=operation, removeKey=key, info=info)
    reconfigured(driver, rulesSpec=[change])


def machine(driver: VmwareDriver, uuid: UUID) -> Any:
    return driver.machines.get(uuid).obj


def listed(driver: VmwareDriver, name: str = NAME) -> set[str]:
    rule = rules(driver).get(name)
    return set() if rule is None else {each._moId for each in rule.vm}


@pytest.fixture
def member(driver: VmwareDriver, spec: SpecFactory) -> Callable[..., UUID]:
    def spawn(group: ServerGroup | None = WEB, **changes: Any) -> UUID:
        return driver.spawn(spec(server_group=group, **changes)).uuid

    return spawn


def test_budgets(driver: VmwareDriver, spec: SpecFactory, member: Callable[..., UUID]) -> None:
    plain = [spec(), spec()]
    driver.spawn(plain[0])  # the image is in the cache now, with its template
    usual = calls(driver, lambda: driver.spawn(plain[1]))

    first, second, third = spec(server_group=WEB), spec(server_group=WEB), spec(server_group=WEB)
    alone = calls(driver, lambda: driver.spawn(first))
    assert alone - usual == {READ: 2}
    for each in (second, third):
        more = calls(driver, lambda each=each: driver.spawn(each))
        assert more - usual == {READ: 2 + 2, RULE: 1}
    gone = calls(driver, lambda: driver.destroy(plain[1].uuid))
    for each in (third, second):
        more = calls(driver, lambda each=each: driver.destroy(each.uuid))
        assert more - gone == {READ: 2 + 2, RULE: 1}
    last = calls(driver, lambda: driver.destroy(first.uuid))
    assert last - gone == {READ: 2}

    begun = calls(driver, lambda: driver.spawn(spec(start=True)))
    runs = calls(driver, lambda: driver.spawn(spec(start=True, server_group=WEB)))
    assert runs - begun == {READ: 2 + 2, "PowerOnVM_Task": 1}
    start = calls(driver, lambda: driver.power_on(plain[0].uuid))
    stopped = member()
    assert calls(driver, lambda: driver.power_on(stopped)) - start == {READ: 1}


def test_rules_of_others_stay(driver: VmwareDriver, member: Callable[..., UUID]) -> None:
    others = [member(None), member(None)]
    machines = [machine(driver, each) for each in others]
    theirs = vim.cluster.AntiAffinityRuleSpec(name="web", enabled=True, vm=machines)
    changed(driver, "add", theirs)
    before = rules(driver)["web"]
    mine = [member(), member()]
    assert set(rules(driver)) == {"web", NAME}
    for each in mine:
        driver.destroy(each)
    after = rules(driver)
    assert set(after) == {"web"}
    assert (after["web"].key, after["web"].ruleUuid) == (before.key, before.ruleUuid)
    changed(driver, "remove", after["web"])


def test_what_others_do_to_a_rule_stays(driver: VmwareDriver, member: Callable[..., UUID]) -> None:
    stranger = member(None)
    first, second = member(), member()
    rule = rules(driver)[NAME]
    rule.enabled = False
    rule.vm = [*rule.vm, machine(driver, stranger)]
    changed(driver, "edit", rule)
    third = member()
    assert rules(driver)[NAME].enabled is False
    assert rules(driver)[NAME].key == rule.key
    ids = {machine(driver, each)._moId for each in (first, second, third, stranger)}
    assert listed(driver) == ids
    for each in (first, second, third):
        driver.destroy(each)
    assert rules(driver) == {}


def test_a_rule_that_somebody_has_removed_is_made_again(
    driver: VmwareDriver, member: Callable[..., UUID]
) -> None:
    made = [member(), member()]
    changed(driver, "remove", rules(driver)[NAME])
    made.append(member())
    assert listed(driver) == {machine(driver, each)._moId for each in made}


def test_a_rule_of_another_kind_with_the_name(
    driver: VmwareDriver, member: Callable[..., UUID]
) -> None:
    rule = vim.cluster.VmHostRuleInfo(name=NAME, enabled=True, vmGroupName="a")
    changed(driver, "add", rule)
    before = len(driver.list_instances())
    with pytest.raises(errors.InvalidRequest, match="another kind"):
        member()
    assert len(driver.list_instances()) == before
    changed(driver, "remove", rules(driver)[NAME])


@pytest.mark.parametrize("fault", [cut_before, cut_after])
def test_a_lost_rule_is_looked_for(
    fault: Any, driver: VmwareDriver, member: Callable[..., UUID]
) -> None:
    first = member()
    with driver.session.seam.cut(fault, name=RULE) as cut:
        second = member()
    assert cut.struck
    assert listed(driver) == {machine(driver, each)._moId for each in (first, second)}


def test_a_client_that_writes_what_it_has_read_before(
    driver: VmwareDriver, peer: VmwareDriver, spec: SpecFactory, member: Callable[..., UUID]
) -> None:
    """Another client's write comes between this one's write and its look at what came of it."""
    made = [member(), member()]
    stale = rules(driver)[NAME]
    real = driver.groups._write
    late: list[int] = []

    def write(*args: Any) -> None:
        real(*args)
        if not late:
            late.append(1)
            changed(driver, "edit", stale)

    driver.groups._write = write  # type: ignore[method-assign]
    made.append(member())
    assert late
    assert listed(driver) == {machine(driver, each)._moId for each in made}


def test_a_rule_that_the_server_refuses(
    driver: VmwareDriver, peer: VcsimPeer, member: Callable[..., UUID]
) -> None:
    first = member()
    peer.ask("/fault", "POST", method=RULE, type="NoPermission", count=1)
    with pytest.raises(errors.PermissionDenied):
        member()
    peer.ask("/fault", "POST", method=RULE, type="InvalidArgument", count=2)
    with pytest.raises(errors.InvalidRequest):
        member()
    assert [each.uuid for each in driver.list_instances()] == [first]
    assert rules(driver) == {}


def test_a_start_that_would_break_the_rule(
    driver: VmwareDriver, peer: VcsimPeer, member: Callable[..., UUID]
) -> None:
    """What DRS says, whatever the driver has counted."""
    first = member(start=True)
    peer.ask("/fault", "POST", method="PowerOnVM_Task", type="RuleViolation", count=1)
    with pytest.raises(errors.InsufficientResources):
        member(start=True)
    assert [each.uuid for each in driver.list_instances()] == [first]
    assert rules(driver) == {}


def test_a_host_that_the_group_leaves_not(
    driver: VmwareDriver, member: Callable[..., UUID]
) -> None:
    hosts = {each.obj: each["name"] for each in driver.places.surroundings().hosts}

    def where(uuid: UUID) -> str:
        return str(hosts[driver.machines.get(uuid).row["runtime.host"]])

    first, second = member(start=True), member(start=True)
    plan = driver.check_live_migration(first, Destination(host=where(second)))
    if where(first) != where(second):  # the simulator keeps no rule
        assert [each.kind for each in plan.blockers] == [BlockerKind.RESOURCES]
    free = next(each for each in hosts.values() if each not in {where(first), where(second)})
    driver.live_migrate(first, Destination(host=free))
    assert where(first) == free
    assert driver.check_live_migration(first, Destination(host=where(second))).blockers
    driver.power_off(second)
    driver.live_migrate(first, Destination(host=where(second)))
    assert listed(driver) == {machine(driver, each)._moId for each in (first, second)}

    close = ServerGroup(name="db", policy=ServerGroupPolicy.AFFINITY)
    one, two = member(close, start=True), member(close, start=True)
    alone = next(each for each in hosts.values() if each not in {where(one), where(two)})
    plan = driver.check_live_migration(one, Destination(host=alone))
    assert [each.kind for each in plan.blockers] == [BlockerKind.RESOURCES]


def test_a_member_moves_to_another_cluster(
    driver: VmwareDriver, peer: VcsimPeer, spec: SpecFactory, member: Callable[..., UUID]
) -> None:
    there = connected(peer, compute="DC0_C1")
    try:
        moves, stays, third = member(), member(start=True), member()
        other = there.spawn(spec(server_group=WEB)).uuid
        assert rules(there) == {}
        there_is = Destination(host="DC0_C1")
        plain = member(None, start=True)
        usual = calls(driver, lambda: driver.check_live_migration(plain, there_is))
        checked = calls(driver, lambda: driver.check_live_migration(stays, there_is))
        assert checked - usual == {READ: 1}
        assert not driver.check_live_migration(stays, there_is).blockers
        driver.cold_migrate(moves, there_is)
        assert listed(driver) == {machine(driver, each)._moId for each in (stays, third)}
        assert listed(there) == {machine(there, each)._moId for each in (moves, other)}
        there.destroy(moves)
        assert rules(there) == {}
        there.destroy(other)
        close = ServerGroup(name="web", policy=ServerGroupPolicy.AFFINITY)
        there.spawn(spec(server_group=close))
        plan = driver.check_live_migration(stays, there_is)
        assert [each.kind for each in plan.blockers] == [BlockerKind.STATE]
    finally:
        for each in there.list_instances():
            there.destroy(each.uuid)
        there.close()


def test_a_place_without_rules(driver: VmwareDriver, peer: VcsimPeer) -> None:
    other = connected(peer, compute="DC0_H0")
    assert "single host" in other.narrowed()[Capability.SERVER_GROUP]
    other.close()


@pytest.mark.parametrize(
    "drs", [{"enabled": False}, {"enabled": True, "defaultVmBehavior": "manual"}]
)
def test_drs_that_places_nothing(
    drs: dict[str, Any], driver: VmwareDriver, peer: VcsimPeer, member: Callable[..., UUID]
) -> None:
    reconfigured(driver, drsConfig=vim.cluster.DrsConfigInfo(**drs))
    try:
        other = connected(peer)
        assert "DRS" in other.narrowed()[Capability.SERVER_GROUP]
        other.close()
        with pytest.raises(errors.NotSupported):
            member()  # it was on when this driver connected
    finally:
        on = vim.cluster.DrsConfigInfo(enabled=True, defaultVmBehavior="fullyAutomated")
        reconfigured(driver, drsConfig=on)
    assert Capability.SERVER_GROUP not in driver.narrowed()


def test_a_snapshot_keeps_the_group(driver: VmwareDriver, member: Callable[..., UUID]) -> None:
    first, second = member(), member()
    point = driver.create_snapshot(first, "a").id
    driver.rename(first, "other")
    driver.revert_snapshot(first, point)
    info = driver.get_instance(first)
    assert (info.name, info.server_group, info.state) == ("other", WEB, InstanceState.STOPPED)
    driver.destroy(first)  # one with snapshots is taken out of the inventory
    assert rules(driver) == {}
    assert driver.get_instance(second).server_group == WEB
