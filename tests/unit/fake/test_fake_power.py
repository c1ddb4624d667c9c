"""On, off, and between."""

from __future__ import annotations

import pytest
from fakery import CIRROS, build, nic, rbd, spec, state_of

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.fake import FakeHost, HostSize, ManualClock
from hvdrivers.models.instance import Flavor, PciRequest
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.state import InstanceState

R, S, P, U = (
    InstanceState.RUNNING,
    InstanceState.STOPPED,
    InstanceState.PAUSED,
    InstanceState.SUSPENDED,
)


def test_asking_for_what_is_there_succeeds_and_starts_nothing(host, driver):
    uuid = build(host, driver, R)
    before = host.inventory()
    driver.power_on(uuid)
    driver.unpause(uuid)
    driver.resume(uuid)
    assert host.inventory() == before


def test_a_graceful_guest_goes_down_in_its_own_time(host, driver, clock):
    uuid = build(host, driver, R)
    host.guest(uuid).shutdown_seconds = 20
    began = clock.now()
    driver.power_off(uuid, graceful=60)
    assert clock.now() - began == 20
    assert state_of(driver, uuid) is S


@pytest.mark.parametrize("acpi", [True, False])
def test_a_stubborn_guest_is_cut_off(host, driver, clock, acpi):
    uuid = build(host, driver, R)
    host.guest(uuid).acpi = acpi
    host.guest(uuid).shutdown_seconds = 1000
    began = clock.now()
    driver.power_off(uuid, graceful=30)
    assert clock.now() - began == 30
    assert state_of(driver, uuid) is S


def test_a_guest_that_uses_up_the_deadline_is_stopped_in_time(host, driver, clock):
    uuid = build(host, driver, R)
    host.guest(uuid).acpi = False
    driver.power_off(uuid, graceful=100, timeout=10)
    assert state_of(driver, uuid) is S


def test_reboot_keeps_everything_and_the_console_goes_on(host, driver):
    uuid = build(host, driver, R, vifs=(nic(),), volumes=(rbd(),), image=CIRROS)
    before = driver.get_instance(uuid)
    for kind in RebootKind:
        driver.reboot(uuid, kind)
    assert driver.get_instance(uuid) == before
    assert driver.get_console_log(uuid).text.count("Booting") == 3


def test_a_soft_reboot_that_the_guest_ignores(host, driver, clock):
    uuid = build(host, driver, R)
    host.guest(uuid).acpi = False
    before = host.inventory()
    began = clock.now()
    with pytest.raises(errors.DeviceBusy):
        driver.reboot(uuid, RebootKind.SOFT, timeout=30)
    assert clock.now() - began == pytest.approx(30, abs=1)
    assert host.inventory() == before


def test_suspend_takes_disk_and_gives_memory_back(host, driver):
    uuid = build(host, driver, R)
    used = driver.get_available_resource()
    driver.suspend(uuid)
    driver.suspend(uuid)
    suspended = driver.get_available_resource()
    assert suspended.memory.used_mib == used.memory.used_mib - 512
    assert suspended.storage[0].used_gib == used.storage[0].used_gib + 0.5
    driver.power_on(uuid)
    assert host.console(uuid).count(b"Booting") == 1  # it went on where it was
    assert driver.get_available_resource() == used
    driver.suspend(uuid)
    driver.power_off(uuid)
    driver.power_on(uuid)
    assert host.console(uuid).count(b"Booting") == 2


def test_suspend_needs_room_and_no_devices():
    host = FakeHost(size=HostSize(pools=({"name": "p", "total_gib": 1},)), clock=ManualClock())
    with host.connect() as driver:
        flavor = Flavor(vcpus=1, memory_mib=1024)
        uuid = build(host, driver, R, flavor=flavor)
        with pytest.raises(errors.InsufficientResources):
            driver.suspend(uuid)
        device = PciRequest(address=PciAddress("0000:17:00.0"))
        other = build(host, driver, R, flavor=flavor, pci_devices=(device,))
        with pytest.raises(errors.NotSupported):
            driver.suspend(other)
        assert state_of(driver, uuid) is state_of(driver, other) is R


