"""The session: what is sent again and what is not, trust, and reads that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.driverkit import cut_after, cut_before
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.conformance.seam import end_sessions
from hvdrivers.vmware.driver import VmwareDriver
from hvdrivers.vmware.session import LazyRead
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.peers.vcsim import VcsimPeer


@pytest.fixture
def expire(driver: VmwareDriver) -> Iterator[Callable[[], None]]:
    server = RawServer(driver.config)
    yield lambda: end_sessions(server)
    server.drop()


def test_a_property_of_an_object_is_not_read_by_itself(driver: VmwareDriver) -> None:
    with driver.session.seam.counting() as calls, pytest.raises(LazyRead, match="reader"):
        _ = driver.session.content.rootFolder.name
    assert calls == []


def test_a_read_in_a_session_that_has_ended(driver: VmwareDriver, expire: Any) -> None:
    """The server answers such a read without a fault: the end hides in missingSet."""
    expire()
    assert driver.list_instances() == []


def test_a_change_in_a_session_that_has_ended(
    driver: VmwareDriver, expire: Any, spec: SpecFactory
) -> None:
    info = driver.spawn(spec())
    expire()
    driver.power_on(info.uuid)
    assert driver.get_instance(info.uuid).state == "running"
    driver.destroy(info.uuid)


def test_threads_that_find_the_session_ended_log_in_once(
    driver: VmwareDriver, expire: Any, peer: VcsimPeer
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    driver.list_instances()
    for _ in range(3):
        expire()
        peer.ask("/calls", "DELETE")
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda _: driver.list_instances(), range(16))) == [[]] * 16
        assert peer.ask("/calls")["Login"] == 1


def test_what_was_never_sent_is_sent_again(driver: VmwareDriver, peer: VcsimPeer) -> None:
    with driver.session.seam.cut(cut_before) as cut:
        driver.ping()
    assert cut.struck


def test_a_change_whose_reply_was_lost_is_not_sent_again(
    driver: VmwareDriver, peer: VcsimPeer, spec: SpecFactory
) -> None:
    info = driver.spawn(spec())
    peer.ask("/calls", "DELETE")
    with (
        driver.session.seam.cut(cut_after, name="PowerOnVM_Task") as cut,
        pytest.raises(errors.OutcomeUnknown) as caught,
    ):
        driver.power_on(info.uuid)
    assert cut.struck
    assert caught.value.retryable
    assert peer.ask("/calls")["PowerOnVM_Task"] == 1
    # the driver has waited for the task whose start was not answered
    assert driver.get_instance(info.uuid).state == "running"
    driver.power_on(info.uuid)
    driver.destroy(info.uuid)


def test_a_connection_that_the_server_has_closed_is_no_lost_reply(driver: VmwareDriver) -> None:
    driver.ping()
    driver.session.transport.cut()
    driver.ping()


def test_wrong_password(peer: VcsimPeer) -> None:
    with pytest.raises(errors.AuthenticationFailed) as caught:
        connected(peer, password="wrong-word")
    assert caught.value.vendor_code == "InvalidLogin"
    assert "wrong-word" not in str(caught.value)


def test_another_certificate_than_the_pinned_one(peer: VcsimPeer) -> None:
    with pytest.raises(errors.ConnectionFailed, match=peer.thumbprint):
        connected(peer, thumbprint="00" * 32)


def test_a_certificate_that_nobody_signed(peer: VcsimPeer) -> None:
    with pytest.raises(errors.ConnectionFailed, match="not trusted") as caught:
        connected(peer, thumbprint=None)
    assert not caught.value.retryable


def test_an_authority_of_ones_own(peer: VcsimPeer, tmp_path: Any) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(peer.certificate)
    connected(peer, thumbprint=None, ca_file=str(file)).close()


def test_trust_in_anybody_is_said_in_so_many_words(peer: VcsimPeer) -> None:
    connected(peer, thumbprint=None, verify_tls=False).close()


def test_the_session_is_ended_by_close(peer: VcsimPeer) -> None:
    made = connected(peer)
    made.ping()
    server = RawServer(made.config)
    manager = server.content.sessionManager
    before = len(server.of(manager, "sessionList")["sessionList"])
    made.close()
    assert len(server.of(manager, "sessionList")["sessionList"]) == before - 1
    server.drop()


def test_a_datacenter_that_is_not_there(peer: VcsimPeer) -> None:
    with pytest.raises(errors.InvalidRequest, match="no datacenter 'nowhere'"):
        connected(peer, datacenter="nowhere")


def test_one_of_two_datastores_must_be_named(peer: VcsimPeer) -> None:
    with pytest.raises(errors.InvalidRequest, match="datastore="):
        connected(peer, datastore=None)


def test_a_fault_of_the_server_is_the_cause(driver: VmwareDriver, peer: VcsimPeer) -> None:
    with peer.fault("CurrentTime", "NoPermission"), pytest.raises(errors.PermissionDenied) as got:
        driver.ping()
    assert isinstance(got.value.__cause__, vim.fault.NoPermission)
