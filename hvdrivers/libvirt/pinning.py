"""Which CPUs of the host a machine runs on: chosen, written into a domain, and read back.

Only functions of their arguments, no remote call. What another machine has is found in
``dedicated.py``.

CPUs are set aside by ``LibvirtConfig.dedicated_cpus``. A dedicated virtual CPU is pinned to one of
them; QEMU's other threads (the emulator's), and all threads of machines that share, run on the
rest. https://libvirt.org/formatdomain.html#cpu-tuning
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from hvdrivers.contract import errors
from hvdrivers.libvirt.cpu_sets import cpus_in, numbers_of
from hvdrivers.libvirt.metadata import record_in
from hvdrivers.libvirt.xml import Element, attribute, el
from hvdrivers.models.instance import CpuPolicy, Flavor
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.resources import NumaCell


@dataclass(frozen=True)
class HostCpus:
    """The host's CPUs, and those of them that are set aside."""

    cells: Sequence[NumaCell]
    aside: frozenset[int] = frozenset()

    @property
    def shared(self) -> frozenset[int]:
        """Those of machines that share."""
        return frozenset().union(*(cell.cpus for cell in self.cells)) - self.aside


@dataclass(frozen=True)
class Pins:
    """The host's CPUs for each virtual one, and for the rest of QEMU. Empty: any."""

    vcpus: Mapping[int, frozenset[int]] = field(default_factory=dict)
    emulator: frozenset[int] = frozenset()

    def element(self) -> Element | None:
        """``<cputune>``; None where nothing is pinned."""
        if not self.vcpus:
            return None
        rest = self.emulator
        return el(
            "cputune",
            *(el("vcpupin", vcpu=n, cpuset=numbers_of(self.vcpus[n])) for n in sorted(self.vcpus)),
            el("emulatorpin", cpuset=numbers_of(rest)) if rest else None,
        )


def pins_in(domain: Element) -> Pins:
    """The pins of a domain's XML."""
    rest = attribute(domain, "cputune/emulatorpin", "cpuset")
    return Pins(
        vcpus={
            int(pin.get("vcpu", 0)): cpus_in(pin.get("cpuset", ""))
            for pin in domain.iterfind("cputune/vcpupin")
        },
        emulator=cpus_in(rest) if rest else frozenset(),
    )


def put_pins(domain: Element, pins: Pins) -> Element:
    """The domain's XML with these pins in the place of its own."""
    for element in domain.findall("cputune"):
        domain.remove(element)
    made = pins.element()
    if made is not None:
        domain.append(made)
    return domain


def without_own_pins(domain: Element) -> Element:
    """The XML of a machine that goes to another host without its CPUs: it gets some of that host's
    when it starts there. A machine that its caller has placed on cells, and that shares their CPUs,
    keeps its pins."""
    record = record_in(domain)
    if has_own(record.flavor, record.numa) or not record.numa:
        put_pins(domain, Pins())
    return domain


def own_cpus(domain: Element, aside: AbstractSet[int]) -> frozenset[int]:
    """The CPUs that are set aside and that a machine has to itself, whoever made it."""
    pinned = (each for each in pins_in(domain).vcpus.values() if len(each) == 1)
    return frozenset().union(*pinned) & aside


def has_own(flavor: Flavor, nodes: Iterable[NumaNode]) -> bool:
    """Whether a machine has CPUs to itself."""
    return flavor.cpu_policy is CpuPolicy.DEDICATED or any(node.cpus for node in nodes)


def chosen(
    flavor: Flavor,
    nodes: Sequence[NumaNode],
    host: HostCpus,
    *,
    taken: AbstractSet[int] = frozenset(),
    before: Pins | None = None,
) -> Pins:
    """The CPUs for a machine.

    Args:
        nodes: where its caller has placed it.
        taken: CPUs that other machines have to themselves.
        before: its pins until now, which stay if they can.

    Raises:
        InsufficientResources: a CPU that the caller names is taken, or not set aside; or too few
            of them are left; or none is left for machines that share.
    """
    free = host.aside - taken
    shared = host.shared
    pins: dict[int, frozenset[int]] = {}
    if nodes:
        cells = {cell.id: cell.cpus for cell in host.cells}
        for node in nodes:
            if node.cpus:
                _refuse_not_free(node, host.aside, free)
                pins |= {vcpu: frozenset({cpu}) for vcpu, cpu in node.cpus.items()}
                free -= frozenset(node.cpus.values())
        for node in (each for each in nodes if not each.cpus):
            if flavor.cpu_policy is CpuPolicy.DEDICATED:
                there = [cell for cell in host.cells if cell.id == node.cell]
                found = _kept_or_found([sorted(node.vcpus)], there, free, before)
                free -= frozenset(found.values())
                pins |= {vcpu: frozenset({cpu}) for vcpu, cpu in found.items()}
            else:
                pins |= dict.fromkeys(node.vcpus, _some(cells[node.cell] - host.aside))
    elif flavor.cpu_policy is CpuPolicy.DEDICATED:
        found = _kept_or_found(_groups(flavor), host.cells, free, before)
        pins = {vcpu: frozenset({cpu}) for vcpu, cpu in found.items()}
    elif host.aside:
        pins = dict.fromkeys(range(flavor.max_vcpus or flavor.vcpus), _some(shared))
    if not host.aside:
        return Pins(pins)
    return Pins(pins, shared or frozenset().union(*pins.values()))


