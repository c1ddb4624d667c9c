"""First class disks, which vCenter has in a catalog, as volumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.volume import FcdVolume, VolumeAttachment
from hvdrivers.vmware.conformance import served
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.conformance.target import VmwareTarget
from hvdrivers.vmware.devices import by_address
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.integration.vmware.test_budgets import READ, calls
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer


@pytest.fixture(scope="module")
def vcenter_peer() -> Iterator[VcsimPeer]:
    with started(lambda: VcsimPeer("vpx")) as peer:
        yield peer


@pytest.fixture
def vcenter(vcenter_peer: VcsimPeer) -> Iterator[VmwareDriver]:
    made = connected(vcenter_peer)
    yield made
    made.close()
    vcenter_peer.require_alive()


@pytest.fixture
def server(vcenter_peer: VcsimPeer) -> Iterator[RawServer]:
    target = VmwareTarget(**vcenter_peer.options)
    yield target.server
    target.close()


@pytest.fixture
def disk(vcenter: VmwareDriver, server: RawServer) -> Iterator[FcdVolume]:
    with served.in_the_catalog(server, "LocalDS_0") as found:
        yield found
        for each in vcenter.list_instances():
            vcenter.destroy(each.uuid)


def known(server: RawServer, disk: FcdVolume) -> Any:
    manager = server.content.vStorageObjectManager
    store = vim.Datastore(disk.data.ds_ref_val, server.instance._stub)
    return manager.RetrieveVStorageObject(vim.vslm.ID(id=disk.data.id), store)


def shown(driver: VmwareDriver, uuid: Any) -> list[str]:
    return [each.volume_id for each in driver.get_instance(uuid).volumes]


def test_without_vcenter(peer: VcsimPeer, guarded_driver: ComputeDriver, spec: SpecFactory) -> None:
    lacks = Capability.VOLUME_FCD not in guarded_driver.capabilities
    assert lacks == (peer.mode == "esx")
    data = {"id": "of-vcenter", "ds_ref_val": "datastore-4711"}
    disk = VolumeAttachment(volume=FcdVolume.model_validate({"data": data}))
    with pytest.raises(errors.NotSupported if lacks else errors.VolumeNotFound) as caught:
        guarded_driver.spawn(spec(volumes=(disk,)))
    assert not lacks or "catalog" in str(caught.value)
    assert not guarded_driver.list_instances()


def test_attach_and_detach(
    vcenter: VmwareDriver, server: RawServer, disk: FcdVolume, spec: SpecFactory
) -> None:
    """The descriptor is not read: the server gives that of a disk in use to nobody, which was
    https://github.com/apache/cloudstack/issues/13249."""
    uuid = vcenter.spawn(spec()).uuid
    attachment = VolumeAttachment(volume=disk)
    attached = calls(vcenter, lambda: vcenter.attach_volume(uuid, attachment))
    assert attached == {READ: 4, "RetrieveVStorageObject": 1, "ReconfigVM_Task": 1}
    row = vcenter.reader.one(vcenter.machines.get(uuid).obj, "config.hardware.device")
    (found,) = (
        each
        for each in by_address(row["config.hardware.device"]).values()
        if each.backing.fileName == known(server, disk).config.backing.filePath
    )
    assert found.backing.diskMode == "independent_persistent"
    assert found.capacityInBytes == 64 << 20
    detached = calls(vcenter, lambda: vcenter.detach_volume(uuid, disk.volume_id))
    assert detached == {READ: 2, "ReconfigVM_Task": 1}
    assert not shown(vcenter, uuid)
    assert known(server, disk)


def test_the_end_of_a_machine(
    vcenter: VmwareDriver, server: RawServer, disk: FcdVolume, spec: SpecFactory
) -> None:
    """vSphere deletes a disk with its machine unless it says that it stays:
    https://github.com/kubernetes-sigs/vsphere-csi-driver/issues/99."""
    uuid = vcenter.spawn(spec(start=True, volumes=(VolumeAttachment(volume=disk),))).uuid
    assert shown(vcenter, uuid) == [disk.volume_id]
    vcenter.power_off(uuid)
    vcenter.create_snapshot(uuid, "without it")
    vcenter.destroy(uuid)
    assert known(server, disk).config.name == disk.volume_id


