"""NUMA placements, and images named by their key: what fits, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hvdrivers.models.flavor import Flavor
from hvdrivers.models.image import HostImage, ImageFormat
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.numa import NumaNode


def spec(*nodes: NumaNode, **flavor: Any) -> InstanceSpec:
    size = Flavor(**({"vcpus": 4, "memory_mib": 1024} | flavor))
    return InstanceSpec(name="a", flavor=size, image=HostImage(name="cirros"), numa=nodes)


def node(*vcpus: int, cell: int = 0, memory_mib: int = 512, **fields: Any) -> NumaNode:
    return NumaNode(cell=cell, vcpus=frozenset(vcpus), memory_mib=memory_mib, **fields)


def test_what_fits() -> None:
    assert spec().numa == ()
    assert len(spec(node(0, 1), node(2, 3, cell=1)).numa) == 2
    uneven = node(0, cpus={0: 5}), node(1, 2, 3, memory_mib=512)
    assert spec(*uneven, numa_nodes=2).numa == uneven


@pytest.mark.parametrize(
    "nodes",
    [
        (node(0, 1),),
        (node(0, 1), node(1, 2, 3)),
        (node(0, 1), node(2, 3, memory_mib=256)),
        (node(0, 1, 2, 3, memory_mib=1024), node(4, memory_mib=1)),
        (node(0, 1, cpus={0: 7, 1: 7}), node(2, 3)),
        (node(0, cpus={0: 7}), node(1, 2, 3, cpus={1: 7, 2: 8, 3: 9})),
    ],
)
def test_what_is_not_the_whole_machine(nodes: tuple[NumaNode, ...]) -> None:
    with pytest.raises(ValidationError):
        spec(*nodes)


def test_the_flavor_may_say_how_many() -> None:
    with pytest.raises(ValidationError, match="has 4 NUMA nodes"):
        spec(node(0, 1), node(2, 3), numa_nodes=4)


def test_all_cpus_of_a_node_are_pinned_or_none() -> None:
    with pytest.raises(ValidationError, match="for each of vcpus"):
        node(0, 1, cpus={0: 3})


def test_a_cached_image_is_named_by_its_key() -> None:
    key = "raw-sha256-" + 64 * "0"
    assert HostImage(name=key, cached=True).cache_key() == key
    assert HostImage(name=key).cache_key() != key
    for fields in ({"name": "../x"}, {"name": key, "format": ImageFormat.RAW}):
        with pytest.raises(ValidationError):
            HostImage(cached=True, **fields)  # type: ignore[arg-type]