def added(vcpus: int, host: HostCpus, *, taken: AbstractSet[int], before: Pins) -> dict[int, int]:
    """A CPU of the host for each one that a running machine gets.

    Args:
        vcpus: how many it will have.
        taken: what all machines have, this one too.
        before: its pins.
    """
    more = [each for each in range(vcpus) if len(before.vcpus.get(each, ())) != 1]
    return _kept_or_found([more], host.cells, host.aside - taken, None) if more else {}


def _groups(flavor: Flavor) -> list[list[int]]:
    """The virtual CPUs of each virtual NUMA node, as ``sizes.numa_element()`` deals them."""
    count = flavor.numa_nodes or 1
    if (flavor.max_vcpus or flavor.vcpus) != flavor.vcpus:
        return [list(range(node, flavor.vcpus, count)) for node in range(count)]
    size = flavor.vcpus // count
    return [list(range(node * size, (node + 1) * size)) for node in range(count)]


def _kept_or_found(
    groups: Sequence[Sequence[int]],
    cells: Sequence[NumaCell],
    free: frozenset[int],
    before: Pins | None,
) -> dict[int, int]:
    """A free CPU for each virtual one. Each group is on one cell if that can be."""
    wanted = [vcpu for group in groups for vcpu in group]
    cpus = frozenset().union(*(cell.cpus for cell in cells)) & free
    kept = [before.vcpus.get(vcpu, frozenset()) if before else frozenset() for vcpu in wanted]
    if all(len(each) == 1 for each in kept):
        now = [min(each) for each in kept]
        if len(set(now)) == len(now) and cpus.issuperset(now):
            return dict(zip(wanted, now, strict=True))
    if len(cpus) < len(wanted):
        raise errors.InsufficientResources(
            f"the machine wants {len(wanted)} dedicated CPUs, and {len(cpus)} are left",
            hint="power_off() another machine, or choose another host",
        )
    found: dict[int, int] = {}
    for group in groups:
        found |= zip(group, _taken_from(cells, cpus - frozenset(found.values()), len(group)))  # noqa: B905 - as many
    return found


def _taken_from(cells: Sequence[NumaCell], free: frozenset[int], count: int) -> list[int]:
    """So many free CPUs: of the cell that has just enough of them; else of as few cells as can
    be. Threads of one core stay together."""
    by_room = sorted(cells, key=lambda cell: (len(cell.cpus & free), cell.id))
    enough = [cell for cell in by_room if len(cell.cpus & free) >= count]
    order = enough[:1] or by_room[::-1]
    return [cpu for cell in order for cpu in _by_core(cell, free)][:count]


def _by_core(cell: NumaCell, free: frozenset[int]) -> list[int]:
    """The free CPUs of a cell, those of whole cores first."""
    there = cell.cpus & free
    cores = [core & there for core in cell.siblings or [frozenset({cpu}) for cpu in there]]
    ordered = sorted(filter(None, cores), key=lambda core: (-len(core), min(core)))
    return [cpu for core in ordered for cpu in sorted(core)]


def _refuse_not_free(node: NumaNode, aside: frozenset[int], free: frozenset[int]) -> None:
    for cpu in sorted(node.cpus.values()):
        if cpu not in aside:
            raise errors.InsufficientResources(
                f"CPU {cpu} of cell {node.cell} is not set aside for dedicated virtual CPUs",
                hint="NumaCell.dedicated names those that are",
            )
        if cpu not in free:
            raise errors.InsufficientResources(
                f"another machine has CPU {cpu} of cell {node.cell} to itself",
                hint="power_off() that machine, or name another CPU",
            )


def _some(cpus: frozenset[int]) -> frozenset[int]:
    if not cpus:
        raise errors.InsufficientResources(
            "all CPUs there are set aside for dedicated virtual CPUs",
            hint="leave some out of dedicated_cpus, or ask for dedicated CPUs",
        )
    return cpus
