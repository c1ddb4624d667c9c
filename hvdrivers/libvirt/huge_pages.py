"""Memory of machines in huge pages of the host: how much is left, and how a machine asks for it.

A machine takes its pages when it starts, all at once, and the kernel judges whether they are there.
libvirt's code for a start that fails is the same whatever the reason, so the driver looks before
a spawn, and after a start that has failed. https://libvirt.org/formatdomain.html#memory-backing
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.libvirt.host_facts import HostFacts
from hvdrivers.libvirt.placement import host_cells
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.sizes import huge_page_of
from hvdrivers.libvirt.xml import Element, attribute
from hvdrivers.models.instance import Flavor
from hvdrivers.models.numa import NumaNode

_WHOLE_HOST = -1
"""libvirt's number for all NUMA cells together."""


class HugePageStock:
    """The host's huge pages."""

    def __init__(self, connection: Connection, facts: HostFacts) -> None:
        self._connection = connection
        self._facts = facts

    def free(self, sizes: Sequence[int], cells: Iterable[int]) -> dict[tuple[int, int], int]:
        """Free pages by NUMA cell and size; nothing for a cell that the host does not tell about.
        One call for each run of cells with consecutive numbers: a host may have the cells 0 and
        8."""
        found: dict[tuple[int, int], int] = {}
        for first, count in _runs(cells):
            try:
                free = self._connection.remote.getFreePages(list(sizes), first, count, 0)
            except (errors.NotSupported, errors.HypervisorFault):
                continue
            for cell, by_size in free.items():
                for size, number in by_size.items():
                    found[int(cell), int(size)] = int(number)
        return found

    @provides(Capability.HUGEPAGES)
    def require(
        self, flavor: Flavor, nodes: Sequence[NumaNode] = (), *, starts: bool = True
    ) -> None:
        """Look whether a new machine's pages are free, on the cells where its caller has placed
        it, or anywhere. No call where it wants none; else one, more where the numbers of cells
        have gaps.

        Args:
            starts: it takes its pages now. One that is off has none.

        Raises:
            InsufficientResources: they are not.
            InvalidRequest: its memory is no whole number of such pages.
        """
        size = huge_page_of(flavor)
        if size is None:
            return
        parts = {node.cell: 0 for node in nodes}
        for node in nodes:
            parts[node.cell] += pages_in(node.memory_mib, size)
        wanted = pages_in(flavor.memory_mib, size)
        if not starts:
            return
        free = self._free_of(size)
        for cell, pages in parts.items():
            _refuse_more(pages, free.get((cell, size), 0), size, f"cell {cell}")
        _refuse_more(wanted, sum(free.values()), size, "the host")

    def require_more(self, xml: Element, more_mib: int) -> None:
        """The same for memory that is plugged into a running machine."""
        size = page_size_in(xml)
        if size is not None:
            free = sum(self._free_of(size).values())
            _refuse_more(pages_in(more_mib, size), free, size, "the host")

    def _free_of(self, size: int) -> dict[tuple[int, int], int]:
        """Free pages of one size, on all cells."""
        return self.free([size], (each.id for each in host_cells(self._facts.capabilities())))


def pages_in(memory_mib: int, size_kib: int) -> int:
    """How many pages so much memory is.

    Raises:
        InvalidRequest: it is no whole number.
    """
    pages, rest = divmod(memory_mib << 10, size_kib)
    if rest:
        raise errors.InvalidRequest(
            f"{memory_mib} MiB are no whole number of pages of {size_kib} KiB",
            hint="choose memory, and memory of each NUMA node, that is",
        )
    return pages


def explained_pages(remote: Remote, xml: Element) -> errors.HypervisorError | None:
    """What a start that has failed lacks of huge pages; None if nothing. One call, none for a
    machine that asks for none."""
    size = page_size_in(xml)
    if size is None:
        return None
    wanted = -(-int(xml.findtext("memory") or 0) // size)
    if attribute(xml, "memory", "unit") == "MiB":
        wanted <<= 10
    try:
        found = cast(
            "Mapping[int, Mapping[int, int]]", remote.getFreePages([size], _WHOLE_HOST, 1, 0)
        )
        free = sum(int(each) for by_size in found.values() for each in by_size.values())
    except (errors.NotSupported, errors.HypervisorFault, errors.InvalidRequest):
        return None  # the host does not tell
    return too_few(wanted, free, size, "the host") if wanted > free else None


def page_size_in(xml: Element) -> int | None:
    """The size of a machine's huge pages, KiB."""
    size = attribute(xml, "memoryBacking/hugepages/page", "size")
    unit = attribute(xml, "memoryBacking/hugepages/page", "unit") or "KiB"
    return int(size) << {"KiB": 0, "MiB": 10, "GiB": 20}[unit] if size else None


def too_few(wanted: int, free: int, size: int, where: str) -> errors.InsufficientResources:
    """What to say of it."""
    return errors.InsufficientResources(
        f"the machine wants {wanted} huge pages of {size} KiB, and {where} has {free} free",
        hint="power_off() another machine, or set more aside (vm.nr_hugepages of the host)",
    )


def _refuse_more(wanted: int, free: int, size: int, where: str) -> None:
    if wanted > free:
        raise too_few(wanted, free, size, where)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First number and length of each run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs
