"""Two clients at one target or device at once, and a host that restarts in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.errors import CmdletError
from hvdrivers.hyperv.simulator.faults import Rule
from hvdrivers.hyperv.simulator.state.host import HostDevice
from hvdrivers.hyperv.simulator.state.storage import StorageState
from hvdrivers.models.image import FileImage
from hvdrivers.models.instance import PciRequest
from hvdrivers.models.migration import Destination
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, parse_connection_info
from tests.integration.hyperv.site import Site, spec
from tests.integration.hyperv.test_operations import machine_of
from tests.peers.waiting import wait_until

PORTAL: Final = "192.0.2.50"
IQN: Final = "iqn.2026-01.org.example:at-once"
WWN: Final = "50014380186b3f65"
KINDS: Final = ("iscsi", "fc")


def attachment(kind: str, lun: int) -> VolumeAttachment:
    data: dict[str, Any] = {"target_wwn": [WWN], "target_lun": lun}
    if kind == "iscsi":
        data = {"target_portal": f"{PORTAL}:3260", "target_iqn": IQN, "target_lun": lun}
    name = "iscsi" if kind == "iscsi" else "fibre_channel"
    info = {"driver_volume_type": name, "serial": f"unit-{lun}", "data": data}
    return VolumeAttachment(volume=parse_connection_info(info))


@pytest.fixture
def storage(site: Site) -> Iterator[StorageState]:
    state = site.host.state.storage
    with site.host.world.lock:
        state.add_target(IQN, PORTAL, size=1 << 20, luns=2)
        state.hba_ports.append(("20000025b5aaaa00", "10000025b5aaaa00"))
        state.add_fibre_target(WWN, size=1 << 20, luns=2)
    yield state
    with site.host.world.lock:
        state.network.clear()
        state.fabric.clear()
        state.hba_ports.clear()
        state.rescan()
    assert (state.sessions, state.portals, list(state.disks)) == ({}, {}, [0])
    assert site.left() == []


Pair = tuple[ComputeDriver, ComputeDriver]


@pytest.fixture
def pair(site: Site, storage: StorageState) -> Iterator[Pair]:
    made = [guarded(HypervDriver.connect(site.config)) for _ in range(2)]
    for each in made:
        each.ping()
    yield made[0], made[1]
    for each in made:
        each.close()


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except errors.HypervisorError as error:
        return type(error).__name__
    return "done"


def both(one: Callable[[], object], two: Callable[[], object]) -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(outcome, each) for each in (one, two)]
        return [each.result(120) for each in calls]


def units(site: Site, uuid: UUID) -> list[int | None]:
    with site.host.world.lock:
        drives = machine_of(site, uuid).config.drives
        return [each.disk_number for each in drives if each.disk_number is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_one_unit_for_one_instance(site: Site, image: FileImage, pair: Pair, kind: str) -> None:
    one, two = pair
    uuid = one.spawn(spec(image)).uuid
    wanted = attachment(kind, 0)
    for _ in range(3):
        done = both(
            lambda: one.attach_volume(uuid, wanted), lambda: two.attach_volume(uuid, wanted)
        )
        assert done == ["done", "done"]
        assert len(units(site, uuid)) == 1
        done = both(
            lambda: one.detach_volume(uuid, "unit-0"), lambda: two.detach_volume(uuid, "unit-0")
        )
        assert done == ["done", "done"]
        assert units(site, uuid) == []
        both(lambda: one.attach_volume(uuid, wanted), lambda: two.detach_volume(uuid, "unit-0"))
        shown = [each.volume_id for each in one.get_instance(uuid).volumes]
        assert len(shown) == len(units(site, uuid))
        one.detach_volume(uuid, "unit-0")
    one.destroy(uuid)


@pytest.mark.parametrize("kind", KINDS)
def test_one_unit_for_two_instances(site: Site, image: FileImage, pair: Pair, kind: str) -> None:
    one, two = pair
    first, second = (one.spawn(spec(image)).uuid for _ in range(2))
    wanted = attachment(kind, 0)
    for _ in range(3):
        done = both(
            lambda: one.attach_volume(first, wanted), lambda: two.attach_volume(second, wanted)
        )
        assert sorted(done) == ["DeviceBusy", "done"]
        assert sorted(map(len, (units(site, first), units(site, second)))) == [0, 1]
        for uuid in (first, second):
            one.detach_volume(uuid, "unit-0")
    specs = [spec(image, volumes=(wanted,)) for _ in range(2)]
    done = both(lambda: one.spawn(specs[0]), lambda: two.spawn(specs[1]))
    assert sorted(done) == ["DeviceBusy", "done"]
    for uuid in (first, second, *(each.uuid for each in specs)):
        one.destroy(uuid)


@pytest.mark.parametrize("kind", KINDS)
def test_two_units_of_one_target(
    site: Site, image: FileImage, storage: StorageState, pair: Pair, kind: str
) -> None:
    one, two = pair
    first, second = (one.spawn(spec(image)).uuid for _ in range(2))
    zero, other = attachment(kind, 0), attachment(kind, 1)
    for _ in range(3):
        done = both(
            lambda: one.attach_volume(first, zero), lambda: two.attach_volume(second, other)
        )
        assert done == ["done", "done"]
        assert len(storage.sessions) == (kind == "iscsi")
        # one logs out, if it is the last one, while the other logs in
        done = both(
            lambda: one.detach_volume(first, "unit-0"), lambda: two.detach_volume(second, "unit-1")
        )
        assert done == ["done", "done"]
        assert storage.sessions == {}
        one.attach_volume(first, zero)
        done = both(
            lambda: one.detach_volume(first, "unit-0"), lambda: two.attach_volume(second, other)
        )
        assert done == ["done", "done"]
        assert [len(units(site, each)) for each in (first, second)] == [0, 1]
        assert len(storage.sessions) == (kind == "iscsi")
        two.detach_volume(second, "unit-1")
    one.attach_volume(second, other)
    done = both(lambda: one.attach_volume(first, zero), lambda: two.destroy(second))
    assert done == ["done", "done"]
    assert len(units(site, first)) == 1
    for uuid in (first, second):
        one.destroy(uuid)


def test_one_device_for_two_instances(site: Site, image: FileImage) -> None:
    path, ident = "PCIROOT(0)#PCI(0300)#PCI(0000)", "PCI\\VEN_8086&DEV_1533&SUBSYS_1\\3&1&0&03"
    device = HostDevice(instance_id=ident, location_path=path, name="Ethernet", bus=3)
    with site.host.world.lock:
        site.host.state.hardware.devices.append(device)
    drivers = [guarded(HypervDriver.connect(site.config)) for _ in range(2)]
    one, two = drivers
    request = (PciRequest(address=PciAddress("0000:03:00.0")),)
    try:
        one.destroy(one.spawn(spec(image)).uuid)
        for _ in range(3):
            specs = [spec(image, pci_devices=request) for _ in range(2)]
            done = both(partial(one.spawn, specs[0]), partial(two.spawn, specs[1]))
            assert sorted(done) == ["InsufficientResources", "done"]
            assert device.owner is not None
            # the next one wants it while it is given back
            third = spec(image, pci_devices=request)
            winner = specs[done.index("done")].uuid
            done = both(partial(one.destroy, winner), partial(two.spawn, third))
            assert done[0] == "done"
            assert done[1] in {"done", "InsufficientResources"}
            for each in (*specs, third):
                one.destroy(each.uuid)
            assert (device.owner, device.dismounted, device.enabled) == (None, False, True)
    finally:
        for each in drivers:
            each.close()
        with site.host.world.lock:
            site.host.state.hardware.devices.clear()
    assert site.left() == []


@contextmanager
def host_restarts_in(
    site: Site, cmdlet: str, down: Site | None = None
) -> Iterator[Callable[[Callable[[], object]], str]]:
    """A host restarts while a call of this cmdlet is under way, which therefore does nothing."""
    restarting = down or site
    gone = CmdletError("OperationFailed", "NotSpecified", "injected", why="the host went down")
    rule = Rule(cmdlet, frozenset({1}), before=3600.0, error=gone)
    site.host.state.faults.add(rule)

    def doing(call: Callable[[], object]) -> str:
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(outcome, call)
            wait_until(lambda: rule.seen > 0, timeout=120, what=f"{cmdlet} is called")
            restarting.service.restart()
            rule.over = True
            site.host.world.notify()
            restarting.host.restart()
            return result.result(120)

    try:
        yield doing
    finally:
        rule.over = True
        site.host.world.notify()
        site.host.state.faults.clear()


LOST: Final = {"OutcomeUnknown", "ConnectionFailed"}


@pytest.mark.parametrize(
    ("kind", "cmdlet"),
    [
        ("iscsi", "New-IscsiTargetPortal"),
        ("iscsi", "Connect-IscsiTarget"),
        ("iscsi", "Add-VMHardDiskDrive"),
        ("fc", "Add-VMHardDiskDrive"),
    ],
)
def test_the_host_restarts_in_attach(
    site: Site, image: FileImage, pair: Pair, kind: str, cmdlet: str
) -> None:
    driver = pair[0]
    uuid = driver.spawn(spec(image)).uuid
    wanted = attachment(kind, 0)
    with host_restarts_in(site, cmdlet) as doing:
        assert doing(lambda: driver.attach_volume(uuid, wanted)) in LOST
    driver.power_on(uuid)
    attached = driver.attach_volume(uuid, wanted)
    assert driver.get_instance(uuid).volumes == (attached,)
    assert len(units(site, uuid)) == 1
    driver.destroy(uuid)


@pytest.mark.parametrize(
    ("kind", "cmdlet", "then"),
    [
        ("iscsi", "Connect-IscsiTarget", "destroy"),
        ("iscsi", "Start-VM", "spawn"),
        ("fc", "Start-VM", "destroy"),
        ("fc", "Add-VMHardDiskDrive", "spawn"),
    ],
)
def test_the_host_restarts_in_spawn(
    site: Site, image: FileImage, pair: Pair, kind: str, cmdlet: str, then: str
) -> None:
    driver = pair[0]
    driver.destroy(driver.spawn(spec(image)).uuid)
    wanted = spec(image, volumes=(attachment(kind, 0), attachment(kind, 1)))
    with host_restarts_in(site, cmdlet) as doing:
        assert doing(lambda: driver.spawn(wanted)) in LOST
    if then == "spawn":
        assert driver.spawn(wanted).state is InstanceState.RUNNING
        assert len(units(site, wanted.uuid)) == 2
    driver.destroy(wanted.uuid)


@pytest.mark.parametrize("cmdlet", ["Checkpoint-VM", "Restore-VMSnapshot", "Remove-VMSnapshot"])
def test_the_host_restarts_at_a_checkpoint(
    site: Site, image: FileImage, storage: StorageState, cmdlet: str
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    before = driver.get_instance(uuid)
    if cmdlet == "Checkpoint-VM":
        with host_restarts_in(site, cmdlet) as doing:
            assert doing(lambda: driver.create_snapshot(uuid, "a")) in LOST
        assert driver.list_snapshots(uuid) == []
        driver.create_snapshot(uuid, "a")
    else:
        point = driver.create_snapshot(uuid, "a").id
        operation = (
            driver.revert_snapshot if cmdlet.startswith("Restore") else driver.delete_snapshot
        )
        with host_restarts_in(site, cmdlet) as doing:
            assert doing(lambda: operation(uuid, point)) in LOST
        operation(uuid, point)
    now = driver.get_instance(uuid)
    assert (now.name, now.flavor, now.vifs, now.volumes) == (
        before.name, before.flavor, before.vifs, before.volumes)  # fmt: skip
    driver.power_on(uuid)
    driver.destroy(uuid)


@pytest.mark.parametrize("which", ["source", "destination"])
def test_a_host_restarts_in_a_live_migration(site: Site, image: FileImage, which: str) -> None:
    driver, other = site.driver, Site("HV2", site)
    try:
        uuid = driver.spawn(spec(image)).uuid
        before = driver.get_instance(uuid)
        there = Destination(host=f"127.0.0.1:{other.service.port}")
        down = site if which == "source" else other
        with host_restarts_in(site, "Move-VM", down) as doing:
            told = doing(lambda: driver.live_migrate(uuid, there))
        assert told not in {"done", "InvalidRequest"}
        # it is where it was, whole, and nothing is left at the other end
        assert driver.get_instance(uuid).vifs == before.vifs
        with pytest.raises(errors.InstanceNotFound):
            other.driver.get_instance(uuid)
        driver.power_on(uuid)
        driver.live_migrate(uuid, there)
        assert site.left() == []
        other.driver.destroy(uuid)
        assert other.left() == []
    finally:
        other.close()
