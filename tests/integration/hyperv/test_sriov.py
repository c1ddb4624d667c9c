"""NICs with a virtual function of the host's adapter (SR-IOV)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.simulator.cmdlets.network_views import adapter
from hvdrivers.hyperv.simulator.state.devices import NetworkAdapter
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.models.image import FileImage
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.vif import HypervVif
from tests.integration.hyperv.site import SWITCH, Site, spec

FAST = "fast \u2019 [1] *"


@pytest.fixture
def fast(site: Site) -> Iterator[Switch]:
    """A switch on an adapter with one virtual function."""
    made = Switch(FAST, kind="External", iov=True, functions=1)
    with site.host.world.lock:
        site.host.state.switches[made.id] = made
    yield made
    with site.host.world.lock:
        del site.host.state.switches[made.id]


@pytest.fixture(scope="module")
def second(site: Site) -> Iterator[Site]:
    made = Site("HV2", site)
    yield made
    made.close()


def nic(**changes: Any) -> HypervVif:
    fields = {"id": "fast", "switch": FAST, "sriov": True, **changes}
    return HypervVif.model_validate(fields)


def adapters(site: Site) -> list[NetworkAdapter]:
    return [each for m in site.host.state.machines.values() for each in m.config.adapters]


def uses(site: Site) -> list[int]:
    """Whether Hyper-V has given each adapter a function."""
    with site.host.world.lock:
        return [
            int(str(adapter(machine, each).properties["IovUsage"]))
            for machine in site.host.state.machines.values()
            for each in machine.config.adapters
        ]


@pytest.mark.parametrize("how", ["spawn", "plug"])
def test_a_nic_gets_a_function(site: Site, image: FileImage, fast: Switch, how: str) -> None:
    wanted = (nic(),)
    uuid = site.driver.spawn(spec(image, vifs=wanted if how == "spawn" else ())).uuid
    if how == "plug":
        before = site.service.faults.counts()["Send"]
        site.driver.plug_vif(uuid, wanted[0])
        assert site.service.faults.counts()["Send"] == before + 1  # the budget
    assert [each.iov_weight for each in adapters(site)] == [100]
    assert uses(site) == [1]
    # a second one goes through the switch: the only function is in use
    site.driver.plug_vif(uuid, nic(id="other"))
    assert uses(site) == [1, 0]
    site.driver.unplug_vif(uuid, "fast")
    assert uses(site) == [1]
    site.driver.destroy(uuid)
    assert site.left() == []


def test_a_nic_without_the_wish_gets_none(site: Site, image: FileImage, fast: Switch) -> None:
    uuid = site.driver.spawn(spec(image, vifs=(nic(sriov=False),))).uuid
    assert [each.iov_weight for each in adapters(site)] == [0]
    site.driver.destroy(uuid)


@pytest.mark.parametrize("why", ["the switch", "the host"])
def test_what_gives_none_is_refused(site: Site, image: FileImage, fast: Switch, why: str) -> None:
    """A NIC that would silently go through the switch is not what was asked for."""
    wanted = nic(switch=SWITCH) if why == "the switch" else nic()
    fast.functions = 0
    uuid = site.driver.spawn(spec(image, vifs=())).uuid
    with pytest.raises(errors.NotSupported) as caught:
        site.driver.plug_vif(uuid, wanted)
    assert "EnableIov" in (caught.value.hint or "")
    if why == "the host":
        assert "does not support SR-IOV" in caught.value.message
    assert adapters(site) == []
    site.driver.destroy(uuid)
    with pytest.raises(errors.NotSupported):
        site.driver.spawn(spec(image, vifs=(wanted,)))
    assert site.left() == []


def test_another_connection_with_a_function_and_without(
    site: Site, image: FileImage, fast: Switch
) -> None:
    usual = HypervVif(id="fast", switch=SWITCH)
    uuid = site.driver.spawn(spec(image, start=False, vifs=(usual,))).uuid
    with pytest.raises(errors.NotSupported):
        site.driver.reconnect(uuid, vifs=[nic(switch=SWITCH)])
    site.driver.reconnect(uuid, vifs=[nic()])
    assert [(each.switch, each.iov_weight) for each in adapters(site)] == [(fast.id, 100)]
    site.driver.reconnect(uuid, vifs=[usual])
    assert [each.iov_weight for each in adapters(site)] == [0]
    site.driver.destroy(uuid)


@pytest.mark.parametrize("how", ["running", "stopped"])
def test_a_destination_without_functions(
    site: Site, second: Site, image: FileImage, fast: Switch, how: str
) -> None:
    """Hyper-V would move it, and nobody would be told that its traffic goes through the switch."""
    usual = HypervVif(id="usual", switch=SWITCH)
    uuid = site.driver.spawn(spec(image, start=how == "running", vifs=(nic(), usual))).uuid
    shown = {each.id: each.sriov for each in site.driver.get_instance(uuid).vifs}
    assert shown == {"fast": True, "usual": False}
    there = Destination(host=f"127.0.0.1:{second.service.port}")
    move = site.driver.live_migrate if how == "running" else site.driver.cold_migrate
    slow = Switch(FAST, kind="External")
    with site.host.world.lock:
        second.host.state.switches[slow.id] = slow
    try:
        for iov, functions in ((False, 0), (True, 0)):
            slow.iov, slow.functions = iov, functions
            with pytest.raises(errors.InvalidRequest, match="no virtual function"):
                move(uuid, there)
            if how == "running":
                plan = site.driver.check_live_migration(uuid, there)
                found = [(each.kind, each.device) for each in plan.blockers]
                assert found == [(BlockerKind.NETWORK, "fast")]
        if how == "stopped":
            plain = there.model_copy(update={"vifs": (nic(sriov=False),)})
            site.driver.cold_migrate(uuid, plain)
            assert [each.sriov for each in second.driver.get_instance(uuid).vifs] == [False, False]
        else:
            slow.functions = 1
            move(uuid, there)
            assert [each.sriov for each in second.driver.get_instance(uuid).vifs] == [True, False]
        second.driver.destroy(uuid)
    finally:
        with site.host.world.lock:
            del second.host.state.switches[slow.id]
    assert site.left() == second.left() == []