def test_power_on_needs_what_the_machine_is_wired_to(host, driver):
    uuid = build(host, driver, S, vifs=(nic(),), volumes=(rbd(),), image=CIRROS)
    host.remove_network("network", "default")
    with pytest.raises(errors.NetworkNotFound):
        driver.power_on(uuid)
    host.add_network("network", "default")
    host.lose_volume("vol-1")
    with pytest.raises(errors.VolumeNotFound):
        driver.power_on(uuid)
    host.find_volume("vol-1")
    driver.power_on(uuid)


def test_a_volume_is_open_in_one_powered_on_machine(host, driver):
    first = build(host, driver, S, volumes=(rbd(),), image=CIRROS)
    second = build(host, driver, R, volumes=(rbd(),), image=CIRROS)
    with pytest.raises(errors.DeviceBusy):
        driver.power_on(first)
    driver.power_off(second)
    driver.power_on(first)
    with pytest.raises(errors.DeviceBusy):
        driver.power_on(second)


def test_memory_runs_out_and_is_given_back():
    host = FakeHost(size=HostSize(memory_mib=4096, hugepages={}), clock=ManualClock())
    flavor = Flavor(vcpus=1, memory_mib=1024, disk_gib=1)
    with host.connect() as driver:
        uuids = [build(host, driver, R, flavor=flavor) for _ in range(3)]
        host.add_foreign(memory_mib=1024)  # somebody else's counts too
        with pytest.raises(errors.InsufficientResources):
            driver.spawn(spec(flavor=flavor))
        stopped = build(host, driver, S, flavor=flavor)
        with pytest.raises(errors.InsufficientResources):
            driver.power_on(stopped)
        driver.destroy(uuids[0])
        driver.power_on(stopped)
        assert driver.get_available_resource().memory.free_mib == 0


def test_shared_cpus_run_out():
    size = HostSize(sockets=1, cores_per_socket=2, threads_per_core=1, dedicated_cpus=0)
    host = FakeHost(size=size, clock=ManualClock())
    with host.connect() as driver:
        flavor = Flavor(vcpus=2, memory_mib=64, disk_gib=1)
        for _ in range(4):  # 2 threads, 4 virtual CPUs each
            build(host, driver, R, flavor=flavor)
        with pytest.raises(errors.InsufficientResources):
            driver.spawn(spec(flavor=flavor))


def test_nmi(host, driver):
    uuid = build(host, driver, R)
    driver.inject_nmi(uuid)
    assert state_of(driver, uuid) is R
    host.guest(uuid).crashes_on_nmi = True
    driver.inject_nmi(uuid)
    assert state_of(driver, uuid) is InstanceState.CRASHED


def test_restart_of_the_host(host, driver):
    running = build(host, driver, R)
    suspended = build(host, driver, U)
    foreign = host.add_foreign()
    host.restart_host()
    assert state_of(driver, running) is S
    assert state_of(driver, suspended) is U
    assert driver.list_foreign()[0].uuid == foreign
    driver.power_on(running)
    driver.resume(suspended)


def test_a_deadline_in_the_middle_undoes(host, driver):
    host.latency["save-memory"] = 100
    uuid = build(host, driver, R)
    before = host.inventory()
    with pytest.raises(errors.OperationTimeout):
        driver.suspend(uuid, timeout=10)
    assert host.inventory() == before


def test_after_destroy_was_cut_in_two_nothing_boots(host, driver):
    from hvdrivers.fake import FaultRule

    uuid = build(host, driver, S)
    rule = FaultRule(operation="delete-disks", when="after")
    with host.faults.add(rule), pytest.raises(errors.OutcomeUnknown):
        driver.destroy(uuid)
    with pytest.raises(errors.VolumeNotFound):
        driver.power_on(uuid)
    driver.destroy(uuid)
    assert host.inventory().of(uuid) == frozenset()
