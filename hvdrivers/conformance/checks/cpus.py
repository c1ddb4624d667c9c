"""Clauses about CPUs, which machines share or have to themselves: of ``contract/power.py``, and of
``contract/lifecycle.py`` where a size is too large for the host or its NUMA nodes."""

from __future__ import annotations

from typing import Any

from hvdrivers.conformance.checks.resize import RESIZE_004
from hvdrivers.conformance.engine.assertions import expect_state, larger
from hvdrivers.conformance.engine.clauses import Level, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.instance import CpuPolicy
from hvdrivers.models.resources import CpuResources
from hvdrivers.models.state import InstanceState

POWER_023 = clause(
    "POWER-023",
    "machines whose shared CPUs are together more than the host's threads run side by side",
    operation="power_on",
)
POWER_024 = clause(
    "POWER-024",
    "dedicated CPUs are nobody else's: spawn() and power_on() of a machine for which not enough are"
    " left raise InsufficientResources and change nothing",
    operation="power_on",
    needs=[Capability.CPU_PINNING],
)
POWER_025 = clause(
    "POWER-025",
    "a machine with more CPUs than the host has threads runs, or is refused with"
    " InsufficientResources and nothing is left of it",
    operation="power_on",
)
CPU_005 = clause(
    "HOTCPU-005",
    "hot_resize_cpu() to a number that is not even over the flavor's numa_nodes raises"
    " InvalidRequest and changes nothing",
    operation="hot_resize_cpu",
    level=Level.SHOULD,
    needs=[Capability.NUMA],
)
_MANY = 16
"""CPUs that any hypervisor gives a machine, if the host has them."""


def _cpu(trial: Trial) -> CpuResources:
    return trial.driver.get_available_resource().cpu


@check(POWER_023)
def shared_by_many(trial: Trial) -> None:
    cpu = _cpu(trial)
    threads = cpu.total - cpu.dedicated
    flavor = larger(trial.target.flavor, vcpus=min(threads, _MANY))
    running = [trial.spawn(flavor=flavor).uuid for _ in range(threads // flavor.vcpus + 1)]
    for uuid in running:
        expect_state(trial, uuid, InstanceState.RUNNING, "beside the others")
    used = _cpu(trial).used - cpu.used
    trial.check(used > threads, f"{used} CPUs are used on {threads} threads")


@check(POWER_024)
def dedicated_to_one(trial: Trial) -> None:
    there = _cpu(trial).dedicated
    if not there:
        raise PreconditionMissing("the host has set no CPUs aside for pinned ones")

    def flavor(vcpus: int) -> Any:
        changes = {"vcpus": vcpus, "cpu_policy": CpuPolicy.DEDICATED}
        return trial.target.flavor.model_copy(update=changes)

    first = trial.spawn(flavor=flavor(there)).uuid
    second = trial.spawn(flavor=flavor(1), start=False).uuid
    with trial.unchanged():
        with trial.raises(errors.InsufficientResources):
            trial.driver.power_on(second)
        with trial.raises(errors.InsufficientResources):
            trial.spawn(flavor=flavor(1))
    trial.driver.power_off(first)
    trial.driver.power_on(second)
    expect_state(trial, second, InstanceState.RUNNING, "after the first was powered off")


@check(POWER_025)
def larger_than_the_host(trial: Trial) -> None:
    flavor = larger(trial.target.flavor, vcpus=_cpu(trial).total + 1)
    before = trial.picture()
    try:
        uuid = trial.spawn(flavor=flavor).uuid
    except errors.InsufficientResources:
        trial.equal(trial.picture(), before, "the host after the refusal")
    else:
        expect_state(trial, uuid, InstanceState.RUNNING, "with more CPUs than there are threads")


@check(RESIZE_004)
def starts_in_its_new_size(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    flavor = larger(trial.target.flavor, vcpus=_cpu(trial).total + 1)
    before = trial.picture()
    try:
        trial.driver.resize(uuid, flavor)
    except errors.InsufficientResources:
        trial.equal(trial.picture(), before, "the host after the refusal")
    else:  # or else resize() has promised what no power_on() keeps
        trial.driver.power_on(uuid)
        expect_state(trial, uuid, InstanceState.RUNNING, "with more CPUs than there are threads")


@check(CPU_005)
def nodes_stay_even(trial: Trial) -> None:
    flavor = larger(trial.target.flavor, vcpus=2, max_vcpus=4, numa_nodes=2)
    try:
        uuid = trial.spawn(flavor=flavor).uuid
    except errors.InsufficientResources as error:
        raise PreconditionMissing("the host gives no machine two NUMA nodes") from error
    except errors.NotSupported as error:
        raise PreconditionMissing(
            "the driver gives no machine NUMA nodes and CPUs that are added"
        ) from error
    trial.target.wait_booted(trial.driver, uuid)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.hot_resize_cpu(uuid, 3)
    trial.driver.hot_resize_cpu(uuid, 4)
    found = trial.driver.get_instance(uuid).flavor
    trial.equal(found, larger(flavor, vcpus=4), "flavor after a step over both nodes")
