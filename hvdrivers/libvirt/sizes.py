"""CPUs and memory in a domain's XML: of a flavor, and read back.

A flavor with room to grow gets more CPUs than it starts with, and slots for memory. Libvirt plugs
memory only into a machine with a NUMA node, so such a machine has one, with all of its CPUs. Where
a caller places nodes is in ``placement.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

from hvdrivers.libvirt.shared_memory import fit_memory
from hvdrivers.libvirt.xml import Element, attribute, el
from hvdrivers.models.instance import Flavor

MEMORY_BLOCK_MIB = 128
"""What guests on x86_64 and AArch64 take at once, and in what they take it."""
_ORDINARY_PAGE_KIB = 4
_SLOTS = 64
"""How often memory can be added between two cold resizes; a slot that is empty costs nothing."""
_PLUGGED = "ua-memory-"
"""How the aliases of memory that has been plugged in begin."""


def vcpu_element(flavor: Flavor, *, placed: bool = False) -> Element:
    """``<vcpu>``: what there may be, and what there is. A machine that the caller has placed does
    not grow."""
    most = flavor.vcpus if placed else flavor.max_vcpus or flavor.vcpus
    return el("vcpu", str(most), current=flavor.vcpus if most != flavor.vcpus else None)


def huge_page_of(flavor: Flavor) -> int | None:
    """The size of the huge pages that a flavor asks for, KiB; None for ordinary pages."""
    size = flavor.page_size_kib
    return size if size is not None and size > _ORDINARY_PAGE_KIB else None


def backing_element(flavor: Flavor) -> Element | None:
    """``<memoryBacking>``: in huge pages; None for ordinary ones."""
    size = huge_page_of(flavor)
    if size is None:
        return None
    return el("memoryBacking", el("hugepages", el("page", size=size, unit="KiB")))


def memory_elements(flavor: Flavor, *, placed: bool = False) -> list[Element]:
    """``<memory>``, and how far it may grow."""
    memory = el("memory", str(flavor.memory_mib), unit="MiB")
    if placed or not grows(flavor):
        return [memory]
    return [el("maxMemory", str(flavor.max_memory_mib), slots=_SLOTS, unit="MiB"), memory]


def numa_element(flavor: Flavor) -> Element | None:
    """The flavor's nodes; or the one that memory is plugged into."""
    if flavor.numa_nodes is None and not grows(flavor):
        return None
    nodes = flavor.numa_nodes or 1
    most = flavor.max_vcpus or flavor.vcpus
    # by turns where CPUs are added later: any number that divides by the nodes is even over them
    by_turns = most != flavor.vcpus
    cells = []
    for node in range(nodes):
        size = -(-most // nodes)
        cpus = range(node, most, nodes) if by_turns else range(node * size, (node + 1) * size)
        memory = flavor.memory_mib // nodes
        if node == 0:
            memory += flavor.memory_mib % nodes
        cells.append((cpus, memory))
    return numa_of(cells)


def numa_of(cells: Iterable[tuple[Iterable[int], int]]) -> Element:
    """``<numa>``: the CPUs and the MiB of each node."""
    return el(
        "numa",
        *(
            el("cell", id=number, cpus=",".join(map(str, cpus)), memory=memory, unit="MiB")
            for number, (cpus, memory) in enumerate(cells)
        ),
    )


def grows(flavor: Flavor) -> bool:
    """Whether its memory can grow while it runs."""
    return (flavor.max_memory_mib or 0) > flavor.memory_mib


def resized(domain: Element, flavor: Flavor) -> Element:
    """The definition of a machine that is off, with the size of another flavor."""
    for tag in ("memory", "currentMemory", "maxMemory", "memoryBacking", "vcpu", "vcpus"):
        for element in domain.findall(tag):
            domain.remove(element)
    devices = domain.find("devices")
    if devices is not None:
        for element in devices.findall("memory"):  # what was plugged in is in the whole now
            devices.remove(element)
    cpu = domain.find("cpu")
    if cpu is not None:
        for element in cpu.findall("numa"):
            cpu.remove(element)
    numa = numa_element(flavor)
    if numa is not None:
        if cpu is None:
            cpu = el("cpu")
            domain.append(cpu)
        cpu.append(numa)
    domain.extend([*memory_elements(flavor), vcpu_element(flavor)])
    backing = backing_element(flavor)
    if backing is not None:
        domain.append(backing)
    return fit_memory(domain)


def plugged_memory(size_mib: int, *, after: int) -> Element:
    """Memory to plug in.

    Args:
        after: the MiB that the machine has had before it. libvirt takes each name once.
    """
    return el(
        "memory",
        el("target", el("size", str(size_mib), unit="MiB"), el("node", "0")),
        el("alias", name=f"{_PLUGGED}{after}"),
        model="dimm",
    )


def plugged_in(domain: Element) -> dict[str, Element]:
    """What :func:`plugged_memory` has plugged into a machine, by its aliases."""
    found = {attribute(each, "alias", "name"): each for each in domain.iterfind("devices/memory")}
    return {name: each for name, each in found.items() if name and name.startswith(_PLUGGED)}


def vcpus_of(domain: Element) -> int | None:
    """The CPUs that the machine has now."""
    vcpu = domain.find("vcpu")
    return int(vcpu.get("current") or vcpu.text or 0) or None if vcpu is not None else None
