"""A vCenter service that restarts in the middle of an operation: its machines and files stay, every
session ends, a request may or may not have taken effect, and for a while nothing answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.driverkit.seam import NotSent, ReplyLost
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from hvdrivers.vmware.conformance.observer import VmwareObserver
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.conformance.seam import end_sessions
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory
from tests.peers.vcsim import VcsimPeer

_REFUSED = 12
"""Requests that find nobody, while the service starts."""
_SENDINGS = 3
"""How often one request is sent before an operation gives it up."""


@pytest.fixture
def raw(driver: VmwareDriver) -> Iterator[RawServer]:
    made = RawServer(driver.config)
    yield made
    made.drop()


class Restart:
    """The layer of the seam that plays it, once."""

    def __init__(self, driver: VmwareDriver, raw: RawServer, call: str, *, sent: bool) -> None:
        self._driver, self._raw, self._call, self._sent = driver, raw, call, sent
        self.struck = False
        self._refused = 0

    def __call__(self, name: str, send: Callable[[], Any]) -> Any:
        if name == self._call and not self.struck:
            self.struck = True
            if self._sent:
                with suppress(Exception):  # its reply is lost, whatever it was
                    send()
            end_sessions(self._raw)
            self._driver.session.transport.cut()
            self._refused = _REFUSED
            raise (ReplyLost if self._sent else NotSent)("the service restarts")
        if self._refused:
            self._refused -= 1
            raise NotSent("the service does not answer yet")
        return send()


@pytest.mark.parametrize("sent", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("attach", "ReconfigVM_Task"),
        ("snapshot", "CreateSnapshot_Task"),
        ("revert", "RevertToSnapshot_Task"),
        ("storage", "RelocateVM_Task"),
        ("rescue", "ReconfigVM_Task"),
        ("destroy", "Destroy_Task"),
    ],
)
def test_operation_comes_to_its_end_when_it_is_repeated(
    peer: VcsimPeer,
    driver: VmwareDriver,
    raw: RawServer,
    spec: SpecFactory,
    operation: str,
    call: str,
    sent: bool,
) -> None:
    if operation == "storage" and peer.mode == "esx":
        assert Capability.STORAGE_MIGRATION in driver.narrowed()
        return
    observer = VmwareObserver(raw, driver.config.directory, driver.config.compute)
    wanted = spec()
    driver.destroy(driver.spawn(wanted).uuid)
    clean = observer.residue()
    uuid = driver.spawn(wanted).uuid
    volume = driver.create_volume(VolumeSpec(name="restart", size_bytes=1 << 20))
    attachment = VolumeAttachment(volume=volume)
    snapshot = driver.create_snapshot(uuid, "before").id if operation == "revert" else ""
    run: dict[str, Callable[[UUID], object]] = {
        "attach": lambda uuid: driver.attach_volume(uuid, attachment),
        "snapshot": lambda uuid: driver.create_snapshot(uuid, "restart"),
        "revert": lambda uuid: driver.revert_snapshot(uuid, snapshot),
        "storage": lambda uuid: driver.migrate_storage(uuid, "LocalDS_1"),
        "rescue": lambda uuid: driver.rescue(uuid, wanted.image),
        "destroy": driver.destroy,
    }
    restart = Restart(driver, raw, call, sent=sent)
    with (
        driver.session.seam.through(restart),
        pytest.raises((errors.OutcomeUnknown, errors.ConnectionFailed)),
    ):
        run[operation](uuid)
    assert restart.struck
    # a caller who got OutcomeUnknown looks, and repeats what has not come to pass
    there = operation == "snapshot" and driver.list_snapshots(uuid)
    if not there:
        run[operation](uuid)
    if operation != "destroy":
        info = driver.get_instance(uuid)
        assert [each.volume_id for each in info.volumes] == (
            [volume.volume_id] if operation == "attach" else []
        )
        names = {"snapshot": ["restart"], "revert": ["before"]}.get(operation, [])
        assert [each.name for each in driver.list_snapshots(uuid)] == names
        rescued = operation == "rescue"
        assert info.state is (InstanceState.RESCUED if rescued else InstanceState.STOPPED)
        driver.destroy(uuid)
    driver.delete_volume(volume.volume_id)
    assert observer.residue() == clean


@pytest.mark.parametrize("operation", ["rescue", "rebuild"])
def test_a_guest_that_was_switched_off_and_started_again_is_no_nothing(
    driver: VmwareDriver, spec: SpecFactory, operation: str
) -> None:
    """The server is away for one call after the end of the guest, and answers the undo: the machine
    runs, and its guest has booted anew."""
    wanted = spec(start=True)
    uuid = driver.spawn(wanted).uuid
    off, refused = False, 0

    def layer(name: str, send: Callable[[], Any]) -> Any:
        nonlocal off, refused
        if off and refused < _SENDINGS and name == "ReconfigVM_Task":
            refused += 1
            raise NotSent("the service does not answer")
        off = off or name == "PowerOffVM_Task"
        return send()

    with driver.session.seam.through(layer), pytest.raises(errors.OutcomeUnknown):
        getattr(driver, operation)(uuid, wanted.image)
    assert refused == _SENDINGS
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    driver.destroy(uuid)
