"""Machines with CPUs to themselves that go to another host. Both set their first CPU aside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.libvirt.xml import parse
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import BlockerKind
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_pinning import ASIDE, OWN, SHARED, affinity, tune
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one CPU is set aside, and others are shared"
)
_SHARING = Flavor(vcpus=1, memory_mib=64)


@pytest.fixture(scope="module")
def pair(libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[tuple[Host, Host]]:
    with ExitStack() as stack:
        peers = libvirt_peer, stack.enter_context(started(LibvirtPeer))
        made = [Host(each, guest_image, dedicated_cpus=str(ASIDE)) for each in peers]
        for each in made:
            stack.callback(each.close)
        yield made[0], made[1]


def pins(host: Host, machine: Machine) -> list[str]:
    """Of its definition."""
    xml = parse(host.peer.virsh("dumpxml", "--inactive", str(machine.uuid)))
    return [pin.get("cpuset", "") for pin in xml.iterfind("cputune/vcpupin")]


def test_one_that_runs_stays_and_one_that_shares_keeps_off(pair: tuple[Host, Host]) -> None:
    here, there = pair
    with here.empty_machine(flavor=OWN) as own:
        plan = here.driver.check_live_migration(own.uuid, there.destination())
        assert [each.kind for each in plan.blockers] == [BlockerKind.DEVICE]
        with pytest.raises(errors.InvalidRequest, match="CPUs of this host to itself"):
            here.driver.live_migrate(own.uuid, there.destination())
        assert affinity(own)["CPU 0/TCG"] == {ASIDE}
    with here.empty_machine(flavor=_SHARING) as sharing:
        here.driver.live_migrate(sharing.uuid, there.destination())
        moved = Machine(there, sharing.uuid)
        try:
            assert set(map(frozenset, affinity(moved).values())) == {frozenset(SHARED)}
        finally:
            there.driver.destroy(moved.uuid)


def test_one_that_is_off_takes_no_cpu_on_its_way(pair: tuple[Host, Host]) -> None:
    """On both hosts other machines have the CPU, before, while and after it moves."""
    here, there = pair
    with here.empty_machine(flavor=OWN) as own:
        here.driver.power_off(own.uuid)
        assert pins(here, own) == [str(ASIDE)], "where it ran last"
        with here.empty_machine(flavor=OWN) as one, there.empty_machine(flavor=OWN) as two:
            here.driver.cold_migrate(own.uuid, there.destination())
            for machine in (one, two):
                assert affinity(machine)["CPU 0/TCG"] == {ASIDE}
            moved = Machine(there, own.uuid)
            try:
                assert moved.state is InstanceState.STOPPED
                assert pins(there, moved) == []
                with pytest.raises(errors.InsufficientResources, match="dedicated"):
                    there.driver.power_on(moved.uuid)
                there.driver.power_off(two.uuid)
                there.driver.power_on(moved.uuid)
                assert tune(there, moved.uuid)["0"] == str(ASIDE)
                assert affinity(moved)["CPU 0/TCG"] == {ASIDE}
            finally:
                there.driver.destroy(moved.uuid)


def test_a_client_that_sets_none_aside_moves_none(pair: tuple[Host, Host]) -> None:
    """There the machine would share its CPUs with others. Nothing of it comes there."""
    here, there = pair
    with here.empty_machine(flavor=OWN) as own, closing(guarded(connect(here.peer))) as plain:
        here.driver.power_off(own.uuid)
        before = there.residue()
        with pytest.raises(errors.InvalidRequest, match="dedicated CPUs"):
            plain.cold_migrate(own.uuid, there.destination())
        with pytest.raises(errors.InsufficientResources, match="dedicated CPUs"):
            plain.prepare_move(own.uuid, there.destination())
        there.compare(before)
        here.driver.power_on(own.uuid)
        assert affinity(own)["CPU 0/TCG"] == {ASIDE}


def test_in_steps_to_a_host_that_sets_none_aside(pair: tuple[Host, Host]) -> None:
    here, there = pair
    with here.empty_machine(flavor=OWN) as own:
        here.driver.power_off(own.uuid)
        move = here.driver.prepare_move(own.uuid, there.destination())
        refused = pytest.raises(errors.InsufficientResources, match="sets none aside")
        with closing(connect(there.peer)) as plain, refused:
            plain.finish_move(move)
        with pytest.raises(errors.InvalidState, match="not finished"):
            here.driver.confirm_move(own.uuid)
        there.driver.finish_move(move)
        moved = Machine(there, own.uuid)
        try:
            assert pins(there, moved) == []
            there.driver.power_on(moved.uuid)
            assert affinity(moved)["CPU 0/TCG"] == {ASIDE}
            here.driver.confirm_move(own.uuid)
        finally:
            there.driver.destroy(moved.uuid)