def test_one_disk_under_two_names(
    vcenter: VmwareDriver, disk: FcdVolume, spec: SpecFactory
) -> None:
    """A second time in one machine, which a server may take, and starts no more:
    https://github.com/kubernetes-sigs/vsphere-csi-driver/pull/3595."""
    uuid = vcenter.spawn(spec(start=True, volumes=(VolumeAttachment(volume=disk),))).uuid
    other = vcenter.spawn(spec()).uuid
    again = VolumeAttachment(volume=disk.model_copy(update={"serial": "another-name"}))
    with pytest.raises(errors.InvalidRequest, match="already"):
        vcenter.attach_volume(uuid, again)
    with pytest.raises(errors.DeviceBusy, match=disk.data.id):
        vcenter.attach_volume(other, again)
    vcenter.power_off(uuid)
    assert vcenter.attach_volume(other, again).volume_id == "another-name"
    assert (shown(vcenter, uuid), shown(vcenter, other)) == ([disk.volume_id], ["another-name"])


@pytest.mark.parametrize(
    "changes",
    [
        {"ds_ref_val": "datastore-4711"},
        {"id": "no-such-disk"},
        {"id": "LocalDS_0/volume"},
        {"id": "../../x] [LocalDS_0"},
        {"id": "<id>&amp;\"']]>"},
        {"ds_ref_val": "vm-1"},
        {"ds_ref_val": "<x/>"},
    ],
)
def test_disks_that_are_not_there(
    vcenter: VmwareDriver, disk: FcdVolume, spec: SpecFactory, changes: dict[str, str]
) -> None:
    uuid = vcenter.spawn(spec()).uuid
    before = vcenter.get_instance(uuid)
    data = disk.data.model_copy(update=changes)
    wrong = VolumeAttachment(volume=disk.model_copy(update={"data": data}))
    with pytest.raises(errors.VolumeNotFound) as caught:
        vcenter.attach_volume(uuid, wrong)
    assert caught.value.hint
    with pytest.raises(errors.VolumeNotFound):
        vcenter.spawn(spec(volumes=(wrong,)))
    assert vcenter.get_instance(uuid) == before
    assert [each.uuid for each in vcenter.list_instances()] == [uuid]


def test_a_datastore_out_of_reach(
    vcenter_peer: VcsimPeer, vcenter: VmwareDriver, disk: FcdVolume, spec: SpecFactory
) -> None:
    uuid = vcenter.spawn(spec()).uuid
    vcenter_peer.ask("/datastore", "POST", name="LocalDS_0", accessible=0)
    try:
        with pytest.raises((errors.InsufficientResources, errors.HypervisorFault)):
            vcenter.attach_volume(uuid, VolumeAttachment(volume=disk))
    finally:
        vcenter_peer.ask("/datastore", "POST", name="LocalDS_0", accessible=1)
    assert not shown(vcenter, uuid)


def test_another_client_between(
    vcenter: VmwareDriver, disk: FcdVolume, spec: SpecFactory, server: RawServer
) -> None:
    """Somebody moves the disk's file after it was looked up: nothing of it is in the machine."""
    uuid = vcenter.spawn(spec()).uuid
    path = known(server, disk).config.backing.filePath
    aside = path.replace(".vmdk", "-aside.vmdk")
    where, _ = server.datacenter
    disks = server.content.virtualDiskManager

    def between(name: str, send: Any, /) -> Any:
        if name == "ReconfigVM_Task":
            server.wait(disks.MoveVirtualDisk_Task(path, where, aside, where, False))
        return send()

    with vcenter.session.seam.through(between), pytest.raises(errors.VolumeNotFound):
        vcenter.attach_volume(uuid, VolumeAttachment(volume=disk))
    assert not shown(vcenter, uuid)
    server.wait(disks.MoveVirtualDisk_Task(aside, where, path, where, False))


def test_boot_from_it(
    vcenter: VmwareDriver, server: RawServer, disk: FcdVolume, spec: SpecFactory
) -> None:
    boots = VolumeAttachment(volume=disk, boot_index=0)
    uuid = vcenter.spawn(spec(image=None, start=True, volumes=(boots,))).uuid
    assert shown(vcenter, uuid) == [disk.volume_id]
    vcenter.destroy(uuid)
    assert known(server, disk)
