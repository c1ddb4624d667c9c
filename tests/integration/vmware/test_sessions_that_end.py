"""Sessions that end before each call of an operation, as an idle one does after half an hour: the
server has not done what it was asked in such a session, so the call is made again in another one,
and the caller learns nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from pyVmomi import vim

from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.models.instance import Flavor
from hvdrivers.models.volume import Volume, VolumeAttachment, VolumeSpec
from hvdrivers.vmware.conformance import served
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.conformance.seam import end_sessions
from hvdrivers.vmware.conformance.target import VmwareTarget
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory
from tests.integration.vmware.test_luns import told
from tests.peers.vcsim import GUEST_PASSWORD, GUEST_USER, VcsimPeer
from tests.peers.vcsim.array import VcsimArray

GROWS = Flavor(vcpus=1, memory_mib=64, max_vcpus=4, max_memory_mib=512)


class Ending:
    """The layer of the seam that ends the session before each call that is new."""

    def __init__(self, server: RawServer) -> None:
        self._server = server
        self._again = False
        self.ended: list[str] = []

    def __call__(self, name: str, send: Callable[[], Any]) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return send()  # several hosts are asked at once
        if not self._again:
            end_sessions(self._server)
            self.ended.append(name)
        self._again = not self._again
        return send()


@pytest.fixture
def server(driver: VmwareDriver) -> Iterator[RawServer]:
    made = RawServer(driver.config)
    yield made
    made.drop()


@pytest.fixture
def volumes(
    peer: VcsimPeer, driver: VmwareDriver, server: RawServer
) -> Iterator[dict[str, Volume]]:
    array = VcsimArray(peer)
    with ExitStack() as more:
        found: dict[str, Volume] = {
            "pool": driver.create_volume(VolumeSpec(name="sessions", size_bytes=1 << 20)),
            "iscsi": more.enter_context(array.export(Capability.VOLUME_ISCSI)),
            "fc": more.enter_context(array.export(Capability.VOLUME_FC)),
        }
        if peer.mode == "vpx":
            found["fcd"] = more.enter_context(served.in_the_catalog(server, "LocalDS_0"))
        yield found
        for each in driver.list_instances():
            driver.destroy(each.uuid)
        assert told(peer) == set()
    driver.delete_volume(found["pool"].volume_id)


@pytest.fixture
def running(peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory) -> UUID:
    return driver.spawn(spec(start=True, flavor=GROWS)).uuid


@pytest.fixture
def account(peer: VcsimPeer, driver: VmwareDriver, running: UUID) -> GuestCredentials:
    target = VmwareTarget(**peer.options, guest_user=GUEST_USER, guest_password=GUEST_PASSWORD)
    target.wait_booted(driver, running)
    found = target.guest_account(driver, running)
    target.close()
    return found


def test_operations(
    peer: VcsimPeer,
    driver: VmwareDriver,
    server: RawServer,
    volumes: dict[str, Volume],
    running: UUID,
    account: GuestCredentials,
) -> None:
    uuid = running

    def attach(name: str) -> Any:
        return driver.attach_volume(uuid, VolumeAttachment(volume=volumes[name]))

    def snapshot() -> str:
        return driver.list_snapshots(uuid)[0].id

    def adopt() -> Any:
        keys = [vim.option.OptionValue(key="hvdrivers.mark", value="")]
        obj = driver.machines.get(uuid).obj
        driver.changes.reconfigure(obj, vim.vm.ConfigSpec(extraConfig=keys))
        return driver.adopt(uuid, name="adopted")

    lun = volumes["iscsi"].model_copy(update={"serial": volumes["pool"].volume_id})
    secret = SecretStr("hvct-Session-1")
    steps: list[Callable[[], Any]] = []
    for name, volume in volumes.items():
        steps += [partial(attach, name), partial(driver.detach_volume, uuid, volume.volume_id)]
    steps += [
        partial(driver.hot_resize_cpu, uuid, 2),
        partial(driver.hot_resize_memory, uuid, 128),
        partial(driver.guest_exec, uuid, ("/bin/echo", "x"), credentials=account),
        partial(driver.set_guest_password, uuid, "root", secret, credentials=account),
        partial(driver.suspend, uuid),
        partial(driver.resume, uuid),
        partial(driver.power_off, uuid),
        partial(driver.create_snapshot, uuid, "s"),
        partial(driver.set_metadata, uuid, {"a": "b"}),
        partial(attach, "pool"),
        lambda: driver.revert_snapshot(uuid, snapshot()),
        lambda: driver.delete_snapshot(uuid, snapshot()),
        partial(driver.reconnect, uuid, volumes=(VolumeAttachment(volume=lun),)),
        partial(driver.detach_volume, uuid, lun.volume_id),
        driver.enter_maintenance,
        driver.exit_maintenance,
        partial(driver.rescue, uuid),
        partial(driver.unrescue, uuid),
        adopt,
    ]
    if peer.mode == "vpx":
        steps.append(partial(driver.migrate_storage, uuid, "LocalDS_1"))
    steps.append(partial(driver.destroy, uuid))
    ending = Ending(server)
    with driver.session.seam.through(ending):
        for step in steps:
            before = len(ending.ended)
            step()
            assert len(ending.ended) > before
    assert driver.list_instances() == []
    met = {each for each in ending.ended if each.endswith("_Task")}
    assert met >= {"ReconfigVM_Task", "PowerOnVM_Task", "CreateSnapshot_Task", "Destroy_Task"}


def test_spawn(driver: VmwareDriver, server: RawServer, spec: SpecFactory) -> None:
    wanted = spec(start=True)
    with driver.session.seam.through(Ending(server)):
        driver.spawn(wanted)
    assert [each.uuid for each in driver.list_instances()] == [wanted.uuid]
    driver.destroy(wanted.uuid)
