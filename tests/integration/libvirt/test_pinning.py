"""CPUs of the host that a machine has to itself, on a host that sets its first CPU aside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.report import Status
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.guard import guarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import is_helper
from hvdrivers.libvirt.turns import HOST
from hvdrivers.libvirt.xml import attribute, parse
from hvdrivers.models.instance import CpuPolicy, Flavor
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.state import InstanceState
from hvdrivers.openstack.placement import providers
from tests.integration.libvirt.conformance_run import running
from tests.integration.libvirt.conftest import residue
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.openvswitch import OvsBridge

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one CPU is set aside, and others are shared"
)
ASIDE, SHARED = min(os.sched_getaffinity(0)), sorted(os.sched_getaffinity(0))[1:]
OWN = Flavor(vcpus=1, memory_mib=64, cpu_policy=CpuPolicy.DEDICATED)


@pytest.fixture(scope="module")
def pinning(libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    made = Host(libvirt_peer, guest_image, dedicated_cpus=str(ASIDE))
    yield made
    made.close()


@pytest.fixture(scope="module")
def clauses(
    libvirt_peer: LibvirtPeer,
    ovs_bridge: OvsBridge,
    agent_image: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("pinning")
    options = {"ovs_bridge": ovs_bridge.name, "dedicated_cpus": str(ASIDE)}
    with running(libvirt_peer, agent_image, folder, **options) as made:
        yield made


def _is_about_cpus(check: Check) -> bool:
    needs = check.needs | check.clause.needs
    return Capability.CPU_PINNING in needs or check.clause.id in {"POWER-023", "LIFE-029"}


CHECKS = [each for each in selected() if _is_about_cpus(each)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_clause(clauses: Session, check: Check) -> None:
    result = clauses.run_check(check)
    assert result.status is Status.PASSED, result.message


def affinity(machine: Machine) -> dict[str, set[int]]:
    """Where each thread of a machine's QEMU may run, as the kernel says."""
    folder = machine.host.peer.folder("run") / "qemu"
    domain = machine.host.raw.connection.remote.lookupByUUIDString(str(machine.uuid))
    pid = (folder / f"{domain.name()}.pid").read_text().strip()
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        found[(task / "comm").read_text().strip()] = os.sched_getaffinity(int(task.name))
    return found


def tune(host: Host, uuid: UUID) -> dict[str, str]:
    xml = parse(host.raw.connection.remote.lookupByUUIDString(str(uuid)).XMLDesc(0))
    pins = {pin.get("vcpu", ""): pin.get("cpuset", "") for pin in xml.iterfind("cputune/vcpupin")}
    return pins | {"emulator": attribute(xml, "cputune/emulatorpin", "cpuset") or ""}


def test_threads_are_where_they_belong(pinning: Host) -> None:
    """One machine has the CPU; another one's, and QEMU's own threads, keep off it."""
    with pinning.empty_machine(flavor=OWN) as own, pinning.empty_machine() as other:
        threads = affinity(own)
        assert threads.pop("CPU 0/TCG") == {ASIDE}
        assert set(map(frozenset, threads.values())) == {frozenset(SHARED)}
        assert set(map(frozenset, affinity(other).values())) == {frozenset(SHARED)}


def test_two_clients_at_once_get_one_cpu(pinning: Host) -> None:
    specs = [pinning.empty(flavor=OWN) for _ in range(4)]
    config = LibvirtConfig(uri=pinning.peer.uri, virt_type="qemu", dedicated_cpus=str(ASIDE))

    def spawn(number: int) -> bool:
        with guarded(LibvirtDriver.connect(config)) as driver:
            try:
                driver.spawn(specs[number])
            except errors.InsufficientResources:
                return False
            return True

    before = residue(pinning.peer)
    with ExitStack() as undo, ThreadPoolExecutor(len(specs)) as pool:
        for each in specs:
            undo.callback(pinning.driver.destroy, each.uuid)
        assert sorted(pool.map(spawn, range(len(specs)))) == [False, False, False, True]
    assert residue(pinning.peer) == before


def test_two_clients_power_on(pinning: Host) -> None:
    with (
        pinning.made_empty(flavor=OWN) as one,
        pinning.made_empty(flavor=OWN) as two,
        ThreadPoolExecutor(2) as pool,
    ):

        def power_on(uuid: UUID) -> bool:
            config = LibvirtConfig(
                uri=pinning.peer.uri, virt_type="qemu", dedicated_cpus=str(ASIDE)
            )
            with guarded(LibvirtDriver.connect(config)) as driver:
                try:
                    driver.power_on(uuid)
                except errors.InsufficientResources:
                    return False
                return True

        assert sorted(pool.map(power_on, (one.uuid, two.uuid))) == [False, True]
        states = sorted(pinning.driver.get_instance(each.uuid).state for each in (one, two))
        assert states == [InstanceState.RUNNING, InstanceState.STOPPED]


