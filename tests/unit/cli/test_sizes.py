"""``resize`` and ``move prepare``: another flavor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from uuid import UUID

import pytest

from hvdrivers.cli.move import prepare
from hvdrivers.cli.resize import resize_instance
from hvdrivers.fake.host import FakeHost
from hvdrivers.models.flavor import CpuPolicy, Flavor

from .conftest import Runner

SIZES = {  # a field of Flavor, and the option that says it
    "vcpus": "vcpus",
    "memory_mib": "memory",
    "disk_gib": "disk",
    "max_vcpus": "max_vcpus",
    "max_memory_mib": "max_memory",
    "cpu_policy": "cpu_policy",
    "numa_nodes": "numa_nodes",
    "page_size_kib": "page_size",
}


def test_every_field_of_a_flavor_has_an_option() -> None:
    # no operation changes the size of an ephemeral or a swap disk
    assert {*SIZES, "ephemeral_gib", "swap_mib"} == set(Flavor.model_fields)
    for command in (resize_instance, prepare):
        assert set(SIZES.values()) <= set(inspect.signature(command).parameters)


GROWN = {
    "vcpus": 2,
    "memory_mib": 2048,
    "disk_gib": 20,
    "max_vcpus": 4,
    "max_memory_mib": 4096,
    "cpu_policy": CpuPolicy.DEDICATED,
    "numa_nodes": 2,
    "page_size_kib": 2048,
}
GROW = (
    *("--vcpus", 2, "--memory", "2GiB", "--disk", 20, "--max-vcpus", 4, "--max-memory", "4GiB"),
    *("--cpu-policy", "dedicated", "--numa-nodes", 2, "--page-size", "2MiB"),
)
SHRINK = ("--max-vcpus", 0, "--max-memory", 0, "--numa-nodes", 0, "--page-size", 0)


def test_resize_changes_every_field(
    run: Runner, url: str, host: FakeHost, make: Callable[..., UUID]
) -> None:
    uuid = make(start=False)
    assert set(GROWN) == set(SIZES)
    done = run("resize", url, uuid, *GROW, "-o", "json")
    assert done.code == 0, done.err
    assert host.machines[uuid].flavor == Flavor.model_validate(GROWN)
    done = run("resize", url, uuid, *SHRINK, "--cpu-policy", "shared", "-o", "json")
    assert done.code == 0, done.err
    assert host.machines[uuid].flavor == Flavor(vcpus=2, memory_mib=2048, disk_gib=20)


def test_what_a_running_instance_cannot_change(
    run: Runner, url: str, host: FakeHost, make: Callable[..., UUID]
) -> None:
    uuid = make(flavor=Flavor(vcpus=1, memory_mib=512, max_vcpus=4))
    done = run("resize", url, uuid, "--vcpus", 2, "--max-vcpus", 8, "-o", "json")
    assert done.error["type"] == "InvalidState", done.err
    assert host.machines[uuid].flavor.vcpus == 1


def test_move_changes_every_field(
    run: Runner, url: str, host: FakeHost, make: Callable[..., UUID]
) -> None:
    uuid = make(start=False)
    there = host.world.host("cli-another-size")
    done = run("move", "prepare", url, uuid, there.name, *GROW, "-o", "json")
    assert done.code == 0, done.err
    assert Flavor.model_validate(done.data["flavor"]) == Flavor.model_validate(GROWN)


@pytest.mark.parametrize("command", ["resize", "move prepare"])
@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--cpu-policy", "pinned"), "--cpu-policy", "it is shared or dedicated"),
        (("--max-memory", "much"), "--max-memory", "write it like"),
        (("--page-size", "huge"), "--page-size", "write it like"),
        (("--page-size", 1), "page_size_kib", "hvdrivers {} --help"),
        (("--vcpus", 4, "--max-vcpus", 2), "max_vcpus is below vcpus", "hvdrivers {} --help"),
        (("--max-memory", "256"), "max_memory_mib is below", "hvdrivers {} --help"),
        (("--vcpus", 3, "--numa-nodes", 2), "divide evenly", "hvdrivers {} --help"),
    ],
)
def test_another_size_that_is_wrong(
    run: Runner,
    url: str,
    host: FakeHost,
    make: Callable[..., UUID],
    command: str,
    options: tuple[object, ...],
    message: str,
    hint: str,
) -> None:
    uuid = make(start=False)
    before = host.machines[uuid].flavor
    done = run(*command.split(), url, uuid, *options, "-o", "json")
    assert done.code == 2
    assert message in done.error["message"], done.err
    assert hint.format(command) in done.error["hint"]
    assert host.machines[uuid].flavor == before
