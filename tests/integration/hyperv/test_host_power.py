"""A host that is rebooted or shut down."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.wsman_shell import NoEngine
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.image import FileImage
from hvdrivers.models.state import InstanceState
from tests.integration.hyperv.site import Site, spec
from tests.peers.precondition import missing
from tests.peers.waiting import wait_until

REBOOT, SHUTDOWN = HostPowerAction.REBOOT, HostPowerAction.SHUTDOWN


@pytest.fixture
def own() -> Iterator[Site]:
    """A host of this test's own: it goes down."""
    try:
        made = Site("HVDOWN")
    except NoEngine as error:
        missing(str(error))
    yield made
    made.host.power_up()
    made.close()


def _answers(site: Site) -> bool:
    try:
        site.driver.ping()
    except (errors.ConnectionFailed, errors.AuthenticationFailed):
        return False
    return True


def test_goes_down_and_comes_up(own: Site, image: FileImage) -> None:
    driver, started = own.driver, own.host.state.booted
    uuid = driver.spawn(spec(image)).uuid
    for action in HostPowerAction:
        with pytest.raises(errors.InvalidState):
            driver.host_power(action)
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    driver.power_off(uuid)
    own.host.state.administrator = False
    with pytest.raises(errors.PermissionDenied):
        driver.host_power(REBOOT)
    own.host.state.administrator = True
    with own.inner.session.seam.counting() as calls:
        driver.host_power(REBOOT)
    assert calls == ["hyperv.HostPower"]
    wait_until(lambda: own.host.state.booted > started, timeout=120, what="it has gone down")
    wait_until(lambda: own.host.up and _answers(own), timeout=120, what="it is up again")
    assert driver.get_instance(uuid).state is InstanceState.STOPPED
    driver.host_power(SHUTDOWN)
    wait_until(lambda: not own.host.up, timeout=120, what="it goes down")
    assert not _answers(own)
    own.host.power_up()
    wait_until(lambda: _answers(own), timeout=120, what="somebody has started it")
    driver.power_on(uuid)
    driver.destroy(uuid)


def test_a_clock_that_is_behind_after_the_start_holds_nothing_back(
    own: Site, image: FileImage
) -> None:
    """What says that the host goes down is younger than its start, by the host's clock."""
    uuid = own.driver.spawn(spec(image, start=False)).uuid
    started = own.host.state.booted
    own.driver.host_power(SHUTDOWN)
    wait_until(lambda: own.host.state.booted > started, timeout=120, what="it has gone down")
    with own.host.world.lock:
        own.host.state.booted -= timedelta(hours=1)
    own.host.power_up()
    wait_until(lambda: _answers(own), timeout=120, what="somebody has started it")
    own.driver.power_on(uuid)
    assert not (own.host.drive / "hv" / "index" / "down").exists()
    own.driver.destroy(uuid)


def test_a_shutdown_that_fails_does_not_end_the_one_of_another_client(
    own: Site, image: FileImage
) -> None:
    uuid = own.driver.spawn(spec(image, start=False)).uuid
    own.host.state.timing.going_down = 20.0
    with guarded(HypervDriver.connect(own.config)) as other:
        own.driver.host_power(REBOOT)
        own.host.state.administrator = False
        with pytest.raises(errors.PermissionDenied):
            other.host_power(REBOOT)
        own.host.state.administrator = True
        with pytest.raises(errors.InsufficientResources):
            other.power_on(uuid)
