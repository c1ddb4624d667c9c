"""Another root disk: for a time (rescue), and for good (rebuild).

Both stop a running machine and start it again. Before that its mark says so (``restart``), so that
a repeated call, by whatever process, comes to the same end as one that was not interrupted.
"""

from __future__ import annotations

import secrets
from functools import partial
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.lifecycle import Rebuild, Rescue
from hvdrivers.driverkit import undoing
from hvdrivers.driverkit.own_disks import disc_of
from hvdrivers.models.image import ImageRef
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.claim import HOME
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.devices import adding, by_address, file_of
from hvdrivers.vmware.leaving_rescue import CONFIGURATION, boots, destroying, with_disc
from hvdrivers.vmware.machines import VERSION, Machine
from hvdrivers.vmware.moved import RESCUE, RESCUE_SEED, ROOT, SEED
from hvdrivers.vmware.names import split_path
from hvdrivers.vmware.record import (
    DEVICES,
    MARK,
    RECORD,
    devices_in,
    option,
    record_in,
    root_disk,
)
from hvdrivers.vmware.seen_images import Base, root_capacity
from hvdrivers.vmware.specs import Plan, cdrom, disk_at, own_disk


class VmwareRescue(Topic, Rescue, Rebuild):
    """Rescue and rebuild."""

    @provides(Capability.RESCUE_BOOT_FROM_VOLUME)
    @timed
    def rescue(
        self,
        uuid: UUID,
        image: ImageRef | None = None,
        *,
        seed: SeedDisc | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget from a cached image: 3 reads, the copy, 2 reconfigurations, the start; of a
        running machine 1 read, 1 reconfiguration and the stop more; with a seed 1 request. Of one
        that was stopped while it was rescued 1 read and 1 reconfiguration more; of an adopted one
        1 call more."""
        del timeout
        disc = disc_of(seed) if seed is not None else None
        found = self.machines.checked("rescue", uuid, HOME, *CONFIGURATION)
        self.room.host_for(record_in(found.row).flavor, self.places.surroundings())
        base = self.images.bring(image, progress) if image is not None else self._own_image(found)
        path = f"{self.folders.instance(uuid)}/rescue-{secrets.token_hex(6)}.vmdk"
        with undoing() as undo:
            self.claims.home_of_adopted(found, undo)
            undo.callback(self._discard, uuid, path)
            self.files.copy_disk(base.path, path, progress=progress)
            seed_path = None
            if disc is not None:
                seed_path = self.rescues.seed_of(uuid)
                undo.callback(self.files.delete, seed_path)
                self.files.upload(seed_path, disc, len(disc))
            found = self.rescues.stopped(found, undo, alone=True)
            if _has_rescue_disk(found):  # of a rescue that was interrupted, or has been stopped
                self.rescues.leave(found)
                found = self.machines.get(uuid, *CONFIGURATION)
            undo.callback(self.rescues.leave_of, uuid, path)
            enter = partial(self._enter_rescue, path=path, base=base, seed=seed_path)
            self.changes.while_it_changes(found, enter, *CONFIGURATION)
            found = self.machines.get(uuid, *CONFIGURATION)
            disks = by_address(found.row["config.hardware.device"]).values()
            added = next((each.key for each in disks if file_of(each) == path), None)
            if added is None:
                raise errors.DeviceBusy(
                    "another client has ended the rescue",
                    retryable=True,
                    hint="call again, unless the other client is right",
                )
            self.changes.reconfigure(found.obj, vim.vm.ConfigSpec(bootOptions=boots(added)))
            self.power.on(found.obj)

    def _enter_rescue(self, found: Machine, *, path: str, base: Base, seed: str | None) -> None:
        """Give a machine that is off the rescue disk, and write that down.

        Args:
            seed: the path of the disc.

        Raises:
            DeviceBusy: another client rescues it.
        """
        if _has_rescue_disk(found) or found.state is InstanceState.RESCUED:
            raise errors.DeviceBusy(
                "another client rescues the instance",
                retryable=True,
                hint="get_instance() shows when it is rescued: unrescue() ends it",
            )
        hardware = found.row.get("config.hardware.device") or ()
        plan = Plan(self.room.slots(hardware))
        own_disk(plan, RESCUE, path, base.virtual_size, create=False)
        devices = devices_in(found.row)
        if seed is not None:
            own = by_address(hardware)
            ours = f"{self.folders.instance(found.uuid)}/{SEED}.iso"
            drives = [own[a] for a, role in devices.own.items() if role == SEED and a in own]
            # a drive that somebody has emptied, or given another disc, stays as it is
            drives = [each for each in drives if file_of(each) == ours]
            if drives:
                plan.changes.append(with_disc(drives[0], seed))
            else:
                cdrom(plan, RESCUE_SEED, seed)
        changed = devices.model_copy(update={"own": {**devices.own, **plan.own}})
        record = record_in(found.row).model_copy(update={"rescue_image": base.key})
        mark = found.mark.model_copy(update={"rescued": True, "restart": False})
        config = vim.vm.ConfigSpec(
            changeVersion=found.row.get(VERSION),
            deviceChange=plan.device_changes(),
            extraConfig=[option(MARK, mark), option(DEVICES, changed), option(RECORD, record)],
        )
        self.changes.reconfigure(found.obj, config)

    @timed
    def unrescue(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 read; of a rescued machine 2 reads, 3 reconfigurations, stop and start
        more."""
        del timeout
        found = self.machines.checked("unrescue", uuid, *CONFIGURATION)
        if not (found.mark.rescued or found.mark.restart):
            return
        starts = found.state is InstanceState.RESCUED or found.mark.restart
        if found.state is InstanceState.RESCUED:
            found = self.rescues.stopped(found, None)
        if found.state is InstanceState.STOPPED:
            self.rescues.leave(found)
            if starts:
                self.power.on(found.obj)
        if starts:
            self.rescues.mark_started(uuid)

    @timed
    def rebuild(
        self,
        uuid: UUID,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget from a cached image: 2 reads, the copy and 1 reconfiguration; of a running machine
        2 reads, 2 reconfigurations, stop and start more; of a linked clone 2 calls and the task
        that makes its disk a whole one. What vSphere deletes with a child's disk is not
        documented."""
        del timeout
        found = self.machines.checked("rebuild", uuid, *CONFIGURATION)
        disk = root_disk(found.row)
        if found.row.get("snapshot") is not None:
            raise errors.DeviceBusy(
                "the root disk has snapshots",
                hint="delete the instance's snapshots first",
                retryable=False,
            )
        record = record_in(found.row)
        base = self.images.bring(image, progress, disk_gib=record.flavor.disk_gib)
        capacity = root_capacity(record.flavor, base)
        # destroy() removes the instance's folder, whatever this call leaves there; after
        # migrate_storage() the copy is made beside the old disk
        folder = str(file_of(disk)).rpartition("/")[0]
        there = folder
        if split_path(folder)[0] == self.places.get().datastore:
            folder = self.folders.instance(uuid)
        path = f"{folder}/root-{secrets.token_hex(6)}.vmdk"
        with undoing() as undo:
            if folder != there:
                self.claims.home(uuid, undo)
            undo.callback(self._discard, uuid, path)
            self.files.copy_disk(base.path, path, progress=progress)
            if capacity > base.virtual_size:
                self.files.extend_disk(path, capacity)
            starts = found.state is InstanceState.RUNNING or found.mark.restart
            found = self.rescues.stopped(found, undo)
            if found.mark.rescued:
                self.rescues.leave(found)
            self._replace_root(uuid, disk_at_path=path, capacity=capacity, key=base.key)
            undo.forget_all()
        if starts:
            self.power.on(found.obj)
            self.rescues.mark_started(uuid)

    @rereading
    def _replace_root(self, uuid: UUID, *, disk_at_path: str, capacity: int, key: str) -> None:
        """Put another disk in the root disk's place, and delete that one. What others have written
        into the record since the operation began stays."""
        found = self.machines.get(uuid, *CONFIGURATION)
        old = root_disk(found.row)
        if self.changes.make_whole(found.obj, old):
            found = self.machines.get(uuid, *CONFIGURATION)
            old = root_disk(found.row)
        changes = [
            destroying(old),
            adding(disk_at(disk_at_path, old.controllerKey, old.unitNumber, capacity)),
        ]
        record = record_in(found.row).model_copy(update={"image": key})
        devices = devices_in(found.row)
        ids = {role: each for role, each in devices.ids.items() if role != ROOT}
        devices = devices.model_copy(update={"ids": ids})
        config = vim.vm.ConfigSpec(
            changeVersion=found.row.get(VERSION),
            deviceChange=changes,
            extraConfig=[option(RECORD, record), option(DEVICES, devices)],
        )
        self.changes.reconfigure(found.obj, config)

    # ---- the parts ------------------------------------------------------------------------------

    def _own_image(self, found: Machine) -> Base:
        key = record_in(found.row).image
        base = self.images.by_key(key) if key is not None else None
        if base is None:
            raise errors.InvalidRequest(
                "the instance was made from no image, or that is not on the host any more",
                hint="name the image to boot",
            )
        return base

    def _discard(self, uuid: UUID, path: str) -> None:
        """Delete a copy, unless the machine has got it."""
        found = self.machines.if_there(uuid, "config.hardware.device")
        row = found.row if isinstance(found, Machine) else None
        disks = by_address(row.get("config.hardware.device") or ()) if row is not None else {}
        if path not in {file_of(each) for each in disks.values()}:
            self.files.delete_disk(path)


def _has_rescue_disk(found: Machine) -> bool:
    """Whether a machine has a disk of a rescue, also of one that was interrupted."""
    disks = by_address(found.row.get("config.hardware.device") or ())
    return any(role == RESCUE and a in disks for a, role in devices_in(found.row).own.items())
