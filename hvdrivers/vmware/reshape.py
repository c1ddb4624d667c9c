"""Another size: of a stopped machine, and of one that runs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.lifecycle import HotResizeCpu, HotResizeMemory, Resize
from hvdrivers.hints import LARGER_DISK, RESIZE_OFF, SAME_DISKS
from hvdrivers.models.instance import Flavor
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.devices import capacity_of, editing
from hvdrivers.vmware.host_devices import refuse_with_devices, refuse_with_functions
from hvdrivers.vmware.machines import Machine
from hvdrivers.vmware.record import DEVICES, RECORD, Record, option, own_disk, path_of, record_in
from hvdrivers.vmware.specs import check_flavor, reserve_memory, size
from hvdrivers.vmware.virtual_numa import fit_nodes

_GIB = 1 << 30
_PATHS = (
    path_of(RECORD),
    path_of(DEVICES),
    "config.hardware.device",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.changeVersion",
    "snapshot",
)


class VmwareReshape(Topic, Resize, HotResizeCpu, HotResizeMemory):
    """CPUs, memory and root disk."""

    @timed
    @rereading
    def resize(
        self,
        uuid: UUID,
        flavor: Flavor,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: 2 reads and 1 reconfiguration, with the disk in it. The disk of a linked clone
        becomes a whole one before it grows: 1 read and the task more."""
        del timeout, progress
        found = self.machines.checked("resize", uuid, *_PATHS)
        record = record_in(found.row)
        check_flavor(flavor)
        now = record.flavor
        if (flavor.ephemeral_gib, flavor.swap_mib) != (now.ephemeral_gib, now.swap_mib):
            raise errors.InvalidRequest(
                "a resize does not change the ephemeral and the swap disk", hint=SAME_DISKS
            )
        if flavor.max_memory_mib is not None:
            refuse_with_devices(found.row.get("config.hardware.device"), "adds memory to")
        if flavor.max_vcpus is not None:
            refuse_with_functions(found.row.get("config.hardware.device"), "adds CPUs to")
        surroundings = self.places.surroundings()
        self.room.host_for(flavor, surroundings)
        disk = _grown(found, flavor)
        if disk is not None:
            self.room.require(Flavor(vcpus=1, memory_mib=16), capacity_of(disk), surroundings)
            if self.changes.make_whole(found.obj, disk):
                found = self.machines.checked("resize", uuid, *_PATHS)
                record, disk = record_in(found.row), _grown(found, flavor)
        kept = flavor if flavor.disk_gib else flavor.model_copy(update={"disk_gib": now.disk_gib})
        config = _config(found, record.model_copy(update={"flavor": kept}))
        config.numCPUs, config.memoryMB = flavor.vcpus, flavor.memory_mib
        size(config, flavor)
        fit_nodes(config, flavor, self.session.content.about.apiVersion, now)
        if found.mark.sev:
            _refuse_hot_sizes(flavor)
            reserve_memory(config, flavor)
        if disk is not None:
            config.deviceChange = [editing(disk)]
        self.changes.reconfigure(found.obj, config)

    @timed
    @rereading
    def hot_resize_cpu(self, uuid: UUID, vcpus: int, *, timeout: float | None = None) -> None:
        """Budget: 2 reads and 1 reconfiguration."""
        del timeout
        found = self.machines.checked("hot_resize_cpu", uuid, *_PATHS)
        record = record_in(found.row)
        now = int(found.row.get("config.hardware.numCPU", record.flavor.vcpus))
        _check_growth("CPUs", now, vcpus, record.flavor.max_vcpus)
        flavor = record.flavor.model_copy(update={"vcpus": vcpus})
        if vcpus == now:
            return
        self.room.host_for(flavor, self.places.surroundings())
        config = _config(found, record.model_copy(update={"flavor": flavor}))
        config.numCPUs = vcpus
        self.changes.reconfigure(found.obj, config)

    @timed
    @rereading
    def hot_resize_memory(
        self, uuid: UUID, memory_mib: int, *, timeout: float | None = None
    ) -> None:
        """Budget: 2 reads and 1 reconfiguration."""
        del timeout
        found = self.machines.checked("hot_resize_memory", uuid, *_PATHS)
        record = record_in(found.row)
        now = int(found.row.get("config.hardware.memoryMB", record.flavor.memory_mib))
        _check_growth("memory", now, memory_mib, record.flavor.max_memory_mib)
        flavor = record.flavor.model_copy(update={"memory_mib": memory_mib})
        check_flavor(flavor)
        if memory_mib == now:
            return
        self.room.host_for(flavor, self.places.surroundings())
        config = _config(found, record.model_copy(update={"flavor": flavor}))
        config.memoryMB = memory_mib
        self.changes.reconfigure(found.obj, config)


def _config(found: Machine, record: Record) -> Any:
    return vim.vm.ConfigSpec(
        changeVersion=found.row.get("config.changeVersion"),
        extraConfig=[option(RECORD, record)],
    )


def _refuse_hot_sizes(flavor: Flavor) -> None:
    if flavor.max_vcpus is not None or flavor.max_memory_mib is not None:
        raise errors.NotSupported(
            "vSphere adds nothing to a running machine whose memory is encrypted (SEV)",
            hint="leave max_vcpus and max_memory_mib out",
        )


def _check_growth(what: str, now: int, wanted: int, most: int | None) -> None:
    if most is None:
        raise errors.InvalidRequest(
            f"the flavor does not let {what} be added while the instance runs",
            hint="spawn it with max_vcpus and max_memory_mib, or resize() it while it is stopped",
        )
    if wanted > most:
        raise errors.InvalidRequest(f"the flavor allows at most {most} ({what})", hint=RESIZE_OFF)
    if wanted < now:
        raise errors.InvalidRequest(
            f"vSphere takes no {what} from a machine that runs", hint=RESIZE_OFF
        )


def _grown(found: Machine, flavor: Flavor) -> Any:
    """The root disk with its new size; None if it stays as it is."""
    disk = own_disk(found.row, "root") if flavor.disk_gib else None
    if disk is None:
        return None
    wanted = flavor.disk_gib * _GIB
    if wanted < capacity_of(disk):
        raise errors.InvalidRequest(
            "the root disk would shrink, which destroys data", hint=LARGER_DISK
        )
    if wanted == capacity_of(disk):
        return None
    if found.row.get("snapshot") is not None:
        raise errors.DeviceBusy(
            "a disk with snapshots does not grow",
            hint="delete the machine's snapshots first",
            retryable=False,
        )
    disk.capacityInBytes, disk.capacityInKB = wanted, wanted // 1024
    return disk
