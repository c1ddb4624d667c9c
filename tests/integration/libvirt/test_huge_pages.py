"""Machines whose memory is in huge pages, on a host that has some for the length of the tests."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.report import Status
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.instance import Flavor
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.conformance_run import running
from tests.integration.libvirt.conftest import residue
from tests.integration.libvirt.machines import Host
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.openvswitch import OvsBridge
from tests.peers.precondition import missing

SIZE_KIB = 2048
NUMBER = Path(f"/sys/kernel/mm/hugepages/hugepages-{SIZE_KIB}kB/nr_hugepages")
MANY = 160
"""Pages: 320 MiB, for one guest of the suite or two small machines."""
HUGE = Flavor(vcpus=1, memory_mib=64, page_size_kib=SIZE_KIB)


@contextmanager
def set_aside(pages: int) -> Iterator[None]:
    """The kernel has so many huge pages for the length of the block. One test run at a time."""
    with Path("/tmp/hv-huge-pages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = NUMBER.read_text()
        try:
            NUMBER.write_text(str(pages))
            if int(NUMBER.read_text()) < pages:
                missing("so many huge pages: the machine's memory has no room for them")
            yield
        finally:
            NUMBER.write_text(before)


@pytest.fixture(scope="module")
def pages() -> Iterator[None]:
    if os.geteuid() or not os.access(NUMBER, os.W_OK):
        missing("root, to set huge pages aside")
    with set_aside(MANY):
        yield


@pytest.fixture(scope="module")
def huge(pages: None, libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    made = Host(libvirt_peer, guest_image)
    yield made
    made.close()


@pytest.fixture(scope="module")
def clauses(
    pages: None,
    libvirt_peer: LibvirtPeer,
    ovs_bridge: OvsBridge,
    agent_image: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("pages")
    with running(libvirt_peer, agent_image, folder, ovs_bridge=ovs_bridge.name) as made:
        yield made


CHECKS = [each for each in selected() if Capability.HUGEPAGES in each.needs | each.clause.needs]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_clause(clauses: Session, check: Check) -> None:
    result = clauses.run_check(check)
    assert result.status is Status.PASSED, result.message


def free(host: Host) -> int | None:
    found = host.driver.get_available_resource().memory.hugepages
    return next(each.free for each in found if each.size_kib == SIZE_KIB)


def test_pages_are_the_machines_while_it_is_on(huge: Host) -> None:
    before = free(huge)
    assert before == MANY
    with huge.empty_machine(flavor=HUGE) as machine:
        assert free(huge) == MANY - 32
        huge.driver.power_off(machine.uuid)
        assert free(huge) == MANY
        huge.driver.power_on(machine.uuid)
        huge.driver.suspend(machine.uuid)
        assert free(huge) == MANY
        huge.driver.resume(machine.uuid)
        assert free(huge) == MANY - 32
    assert free(huge) == MANY


def test_a_start_that_finds_too_few(huge: Host) -> None:
    """The pages were there when the machine was made, and another has them when it starts."""
    large = HUGE.model_copy(update={"memory_mib": 288})
    with huge.made_empty(flavor=large) as one, huge.empty_machine(flavor=HUGE):
        with pytest.raises(errors.InsufficientResources, match="144 huge pages of 2048 KiB"):
            huge.driver.power_on(one.uuid)
        assert huge.driver.get_instance(one.uuid).state is InstanceState.STOPPED


def test_what_is_not_there_is_refused_before_anything_is_made(huge: Host) -> None:
    before = residue(huge.peer)
    too_large = HUGE.model_copy(update={"memory_mib": 322})
    other = HUGE.model_copy(update={"page_size_kib": 1 << 20, "memory_mib": 1024})
    for flavor in (too_large, other):
        with pytest.raises(errors.InsufficientResources):
            huge.driver.spawn(huge.empty(flavor=flavor))
    with pytest.raises(errors.InvalidRequest, match="whole number"):
        huge.driver.spawn(huge.empty(flavor=HUGE.model_copy(update={"memory_mib": 63})))
    assert residue(huge.peer) == before


def test_placed_on_a_cell(huge: Host) -> None:
    cell = huge.driver.get_available_resource().numa_cells[0].id
    node = NumaNode(cell=cell, vcpus=frozenset({0}), memory_mib=64)
    with huge.empty_machine(flavor=HUGE, numa=(node,)):
        assert free(huge) == MANY - 32


def test_resize_changes_the_pages(huge: Host) -> None:
    ordinary = Flavor(vcpus=1, memory_mib=64)
    with huge.made_empty() as machine:
        for flavor, left in ((HUGE, MANY - 32), (ordinary, MANY)):
            huge.driver.resize(machine.uuid, flavor)
            huge.driver.power_on(machine.uuid)
            assert free(huge) == left
            huge.driver.power_off(machine.uuid)


def test_memory_that_is_plugged_in(huge: Host) -> None:
    flavor = HUGE.model_copy(update={"max_memory_mib": 448})
    with huge.empty_machine(flavor=flavor) as machine:
        huge.driver.hot_resize_memory(machine.uuid, 192)
        assert free(huge) == MANY - 96
        with pytest.raises(errors.InsufficientResources):
            huge.driver.hot_resize_memory(machine.uuid, 448)
        assert huge.driver.get_instance(machine.uuid).flavor.memory_mib == 192
