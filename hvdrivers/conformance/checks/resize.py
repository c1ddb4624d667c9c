"""Clauses of ``contract/lifecycle.py``: another size, cold and hot."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.engine.assertions import IMPOSSIBLE_MEMORY_MIB, expect_state, larger
from hvdrivers.conformance.engine.clauses import Case, Clause, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.limits import Limit
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState


def _resize(number: str, rule: str, *needs: Capability) -> Clause:
    return clause(f"RESIZE-{number}", rule, operation="resize", needs=needs)


RESIZE_001 = _resize(
    "001", "resize() gives CPUs, memory and root disk of the flavor, and nothing else changes"
)
RESIZE_002 = _resize(
    "002", "resize() to a smaller root disk raises InvalidRequest and changes nothing"
)
RESIZE_003 = _resize(
    "003",
    "resize() to another ephemeral or swap disk raises InvalidRequest and changes nothing",
)
RESIZE_004 = _resize(
    "004", "resize() beyond what the host has raises InsufficientResources and changes nothing"
)
RESIZE_005 = _resize("005", "resize() leaves what is on the root disk and on the volumes")
RESIZE_006 = _resize(
    "006",
    "where a disk with snapshots does not grow, resize() raises DeviceBusy and changes nothing",
    Capability.SNAPSHOTS,
)
CPU_001 = clause(
    "HOTCPU-001",
    "hot_resize_cpu() changes the number of CPUs at once and for later starts, and nothing else",
    operation="hot_resize_cpu",
)
CPU_002 = clause(
    "HOTCPU-002",
    "hot_resize_cpu() above max_vcpus raises InvalidRequest and changes nothing",
    operation="hot_resize_cpu",
)
CPU_003 = clause(
    "HOTCPU-003",
    "a guest that does not take CPUs in time makes hot_resize_cpu() raise DeviceBusy, and nothing"
    " has changed",
    operation="hot_resize_cpu",
)
MEMORY_001 = clause(
    "HOTMEMORY-001",
    "hot_resize_memory() changes the memory at once and for later starts, and nothing else",
    operation="hot_resize_memory",
)
MEMORY_002 = clause(
    "HOTMEMORY-002",
    "hot_resize_memory() above max_memory_mib raises InvalidRequest and changes nothing",
    operation="hot_resize_memory",
)
MEMORY_003 = clause(
    "HOTMEMORY-003",
    "a guest that does not take memory in time makes hot_resize_memory() raise DeviceBusy, and"
    " nothing has changed",
    operation="hot_resize_memory",
)
MEMORY_004 = clause(
    "HOTMEMORY-004",
    "hot_resize_memory() beyond what the host has raises InsufficientResources and changes nothing",
    operation="hot_resize_memory",
)
_STEP_MIB = 128
"""Memory comes and goes in blocks: 128 MiB on x86_64."""


def _expect_flavor(trial: Trial, uuid: UUID, flavor: Flavor, when: str) -> None:
    for driver in (trial.driver, trial.other):
        trial.equal(driver.get_instance(uuid).flavor, flavor, f"flavor {when}")
        listed = {each.uuid: (each.vcpus, each.memory_mib) for each in driver.list_instances()}
        trial.equal(listed.get(uuid), (flavor.vcpus, flavor.memory_mib), f"size in the list {when}")


def _two_gib(trial: Trial) -> Flavor:
    return larger(trial.target.flavor, disk_gib=trial.target.flavor.disk_gib + 1)


@check(RESIZE_001)
def becomes_the_flavor(trial: Trial) -> None:
    before = trial.spawn(start=False)
    now = before.flavor
    for change in (
        {"vcpus": now.vcpus + 1},
        {"memory_mib": now.memory_mib + _STEP_MIB},
        {"disk_gib": now.disk_gib + 1},
        {"disk_gib": now.disk_gib + 2, "vcpus": now.vcpus, "memory_mib": now.memory_mib},
    ):
        wanted = larger(trial.driver.get_instance(before.uuid).flavor, **change)
        trial.driver.resize(before.uuid, wanted)
        _expect_flavor(trial, before.uuid, wanted, "after resize()")
        with trial.unchanged():
            trial.driver.resize(before.uuid, wanted)
    after = trial.driver.get_instance(before.uuid)
    trial.equal(after.model_copy(update={"flavor": now}), before, "the instance but its flavor")
    trial.driver.power_on(before.uuid)
    expect_state(trial, before.uuid, InstanceState.RUNNING, "after resize() and power_on()")
    _expect_flavor(trial, before.uuid, wanted, "while it runs")


@check(RESIZE_001)
def zero_leaves_the_disk(trial: Trial) -> None:
    two = _two_gib(trial)
    uuid = trial.spawn(start=False, flavor=two).uuid
    wanted = larger(two, vcpus=two.vcpus + 1, disk_gib=0)
    trial.driver.resize(uuid, wanted)
    found = trial.driver.get_instance(uuid).flavor
    trial.equal(found.vcpus, wanted.vcpus, "CPUs after a resize() with disk_gib=0")
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.resize(uuid, larger(wanted, disk_gib=two.disk_gib - 1))
    trial.driver.resize(uuid, larger(wanted, disk_gib=two.disk_gib))


@check(RESIZE_002)
def does_not_shrink(trial: Trial) -> None:
    uuid = trial.spawn(start=False, flavor=_two_gib(trial)).uuid
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.resize(uuid, trial.target.flavor)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.resize(uuid, larger(trial.target.flavor, vcpus=2))


@check(
    RESIZE_003,
    cases=[
        Case("ephemeral", ("ephemeral_gib",), needs=frozenset({Capability.EPHEMERAL_DISK})),
        Case("swap", ("swap_mib",), needs=frozenset({Capability.SWAP_DISK})),
    ],
)
def other_disks_stay(trial: Trial, field: str) -> None:
    uuid = trial.spawn(start=False, flavor=larger(trial.target.flavor, **{field: 16})).uuid
    for size in (0, 8, 32):
        wanted = larger(trial.target.flavor, **{field: size}, vcpus=2)
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            trial.driver.resize(uuid, wanted)


@check(RESIZE_004)
def host_has_not_that_much(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    wanted = larger(_two_gib(trial), memory_mib=IMPOSSIBLE_MEMORY_MIB)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.resize(uuid, wanted)


@check(RESIZE_005)
def data_stay(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    trial.target.wait_booted(trial.driver, uuid)
    trial.target.write_disk(trial.driver, uuid, "kept")
    trial.driver.power_off(uuid)
    trial.driver.resize(uuid, _two_gib(trial))
    trial.check(trial.target.on_disk(trial.driver, uuid, "kept"), "lost by resize()")


@check(RESIZE_005, needs=[Capability.HOST_VOLUMES])
def volumes_keep_their_data(trial: Trial) -> None:
    driver, target, volume = trial.driver, trial.target, trial.attachment()
    uuid = trial.spawn(volumes=(volume,)).uuid
    target.wait_booted(driver, uuid)
    target.write_disk(driver, uuid, "kept", volume.volume_id)
    driver.power_off(uuid)
    driver.resize(uuid, _two_gib(trial))
    driver.power_on(uuid)
    target.wait_booted(driver, uuid)
    found = list(target.written(driver, uuid, volume.volume_id))
    trial.equal(found, ["kept"], "what is on the volume after resize()")


@check(RESIZE_006)
def snapshots_hold_the_disk(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    snapshot = trial.driver.create_snapshot(uuid, "hvct")
    before = trial.picture()
    grown = False
    try:
        trial.driver.resize(uuid, _two_gib(trial))
        grown = True
    except errors.DeviceBusy:
        trial.equal(trial.picture(), before, "the host after the refusal")
    wanted = _two_gib(trial) if grown else trial.target.flavor
    _expect_flavor(trial, uuid, wanted, "after resize() of a disk with snapshots")
    trial.driver.delete_snapshot(uuid, snapshot.id)
    trial.driver.resize(uuid, _two_gib(trial))
    _expect_flavor(trial, uuid, _two_gib(trial), "after resize() without snapshots")


def _hot(trial: Trial, field: str) -> tuple[UUID, Flavor, int]:
    """A running instance with headroom, its flavor, and the step."""
    step = 1 if field == "vcpus" else _STEP_MIB
    base = trial.target.flavor
    now: int = getattr(base, field)
    flavor = larger(base, **{f"max_{field}": now + 2 * step})
    uuid = trial.spawn(flavor=flavor).uuid
    trial.target.wait_booted(trial.driver, uuid)
    return uuid, flavor, step


def _do(trial: Trial, uuid: UUID, field: str, size: int, timeout: float | None = None) -> None:
    if field == "vcpus":
        trial.driver.hot_resize_cpu(uuid, size, timeout=timeout)
    else:
        trial.driver.hot_resize_memory(uuid, size, timeout=timeout)


_FIELDS = [
    Case("vcpus", ("vcpus",), CPU_001),
    Case("memory", ("memory_mib",), MEMORY_001),
]


@check(cases=_FIELDS)
def grows_at_once(trial: Trial, field: str) -> None:
    uuid, flavor, step = _hot(trial, field)
    before = trial.driver.get_instance(uuid)
    now: int = getattr(flavor, field)
    for size in (now + step, now + 2 * step):
        _do(trial, uuid, field, size)
        wanted = larger(flavor, **{field: size})
        _expect_flavor(trial, uuid, wanted, "after the hot resize")
        after = trial.driver.get_instance(uuid)
        trial.equal(after, before.model_copy(update={"flavor": wanted}), "the instance")
        with trial.unchanged():
            _do(trial, uuid, field, size)


@check(cases=_FIELDS)
def lasts(trial: Trial, field: str) -> None:
    uuid, flavor, step = _hot(trial, field)
    wanted = larger(flavor, **{field: getattr(flavor, field) + step})
    _do(trial, uuid, field, getattr(wanted, field))
    trial.driver.power_off(uuid)
    _expect_flavor(trial, uuid, wanted, "after the hot resize and power_off()")
    trial.driver.power_on(uuid)
    _expect_flavor(trial, uuid, wanted, "at the next start")


@check(cases=_FIELDS)
def shrinks_or_says_so(trial: Trial, field: str) -> None:
    uuid, flavor, step = _hot(trial, field)
    now: int = getattr(flavor, field)
    _do(trial, uuid, field, now + step)
    before = trial.picture()
    try:
        _do(trial, uuid, field, now)
    except (errors.InvalidRequest, errors.DeviceBusy):
        trial.equal(trial.picture(), before, "the host after the refusal")
    else:
        _expect_flavor(trial, uuid, flavor, "after the hot decrease")


@check(cases=[Case("vcpus", ("vcpus",), CPU_002), Case("memory", ("memory_mib",), MEMORY_002)])
def headroom_ends(trial: Trial, field: str) -> None:
    uuid, flavor, step = _hot(trial, field)
    most: int = getattr(flavor, f"max_{field}")
    without = trial.spawn().uuid
    with trial.unchanged():
        with trial.raises(errors.InvalidRequest):
            _do(trial, uuid, field, most + step)
        with trial.raises(errors.InvalidRequest):
            _do(trial, without, field, getattr(flavor, field) + step)


@check(cases=[Case("vcpus", ("vcpus",), CPU_003), Case("memory", ("memory_mib",), MEMORY_003)])
def guest_that_refuses_keeps_its_size(trial: Trial, field: str) -> None:
    trial.unless(Limit.GROWTH_UNASKED)
    trial.unless(Limit.DETACH_UNASKED)  # who asks no guest to let go asks none to take more
    uuid, flavor, step = _hot(trial, field)
    wanted: int = getattr(flavor, field) + step
    with trial.target.keeping_guest(trial.driver, uuid):
        with trial.unchanged(), trial.raises(errors.DeviceBusy):
            _do(trial, uuid, field, wanted, timeout=trial.deadline(2.0))
        _expect_flavor(trial, uuid, flavor, "after the guest has refused")


@check(MEMORY_004)
def host_has_no_more(trial: Trial) -> None:
    total = trial.driver.get_available_resource().memory.total_mib
    beyond = (total // _STEP_MIB + 1) * _STEP_MIB
    flavor = larger(trial.target.flavor, max_memory_mib=beyond)
    uuid = trial.spawn(flavor=flavor).uuid
    trial.target.wait_booted(trial.driver, uuid)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.hot_resize_memory(uuid, beyond)
    _expect_flavor(trial, uuid, flavor, "after the host had no more")


RESIZE_010 = _resize("010", "after resize() to a larger disk the root disk really is that large")


@check(RESIZE_010)
def disk_is_larger(trial: Trial) -> None:
    if trial.observer is None:
        raise PreconditionMissing("there is no observer to look at the disk")
    uuid = trial.spawn(start=False).uuid
    before = trial.observer.own_disks(uuid)
    flavor = trial.target.flavor
    trial.driver.resize(uuid, larger(flavor, disk_gib=flavor.disk_gib + 1))
    wanted = (flavor.disk_gib + 1) << 30
    trial.equal(max(trial.observer.own_disks(uuid)), wanted, f"size of the disk (was {before})")
    trial.driver.power_on(uuid)
    trial.equal(max(trial.observer.own_disks(uuid)), wanted, "size of the disk of what runs")
