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
