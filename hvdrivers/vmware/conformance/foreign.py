"""Machines that others make on a vSphere server, while the conformance suite runs there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

from pyVmomi import vim, vmodl

from hvdrivers.conformance.engine.image_files import DISK_BYTES
from hvdrivers.conformance.engine.target import FOREIGN_TEXT
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.observer import addresses
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.devices import file_of

_Device = vim.vm.device


@contextmanager
def machine_of_others(
    server: RawServer, config: VmwareConfig, pool: Any, name: str | None
) -> Iterator[UUID]:
    """A running machine.

    Args:
        pool: the resource pool that it is in.
        name: None: one is made up.
    """
    uuid = uuid4()
    home = f"[{config.datastore}] foreign-{uuid4()}"
    log = _Device.VirtualSerialPort.FileBackingInfo(fileName=f"{home}/console.log")
    controller = _Device.VirtualLsiLogicController(
        key=-10, busNumber=0, sharedBus=_Device.VirtualSCSIController.Sharing.noSharing
    )
    backing = _Device.VirtualDisk.FlatVer2BackingInfo(
        fileName=f"{home}/theirs.vmdk", diskMode="persistent", thinProvisioned=True
    )
    disk = _Device.VirtualDisk(
        key=-11,
        controllerKey=-10,
        unitNumber=0,
        capacityInBytes=DISK_BYTES,
        capacityInKB=DISK_BYTES >> 10,
        backing=backing,
    )
    spec = _Device.VirtualDeviceSpec
    machine = vim.vm.ConfigSpec(
        name=name or f"foreign-{uuid.hex[:8]}",
        instanceUuid=str(uuid),
        guestId="otherLinux64Guest",
        numCPUs=1,
        memoryMB=32,
        files=vim.vm.FileInfo(vmPathName=f"{home}/vm.vmx"),
        deviceChange=[
            spec(
                device=_Device.VirtualSerialPort(key=-1, backing=log, yieldOnPoll=True),
                operation="add",
            ),
            spec(device=controller, operation="add"),
            spec(device=disk, operation="add", fileOperation="create"),
        ],
    )
    obj = server.wait(_folder(server).CreateVM_Task(machine, pool, None))
    try:
        text = FOREIGN_TEXT.encode()
        server.file(f"{home}/theirs-flat.vmdk", text.ljust(DISK_BYTES, b"\0"))
        server.wait(obj.PowerOnVM_Task(None))
        yield uuid
    finally:
        with suppress(vmodl.fault.ManagedObjectNotFound):
            if server.of(obj, "runtime.powerState")["runtime.powerState"] != "poweredOff":
                server.wait(obj.PowerOffVM_Task())
            server.wait(obj.Destroy_Task())


def _folder(server: RawServer) -> Any:
    return server.of(server.datacenter[0], "vmFolder")["vmFolder"]


@contextmanager
def copy_of(server: RawServer, config: VmwareConfig, pool: Any, uuid: UUID) -> Iterator[UUID]:
    """What a clone is on vCenter: another machine with the extraConfig and a copy of the disk, and
    an instance UUID of its own."""
    copy = uuid4()
    original = server.of(server.machine(uuid), "config")["config"]
    datacenter, _ = server.datacenter
    home = f"[{config.datastore}] foreign-{copy}"
    content = server.content
    content.fileManager.MakeDirectory(home, datacenter, False)
    root = next(path for path in map(file_of, addresses(original.hardware.device).values()))
    disks = content.virtualDiskManager
    task = disks.CopyVirtualDisk_Task(root, datacenter, f"{home}/root.vmdk", datacenter)
    server.wait(task)
    spec = vim.vm.ConfigSpec(
        name=f"copy-{copy}",
        instanceUuid=str(copy),
        guestId=original.guestId,
        numCPUs=1,
        memoryMB=32,
        files=vim.vm.FileInfo(vmPathName=f"{home}/vm.vmx"),
        extraConfig=[each for each in original.extraConfig if each.value],
    )
    obj = server.wait(_folder(server).CreateVM_Task(spec, pool, None))
    try:
        yield copy
    finally:
        with suppress(vmodl.fault.ManagedObjectNotFound):
            server.wait(obj.Destroy_Task())
        with suppress(vim.fault.FileNotFound):
            server.wait(content.fileManager.DeleteDatastoreFile_Task(home, datacenter))
