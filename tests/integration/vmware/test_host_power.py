"""An ESXi host that is rebooted or shut down, and a vCenter, which is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.driverkit import cut_after, cut_before
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory, answers, connected
from tests.integration.vmware.test_budgets import READ, calls
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer
from tests.peers.waiting import wait_until

REBOOT, SHUTDOWN = HostPowerAction.REBOOT, HostPowerAction.SHUTDOWN


@pytest.fixture
def host() -> Iterator[VcsimPeer]:
    """An ESXi host of this test's own: it goes down."""
    with started(lambda: VcsimPeer("esx")) as peer:
        yield peer


@pytest.fixture
def esxi(host: VcsimPeer) -> Iterator[VmwareDriver]:
    made = connected(host)
    yield made
    host.ask("/up", "POST")
    made.close()


def test_cut_request_is_told_truthfully(
    host: VcsimPeer, esxi: VmwareDriver, spec: SpecFactory
) -> None:
    uuid = esxi.spawn(spec()).uuid
    with (
        esxi.session.seam.cut(cut_before, name="RebootHost_Task", repeats=3),
        pytest.raises(errors.ConnectionFailed),
    ):
        esxi.host_power(REBOOT)
    assert esxi.get_instance(uuid).state is InstanceState.STOPPED
    with (
        esxi.session.seam.cut(cut_after, name="ShutdownHost_Task", repeats=3),
        pytest.raises(errors.OutcomeUnknown),
    ):
        esxi.host_power(SHUTDOWN)
    wait_until(lambda: not answers(esxi), timeout=60, what="it goes down all the same")
    host.ask("/up", "POST")
    wait_until(lambda: answers(esxi), timeout=60, what="it is up again")
    assert esxi.get_instance(uuid).state is InstanceState.STOPPED


def test_host_that_refuses_and_machines_of_others(
    host: VcsimPeer, esxi: VmwareDriver, spec: SpecFactory
) -> None:
    with host.fault("RebootHost_Task", "NoPermission"), pytest.raises(errors.PermissionDenied):
        esxi.host_power(REBOOT)
    other = connected(host)
    uuid = other.spawn(spec(start=True)).uuid
    for action in HostPowerAction:
        with pytest.raises(errors.InvalidState):
            esxi.host_power(action)
    assert other.get_instance(uuid).state is InstanceState.RUNNING
    other.power_off(uuid)
    asked = calls(esxi, lambda: esxi.host_power(SHUTDOWN))
    assert asked["ShutdownHost_Task"] == 1
    assert asked[READ] <= 4
    wait_until(lambda: not answers(esxi), timeout=60, what="it goes down")
    other.close()


def test_vcenter_is_no_host(peer: VcsimPeer, guarded_driver: ComputeDriver) -> None:
    if peer.mode == "esx":
        assert Capability.HOST_POWER in guarded_driver.capabilities
        return
    with pytest.raises(errors.NotSupported, match="is no host"):
        guarded_driver.host_power(REBOOT)
