"""Machines whose NICs are plugged into other networks at the host they move to."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from hvdrivers.models.image import FileImage
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, HypervVif, VifQos
from tests.integration.hyperv.site import SWITCH, Site, held, spec
from tests.integration.hyperv.test_reconnect import OTHER, dies, intents, shape, switch

HERE = "only here '; $(exit) [1] *"


@pytest.fixture(scope="module")
def second(site: Site) -> Iterator[Site]:
    made = Site("HV2", site)
    with switch(made, OTHER), switch(site, HERE):
        yield made
    made.close()


def there(second: Site, *vifs: HypervVif) -> Destination:
    return Destination(host=f"127.0.0.1:{second.service.port}", vifs=vifs)


class Machine:
    """A stopped machine with a NIC on a switch that only its host has, and one on a common one."""

    def __init__(self, site: Site, second: Site, image: FileImage) -> None:
        self.site, self.second = site, second
        limit = VifQos(outbound=Bandwidth(average=8))
        self.nic = HypervVif(id="nic '1", switch=HERE, vlan=7, qos=limit)
        vifs = (self.nic, HypervVif(id="Keys", switch=SWITCH))
        self.uuid = site.driver.spawn(spec(image, start=False, vifs=vifs)).uuid
        self.info = site.driver.get_instance(self.uuid)
        self.before = shape(site, self.uuid)
        other = HypervVif(id=self.nic.id, switch=OTHER, vlan=9)
        self.destination = there(second, other)

    def move(self) -> None:
        self.site.driver.cold_migrate(self.uuid, self.destination)

    def expect_here(self) -> None:
        assert self.site.driver.get_instance(self.uuid) == self.info
        assert shape(self.site, self.uuid) == self.before
        assert self.second.left() == intents(self.site) == []

    def expect_there(self) -> None:
        shown = self.second.driver.get_instance(self.uuid)
        assert [(each.id, each.address) for each in shown.vifs] == [
            (each.id, each.address) for each in self.info.vifs
        ]
        nic, other = shape(self.second, self.uuid)[1]
        was = self.before[1][0]
        assert nic == (*was[:3], OTHER, "Access", 9, *was[6:])
        assert other == self.before[1][1]
        assert self.site.left() == intents(self.second) == []


@pytest.fixture
def machine(site: Site, second: Site, image: FileImage) -> Iterator[Machine]:
    made = Machine(site, second, image)
    yield made
    for each in (site, second):
        each.driver.destroy(made.uuid)
        assert each.left() == []


def test_it_has_them_there_and_how_many_calls_it_takes(site: Site, machine: Machine) -> None:
    with site.inner.session.seam.counting() as calls:
        machine.move()
    assert calls == ["hyperv.MoveLook", "hyperv.MoveCompare", "hyperv.Move"]
    machine.expect_there()
    machine.second.driver.power_on(machine.uuid)


def test_what_it_cannot_have_there_blocks_it(
    site: Site, second: Site, image: FileImage, machine: Machine
) -> None:
    driver, uuid, nic = site.driver, machine.uuid, machine.nic
    wrong = {
        f"virtual switch {HERE}": there(second),
        "no such NIC": there(
            second, HypervVif(id="other", switch=OTHER), *machine.destination.vifs
        ),
        "virtual switch nowhere": there(second, HypervVif(id=nic.id, switch="nowhere")),
    }
    for reason, destination in wrong.items():
        with pytest.raises(errors.InvalidRequest) as refused:
            driver.cold_migrate(uuid, destination)
        assert reason in str(refused.value)
        machine.expect_here()
    with switch(site, "passing"):
        driver.reconnect(uuid, vifs=(nic.model_copy(update={"switch": "passing"}),))
        for each in (each for each in site.host.state.machines.values()):
            each.config.adapters[0].switch = None
    with pytest.raises(errors.InvalidRequest, match="is gone") as refused:
        driver.cold_migrate(uuid, there(second))
    assert "Destination.vifs" in (refused.value.hint or "")
    machine.move()
    machine.expect_there()


def test_a_machine_that_runs_keeps_its_networks(site: Site, second: Site, machine: Machine) -> None:
    site.driver.power_on(machine.uuid)
    for operation in (site.driver.check_live_migration, site.driver.live_migrate):
        with pytest.raises(errors.NotSupported) as refused:
            operation(machine.uuid, machine.destination)
        assert "cold_migrate" in (refused.value.hint or "")
    plan = site.driver.check_live_migration(machine.uuid, there(second))
    assert [(each.kind, each.device) for each in plan.blockers] == [
        (BlockerKind.NETWORK, machine.nic.id)
    ]
    assert site.driver.get_instance(machine.uuid).state is InstanceState.RUNNING


@pytest.mark.parametrize("cmdlet", ["Move-VM", "Disconnect-VMNetworkAdapter"])
def test_a_move_that_fails_leaves_its_networks(site: Site, machine: Machine, cmdlet: str) -> None:
    site.host.state.faults.fail(cmdlet, calls=1)
    try:
        with pytest.raises(errors.HypervisorFault):
            machine.move()
    finally:
        site.host.state.faults.clear()
    machine.expect_here()


def test_a_shell_that_dies_before_the_host_moves_it(site: Site, machine: Machine) -> None:
    dies(site, machine.move, "Disconnect-VMNetworkAdapter")
    machine.expect_here()
    machine.move()
    machine.expect_there()


def test_a_shell_that_dies_while_the_host_moves_it(site: Site, machine: Machine) -> None:
    timing, state = site.host.state.timing, site.host.state
    usual, timing.migration, before = timing.migration, 1.0, len(state.migrations)
    try:
        with ThreadPoolExecutor(1) as pool:
            moving = pool.submit(machine.move)
            with site.host.world.lock:
                assert state.wait_for(lambda: len(state.migrations) > before, 120)
            site.service.kill_shells()
            moving.result()
    finally:
        timing.migration = usual
    machine.expect_there()


def test_a_look_does_not_wait_for_its_end(site: Site, machine: Machine) -> None:
    with held(site, "Move-VM") as release, ThreadPoolExecutor(1) as pool:
        moving = pool.submit(machine.move)
        with release():
            assert site.driver.get_instance(machine.uuid).name == machine.info.name
        moving.result()
    machine.expect_there()


def test_a_client_that_dies_when_it_is_there(site: Site, second: Site, machine: Machine) -> None:
    cut = FaultRule(Strike.CUT_BEFORE, action="Send", contains=b" MoveSettle ", nth=None)
    with second.service.faults.add(cut), pytest.raises(errors.OutcomeUnknown):
        machine.move()
    assert intents(second) == [f"{machine.uuid}.reconnect"]
    second.driver.power_on(machine.uuid)
    second.driver.power_off(machine.uuid)
    machine.expect_there()
