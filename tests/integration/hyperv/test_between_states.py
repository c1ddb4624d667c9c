"""A guest that is asked to shut down, and goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.hyperv.simulator.guests.played import PlayedGuest
from hvdrivers.models.image import FileImage
from hvdrivers.models.state import InstanceState
from tests.integration.hyperv.site import Site, spec
from tests.integration.hyperv.test_by_hand import machine_of


def test_a_shutdown_that_somebody_calls_off_in_the_guest(site: Site, image: FileImage) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    machine = machine_of(site, uuid)
    with site.host.world.lock:
        assert isinstance(machine.guest, PlayedGuest)
        machine.guest.behaviour = replace(machine.guest.behaviour, obeys_shutdown=False)
    with pytest.raises(errors.DeviceBusy) as first:
        driver.reboot(uuid, RebootKind.SOFT, timeout=3)
    assert machine.state == "Stopping"
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    with pytest.raises(errors.DeviceBusy) as second:
        driver.pause(uuid)
    with pytest.raises(errors.DeviceBusy) as third:
        driver.create_snapshot(uuid, "s")
    for each in (first, second, third):
        assert each.value.retryable
        assert "power_off()" in (each.value.hint or "")
    driver.power_off(uuid)
    driver.create_snapshot(uuid, "s")
    driver.destroy(uuid)
    assert site.left() == []
