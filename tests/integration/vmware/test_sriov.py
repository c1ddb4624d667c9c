"""NICs with a virtual function of the host's adapter (SR-IOV), of a single host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.vif import Bandwidth, DvsVif, NetworkVif, NicModel, VifQos
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.integration.vmware.test_budgets import READ, calls
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer

ADAPTER = "0000:3b:00.0"
NETWORK = "VM Network"
Card = vim.vm.device.VirtualSriovEthernetCard


@pytest.fixture(scope="module", params=["esx", "vpx"])
def own_peer(request: pytest.FixtureRequest) -> Iterator[VcsimPeer]:
    """An ESXi host, and a vCenter with a host that is in no cluster."""
    flags = {"standalone": 1} if request.param == "vpx" else {}
    with started(lambda: VcsimPeer(request.param, **flags)) as peer:
        yield peer


@pytest.fixture
def peer(own_peer: VcsimPeer) -> Iterator[VcsimPeer]:
    yield own_peer
    own_peer.require_alive()


@pytest.fixture
def driver(peer: VcsimPeer) -> Iterator[VmwareDriver]:
    made = connected(peer, **({"compute": "DC0_H0"} if peer.mode == "vpx" else {}))
    yield made
    for each in made.list_instances():
        made.destroy(each.uuid)
    made.close()


def nic(name: str = "fast", **changes: Any) -> NetworkVif:
    return NetworkVif.model_validate({"id": name, "network": NETWORK, "sriov": True, **changes})


def config_of(driver: VmwareDriver, uuid: UUID) -> Any:
    obj = driver.machines.get(uuid).obj
    return driver.reader.one(obj, "config")["config"]


def cards(driver: VmwareDriver, uuid: UUID) -> list[Any]:
    hardware = config_of(driver, uuid).hardware.device
    return [each for each in hardware if isinstance(each, vim.vm.device.VirtualEthernetCard)]


def test_a_machine_with_a_function(driver: VmwareDriver, spec: SpecFactory) -> None:
    info = driver.spawn(spec(vifs=(nic(), NetworkVif(id="usual", network=NETWORK)), start=True))
    assert [(v.id, v.sriov, v.model) for v in info.vifs] == [
        ("fast", True, None),
        ("usual", False, NicModel.VMXNET3),
    ]
    assert driver.get_instance(info.uuid).vifs == info.vifs
    fast, usual = cards(driver, info.uuid)
    assert isinstance(fast, Card)
    assert not isinstance(usual, Card)
    physical = fast.sriovBacking.physicalFunctionBacking
    assert (physical.id, physical.deviceId) == (ADAPTER, "5490")
    assert physical.systemId
    assert fast.backing.deviceName == NETWORK
    config = config_of(driver, info.uuid)
    assert config.memoryReservationLockedToMax is True
    assert config.memoryAllocation.reservation == 64


def test_functions_run_out(driver: VmwareDriver, spec: SpecFactory) -> None:
    """The adapter has two."""
    first = driver.spawn(spec(vifs=(nic("a"), nic("b")), start=True)).uuid
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec(vifs=(nic("c"),), start=True))
    assert [each.uuid for each in driver.list_instances()] == [first]
    stopped = driver.spawn(spec(vifs=(nic("c"),))).uuid
    with pytest.raises(errors.InsufficientResources):
        driver.power_on(stopped)  # says the server
    driver.power_off(first)
    driver.power_on(stopped)


def test_a_stopped_machine_gets_one_and_a_running_one_does_not(
    driver: VmwareDriver, spec: SpecFactory
) -> None:
    uuid = driver.spawn(spec()).uuid
    usual = calls(driver, lambda: driver.plug_vif(uuid, nic("usual", sriov=False)))
    more = calls(driver, lambda: driver.plug_vif(uuid, nic()))
    assert more - usual == {READ: 2, "QueryConfigTarget": 1}  # the budget
    assert {each.id: each.sriov for each in driver.get_instance(uuid).vifs} == {
        "usual": False,
        "fast": True,
    }
    assert config_of(driver, uuid).memoryReservationLockedToMax is True
    driver.power_on(uuid)
    for change in (
        lambda: driver.plug_vif(uuid, nic("other")),
        lambda: driver.plug_vif(uuid, nic("other", sriov=False)),
        lambda: driver.unplug_vif(uuid, "fast"),
        lambda: driver.suspend(uuid),
        lambda: driver.create_snapshot(uuid, "a"),
        lambda: driver.set_vif_qos(uuid, "fast", VifQos(outbound=Bandwidth(average=8000))),
    ):
        with pytest.raises(errors.NotSupported):
            change()
    assert [each.id for each in driver.get_instance(uuid).vifs] == ["usual", "fast"]
    driver.power_off(uuid)
    driver.unplug_vif(uuid, "fast")
    assert [each.id for each in driver.get_instance(uuid).vifs] == ["usual"]
    point = driver.create_snapshot(uuid, "a").id
    driver.plug_vif(uuid, nic())
    with pytest.raises(errors.NotSupported):
        driver.revert_snapshot(uuid, point)
    assert [each.id for each in driver.get_instance(uuid).vifs] == ["usual", "fast"]

    plain = driver.spawn(spec(start=True)).uuid
    with pytest.raises(errors.NotSupported, match="stopped"):
        driver.plug_vif(plain, nic("other"))
    assert driver.get_instance(plain).vifs == ()


def test_what_such_a_nic_has_not(driver: VmwareDriver, spec: SpecFactory) -> None:
    limits = VifQos(outbound=Bandwidth(average=8000))
    grows = Flavor(vcpus=1, memory_mib=64, max_vcpus=2)
    for wanted in (
        {"vifs": (nic(model=NicModel.E1000),)},
        {"vifs": (nic(qos=limits),)},
        {"vifs": (nic(),), "flavor": grows},
    ):
        with pytest.raises(errors.NotSupported):
            driver.spawn(spec(**wanted))
    assert driver.list_instances() == []
    uuid = driver.spawn(spec(flavor=grows)).uuid
    with pytest.raises(errors.NotSupported):
        driver.plug_vif(uuid, nic())
    uuid = driver.spawn(spec(vifs=(nic(),))).uuid
    with pytest.raises(errors.NotSupported):
        driver.resize(uuid, grows)


def test_another_connection_with_a_function_and_without(
    driver: VmwareDriver, spec: SpecFactory
) -> None:
    uuid = driver.spawn(spec(vifs=(nic(sriov=False), nic("other")))).uuid
    before = [each.address for each in driver.get_instance(uuid).vifs]
    driver.reconnect(uuid, vifs=[nic(), nic("other", sriov=False)])
    after = driver.get_instance(uuid).vifs
    assert [(each.id, each.sriov) for each in after] == [("fast", True), ("other", False)]
    assert [each.address for each in after] == before
    driver.reconnect(uuid, vifs=[nic()])
    assert [each.sriov for each in driver.get_instance(uuid).vifs] == [True, False]


def test_a_host_without_functions(
    driver: VmwareDriver, spec: SpecFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hvdrivers.vmware.functions._adapters", lambda *_: [])
    with pytest.raises(errors.NotSupported) as caught:
        driver.spawn(spec(vifs=(nic(),)))
    assert "enable SR-IOV" in (caught.value.hint or "")
    assert driver.list_instances() == []


@pytest.mark.parametrize("own_peer", ["vpx"], indirect=True)
def test_a_cluster_of_several_hosts(peer: VcsimPeer, spec: SpecFactory) -> None:
    cluster = connected(peer)
    try:
        for vif in (nic(), DvsVif(id="fast", port_group="DC0_DVPG0", sriov=True)):
            with pytest.raises(errors.NotSupported, match="cluster"):
                cluster.spawn(spec(vifs=(vif,)))
        assert cluster.list_instances() == []
    finally:
        cluster.close()


@pytest.mark.parametrize("own_peer", ["vpx"], indirect=True)
def test_it_stays_on_its_host(driver: VmwareDriver, peer: VcsimPeer, spec: SpecFactory) -> None:
    there = Destination(host="DC0_C0")
    running = driver.spawn(spec(vifs=(nic(),), start=True)).uuid
    with pytest.raises(errors.NotSupported):
        driver.migrate_storage(running, "LocalDS_1")
    plan = driver.check_live_migration(running, there)
    assert [(each.kind, each.device) for each in plan.blockers] == [(BlockerKind.DEVICE, "fast")]
    with pytest.raises(errors.InvalidRequest):
        driver.live_migrate(running, there)
    driver.power_off(running)
    with pytest.raises(errors.InvalidRequest):
        driver.cold_migrate(running, there)
    again = there.model_copy(update={"vifs": (nic(),)})
    with pytest.raises(errors.NotSupported):
        driver.cold_migrate(running, again)
    plain = there.model_copy(update={"vifs": (nic(sriov=False),)})
    driver.cold_migrate(running, plain)
    other = connected(peer, compute="DC0_C0")
    try:
        assert [each.sriov for each in other.get_instance(running).vifs] == [False]
        other.destroy(running)
    finally:
        other.close()
