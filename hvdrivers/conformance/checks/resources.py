"""Clauses of ``contract/resources.py``.

A host of which others use a part too may change between two answers. So nothing is compared that
the suite's own machines do not decide, except on what the driver itself calls assigned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module

from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.instance import InstanceInfo, VgpuRequest
from hvdrivers.models.resources import (
    HostResources,
    HugePages,
    LargestMachine,
    PlacementProvider,
)
from hvdrivers.models.state import InstanceState

RES_001 = clause(
    "RES-001",
    "get_available_resource() describes the host that host() names, without contradicting itself,"
    " and the same to every connection",
    operation="get_available_resource",
)
RES_002 = clause(
    "RES-002",
    "the CPUs and the memory of a machine are used in the next answer after spawn(), and not"
    " after destroy()",
    operation="get_available_resource",
)
RES_003 = clause(
    "RES-003",
    "a machine that is powered off uses no CPU and no memory, one that is PAUSED does; both are"
    " counted as instances",
    operation="get_available_resource",
)
RES_004 = clause(
    "RES-004",
    "what foreign machines use is used, and they are not counted as instances",
    operation="get_available_resource",
)
RES_005 = clause(
    "RES-005",
    "a pool's used space contains what list_volumes() says that its volumes take, and destroy()"
    " and delete_volume() give space back",
    operation="get_available_resource",
    needs=[Capability.HOST_VOLUMES],
)
RES_006 = clause(
    "RES-006",
    "a slice of a GPU is taken by spawn() and given back by destroy()",
    operation="get_available_resource",
    needs=[Capability.VGPU],
)
RES_007 = clause(
    "RES-007",
    "huge pages are taken by a machine that runs and given back by destroy()",
    operation="get_available_resource",
    needs=[Capability.HUGEPAGES],
)
RES_008 = clause(
    "RES-008",
    "the number of round trips of get_available_resource() does not depend on the number of"
    " machines",
    operation="get_available_resource",
)
RES_010 = clause(
    "RES-010",
    "placement_inventories() gives the root first, each parent before its children, and each name"
    " once",
    operation="placement_inventories",
)
RES_011 = clause(
    "RES-011",
    "the names of resource classes and traits are those of os-resource-classes and os-traits, or"
    " CUSTOM_*",
    operation="placement_inventories",
)
RES_012 = clause(
    "RES-012",
    "placement_inventories() says the same as get_available_resource(): totals that no machine"
    " changes, in numbers that Placement takes",
    operation="placement_inventories",
)

RES_013 = clause(
    "RES-013",
    "the largest machine that get_available_resource() names is not larger than the host; no"
    " inventory of placement_inventories() promises a larger one",
    operation="get_available_resource",
)

_GIB = 1 << 30
_NAME = re.compile(r"[A-Z0-9_]{1,255}")
_CLASSES = """
VCPU MEMORY_MB DISK_GB PCI_DEVICE SRIOV_NET_VF NUMA_SOCKET NUMA_CORE NUMA_THREAD NUMA_MEMORY_MB
IPV4_ADDRESS VGPU VGPU_DISPLAY_HEAD NET_BW_EGR_KILOBIT_PER_SEC NET_BW_IGR_KILOBIT_PER_SEC PCPU
MEM_ENCRYPTION_CONTEXT FPGA PGPU NET_PACKET_RATE_KILOPACKET_PER_SEC
NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC
"""
_TRAIT_SPACES = ("COMPUTE_", "HW_", "MISC_", "OWNER_", "STORAGE_")


def _use(found: HostResources) -> tuple[int, int, int]:
    """CPUs, memory and instances: what the driver says is assigned."""
    return found.cpu.used, found.memory.used_mib, found.instances


def _plus(use: tuple[int, int, int], info: InstanceInfo, *, on: bool) -> tuple[int, int, int]:
    cpus, memory = (info.flavor.vcpus, info.flavor.memory_mib) if on else (0, 0)
    return use[0] + cpus, use[1] + memory, use[2] + 1


@check(RES_001)
def does_not_contradict_itself(trial: Trial) -> None:
    with trial.unchanged():
        found = trial.driver.get_available_resource()
    trial.equal(found.host, trial.driver.host(), "the host")
    cpu, memory = found.cpu, found.memory
    trial.check(cpu.total > 0, "the host has no CPU")
    trial.check(0 <= cpu.dedicated <= cpu.total, f"{cpu.dedicated} of {cpu.total} are dedicated")
    threads = cpu.sockets * cpu.cores_per_socket * cpu.threads_per_core
    trial.check(0 < cpu.total <= threads, f"{cpu.total} CPUs do not fit on {threads} threads")
    trial.check(cpu.used >= 0 and memory.used_mib >= 0, "less than nothing is used")
    trial.check(memory.total_mib > 0, "the host has no memory")
    free = memory.free_mib
    trial.check(free is None or free <= memory.total_mib, "more memory is free than there is")
    for pages in memory.hugepages:
        trial.check(0 <= (pages.free or 0) <= pages.total, f"huge pages: {pages}")
    for pool in found.storage:
        trial.check(0 <= pool.used_gib <= pool.total_gib, f"pool {pool}")
    trial.check(found.storage, "the host has no storage")
    _unique(trial, [pool.name for pool in found.storage], "pools")
    _unique(trial, [str(device.address) for device in found.devices], "devices")
    _unique(
        trial, [number for cell in found.numa_cells for number in cell.cpus], "CPUs of NUMA cells"
    )
    addresses = {device.address: device for device in found.devices}
    for device in found.devices:
        parent = addresses.get(device.physical_function) if device.physical_function else None
        ours = parent is None or device.address in parent.virtual_functions
        trial.check(ours, f"{device.address} is a function of a device that does not name it")


@check(RES_001)
def says_the_same_to_all(trial: Trial) -> None:
    trial.spawn(start=False)
    first, second = (each.get_available_resource() for each in (trial.driver, trial.other))
    trial.equal(_use(second), _use(first), "what is used, to another connection")
    for field in ("total", "dedicated", "sockets", "cores_per_socket", "threads_per_core", "model"):
        trial.equal(getattr(second.cpu, field), getattr(first.cpu, field), f"cpu.{field}")
    trial.equal(second.memory.total_mib, first.memory.total_mib, "memory")
    trial.equal(second.devices, first.devices, "devices")
    names = [[pool.name for pool in each.storage] for each in (first, second)]
    trial.equal(names[1], names[0], "pools")


def _unique(trial: Trial, names: Sequence[object], what: str) -> None:
    trial.equal(len(names), len(set(names)), f"how many different {what} there are")


@check(RES_002)
def is_taken_and_given_back(trial: Trial) -> None:
    before = _use(trial.driver.get_available_resource())
    flavor = trial.target.flavor.model_copy(update={"vcpus": 2})
    first = trial.spawn(flavor=flavor)
    after = _plus(before, first, on=True)
    trial.equal(_use(trial.driver.get_available_resource()), after, "used after spawn()")
    second = trial.spawn()
    both = _plus(after, second, on=True)
    trial.equal(_use(trial.other.get_available_resource()), both, "used by two")
    trial.driver.destroy(second.uuid)
    trial.equal(_use(trial.driver.get_available_resource()), after, "used after one is gone")
    trial.driver.destroy(first.uuid)
    trial.equal(_use(trial.driver.get_available_resource()), before, "used after destroy()")


@check(RES_003)
def only_what_is_on_is_used(trial: Trial) -> None:
    before = _use(trial.driver.get_available_resource())
    info = trial.spawn(start=False)
    off, on = _plus(before, info, on=False), _plus(before, info, on=True)
    trial.equal(_use(trial.driver.get_available_resource()), off, "used by a stopped machine")
    trial.driver.power_on(info.uuid)
    trial.equal(_use(trial.driver.get_available_resource()), on, "used after power_on()")
    trial.driver.power_off(info.uuid)
    trial.equal(_use(trial.driver.get_available_resource()), off, "used after power_off()")


@check(RES_003, needs=[Capability.PAUSE])
def paused_machine_is_on(trial: Trial) -> None:
    before = _use(trial.driver.get_available_resource())
    info = trial.driver.get_instance(trial.in_state(InstanceState.PAUSED))
    wanted = _plus(before, info, on=True)
    trial.equal(_use(trial.driver.get_available_resource()), wanted, "used by a paused machine")


@check(RES_004)
def foreign_machines_use_too(trial: Trial) -> None:
    before = _use(trial.driver.get_available_resource())
    with trial.target.foreign_machine() as uuid:
        states = {each.uuid: each.state for each in trial.driver.list_foreign()}
        trial.check(uuid in states, "the foreign machine is not in list_foreign()")
        if states[uuid] is not InstanceState.RUNNING:
            raise PreconditionMissing("the target's foreign machine does not run")
        cpus, memory, instances = _use(trial.driver.get_available_resource())
        trial.check(cpus > before[0], "the CPUs of a foreign machine are not used")
        trial.check(memory > before[1], "the memory of a foreign machine is not used")
        trial.equal(instances, before[2], "instances beside a foreign machine")


def _space(trial: Trial) -> dict[str, float]:
    return {pool.name: pool.used_gib for pool in trial.driver.get_available_resource().storage}


@check(RES_005)
def space_is_taken_and_given_back(trial: Trial) -> None:
    trial.driver.destroy(trial.spawn(start=False).uuid)  # its image is in the cache from now on
    before = _space(trial)
    volume = trial.volume(None, size_gib=1)
    _volumes_are_used(trial)
    info = trial.spawn(start=False)
    _volumes_are_used(trial)
    trial.driver.destroy(info.uuid)
    trial.driver.delete_volume(volume.volume_id)
    for name, used in _space(trial).items():
        # others may write to the same file system; not half a GiB in this short time
        trial.check(used < before[name] + 0.5, f"pool {name}: {used - before[name]} GiB are lost")


def _volumes_are_used(trial: Trial) -> None:
    listed = trial.driver.list_volumes()
    for name, used in _space(trial).items():
        taken = sum(each.allocation_bytes or 0 for each in listed if each.pool == name)
        # a file system counts in blocks
        trial.check(used * _GIB + (1 << 20) >= taken, f"pool {name}: {taken} bytes are not used")


@check(RES_006)
def slice_is_taken_and_given_back(trial: Trial) -> None:
    before = _slices(trial.driver.get_available_resource())
    wanted = next((name for (_, name), left in before.items() if left > 0), None)
    if wanted is None:
        raise PreconditionMissing("the host has no GPU with a slice left")
    uuid = trial.spawn(start=False, vgpus=(VgpuRequest(type=wanted),)).uuid
    taken = _slices(trial.driver.get_available_resource())
    left = [sum(n for (_, name), n in each.items() if name == wanted) for each in (before, taken)]
    trial.equal(left[1], left[0] - 1, f"slices {wanted} that are left after spawn()")
    trial.driver.destroy(uuid)
    after = _slices(trial.driver.get_available_resource())
    trial.equal(after, before, "slices that are left after destroy()")


def _slices(found: HostResources) -> Mapping[tuple[str, str], int]:
    return {
        (str(device.address), kind.name): kind.available
        for device in found.devices
        for kind in device.mediated_types
    }


@check(RES_007)
def pages_are_taken_and_given_back(trial: Trial) -> None:
    memory = trial.target.flavor.memory_mib
    before = {each.size_kib: each for each in _pages(trial)}
    need = {size: -(-memory * 1024 // size) for size in before}
    free_pages = {size: pages.free or 0 for size, pages in before.items()}
    wanted = next((size for size in before if free_pages[size] >= need[size]), None)
    if wanted is None:
        raise PreconditionMissing("the host has not enough huge pages for a small machine")
    flavor = trial.target.flavor.model_copy(update={"page_size_kib": wanted})
    uuid = trial.spawn(flavor=flavor).uuid
    taken = {each.size_kib: each for each in _pages(trial)}
    free = free_pages[wanted] - need[wanted]
    trial.equal(taken[wanted].free, free, f"pages of {wanted} KiB that are left")
    trial.equal(taken[wanted].total, before[wanted].total, "pages in all")
    trial.driver.destroy(uuid)
    trial.equal({each.size_kib: each for each in _pages(trial)}, before, "pages after destroy()")


def _pages(trial: Trial) -> Sequence[HugePages]:
    return trial.driver.get_available_resource().memory.hugepages


@check(RES_008)
def costs_the_same_for_any_number(trial: Trial) -> None:
    trial.driver.get_available_resource()  # what is asked once for a connection has been asked now
    with trial.faults.counting() as few:
        trial.driver.get_available_resource()
    for _ in range(3):
        trial.spawn(start=False)
    with trial.faults.counting() as many:
        trial.driver.get_available_resource()
    trial.equal(len(many), len(few), f"round trips with three machines more ({many})")


@check(RES_010)
def parents_come_first(trial: Trial) -> None:
    with trial.unchanged():
        found = trial.driver.placement_inventories()
    trial.check(found, "there is no provider")
    trial.equal(found[0].parent, None, "the parent of the first")
    _unique(trial, [each.name for each in found], "providers")
    seen: set[str] = set()
    for each in found:
        trial.check(each.name.strip(), "a provider has no name")
        known = each.parent is None or each.parent in seen
        trial.check(known, f"{each.name} comes before its parent {each.parent}")
        seen.add(each.name)
    again = trial.other.placement_inventories()
    trial.equal(list(again), list(found), "the answer to another connection")


@check(RES_011)
def names_are_standard(trial: Trial) -> None:
    traits = _standard("os_traits", "get_traits")
    classes = _standard("os_resource_classes", "STANDARDS") | set(_CLASSES.split())
    for each in trial.driver.placement_inventories():
        for name in {*each.inventories, *each.traits}:
            trial.check(_NAME.fullmatch(name), f"{name!r} is no name that Placement takes")
        for name in each.inventories:
            trial.check(name in classes or name.startswith("CUSTOM_"), f"no such class: {name}")
        for name in each.traits:
            standard = name in traits if traits else name.startswith(_TRAIT_SPACES)
            trial.check(standard or name.startswith("CUSTOM_"), f"no such trait: {name}")


def _standard(module: str, member: str) -> frozenset[str]:
    """The names in OpenStack's own package, where it is installed."""
    with suppress(ImportError):
        found = getattr(import_module(module), member)
        return frozenset(found() if callable(found) else found)
    return frozenset()


