"""Machines that are on their way down, for a moment or for minutes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.hyperv.simulator.faults import Rule
from hvdrivers.hyperv.simulator.guests.played import PlayedGuest
from hvdrivers.hyperv.simulator.state.machine import Machine
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


@dataclass
class _OffAtTheThirdLook(Rule):
    machine: Machine | None = None

    def meets(self, cmdlet: str) -> bool:
        if super().meets(cmdlet) and self.seen == 3 and self.machine is not None:
            self.machine.set_state("Off")
        return False


@pytest.mark.parametrize(
    "look",
    [
        lambda site, uuid: site.driver.get_instance(uuid).state,
        lambda site, uuid: next(
            each.state for each in site.driver.list_instances() if each.uuid == uuid
        ),
    ],
    ids=["get", "list"],
)
def test_a_paused_machine_that_is_switched_off_is_never_running(
    site: Site, image: FileImage, look: Callable[[Site, UUID], InstanceState]
) -> None:
    """It is "Stopping" for a moment, as a guest is that shuts down."""
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    driver.pause(uuid)
    machine = machine_of(site, uuid)
    rules = site.host.state.faults
    with site.host.world.lock:
        machine.set_state("Stopping")
        rules.add(_OffAtTheThirdLook("Get-VM", machine=machine))
    try:
        assert look(site, uuid) is InstanceState.STOPPED
    finally:
        rules.clear()
    driver.destroy(uuid)
    assert site.left() == []
