"""A volume as Cinder keeps it on vSphere: the disk of a machine that nobody starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from pyVmomi import vim

from hvdrivers.models.volume import VmdkVolume
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.specs import disk_at

_SIZE = 64 << 20
_CONTROLLER = 100


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


def path_of(server: RawServer, volume_id: str) -> str | None:
    """The file of the volume of :func:`in_a_shadow`."""
    for _, values in server.read(vim.VirtualMachine, "name", "config.hardware.device"):
        if values["name"] == volume_id:
            for device in values["config.hardware.device"]:
                if isinstance(device, vim.vm.device.VirtualDisk):
                    return str(device.backing.fileName)
    return None
