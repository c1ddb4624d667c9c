"""The claim on a UUID, where the reply to it is lost: it may be another spawn's."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import console_name
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.faults import script
from tests.integration.libvirt.machines import Host
from tests.peers.starting import meanwhile
from tests.peers.waiting import wait_until


def claimed(own: Host, uuid: object) -> bool:
    """Whether there is a claim."""
    pool = own.raw.pools.consoles()
    return any(each.name() == f"{uuid}.console.log" for each in pool.listAllVolumes(0))


@pytest.fixture(params=["makes its machine", "has its machine"])
def far(request: pytest.FixtureRequest) -> bool:
    """How far the other spawn has come."""
    return bool(request.param == "has its machine")


def test_the_request_is_lost_and_another_spawn_has_the_uuid(own: Host, far: bool) -> None:
    """Its claim stays, and its machine comes to be."""
    own.driver.cache_image(own.empty().image)
    spec = own.empty(start=False)
    with own.unchanged(), closing(connect(own.peer)) as other:
        spawning: list[Any] = []
        goes_on: list[bool] = []

        def held(_name: str, send: Any) -> Any:
            wait_until(lambda: goes_on, timeout=240, what="the first spawn has failed")
            return send()

        def lost(_name: str, _send: Any) -> Any:
            if far:
                other.spawn(spec)
            else:
                # the disks are made, and the machine is not
                other.connection.seam = _at("Connect.defineXMLFlags", held)
                spawning.append(meanwhile(lambda: other.spawn(spec)))
                root = f"{spec.uuid}.root"
                wait_until(lambda: _has_disk(other, root), timeout=120, what="it has its disk")
            raise errors.OutcomeUnknown("the request is lost, and so would be its reply")

        with script(own.raw, "StoragePool.createXML", lost) as seam:
            with pytest.raises(errors.OutcomeUnknown):
                own.driver.spawn(spec)
            assert seam.reached
        assert claimed(own, spec.uuid)
        goes_on.append(True)
        for each in spawning:
            each.result(120)
        assert claimed(own, spec.uuid)
        with pytest.raises(errors.InstanceExists):
            own.driver.spawn(spec)
        own.driver.destroy(spec.uuid)


def test_the_reply_is_lost_and_nobody_else_has_the_uuid(own: Host) -> None:
    """The claim goes, and whoever comes next gets the UUID."""
    own.driver.cache_image(own.empty().image)
    spec = own.empty(start=False)

    def lost(_name: str, send: Any) -> Any:
        send()
        assert claimed(own, spec.uuid), console_name(spec.uuid)
        raise errors.OutcomeUnknown("the reply is lost")

    with own.unchanged():
        with script(own.raw, "StoragePool.createXML", lost) as seam:
            with pytest.raises(errors.OutcomeUnknown):
                own.driver.spawn(spec)
            assert seam.reached
        assert not claimed(own, spec.uuid)
        own.driver.spawn(spec)
        own.driver.destroy(spec.uuid)


def _at(name: str, fault: Any) -> Any:
    def seam(called: str, send: Any) -> Any:
        return fault(called, send) if called == name else send()

    return seam


def _has_disk(driver: LibvirtDriver, name: str) -> bool:
    return name in driver.pools.volumes(driver.pools.disks())
