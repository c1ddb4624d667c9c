"""A host that is closed, or goes down, while another client starts a machine on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.power import RebootKind
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.cmdlets.power import turn_off
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.image import FileImage
from hvdrivers.models.state import InstanceState
from tests.integration.hyperv.site import Site, held, spec
from tests.integration.hyperv.test_operations import machine_of
from tests.peers.waiting import wait_until

Close = Callable[[ComputeDriver], None]


def _close(driver: ComputeDriver) -> None:
    driver.enter_maintenance()


def _reboot(driver: ComputeDriver) -> None:
    driver.host_power(HostPowerAction.REBOOT)


CLOSES: list[Close] = [_close, _reboot]


@pytest.fixture
def other(site: Site) -> Iterator[ComputeDriver]:
    """A second client."""
    made = guarded(HypervDriver.connect(site.config))
    yield made
    made.close()


@pytest.fixture
def stopped(site: Site, image: FileImage) -> Iterator[UUID]:
    uuid = site.driver.spawn(spec(image, start=False)).uuid
    yield uuid
    site.driver.exit_maintenance()
    site.driver.destroy(uuid)
    assert site.left() == []


def _waits(site: Site, file: str, closing: Future[None]) -> None:
    """The other client has closed the host, and waits for what was under way."""
    path = site.host.drive / "hv" / "index" / file
    wait_until(path.exists, timeout=60, what="the host is closed")
    assert not closing.done()


def _looks(site: Site) -> int:
    """How often somebody has asked for the machines, and has been answered."""
    with site.host.world.lock:
        return site.host.state.faults.counts.get("Get-VM", 0)


@contextmanager
def _starts(
    site: Site, doing: Callable[[], object]
) -> Iterator[Callable[[], BaseException | None]]:
    """Something that is about to start a machine during the block; what came of it."""
    with held(site, "Start-VM") as release, ThreadPoolExecutor(1) as pool:
        started = pool.submit(doing)

        def ended() -> BaseException | None:
            return started.exception(60)

        with release():
            yield ended


@pytest.mark.parametrize("close", CLOSES, ids=["maintenance", "down"])
def test_a_start_that_has_begun_is_waited_for(
    site: Site, stopped: UUID, other: ComputeDriver, close: Close
) -> None:
    driver = site.driver
    with ThreadPoolExecutor(1) as pool:
        with _starts(site, lambda: driver.power_on(stopped)) as ended:
            closing = pool.submit(close, other)
            _waits(site, "maintenance" if close is _close else "down", closing)
        assert isinstance(closing.exception(60), errors.InvalidState)
        assert ended() is None
    assert driver.get_instance(stopped).state is InstanceState.RUNNING
    assert not driver.in_maintenance()
    # nothing of it stays: the host starts machines
    driver.power_off(stopped)
    driver.power_on(stopped)


def test_a_start_whose_client_has_died_is_waited_for(
    site: Site, stopped: UUID, other: ComputeDriver
) -> None:
    driver = site.driver
    with held(site, "Start-VM") as release, ThreadPoolExecutor(2) as pool:
        starting = pool.submit(driver.power_on, stopped)
        with release():
            site.service.kill_shells()
            assert isinstance(starting.exception(60), errors.HypervisorError)
            closing = pool.submit(other.enter_maintenance)
            _waits(site, "maintenance", closing)
        error = closing.exception(60)
    on = driver.get_instance(stopped).state is InstanceState.RUNNING
    # the host has started it after all, or has not
    assert isinstance(error, errors.InvalidState) if on else error is None
    assert driver.in_maintenance() is not on


@pytest.mark.parametrize("how", ["spawn", "power_on", "reboot", "unrescue", "rebuild"])
def test_what_begins_while_the_host_closes_starts_nothing(
    site: Site, image: FileImage, stopped: UUID, other: ComputeDriver, how: str
) -> None:
    """A long change of another instance keeps the host from being closed."""
    driver = site.driver
    on = driver.spawn(spec(image)).uuid if how in {"reboot", "unrescue", "rebuild"} else None
    if on is not None and how == "unrescue":
        driver.rescue(on, image)
    wanted = spec(image)
    doing: dict[str, Callable[[UUID], object]] = {
        "spawn": lambda uuid: driver.spawn(wanted),
        "power_on": driver.power_on,
        "reboot": lambda uuid: driver.reboot(uuid, RebootKind.SOFT),
        "unrescue": driver.unrescue,
        "rebuild": lambda uuid: driver.rebuild(uuid, image),
    }
    other.ping()
    with held(site, "Start-VM") as release, ThreadPoolExecutor(2) as pool:
        with site.host.world.lock:
            # the machine that is on does not count for the first look
            if on is not None:
                machine_of(site, on).set_state("Off")
        first = pool.submit(other.power_on, stopped)
        with release():
            looks = _looks(site)
            closing = pool.submit(other.enter_maintenance)
            wait_until(lambda: _looks(site) > looks, timeout=60, what="the first look")
            _waits(site, "maintenance", closing)
            if on is not None:
                with site.host.world.lock:
                    machine_of(site, on).set_state("Running")
            with pytest.raises(errors.InsufficientResources):
                doing[how](on or stopped if how != "power_on" else _second(site, image))
        assert isinstance(closing.exception(60), errors.InvalidState)
        assert first.exception(60) is None
    if on is not None:
        assert driver.get_instance(on).state in {InstanceState.RUNNING, InstanceState.RESCUED}
    for instance in driver.list_instances():
        if instance.uuid != stopped:
            driver.destroy(instance.uuid)


def _second(site: Site, image: FileImage) -> UUID:
    return site.driver.spawn(spec(image, start=False)).uuid


def test_a_host_that_does_not_go_down_takes_machines_again(site: Site, stopped: UUID) -> None:
    """Somebody has called the shutdown off, or the client has died before it said so."""
    driver = site.driver
    file = site.host.drive / "hv" / "index" / "down"
    file.write_bytes(b"")
    with pytest.raises(errors.InsufficientResources, match="about to go down"):
        driver.power_on(stopped)
    long_ago = file.stat().st_mtime - 301
    os.utime(file, (long_ago, long_ago))
    driver.power_on(stopped)
    assert not file.exists()
    with site.host.world.lock:
        turn_off(machine_of(site, stopped))
    site.host.state.administrator = False
    try:
        with pytest.raises(errors.PermissionDenied):
            driver.host_power(HostPowerAction.REBOOT)
    finally:
        site.host.state.administrator = True
    assert not file.exists()
    driver.power_on(stopped)
