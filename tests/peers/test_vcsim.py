"""The simulator that the tests of the vSphere driver run against."""

from __future__ import annotations

import pytest
from pyVmomi import vim

from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.raw_server import RawServer
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


@pytest.mark.parametrize("mode", ["vpx", "esx"])
def test_a_path_on_no_datastore_ends_no_server(mode: str) -> None:
    """What is played looks for files in tasks. A panic there would end the process."""
    with started(lambda: VcsimPeer(mode)) as peer:
        server = RawServer(VmwareConfig(**peer.options))
        folder = server.of(server.datacenter[0], "vmFolder")["vmFolder"]
        ((pool, _), *_) = server.read(vim.ResourcePool, "name")
        config = vim.vm.ConfigSpec(
            name="lost",
            guestId="otherGuest",
            numCPUs=1,
            memoryMB=64,
            files=vim.vm.FileInfo(vmPathName="[LocalDS_0]"),
        )
        machine = server.wait(folder.CreateVM_Task(config, pool))
        server.wait(machine.PowerOnVM_Task(None))
        for path in ("[nowhere] lost/lost.vmx", "no path"):
            files = vim.vm.FileInfo(vmPathName=path)
            server.wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(files=files)))
            with pytest.raises(vim.fault.FileFault):
                server.wait(machine.CreateScreenshot_Task())
            peer.require_alive()
        server.drop()
