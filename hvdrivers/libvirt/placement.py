"""Where a machine's CPUs and memory are on the host, as the caller places them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvdrivers.contract import errors
from hvdrivers.libvirt.cpu_sets import cpus_in, numbers_of
from hvdrivers.libvirt.sizes import numa_of
from hvdrivers.libvirt.xml import Element, el
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.resources import NumaCell


def placed_nodes(nodes: Sequence[NumaNode]) -> Element:
    """``<numa>`` of the guest."""
    return numa_of((sorted(node.vcpus), node.memory_mib) for node in nodes)


def placement_elements(nodes: Sequence[NumaNode], cells: Sequence[NumaCell]) -> list[Element]:
    """``<numatune>``: the memory of each node on its cell alone. Where its CPUs are is in
    ``pinning.py``.

    Raises:
        InsufficientResources: the host has no such cell, or no such CPU in it, or not that much
            memory there.
    """
    if not nodes:
        return []
    by_id: Mapping[int, NumaCell] = {cell.id: cell for cell in cells}
    for node in nodes:
        cell = by_id.get(node.cell)
        if cell is None:
            raise errors.InsufficientResources(
                f"the host has no NUMA cell {node.cell}",
                hint=f"its cells are {', '.join(map(str, sorted(by_id))) or 'not known'}",
            )
        wanted = sum(each.memory_mib for each in nodes if each.cell == node.cell)
        if wanted > cell.memory_mib:
            raise errors.InsufficientResources(
                f"NUMA cell {cell.id} has {cell.memory_mib} MiB, the machine wants {wanted} there",
                hint="spread its nodes over other cells, or choose another host",
            )
        missing = set(node.cpus.values()) - cell.cpus
        if missing:
            raise errors.InsufficientResources(
                f"NUMA cell {cell.id} has no CPU {min(missing)}",
                hint=f"its CPUs are {numbers_of(cell.cpus)}",
            )
    return [
        el(
            "numatune",
            *(
                el("memnode", cellid=number, mode="strict", nodeset=node.cell)
                for number, node in enumerate(nodes)
            ),
        ),
    ]


def host_cells(capabilities: Element) -> list[NumaCell]:
    """The host's cells, without their huge pages.

    Args:
        capabilities: libvirt's capabilities of the host.
    """
    return [
        NumaCell(
            id=int(cell.get("id", index)),
            cpus=frozenset(int(cpu.get("id", 0)) for cpu in cell.iterfind("cpus/cpu")),
            memory_mib=int(cell.findtext("memory") or 0) // 1024,
            siblings=_siblings(cell),
            distances={
                int(each.get("id", 0)): int(each.get("value", 10))
                for each in cell.iterfind("distances/sibling")
            },
        )
        for index, cell in enumerate(capabilities.iterfind("host/topology/cells/cell"))
    ]


def _siblings(cell: Element) -> tuple[frozenset[int], ...]:
    """Libvirt names with each CPU all threads of its core: ``0,4`` or ``0-1``."""
    texts = {cpu.get("siblings") for cpu in cell.iterfind("cpus/cpu")}
    cores = {cpus_in(each) for each in texts if each}
    return tuple(sorted(cores, key=min))
