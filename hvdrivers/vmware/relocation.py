"""Disks on another datastore, while the machine runs or not: vCenter's Storage vMotion."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.storage import StorageMigration
from hvdrivers.hints import ROOM_IN_POOL
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.devices import by_address, capacity_of, file_of
from hvdrivers.vmware.host_devices import refuse_with_functions
from hvdrivers.vmware.machines import VERSION, Machine
from hvdrivers.vmware.names import split_path
from hvdrivers.vmware.record import DEVICES, devices_in, path_of

_PATHS = (path_of(DEVICES), "config.hardware.device", VERSION)


class VmwareRelocation(Topic, StorageMigration):
    """Storage migration."""

    @timed
    @rereading
    def migrate_storage(
        self,
        uuid: UUID,
        pool: str,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: 3 reads and the task; 1 reconfiguration more for a machine none of whose devices
        was changed since it was made. The machine's own files (configuration, seed, log) stay in
        the instance's folder."""
        del timeout
        found = self.machines.checked("migrate_storage", uuid, *_PATHS)
        store = self.places.datastores().datastores.get(pool)
        if store is None or not store.get("summary.accessible"):
            raise errors.VolumeNotFound(
                f"there is no datastore {pool!r} on this cluster or host",
                hint="name one that get_available_resource().storage has",
            )
        moving = _elsewhere(found, pool)
        if not moving:
            return
        wanted, room = sum(map(capacity_of, moving)), int(store.get("summary.freeSpace") or 0)
        if wanted > room:
            raise errors.InsufficientResources(
                f"the disks need up to {wanted} bytes, and the datastore has {room} free",
                hint=ROOM_IN_POOL,
            )
        if found.state is not InstanceState.STOPPED:
            refuse_with_functions(found.row.get("config.hardware.device"), "moves the disks of")
        locators = [
            vim.vm.RelocateSpec.DiskLocator(diskId=disk.key, datastore=store.obj) for disk in moving
        ]
        self.changes.remember_disks(found)
        _tell(progress, 0)
        self.tasks.run(
            lambda: found.obj.RelocateVM_Task(vim.vm.RelocateSpec(disk=locators), None),
            entity=found.obj,
            progress=progress,
        )
        _tell(progress, 100)
        # vCenter may refuse a part and say nothing of it; another client may have begun a rescue
        asked = {disk.key for disk in moving}
        if any(disk.key in asked for disk in _elsewhere(self.machines.get(uuid, *_PATHS), pool)):
            raise errors.HypervisorFault("the server has not moved all disks", retryable=True)


def _elsewhere(found: Machine, pool: str) -> list[Any]:
    """The machine's own disks that are not on a datastore."""
    disks = by_address(found.row.get("config.hardware.device") or ())
    own = [disks[each] for each in devices_in(found.row).sure if each in disks]
    return [
        each
        for each in own
        if isinstance(each, vim.vm.device.VirtualDisk) and split_path(str(file_of(each)))[0] != pool
    ]


def _tell(progress: ProgressCallback | None, percent: int) -> None:
    if progress is not None:
        progress(Progress(phase=Phase.COPY, done=percent, total=100, unit="percent"))
