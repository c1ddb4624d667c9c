"""Two clients that bring a host, or a cluster, into maintenance at the same moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from hvdrivers.contract import errors
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import connected
from tests.peers.vcsim import VcsimPeer

_T = TypeVar("_T")
_ENTER = "EnterMaintenanceMode_Task"


@contextmanager
def outrun(
    driver: VmwareDriver, peer: VcsimPeer, other: VmwareDriver, *faults: str
) -> Iterator[None]:
    """Another client enters between the driver's look and its first request, and the server refuses
    each request so; further ones it takes."""
    left = list(faults)

    def layer(name: str, send: Callable[[], _T], /) -> _T:
        if name != _ENTER or not left:
            return send()
        if len(left) == len(faults):
            other.enter_maintenance()
        with peer.fault(_ENTER, left.pop(0)):
            return send()

    with driver.session.seam.through(layer):
        yield
    assert not left


@pytest.fixture
def other(peer: VcsimPeer) -> Iterator[VmwareDriver]:
    made = connected(peer)
    yield made
    made.exit_maintenance()
    made.close()


@pytest.mark.parametrize("refusal", ["InvalidState", "ConcurrentAccess"])
def test_both_succeed(
    driver: VmwareDriver, peer: VcsimPeer, other: VmwareDriver, refusal: str
) -> None:
    """A host that is in maintenance already refuses to enter it. A server says TaskInProgress too,
    which the simulator cannot; ConcurrentAccess is DeviceBusy as well."""
    hosts = 2 if peer.mode == "vpx" else 1
    with outrun(driver, peer, other, *[refusal] * hosts):
        driver.enter_maintenance()
    assert driver.in_maintenance()


def test_one_that_fails_leaves_the_hosts_of_the_other(
    driver: VmwareDriver, peer: VcsimPeer, other: VmwareDriver
) -> None:
    faults = ["InvalidState", "NoPermission"] if peer.mode == "vpx" else ["NoPermission"]
    with outrun(driver, peer, other, *faults), pytest.raises(errors.PermissionDenied):
        driver.enter_maintenance()
    assert driver.in_maintenance()


def test_one_that_fails_leaves_no_host_behind(driver: VmwareDriver, peer: VcsimPeer) -> None:
    with peer.fault(_ENTER, "InvalidState"), pytest.raises(errors.InvalidState):
        driver.enter_maintenance()
    assert not driver.in_maintenance()
