"""Clauses of ``contract/lifecycle.py``: virtual NUMA nodes that the caller places."""

from __future__ import annotations

from typing import Any

from hvdrivers.conformance.engine.assertions import larger
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.numa import NumaNode

LIFE_029 = clause(
    "LIFE-029",
    "a driver that takes a NUMA placement makes the virtual nodes where the spec says, at this"
    " start and at later ones; any other raises NotSupported and makes nothing",
    operation="spawn",
    needs=[Capability.NUMA],
)
LIFE_030 = clause(
    "LIFE-030",
    "spawn() on a NUMA cell that the host does not have, or on a CPU of it that another machine has"
    " to itself, raises InsufficientResources and makes nothing",
    operation="spawn",
    needs=[Capability.NUMA],
)

RESIZE_009 = clause(
    "RESIZE-009",
    "resize() and hot_resize_memory() to another size of a machine whose CPUs and memory were"
    " placed raise InvalidRequest and change nothing",
    operation="resize",
    needs=[Capability.NUMA],
)


def _takes(trial: Trial) -> bool:
    """Whether the driver takes a placement; one that does not must refuse it."""
    takes = "numa" in trial.driver.takes.get(InstanceSpec, frozenset())
    if not takes:
        with trial.unchanged(), trial.raises(errors.NotSupported):
            trial.spawn(start=False, **_placed(trial, 0))
    return takes


def _placed(trial: Trial, cell: int, *cpus: int) -> dict[str, Any]:
    """A machine with one node there, each CPU on one of ``cpus``, or anywhere on the cell."""
    flavor = larger(trial.target.flavor, vcpus=max(len(cpus), 1), numa_nodes=1)
    node = NumaNode(
        cell=cell,
        vcpus=frozenset(range(flavor.vcpus)),
        memory_mib=flavor.memory_mib,
        cpus=dict(enumerate(cpus)),
    )
    return {"flavor": flavor, "numa": (node,)}


@check(LIFE_029)
def is_where_it_belongs(trial: Trial) -> None:
    if not _takes(trial):
        return
    cells = trial.driver.get_available_resource().numa_cells
    if not cells:
        raise PreconditionMissing("the host has no NUMA cell")
    changes = _placed(trial, cells[-1].id)
    if trial.observer is None:
        raise PreconditionMissing("there is no observer, and get_instance() shows no placement")
    uuid = trial.spawn(**changes).uuid
    trial.equal(trial.observer.hardware(uuid).get("numa"), changes["numa"], "the placement")
    trial.driver.power_off(uuid)
    trial.driver.power_on(uuid)
    trial.equal(trial.observer.hardware(uuid).get("numa"), changes["numa"], "it at the next start")


@check(LIFE_030)
def cell_is_not_there(trial: Trial) -> None:
    if not _takes(trial):
        return
    cells = trial.driver.get_available_resource().numa_cells
    absent = max((cell.id for cell in cells), default=0) + 1
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.spawn(**_placed(trial, absent))


@check(RESIZE_009)
def placed_machine_keeps_its_size(trial: Trial) -> None:
    cells = trial.driver.get_available_resource().numa_cells
    if not _takes(trial):
        return
    if not cells:
        raise PreconditionMissing("the host has no NUMA cell")
    changes = _placed(trial, cells[0].id)
    flavor = changes["flavor"]
    if trial.has(Capability.HOT_RESIZE_MEMORY):
        changes["flavor"] = larger(flavor, max_memory_mib=2 * flavor.memory_mib)
    uuid = trial.spawn(**changes).uuid
    if trial.has(Capability.HOT_RESIZE_MEMORY):
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            trial.driver.hot_resize_memory(uuid, flavor.memory_mib + 128)
    trial.driver.power_off(uuid)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.resize(uuid, larger(changes["flavor"], vcpus=flavor.vcpus + 1))


@check(LIFE_030, needs=[Capability.CPU_PINNING])
def cpu_is_taken(trial: Trial) -> None:
    if not _takes(trial):
        return
    cells = trial.driver.get_available_resource().numa_cells
    if not cells:
        raise PreconditionMissing("the host has no NUMA cell")
    cell, other = next((each for each in cells if each.dedicated), cells[0]), cells[-1]
    mine = min(cell.dedicated or cell.cpus)
    uuid = trial.spawn(**_placed(trial, cell.id, mine)).uuid
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.spawn(**_placed(trial, cell.id, mine))
    if other is not cell:
        with trial.unchanged(), trial.raises(errors.InsufficientResources):
            trial.spawn(**_placed(trial, other.id, mine + 1))  # a CPU of another cell
    trial.driver.power_off(uuid)
    trial.spawn(**_placed(trial, cell.id, mine))
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.power_on(uuid)