def test_suspended_machine_comes_back_when_its_cpu_is_free(pinning: Host) -> None:
    with pinning.empty_machine(flavor=OWN) as one:
        pinning.driver.suspend(one.uuid)
        with pinning.empty_machine(flavor=OWN):
            with pytest.raises(errors.InsufficientResources):
                pinning.driver.resume(one.uuid)
            assert pinning.driver.get_instance(one.uuid).state is InstanceState.SUSPENDED
        pinning.driver.resume(one.uuid)
        assert tune(pinning, one.uuid)["0"] == str(ASIDE)


def test_every_start_gives_it_a_cpu(pinning: Host) -> None:
    """Also those by a definition that is not stored, and those inside of another operation."""
    driver, mine = pinning.driver, str(ASIDE)
    image = pinning.empty().image
    assert image is not None
    with pinning.empty_machine(flavor=OWN) as one:
        driver.reboot(one.uuid)
        assert tune(pinning, one.uuid)["0"] == mine
        driver.rescue(one.uuid, image)
        assert tune(pinning, one.uuid)["0"] == mine
        driver.unrescue(one.uuid)
        assert tune(pinning, one.uuid)["0"] == mine
        driver.rebuild(one.uuid, image)
        assert tune(pinning, one.uuid)["0"] == mine
        saved = driver.create_snapshot(one.uuid, "memory", memory=True).id
        driver.power_off(one.uuid)
        with pinning.empty_machine(flavor=OWN):
            for start in (
                lambda: driver.revert_snapshot(one.uuid, saved),
                lambda: driver.rescue(one.uuid, image),
                lambda: driver.start_paused(one.uuid),
            ):
                with pytest.raises(errors.InsufficientResources):
                    start()
                assert driver.get_instance(one.uuid).state is InstanceState.STOPPED
        driver.revert_snapshot(one.uuid, saved)
        assert driver.get_instance(one.uuid).state is InstanceState.RUNNING
        assert tune(pinning, one.uuid)["0"] == mine


def test_resize_changes_between_shared_and_own(pinning: Host) -> None:
    with pinning.made_empty() as one:
        pinning.driver.resize(one.uuid, OWN)
        pinning.driver.power_on(one.uuid)
        assert tune(pinning, one.uuid)["0"] == str(ASIDE)
        pinning.driver.power_off(one.uuid)
        pinning.driver.resize(one.uuid, OWN.model_copy(update={"cpu_policy": CpuPolicy.SHARED}))
        pinning.driver.power_on(one.uuid)
        assert tune(pinning, one.uuid)["0"] != str(ASIDE)


def test_caller_names_what_is_not_set_aside(pinning: Host) -> None:
    node = NumaNode(cell=0, vcpus=frozenset({0}), memory_mib=64, cpus={0: SHARED[0]})
    flavor = Flavor(vcpus=1, memory_mib=64)
    with pytest.raises(errors.InsufficientResources, match="not set aside"):
        pinning.driver.spawn(pinning.empty(flavor=flavor, numa=(node,)))


def test_no_cpu_is_left_to_plug_in(pinning: Host) -> None:
    flavor = OWN.model_copy(update={"max_vcpus": 2})
    with pinning.empty_machine(flavor=flavor) as one:
        before = tune(pinning, one.uuid)
        with pytest.raises(errors.InsufficientResources):
            pinning.driver.hot_resize_cpu(one.uuid, 2)
        assert pinning.driver.get_instance(one.uuid).flavor.vcpus == 1
        assert tune(pinning, one.uuid) == before


def test_a_killed_client_blocks_nobody_for_long(pinning: Host, monkeypatch: Any) -> None:
    """It leaves the host's turn behind; the next client takes over when nothing moves."""
    monkeypatch.setattr("hvdrivers.libvirt.turns._APART", 0.05)
    left = pinning.raw.turns.take_host(Deadline(None))
    left.__enter__()  # and it never ends
    try:
        with pinning.empty_machine(flavor=OWN) as one:
            assert tune(pinning, one.uuid)["0"] == str(ASIDE)
    finally:
        left.__exit__(None, None, None)
    names = [each.name() for each in pinning.raw.connection.remote.listAllDomains(0)]
    assert not [each for each in names if is_helper(each) and str(HOST) in each]


def test_inventory_and_placement(pinning: Host) -> None:
    found = pinning.driver.get_available_resource()
    assert found.cpu.dedicated == 1
    assert frozenset().union(*(each.dedicated for each in found.numa_cells)) == {ASIDE}
    tree = providers(found, pinning.driver.capabilities)
    assert {each.inventories["PCPU"].total for each in tree if "PCPU" in each.inventories} == {1}
    assert tree[0].inventories["VCPU"].total == found.cpu.total - 1


def test_reason_without_configuration(libvirt_peer: LibvirtPeer) -> None:
    for options, word in (({}, "dedicated_cpus"), ({"dedicated_cpus": "9999"}, "no CPU 9999")):
        config = LibvirtConfig(uri=libvirt_peer.uri, virt_type="qemu", **options)
        with guarded(LibvirtDriver.connect(config)) as driver:
            assert word in (driver.why_not(Capability.CPU_PINNING) or "")
