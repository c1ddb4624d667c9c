"""A thousand machines: the number of calls does not know of them, but for the pages."""

from __future__ import annotations

from collections import Counter

from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import connected
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer


def test_a_thousand_machines_are_one_call_and_more_are_pages() -> None:
    with started(lambda: VcsimPeer("vpx", machines=1100)) as peer:
        driver = connected(peer)
        for read in (driver.list_foreign, driver.get_metrics, driver.list_instances):
            with driver.session.seam.counting() as calls:
                found = read()
            # a page holds 1,000 objects, and the resource pool is one of them
            pages = {"RetrievePropertiesEx": 1, "ContinueRetrievePropertiesEx": 1}
            assert Counter(calls) == pages, read
            assert read != driver.list_foreign or len(found) == 1100
        with driver.session.seam.counting() as calls:
            resources = driver.get_available_resource()
        assert set(calls) <= {"RetrievePropertiesEx", "ContinueRetrievePropertiesEx"}
        assert len(calls) <= 3
        assert resources.instances == 0
        _closed(driver, peer)


def _closed(driver: VmwareDriver, peer: VcsimPeer) -> None:
    """Nothing of this session is left on the server."""
    driver.close()
    left = peer.ask("/objects")
    assert {kind: left[kind] for kind in ("ContainerView", "PropertyFilter")} == {
        "ContainerView": 0,
        "PropertyFilter": 0,
    }
