"""The inventory of a cluster or a host, in one call however many machines there are."""

from __future__ import annotations

from collections.abc import Sequence

from pyVmomi import vim

from hvdrivers.contract.resources import Resources
from hvdrivers.models.instance import Firmware
from hvdrivers.models.resources import (
    CpuResources,
    HostResources,
    LargestMachine,
    MachineChoices,
    MemoryResources,
    StorageResources,
)
from hvdrivers.models.vif import NicModel
from hvdrivers.models.volume import DiskBus
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.host_devices import DEVICES_OF_A_HOST, cells_of, devices_of
from hvdrivers.vmware.host_facts import host_info
from hvdrivers.vmware.machines import STATE, uuid_in
from hvdrivers.vmware.passthrough import BROWSER, TYPES
from hvdrivers.vmware.reader import IN_POOL, Row, step
from hvdrivers.vmware.record import mark_in

_GIB = 1 << 30
_MIB = 1 << 20
_HOST = (
    "name",
    "runtime.connectionState",
    "summary.hardware",
    "summary.quickStats.overallMemoryUsage",
    *DEVICES_OF_A_HOST,
    TYPES,
)
_STORE = (
    "name",
    "summary.accessible",
    "summary.capacity",
    "summary.freeSpace",
    "summary.multipleHostAccess",
)
_SIZE = ("config.hardware.numCPU", "config.hardware.memoryMB")
_STEPS = [
    step(vim.ComputeResource, "host"),
    step(vim.ComputeResource, "datastore"),
    step(vim.ComputeResource, "resourcePool", "ResourcePool.resourcePool", "ResourcePool.vm"),
    *IN_POOL,
]


class VmwareResources(Topic, Resources):
    """The inventory."""

    @timed
    def get_available_resource(self, *, timeout: float | None = None) -> HostResources:
        """Budget: 1 call, and 1 for each 1,000 machines beyond the first; 1 more, once for a
        connection, where a single host has GPUs for slices."""
        del timeout
        place = self.places.get()
        rows = self.reader.read(
            [
                (vim.HostSystem, _HOST),
                (vim.ComputeResource, (BROWSER,)),
                (vim.Datastore, _STORE),
                (vim.VirtualMachine, (*STATE, *_SIZE, *self.passthrough.paths)),
            ],
            [(place.compute, _STEPS)],
        )
        every = [r for r in rows if isinstance(r.obj, vim.HostSystem)]
        hosts = [r for r in every if r.get("runtime.connectionState") == "connected"]
        alone = hosts[0] if len(hosts) == len(every) == 1 else None
        machines = [r for r in rows if isinstance(r.obj, vim.VirtualMachine)]
        slices = {}
        if alone is not None:
            compute = next(r for r in rows if isinstance(r.obj, vim.ComputeResource))
            slices = self.passthrough.slices(alone, compute, machines)
        on = [r for r in machines if r.get("runtime.powerState") == "poweredOn"]
        total = sum(int(h["summary.hardware"].memorySize) for h in hosts) // _MIB
        used = sum(int(h.get("summary.quickStats.overallMemoryUsage") or 0) for h in hosts)
        return HostResources(
            host=host_info(self.session, self.places),
            cpu=_cpu(hosts, sum(int(r.get("config.hardware.numCPU") or 0) for r in on)),
            memory=MemoryResources(
                total_mib=total,
                used_mib=sum(int(r.get("config.hardware.memoryMB") or 0) for r in on),
                free_mib=max(0, total - used),
            ),
            storage=tuple(
                _storage(r)
                for r in rows
                if isinstance(r.obj, vim.Datastore) and r.get("summary.accessible")
            ),
            numa_cells=cells_of(alone) if alone is not None else (),
            devices=devices_of(alone, slices) if alone is not None else (),
            largest_machine=_largest(hosts),
            choices=MachineChoices(
                firmwares=frozenset({Firmware.BIOS, Firmware.UEFI}),
                disk_buses=frozenset({DiskBus.SCSI, DiskBus.SATA, DiskBus.NVME, DiskBus.IDE}),
                nic_models=frozenset({NicModel.VMXNET3, NicModel.E1000, NicModel.E1000E}),
            ),
            instances=sum(mark_in(r, uuid_in(r)) is not None for r in machines),
        )


def _cpu(hosts: Sequence[Row], used: int) -> CpuResources:
    hardware = [each["summary.hardware"] for each in hosts]
    threads = sum(int(each.numCpuThreads) for each in hardware)
    cores = sum(int(each.numCpuCores) for each in hardware)
    sockets = sum(int(each.numCpuPkgs) for each in hardware)
    return CpuResources(
        total=threads,
        used=used,
        sockets=sockets,
        cores_per_socket=max(1, cores // max(1, sockets)),
        threads_per_core=max(1, threads // max(1, cores)),
        model=hardware[0].cpuModel if hardware else "",
    )


def _largest(hosts: Sequence[Row]) -> LargestMachine | None:
    """A machine of a cluster is on one of its hosts."""
    if len(hosts) < 2:
        return None
    hardware = [each["summary.hardware"] for each in hosts]
    return LargestMachine(
        vcpus=max(int(each.numCpuThreads) for each in hardware),
        memory_mib=max(int(each.memorySize) for each in hardware) // _MIB,
    )


def _storage(row: Row) -> StorageResources:
    capacity = int(row.get("summary.capacity") or 0)
    return StorageResources(
        name=row["name"],
        total_gib=capacity / _GIB,
        used_gib=max(0, capacity - int(row.get("summary.freeSpace") or 0)) / _GIB,
        shared=bool(row.get("summary.multipleHostAccess")),
    )
