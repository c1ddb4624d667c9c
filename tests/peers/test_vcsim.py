"""The simulator that the tests of the vSphere driver run against."""

from __future__ import annotations

import pytest

from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimDied, VcsimPeer


@pytest.mark.parametrize("mode", ["vpx", "esx"])
def test_a_dead_simulator_is_noticed_and_started_again(mode: str) -> None:
    with started(lambda: VcsimPeer(mode)) as peer:
        url = peer.url
        peer.require_alive()
        peer.kill()
        assert not peer.alive
        with pytest.raises(VcsimDied):
            peer.require_alive()
        assert peer.alive
        assert peer.url == url
        assert peer.ask("/objects")["VirtualMachine"] == 0


def test_it_ends_with_its_test() -> None:
    with started(VcsimPeer) as peer:
        process = peer._process
    assert process is not None
    assert process.poll() is not None


def test_a_fault_that_does_not_exist_is_refused() -> None:
    from urllib.error import HTTPError

    with started(VcsimPeer) as peer, pytest.raises(HTTPError), peer.fault("X", "NoSuchFault"):
        pass
