"""Clauses of ``contract/metrics.py``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.trial import Declined, Trial
from hvdrivers.conformance.engine.watching import CLOCK_SLACK
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.metrics import InstanceMetrics
from hvdrivers.models.state import InstanceState

METR_001 = clause(
    "METR-001",
    "get_metrics() has each instance of ours once, in whatever state, and no other machine",
    operation="get_metrics",
)
METR_002 = clause(
    "METR-002",
    "get_metrics() of some has those alone; one that is not there is left out",
    operation="get_metrics",
)
METR_003 = clause(
    "METR-003",
    "state, CPUs and memory of the metrics are those that get_instance() shows",
    operation="get_metrics",
)
METR_004 = clause(
    "METR-004",
    "while a machine runs no counter goes back, and no counter is negative in any state",
    operation="get_metrics",
)
METR_005 = clause(
    "METR-005",
    "a machine that runs has an entry for each attached volume, by its device, and for each NIC",
    operation="get_metrics",
)
METR_006 = clause(
    "METR-006",
    "the number of round trips of get_metrics() does not depend on the number of instances",
    operation="get_metrics",
)
METR_007 = clause(
    "METR-007",
    "get_metrics() asks the host each time: what has changed, or gone, is so in the next answer",
    operation="get_metrics",
)

_STATES = [
    Case("running", (InstanceState.RUNNING,)),
    Case("stopped", (InstanceState.STOPPED,)),
    Case("paused", (InstanceState.PAUSED,), needs=frozenset({Capability.PAUSE})),
    Case("suspended", (InstanceState.SUSPENDED,), needs=frozenset({Capability.SUSPEND})),
]


def _ids(found: Iterable[InstanceMetrics]) -> list[UUID]:
    return [each.uuid for each in found]


def _of(driver: ComputeDriver, uuid: UUID) -> InstanceMetrics | None:
    return next((each for each in driver.get_metrics() if each.uuid == uuid), None)


@check(METR_001, cases=_STATES)
def each_is_there_once(trial: Trial, state: InstanceState) -> None:
    uuid, other = trial.in_state(state), trial.spawn(start=False).uuid
    with trial.unchanged():
        for driver in (trial.driver, trial.other):
            found = _ids(driver.get_metrics())
            trial.equal(found.count(uuid), 1, f"how often the machine that is {state} is there")
            trial.equal(found.count(other), 1, "how often another machine is there")
            listed = {each.uuid for each in driver.list_instances()}
            trial.equal(set(found), listed, "machines with metrics")


@check(METR_001)
def foreign_machines_are_not_there(trial: Trial) -> None:
    with trial.target.foreign_machine() as uuid:
        trial.check(uuid not in _ids(trial.driver.get_metrics()), "a foreign machine is there")
        found = trial.driver.get_metrics(frozenset({uuid}))
        trial.equal(list(found), [], "metrics of a foreign machine")


@check(METR_002)
def only_those_asked_for(trial: Trial) -> None:
    first, second, third = (trial.spawn(start=False).uuid for _ in range(3))
    for asked, wanted in (
        ({first}, {first}),
        ({first, third}, {first, third}),
        ({second, uuid4()}, {second}),
        ({uuid4()}, set()),
        (set(), set()),
    ):
        found = _ids(trial.driver.get_metrics(frozenset(asked)))
        trial.equal(sorted(found), sorted(wanted), f"of {len(asked)} asked for")
    trial.driver.destroy(second)
    found = _ids(trial.driver.get_metrics(frozenset({first, second})))
    trial.equal(found, [first], "after one of two was destroyed")


@check(METR_003, cases=_STATES)
def is_what_is_shown(trial: Trial, state: InstanceState) -> None:
    flavor = trial.target.flavor.model_copy(update={"vcpus": 2})
    info = trial.driver.get_instance(trial.in_state(state, flavor=flavor))
    found = _of(trial.driver, info.uuid)
    if found is None:
        trial.check(False, "the machine has no metrics")
        return
    trial.equal(found.state, state, "state")
    trial.equal(found.vcpus, info.flavor.vcpus, "vcpus")
    trial.equal(found.memory_mib, info.flavor.memory_mib, "memory_mib")


@check(METR_004, cases=_STATES)
def counters_do_not_go_back(trial: Trial, state: InstanceState) -> None:
    uuid = trial.in_state(state, **trial.everything())
    before = _counters(trial, uuid)
    for _ in range(3):
        after = _counters(trial, uuid)
        for name, value in before.items():
            trial.check(after.get(name, 0) >= value, f"{name} went from {value} back to {after}")
        before = after
    trial.check(all(value >= 0 for value in before.values()), f"a negative counter in {before}")


def _counters(trial: Trial, uuid: UUID) -> dict[str, float]:
    found = _of(trial.driver, uuid)
    if found is None:
        trial.check(False, "the machine has no metrics")
        return {}
    counters: dict[str, float | None] = {
        "at": found.at.timestamp(),
        "cpu_time_ns": found.cpu_time_ns,
    }
    for disk in found.disks:
        for field in ("read_bytes", "read_requests", "write_bytes", "write_requests"):
            counters[f"{disk.device} {field}"] = getattr(disk, field)
    for vif in found.vifs:
        for field in ("rx_bytes", "rx_packets", "rx_dropped", "tx_bytes", "tx_packets"):
            counters[f"{vif.device} {field}"] = getattr(vif, field)
    return {name: value for name, value in counters.items() if value is not None}


@check(METR_004)
def time_passes(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    found = _of(trial.driver, uuid)
    if found is None or found.cpu_time_ns is None:
        # a hypervisor that keeps no such counter (vSphere) says so in every state
        trial.driver.power_off(uuid)
        later = _of(trial.driver, uuid)
        trial.equal(later and later.cpu_time_ns, None, "CPU time of a machine that is off")
        return
    first = found.cpu_time_ns
    trial.eventually(
        lambda: (_of(trial.driver, uuid) or found).cpu_time_ns not in {None, first},
        "the CPU time of a machine that runs stands still",
    )


@check(METR_005)
def each_device_is_there(trial: Trial) -> None:
    vifs = (trial.target.vif("hvct-nic"), trial.target.vif("hvct-nic-2"))
    attachment = trial.attachment()
    info = trial.spawn(vifs=vifs, volumes=(attachment,))
    found = _of(trial.driver, info.uuid)
    if found is None:
        trial.check(False, "the machine has no metrics")
        return
    devices = [each.device for each in found.disks]
    trial.check(info.volumes[0].device in devices, f"{info.volumes[0].device} is not in {devices}")
    trial.equal(len(devices), len(set(devices)), "how many different disks there are")
    trial.equal(len(found.vifs), len(vifs), "how many NICs there are")
    named = {each.id for each in found.vifs if each.id is not None}
    trial.check(named <= {vif.id for vif in vifs}, f"NICs that the machine does not have: {named}")
    for disk in found.disks:
        if disk.device == info.volumes[0].device and disk.capacity_bytes is not None:
            sizes = {each.volume_id: each.capacity_bytes for each in trial.driver.list_volumes()}
            trial.equal(disk.capacity_bytes, sizes[attachment.volume_id], "the volume's size")


@check(METR_006)
def costs_the_same_for_any_number(trial: Trial) -> None:
    trial.driver.get_metrics()  # what is asked once for a connection has been asked now
    with trial.faults.counting() as few:
        trial.driver.get_metrics()
    for _ in range(3):
        trial.spawn(start=False)
    with trial.faults.counting() as many:
        trial.driver.get_metrics()
    trial.equal(len(many), len(few), f"round trips with three instances more ({many})")


@check(METR_007)
def nothing_is_remembered(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    other = trial.other
    trial.equal(_ids(other.get_metrics()).count(uuid), 1, "how often a new machine is there")
    trial.driver.power_off(uuid)
    found = _of(other, uuid)
    trial.equal(found and found.state, InstanceState.STOPPED, "state after power_off()")
    trial.driver.destroy(uuid)
    trial.check(uuid not in _ids(other.get_metrics()), "a machine that is gone has metrics")


METR_010 = clause(
    "METR-010",
    "the counters of an attached volume name its volume_id, and no others name one",
    operation="get_metrics",
    level=Level.MAY,
    needs=[Capability.HOST_VOLUMES],
)


@check(METR_010)
def volumes_are_named(trial: Trial) -> None:
    attachment = trial.attachment()
    uuid = trial.spawn(volumes=(attachment,)).uuid
    found = _of(trial.driver, uuid)
    named = [] if found is None else [each.volume_id for each in found.disks if each.volume_id]
    if found is not None and not named:
        raise Declined("the hypervisor's bulk call does not say which volume a disk is")
    trial.equal(named, [attachment.volume_id], "volumes that the counters name")


METR_011 = clause(
    "METR-011",
    "the time of metrics is that at which the host was asked, by the caller's clock",
    operation="get_metrics",
)


@check(METR_011)
def time_is_that_of_the_question(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    last = None
    for question in ("first", "second"):
        before = datetime.now(UTC)
        found = _of(trial.driver, uuid)
        after = datetime.now(UTC)
        if found is None:
            trial.check(False, "the machine has no metrics")
            return
        asked = before - CLOCK_SLACK <= found.at <= after + CLOCK_SLACK
        trial.check(asked, f"asked between {before} and {after}, they are of {found.at}")
        trial.check(last is None or found.at > last, f"the {question} ones are of {last} still")
        last = found.at


METR_012 = clause(
    "METR-012",
    "cpu_time_ns is in nanoseconds and begins again at each start: no more than the CPUs of the"
    " machine can have used since then, and a machine that boots uses a 200th of one at least",
    operation="get_metrics",
)
_HELPERS = 4
"""Threads of the hypervisor that may be busy for a machine beside its virtual CPUs."""
_STARTING = 2e9
"""Nanoseconds that it may take to bring a machine up."""
_BUSY = 1 / 200
_WINDOW = 0.1
"""Seconds over which is measured at least."""


@check(METR_012)
def cpu_time_is_in_nanoseconds(trial: Trial) -> None:
    began = time.monotonic()
    uuid = trial.spawn().uuid
    first = _cpu_time(trial, uuid, began)
    if first is None:  # the hypervisor keeps no such counter: METR-004 asks for that in each state
        trial.check(True, "")
        return
    start, since = first, time.monotonic()
    trial.target.wait_booted(trial.driver, uuid)

    def busy() -> bool:
        used = (_cpu_time(trial, uuid, began) or 0) - start
        passed = time.monotonic() - since
        return passed >= _WINDOW and used >= passed * 1e9 * _BUSY

    trial.eventually(busy, "the CPU time of a machine that boots is a thousandth of what it uses")
    trial.driver.power_off(uuid)
    began = time.monotonic()
    trial.driver.power_on(uuid)
    _cpu_time(trial, uuid, began)


def _cpu_time(trial: Trial, uuid: UUID, began: float) -> int | None:
    """What a machine that was started at ``began`` or later has used, which has an upper bound."""
    found = _of(trial.driver, uuid)
    if found is None or found.cpu_time_ns is None:
        return None
    passed = time.monotonic() - began
    most = passed * 1e9 * (found.vcpus + _HELPERS) + _STARTING
    trial.check(
        found.cpu_time_ns <= most,
        f"{found.cpu_time_ns} ns of CPU time, {passed:.3f} seconds after it was started",
    )
    return found.cpu_time_ns
