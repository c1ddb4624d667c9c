"""What the conformance suite says of machines that move, between two hosts with real guests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.runner import Session, selected
from tests.integration.libvirt.conformance_run import (
    moves,
    other_hosts,
    passes,
    running,
)
from tests.integration.part_of_suite import ends_well, part
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import LibvirtPeer

CHECKS = part([each for each in selected() if moves(each)], every=0)


@pytest.fixture(scope="module")
def between(
    libvirt_peer: LibvirtPeer,
    linux_bridge: LinuxBridge,
    agent_image: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Session]:
    """A run on the shared host, with others to move to."""
    folder = tmp_path_factory.mktemp("migration")
    with (
        other_hosts(linux_bridge.name) as others,
        running(libvirt_peer, agent_image, folder, bridge=linux_bridge.name, **others) as made,
    ):
        yield made


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_check(between: Session, check: Check) -> None:
    passes(between, check)


@pytest.mark.each_time
def test_verdict(between: Session) -> None:
    """Runs last."""
    ends_well(between)
