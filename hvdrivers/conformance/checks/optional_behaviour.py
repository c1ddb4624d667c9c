"""Clauses of level MAY: what the contract leaves to the driver. Of each of these there is a clause
elsewhere that says what a driver must do that does not; here its report says whether it does.

NET-008 stands in ``network.py``.
"""

from __future__ import annotations

from hvdrivers.conformance.checks.migration import Elsewhere, movable
from hvdrivers.conformance.engine.assertions import expect_state, larger
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.trial import Declined, Trial
from hvdrivers.conformance.engine.watching import QUIET, watching
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.events import LifecycleEvent, LifecycleKind
from hvdrivers.models.state import InstanceState

RESIZE_007 = clause(
    "RESIZE-007",
    "resize() grows a root disk that has snapshots",
    operation="resize",
    level=Level.MAY,
    needs=[Capability.SNAPSHOTS],
)
CPU_004 = clause(
    "HOTCPU-004",
    "hot_resize_cpu() takes CPUs away while the guest runs",
    operation="hot_resize_cpu",
    level=Level.MAY,
)
MEMORY_005 = clause(
    "HOTMEMORY-005",
    "hot_resize_memory() takes memory away while the guest runs",
    operation="hot_resize_memory",
    level=Level.MAY,
)
POWER_026 = clause(
    "POWER-026",
    "a machine runs with more CPUs than the host has threads",
    operation="power_on",
    level=Level.MAY,
)
STOR_065 = clause(
    "STOR-065",
    "a volume takes no room before it is written to: create_volume() promises more than a pool has",
    operation="create_volume",
    level=Level.MAY,
)
EVENT_016 = clause(
    "EVENT-016",
    "an instance that is being made is told of as BUILDING",
    operation="watch",
    level=Level.MAY,
)
EVENT_017 = clause(
    "EVENT-017",
    "live_migrate() is told as SWITCHING at the source, once, before it is told as MIGRATED",
    operation="live_migrate",
    level=Level.MAY,
)
MIGR_021 = clause(
    "MIGR-021",
    "a machine with a volume of create_volume() moves while it runs",
    operation="live_migrate",
    level=Level.MAY,
    needs=[Capability.HOST_VOLUMES],
)
MIGR_022 = clause(
    "MIGR-022",
    "cold_migrate() takes the instance's snapshots along",
    operation="cold_migrate",
    level=Level.MAY,
    needs=[Capability.SNAPSHOTS],
)


@check(RESIZE_007)
def grows_with_snapshots(trial: Trial) -> None:
    flavor = trial.target.flavor
    uuid = trial.spawn(start=False).uuid
    trial.driver.create_snapshot(uuid, "hvct")
    wanted = larger(flavor, disk_gib=flavor.disk_gib + 1)
    try:
        trial.driver.resize(uuid, wanted)
    except errors.DeviceBusy as error:
        raise Declined(error.message) from error
    found = trial.other.get_instance(uuid).flavor
    trial.equal(found, wanted, "flavor after resize() of a disk with snapshots")


@check(
    cases=[Case("vcpus", ("vcpus", 1), CPU_004), Case("memory", ("memory_mib", 128), MEMORY_005)]
)
def shrinks_while_it_runs(trial: Trial, field: str, step: int) -> None:
    least: int = getattr(trial.target.flavor, field)
    flavor = larger(trial.target.flavor, **{field: least + step, f"max_{field}": least + step})
    uuid = trial.spawn(flavor=flavor).uuid
    trial.target.wait_booted(trial.driver, uuid)
    resize = trial.driver.hot_resize_cpu if field == "vcpus" else trial.driver.hot_resize_memory
    try:
        resize(uuid, least)
    except (errors.InvalidRequest, errors.DeviceBusy) as error:
        raise Declined(error.message) from error
    found = trial.other.get_instance(uuid).flavor
    trial.equal(getattr(found, field), least, f"{field} after the decrease")


@check(POWER_026)
def runs_larger_than_the_host(trial: Trial) -> None:
    threads = trial.driver.get_available_resource().cpu.total
    try:
        uuid = trial.spawn(flavor=larger(trial.target.flavor, vcpus=threads + 1)).uuid
    except errors.InsufficientResources as error:
        raise Declined(error.message) from error
    expect_state(trial, uuid, InstanceState.RUNNING, "with more CPUs than there are threads")


@check(STOR_065)
def volumes_are_promises(trial: Trial) -> None:
    pools = trial.driver.get_available_resource().storage
    much = 4 * max(int(pool.total_gib) + 1 for pool in pools)
    try:
        volume = trial.volume(None, size_gib=much)
    except errors.InsufficientResources as error:
        raise Declined(error.message) from error
    listed = {each.volume_id: each.capacity_bytes for each in trial.driver.list_volumes()}
    trial.equal(listed.get(volume.volume_id), much << 30, "bytes of the volume that was promised")


@check(EVENT_016)
def is_told_while_it_is_built(trial: Trial) -> None:
    watcher = watching(trial)
    watcher.resync()
    uuid = trial.spawn().uuid
    seen: list[InstanceState | None] = []
    while InstanceState.RUNNING not in seen:
        event = watcher.next()
        trial.check(event is not None, f"spawn() is not told of; what came: {seen}")
        if isinstance(event, LifecycleEvent) and event.uuid == uuid:
            seen.append(event.state)
    if InstanceState.BUILDING not in seen:
        raise Declined(f"the states that were told: {', '.join(map(str, seen))}")
    trial.equal(seen[0], InstanceState.BUILDING, "the first state that was told")
    while (late := watcher.next(QUIET)) is not None:
        back = isinstance(late, LifecycleEvent) and late.state is InstanceState.BUILDING
        trial.check(not back, "it is told of as BUILDING after it runs")


@check(EVENT_017)
def tells_the_switch_over(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    watcher = watching(trial)
    watcher.resync()
    trial.driver.live_migrate(uuid, there.destination)
    kinds: list[LifecycleKind] = []
    ends = {LifecycleKind.MIGRATED, LifecycleKind.DESTROYED}  # gone, for who says no more
    while not ends & set(kinds):
        event = watcher.next()
        if event is None:
            raise Declined(f"what was told of the migration: {', '.join(kinds)}")
        if isinstance(event, LifecycleEvent) and event.uuid == uuid:
            kinds.append(event.kind)
    if LifecycleKind.SWITCHING not in kinds:
        raise Declined(f"what was told of the migration: {', '.join(kinds)}")
    wanted = [LifecycleKind.SWITCHING, LifecycleKind.MIGRATED]
    trial.equal([each for each in kinds if each in wanted], wanted, "what was told, in order")


@check(MIGR_021)
def moves_with_its_volume(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, volumes=(trial.attachment(),))
    there.expect(uuid)
    plan = trial.driver.check_live_migration(uuid, there.destination)
    if not plan.possible:
        raise Declined("; ".join(each.reason for each in plan.blockers))
    info = trial.driver.get_instance(uuid)
    trial.driver.live_migrate(uuid, there.destination)
    trial.equal(there.driver.get_instance(uuid), info, "the instance at the destination")


@check(MIGR_022)
def moves_with_its_snapshots(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    trial.driver.create_snapshot(uuid, "hvct")
    tree = trial.driver.list_snapshots(uuid)
    try:
        trial.driver.cold_migrate(uuid, there.destination)
    except errors.InvalidRequest as error:
        raise Declined(error.message) from error
    trial.equal(there.driver.list_snapshots(uuid), tree, "snapshots at the destination")