@check(RES_012)
def is_the_same_as_the_inventory(trial: Trial) -> None:
    resources = trial.driver.get_available_resource()
    before = trial.driver.placement_inventories()
    cpu, memory = resources.cpu, resources.memory
    trial.equal(_total(before, "VCPU"), cpu.total - cpu.dedicated, "VCPU")
    trial.equal(_total(before, "PCPU"), cpu.dedicated, "PCPU")
    trial.equal(_total(before, "MEMORY_MB"), memory.total_mib, "MEMORY_MB")
    space = sum(int(pool.total_gib) for pool in resources.storage if pool.for_new)
    trial.equal(_total(before, "DISK_GB"), space, "DISK_GB")
    for each in before:
        for name, stock in each.inventories.items():
            sound = (
                1 <= stock.min_unit <= stock.max_unit <= stock.total
                and 0 <= stock.reserved <= stock.total
                and stock.step_size >= 1
                and stock.allocation_ratio > 0
            )
            trial.check(sound, f"{name} of {each.name}: {stock}")
    trial.spawn()
    after = trial.driver.placement_inventories()
    trial.equal(list(after), list(before), "inventories beside a machine that runs")


@check(RES_013)
def promises_no_larger_machine(trial: Trial) -> None:
    resources = trial.driver.get_available_resource()
    cpus, memory = resources.cpu.total, resources.memory.total_mib
    largest = resources.largest_machine or LargestMachine(vcpus=cpus, memory_mib=memory)
    trial.check(largest.vcpus <= cpus, f"{largest.vcpus} CPUs of {cpus}")
    trial.check(largest.memory_mib <= memory, f"{largest.memory_mib} MiB of {memory}")
    most = {"VCPU": largest.vcpus, "PCPU": largest.vcpus, "MEMORY_MB": largest.memory_mib}
    for each in trial.driver.placement_inventories():
        for name in most.keys() & each.inventories.keys():
            unit = each.inventories[name].max_unit
            trial.check(unit <= most[name], f"{name} of {each.name}: one unit of {unit}")


@check(RES_001)
def names_siblings_of_the_cell(trial: Trial) -> None:
    cells = trial.driver.get_available_resource().numa_cells
    trial.check(len({cell.id for cell in cells}) == len(cells), "two cells have one id")
    for cell in cells:
        trial.check(cell.cpus, f"cell {cell.id} has no CPUs")
        if cell.siblings:
            of_cores = [number for core in cell.siblings for number in core]
            trial.equal(sorted(of_cores), sorted(cell.cpus), f"CPUs of the cores of cell {cell.id}")


def _total(found: Sequence[PlacementProvider], name: str) -> int:
    return sum(each.inventories[name].total for each in found if name in each.inventories)
