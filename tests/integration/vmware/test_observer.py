"""The suite's observer looks into the simulator's own folders; a server is asked for the same."""

from __future__ import annotations

from pyVmomi import vim

from hvdrivers.models.volume import VolumeSpec
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance import stored
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory
from tests.peers.vcsim import VcsimPeer


def test_a_folder_shows_what_a_search_shows(
    driver: VmwareDriver, peer: VcsimPeer, spec: SpecFactory
) -> None:
    made, name = spec(), "seen-twice"
    driver.spawn(made)
    driver.create_volume(VolumeSpec(name=name, size_bytes=1 << 20))
    server = RawServer(VmwareConfig(**peer.options))
    rows = server.read(vim.Datastore, *stored.WANTED)
    for _, values in rows:
        folder = stored.folder_of(values["summary.url"])
        assert folder is not None
        told = sorted(stored.by_search(server, values["name"], values["browser"]))
        assert sorted(stored.by_folder(folder)) == told
    found = set(stored.everything(server, rows))
    assert ("LocalDS_0", "hvdrivers/volumes", f"{name}.vmdk") in found
    assert any(f"{made.uuid}" in inside for _, inside, _ in found)
    driver.delete_volume(f"LocalDS_0/{name}")
    driver.destroy(made.uuid)
    server.drop()


def test_only_a_folder_of_this_machine_is_looked_into() -> None:
    assert stored.folder_of("ds:///vmfs/volumes/5f1c-ab/") is None
    assert stored.folder_of("/nonexistent/datastore") is None
    assert stored.folder_of("relative") is None
    assert stored.folder_of("file:///") is not None
