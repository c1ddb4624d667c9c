"""What the conformance suite says of pools that are full, on a host whose files are on a small file
system of their own: the pools, and saved memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.report import GOOD, Status
from hvdrivers.conformance.engine.runner import Session, selected
from tests.integration.libvirt.conformance_run import FULL, NEVER_FULL, running
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.openvswitch import OvsBridge

SIZE = 400 << 20
"""Bytes: room for the test guest's memory and images."""
CHECKS = [each for each in selected() if each.id in FULL]


def test_every_one_is_there() -> None:
    assert {each.id for each in CHECKS} == FULL.keys()


@pytest.fixture(scope="module")
def small_host(
    ovs_bridge: OvsBridge, agent_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    """A run on a host of its own."""
    with LibvirtPeer() as peer, peer.small("/var/lib/libvirt", SIZE):
        peer.inside("mkdir", peer.images)
        with peer.small(peer.images, SIZE):  # another pool
            peer.restart()  # libvirt makes its own folders when it starts
            folder = tmp_path_factory.mktemp("full")
            options = {"ovs_bridge": ovs_bridge.name, "fill": "yes"}
            with running(peer, agent_image, folder, **options) as made:
                yield made


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_check(small_host: Session, check: Check) -> None:
    result = small_host.run_check(check)
    if check.id in NEVER_FULL:
        assert result.status is Status.PRECONDITION_MISSING, result.message
    else:
        assert result.status in GOOD, f"{result.status}: {result.message}\n{result.detail}"
