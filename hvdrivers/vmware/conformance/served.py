"""Volumes as Cinder keeps them on vSphere: the disk of a machine that nobody starts, and a first
class disk, which vCenter has in a catalog."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol
from uuid import uuid4

from pyVmomi import vim

from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.volume import FcdVolume, VmdkVolume, Volume
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.specs import disk_at

_SIZE = 64 << 20
_CONTROLLER = 100


class Array(Protocol):
    """A storage array, whose LUNs the hosts can be told of."""

    def export(self, kind: Capability) -> AbstractContextManager[Volume]:
        """A new LUN over iSCSI or Fibre Channel, for all hosts."""

    def grow(self, volume_id: str, size: int) -> bool:
        """Make a LUN larger; False if it has none of this id."""


@contextmanager
def in_a_shadow(server: RawServer, datastore: str, pool: Any) -> Iterator[VmdkVolume]:
    """A volume in a shadow machine, in this datastore."""
    name = f"hvct-{uuid4().hex[:8]}"
    datacenter, _ = server.datacenter
    folder = server.of(datacenter, "vmFolder")["vmFolder"]
    controller = vim.vm.device.VirtualLsiLogicController(
        key=_CONTROLLER, busNumber=0, sharedBus="noSharing"
    )
    disk = disk_at(f"[{datastore}] {name}/{name}.vmdk", _CONTROLLER, 0, _SIZE)
    change = vim.vm.device.VirtualDeviceSpec
    spec = vim.vm.ConfigSpec(
        name=name,
        guestId="otherLinux64Guest",
        numCPUs=1,
        memoryMB=32,
        files=vim.vm.FileInfo(vmPathName=f"[{datastore}] {name}/{name}.vmx"),
        deviceChange=[
            change(device=controller, operation="add"),
            change(device=disk, operation="add", fileOperation="create"),
        ],
    )
    machine = server.wait(folder.CreateVM_Task(spec, pool, None))
    try:
        yield VmdkVolume.model_validate(
            {"serial": name, "data": {"volume": machine._moId, "name": name}}
        )
    finally:
        server.wait(machine.Destroy_Task())


@contextmanager
def in_the_catalog(server: RawServer, datastore: str) -> Iterator[FcdVolume]:
    """A first class disk, in this datastore."""
    store = next(o for o, v in server.read(vim.Datastore, "name") if v["name"] == datastore)
    manager = server.content.vStorageObjectManager
    spec = vim.vslm.CreateSpec(
        name=f"hvct-{uuid4().hex[:8]}",
        keepAfterDeleteVm=True,
        capacityInMB=_SIZE >> 20,
        backingSpec=vim.vslm.CreateSpec.DiskFileBackingSpec(
            datastore=store, provisioningType="thin"
        ),
    )
    made = server.wait(manager.CreateDisk_Task(spec))
    try:
        yield FcdVolume.model_validate(
            {"serial": spec.name, "data": {"id": made.config.id.id, "ds_ref_val": store._moId}}
        )
    finally:
        server.wait(manager.DeleteVStorageObject_Task(made.config.id, store))


def grow(server: RawServer, volume_id: str, size: int) -> bool:
    """Let a first class disk grow at its server; False: it is none."""
    manager = server.content.vStorageObjectManager
    for store, _ in server.read(vim.Datastore, "name"):
        for each in manager.ListVStorageObject(store):
            if manager.RetrieveVStorageObject(each, store).config.name == volume_id:
                server.wait(manager.ExtendDisk_Task(each, store, size >> 20))
                return True
    return False


def path_of(server: RawServer, volume_id: str) -> str | None:
    """The file of the volume of :func:`in_a_shadow`."""
    for _, values in server.read(vim.VirtualMachine, "name", "config.hardware.device"):
        if values["name"] == volume_id:
            for device in values["config.hardware.device"]:
                if isinstance(device, vim.vm.device.VirtualDisk):
                    return str(device.backing.fileName)
    return None
