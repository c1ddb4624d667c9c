"""Which CPUs of the host a machine gets: no host is needed to choose."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hvdrivers.contract.errors import InsufficientResources
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.pinning import (
    HostCpus,
    Pins,
    added,
    chosen,
    cpus_in,
    own_cpus,
    pins_in,
    put_pins,
)
from hvdrivers.libvirt.xml import parse, text
from hvdrivers.models.instance import CpuPolicy, Flavor
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.resources import NumaCell


def pairs(*firsts: int) -> tuple[frozenset[int], ...]:
    return tuple(frozenset({each, each + 8}) for each in firsts)


CELLS = (
    NumaCell(id=0, cpus=cpus_in("0-3,8-11"), memory_mib=1024, siblings=pairs(0, 1, 2, 3)),
    NumaCell(id=1, cpus=cpus_in("4-7,12-15"), memory_mib=1024, siblings=pairs(4, 5, 6, 7)),
)
HOST = HostCpus(CELLS, cpus_in("1-3,9-11,5-7,13-15"))
SHARED = frozenset({0, 8, 4, 12})
OWN = CpuPolicy.DEDICATED


def own(vcpus: int, **more: int) -> Flavor:
    return Flavor(vcpus=vcpus, memory_mib=64, cpu_policy=OWN, **more)


def cpus(pins: Pins) -> list[int]:
    return [min(pins.vcpus[each]) for each in sorted(pins.vcpus)]


def test_threads_of_a_core_stay_together_on_one_cell() -> None:
    assert cpus(chosen(own(4), (), HOST)) == [1, 9, 2, 10]
    # half of core 1 is gone: whole cores come first
    assert cpus(chosen(own(4), (), HOST, taken={9})) == [2, 10, 3, 11]
    assert chosen(own(4), (), HOST).emulator == SHARED


def test_the_cell_with_just_enough_is_taken() -> None:
    assert cpus(chosen(own(2), (), HOST, taken={5, 13, 6, 14})) == [7, 15]
    # none has enough: the one with the most comes first
    assert cpus(chosen(own(7), (), HOST)) == [5, 13, 6, 14, 7, 15, 1]


def test_each_virtual_node_is_on_one_cell() -> None:
    found = cpus(chosen(own(8, numa_nodes=2), (), HOST))
    assert set(found[:4]) <= CELLS[0].cpus
    assert set(found[4:]) <= CELLS[1].cpus
    # where CPUs may come, the nodes get them by turns
    pins = chosen(own(4, numa_nodes=2, max_vcpus=8), (), HOST, taken=cpus_in("1-3,9,13-15")).vcpus
    assert pins[0] | pins[2] == {10, 11}
    assert pins[1] | pins[3] == {5, 6}


def test_pins_stay_where_they_can() -> None:
    before = chosen(own(2), (), HOST, taken={1, 9})
    assert cpus(before) == [2, 10]
    assert chosen(own(2), (), HOST, before=before) == before
    assert cpus(chosen(own(2), (), HOST, taken={2}, before=before)) == [1, 9]
    # a pin for more CPUs than one, or on a shared CPU, is none
    other = Pins({0: frozenset({0}), 1: frozenset({1, 9})})
    assert cpus(chosen(own(2), (), HOST, before=other)) == [1, 9]


def test_more_than_are_left() -> None:
    with pytest.raises(InsufficientResources, match="11 are left"):
        chosen(own(12), (), HOST, taken={1})
    with pytest.raises(InsufficientResources, match="0 are left"):
        chosen(own(1), (), HostCpus(CELLS))


def test_machines_that_share_keep_off() -> None:
    flavor = Flavor(vcpus=1, max_vcpus=2, memory_mib=64)
    assert chosen(flavor, (), HOST) == Pins({0: SHARED, 1: SHARED}, SHARED)
    assert chosen(flavor, (), HostCpus(CELLS)).element() is None
    with pytest.raises(InsufficientResources, match="all CPUs"):
        chosen(flavor, (), HostCpus(CELLS, HOST.aside | SHARED))


def test_the_callers_own_placement() -> None:
    def node(cell: int, *vcpus: int, **named: int) -> NumaNode:
        pins = {int(name[1:]): cpu for name, cpu in named.items()}
        return NumaNode(cell=cell, vcpus=frozenset(vcpus), memory_mib=32, cpus=pins)

    flavor = Flavor(vcpus=2, memory_mib=64)
    nodes = (node(0, 0, v0=1), node(1, 1))
    found = chosen(flavor, nodes, HOST)
    assert found.vcpus == {0: frozenset({1}), 1: frozenset({4, 12})}
    assert chosen(own(2), nodes, HOST).vcpus[1] == frozenset({5})
    with pytest.raises(InsufficientResources, match="another machine has CPU 1"):
        chosen(flavor, nodes, HOST, taken={1})
    with pytest.raises(InsufficientResources, match="CPU 0 of cell 0 is not set aside"):
        chosen(flavor, (node(0, 0, v0=0), node(1, 1)), HOST)
    # nobody has set CPUs aside: each node is on its cell
    assert chosen(flavor, (node(0, 0, 1),), HostCpus(CELLS)).vcpus[0] == CELLS[0].cpus


def test_cpus_that_are_plugged_in() -> None:
    before = chosen(own(2), (), HOST)
    assert added(3, HOST, taken={1, 9}, before=before) == {2: 2}
    assert added(2, HOST, taken={1, 9}, before=before) == {}
    with pytest.raises(InsufficientResources):
        added(3, HOST, taken=HOST.aside, before=before)


def test_written_and_read_back() -> None:
    domain = parse("<domain><cputune><vcpupin vcpu='3' cpuset='9'/></cputune></domain>")
    pins = chosen(own(2), (), HOST)
    assert pins_in(parse(text(put_pins(domain, pins)))) == pins
    assert own_cpus(domain, HOST.aside) == {1, 9}
    assert not own_cpus(domain, frozenset({5}))
    assert domain.find("cputune/vcpupin[@vcpu='3']") is None
    assert put_pins(domain, Pins()).find("cputune") is None


def test_configuration() -> None:
    assert LibvirtConfig(dedicated_cpus="2-4,9").aside == {2, 3, 4, 9}
    assert LibvirtConfig().aside == frozenset()
    for wrong in ("", "a", "1-", "1,,2", "-3", "4-2"):
        with pytest.raises(ValidationError):
            LibvirtConfig(dedicated_cpus=wrong)
