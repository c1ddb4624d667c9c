"""What destroy() does: everything of an instance goes, in an order that survives interruption.

vSphere's own Destroy deletes every disk that the machine has, so attached volumes, and disks
that are kept, are taken away from the machine first.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.driverkit import changed
from hvdrivers.driverkit.own_disks import keeps
from hvdrivers.models.instance import Keep
from hvdrivers.vmware.changes import Changes
from hvdrivers.vmware.claim import aside_of
from hvdrivers.vmware.deadline import unbounded
from hvdrivers.vmware.devices import by_address, chain_of, file_of, removing, taking_away
from hvdrivers.vmware.files import Files
from hvdrivers.vmware.folders import Folders
from hvdrivers.vmware.groups import Groups
from hvdrivers.vmware.luns import Luns
from hvdrivers.vmware.machines import Machine, Machines
from hvdrivers.vmware.moved import DISCS, Devices
from hvdrivers.vmware.names import is_part, split_path
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.power_switch import PowerSwitch
from hvdrivers.vmware.questions import PENDING
from hvdrivers.vmware.reader import Row
from hvdrivers.vmware.record import DEVICES, RECORD, Record, devices_in, path_of, record_in
from hvdrivers.vmware.tasks import Tasks
from hvdrivers.vmware.usage import Usage

_STARTED_AGAIN = 3
"""How often a machine is switched off once more that others start while it is destroyed."""
_HARDWARE = ("config.hardware.device", "config.files.vmPathName", path_of(DEVICES), "snapshot")


class Removal:
    """Remove an instance, or what there is of it."""

    def __init__(
        self,
        tasks: Tasks,
        places: Places,
        machines: Machines,
        changes: Changes,
        *,
        power: PowerSwitch,
        usage: Usage,
        files: Files,
        folders: Folders,
        luns: Luns,
        groups: Groups,
    ) -> None:
        self._tasks = tasks
        self._places = places
        self._machines = machines
        self._changes = changes
        self._power = power
        self._usage = usage
        self._files = files
        self._folders = folders
        self._luns = luns
        self._groups = groups

    def destroy(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
        """Remove an instance, and keep some of its disks.

        Raises:
            DeviceBusy: another machine has one of its disks, which somebody has detached here, or
                is a linked clone of it.
        """
        found = self._ours_if_there(uuid)
        if found is not None:
            self._destroy(found, keep)
        elif self._machines.anywhere(uuid) is not None:
            return  # it is on another cluster or host, and its folder may be on a shared datastore
        else:
            # somebody may have unregistered it, and given its disks to another machine
            self._usage.require_nobodys(None, self._folders.instance(uuid))
        with changed():
            if found is None:
                self._files.delete(aside_of(self._folders.instance(uuid)))
            left = self._files.delete(self._folders.instance(uuid))
            if left and found is None:
                # a spawn was interrupted: what it had begun on the server may come to its end now
                with unbounded():
                    self._tasks.settle(self._places.get().vm_folder, kind="VirtualMachine.clone")
                late = self._ours_if_there(uuid)
                if late is not None:
                    self._destroy(late, frozenset())
                self._files.delete(self._folders.instance(uuid))

    def _ours_if_there(self, uuid: UUID, *paths: str) -> Machine | None:
        found = self._machines.if_there(uuid, *_HARDWARE, *paths)
        if isinstance(found, Row):
            raise errors.InstanceNotFound("there is a machine with this UUID, made by others")
        return found

    def _destroy(self, found: Machine, keep: AbstractSet[Keep]) -> None:
        kept = self._to_keep(found, keep)
        lost = _has_lost(self._devices_or_none(found), found)
        if lost or found.row.get("snapshot") is not None:
            folder = self._folders.instance(found.uuid)
            self._usage.require_nobodys(found.uuid, folder, _home(found))
        if elsewhere := self._others_may_have(found):
            self._usage.require_unattached(found.uuid, *elsewhere)
        self._switch_off(found)
        with changed():
            merged = kept or lost or self._spread(found) or self._strangers(found)
            if found.row.get("snapshot") is not None and merged:
                # a disk is whole only when they are merged into it, and Destroy finds disks on
                # another datastore only without them
                self._tasks.run(lambda: found.obj.RemoveAllSnapshots_Task(True), entity=found.obj)
                found = self._machines.read_again(found, *_HARDWARE)
                kept = self._to_keep(found, keep)
            for disk in by_address(found.row.get("config.hardware.device") or ()).values():
                if file_of(disk) in kept:
                    self._changes.make_whole(found.obj, disk)
            if found.row.get("snapshot") is None:
                self._take_away_volumes(found, kept)
                self._move_aside(found)
            if lost:
                self._delete_detached(found)
            for source, target in kept.items():
                self._files.move_disk(source, target)
            # before, as who calls again finds no machine that says its group; and after, as another
            # client may have found it in between
            self._groups.settle(found.mark.server_group, without=found.uuid)
            disks = by_address(found.row.get("config.hardware.device") or ()).values()
            records = self._devices_or_none(found).volumes.values()
            with self._luns.releasing(disks, records):
                self._destroy_machine(found)
            self._groups.settle(found.mark.server_group, without=found.uuid)

    def _others_may_have(self, found: Machine) -> list[str]:
        """Own disks in folders that spawn() did not make: an adopted machine may share them."""
        disks = by_address(found.row.get("config.hardware.device") or ())
        own = [disks[a] for a in self._devices_or_none(found).sure if a in disks]
        files = [file_of(each) or "" for each in own]
        return [each for each in files if each and str(found.uuid) not in each]

    def _spread(self, found: Machine) -> bool:
        """Whether files of its own lie outside of the instance's folder: its configuration, or
        disks."""
        folder = self._folders.instance(found.uuid)
        disks = by_address(found.row.get("config.hardware.device") or ())
        own = [disks[each] for each in self._devices_or_none(found).sure if each in disks]
        inside = f"{folder}/"
        return _home(found) != folder or not all(
            (file_of(each) or inside).startswith(inside) for each in own
        )

    def _switch_off(self, found: Machine) -> None:
        if found.row.get("runtime.powerState") == "poweredOff":
            return
        try:
            self._power.off_at_once(found.obj)
        except errors.InvalidState as error:
            if error.vendor_code == PENDING:
                raise
            return  # it has gone down by itself
        except errors.HypervisorFault as error:
            if error.vendor_code != "ManagedObjectNotFound":
                raise

    def _take_away_volumes(self, found: Machine, kept: Mapping[str, str]) -> None:
        disks = by_address(found.row.get("config.hardware.device") or ())
        devices = self._devices_or_none(found)
        folder = self._folders.instance(found.uuid)
        going = [
            disk
            for address, disk in disks.items()
            if isinstance(disk, vim.vm.device.VirtualDisk)
            and (address in devices.volumes or self._is_volume(disk, folder))
        ]
        changes = [taking_away(each, snapshots=False) for each in going]
        going = self._strangers(found)
        going += [each for each in disks.values() if file_of(each) in kept]
        changes += [removing(each) for each in going]
        if not changes:
            return
        try:
            config = vim.vm.ConfigSpec(deviceChange=changes)
            self._tasks.run(lambda: found.obj.ReconfigVM_Task(config), entity=found.obj)
        except errors.HypervisorFault as error:
            if error.vendor_code != "ManagedObjectNotFound":
                raise

    def _is_volume(self, disk: Any, folder: str) -> bool:
        """Whether a disk lies among the volumes, whatever the record says: it must not be lost."""
        path = file_of(disk) or ""
        return self._folders.holds(path, "volumes") and not path.startswith(folder)

    def _strangers(self, found: Machine) -> list[Any]:
        """Disks that somebody has attached without the driver: vSphere's Destroy would delete them.
        Without a record none is known; then what lies in the instance's folder, or beside the
        machine's configuration, is its own."""
        devices = self._devices_or_none(found)
        folder = f"{self._folders.instance(found.uuid)}/"
        homes = (folder, f"{_home(found)}/")
        return [
            disk
            for address, disk in by_address(found.row.get("config.hardware.device") or ()).items()
            if isinstance(disk, vim.vm.device.VirtualDisk)
            and (address in devices.doubtful or address not in {*devices.own, *devices.volumes})
            and not self._is_volume(disk, folder)
            and (devices.own or devices.volumes or not (file_of(disk) or "").startswith(homes))
        ]

    def _move_aside(self, found: Machine) -> None:
        """Take the disks of others out of the instance's folder, and out of that of the machine,
        which go: they become volumes."""
        number = 0
        for source in map(file_of, self._strangers(found)):
            folder = (source or "").rpartition("/")[0]
            if source is None or folder not in (_home(found), self._folders.instance(found.uuid)):
                continue
            self._folders.ensure()
            while True:
                number += 1
                target = self._folders.path("volumes", f"{found.uuid}-by-hand-{number}.vmdk")
                if not self._files.exists(target):
                    break
            self._files.move_disk(source, target)

    def _delete_detached(self, found: Machine) -> None:
        """Delete the disks in the folder of a clone that are attached nowhere: vSphere's Destroy
        leaves them. What lies in the instance's folder goes with that."""
        home = _home(found)
        store = self._places.datastores().datastores.get(split_path(home)[0])
        if (
            store is None
            or str(found.uuid) not in home
            or home == self._folders.instance(found.uuid)
        ):
            return
        attached = {
            path
            for disk in by_address(found.row.get("config.hardware.device") or ()).values()
            for path in chain_of(disk)
        }
        for file in self._files.search(store["browser"], home):
            path = f"{home}/{file.name}"
            stem, _, kind = file.name.rpartition(".")
            if kind == "vmdk" and not is_part(stem) and path not in attached:
                self._files.delete_disk(path)

    @staticmethod
    def _devices_or_none(found: Machine) -> Devices:
        try:
            return devices_in(found.row)
        except errors.HypervisorFault:
            return Devices()  # damaged by somebody: destroy() works all the same

    def _destroy_machine(self, found: Machine) -> None:
        self._machines.known.forget(found.uuid)
        for _ in range(_STARTED_AGAIN):
            try:
                self._remove_from_the_server(found)
            except errors.InvalidState:
                # a spawn or power_on of another client has started it since it was switched off
                with suppress(errors.InvalidState):
                    self._power.off_at_once(found.obj)
            else:
                return
        self._remove_from_the_server(found)

    def _remove_from_the_server(self, found: Machine) -> None:
        try:
            if found.row.get("snapshot") is None:
                self._tasks.run(found.obj.Destroy_Task, entity=found.obj)
            else:
                # Destroy deletes the disks of snapshots too, also volumes that were attached then,
                # and a disk that a snapshot has cannot be taken away. All that is the machine's
                # own lies in its folder, which goes next
                found.obj.UnregisterVM()
        except errors.HypervisorFault as error:
            if error.vendor_code != "ManagedObjectNotFound":
                raise

    def _to_keep(self, found: Machine, keep: AbstractSet[Keep]) -> dict[str, str]:
        """The files of the disks to keep, and those to move them to.

        Raises:
            VolumeExists: such a name is taken.
        """
        kept: dict[str, str] = {}
        if not keep:
            return kept
        disks = by_address(found.row.get("config.hardware.device") or ())
        for address, role in self._devices_or_none(found).sure.items():
            file = file_of(disks[address]) if address in disks else None
            if file is None or not any(keeps(each, role) for each in keep):
                continue
            target = self._folders.path("volumes", f"{found.uuid}-{role}.vmdk")
            if self._files.exists(target):
                raise errors.VolumeExists(
                    f"a {role} disk of an earlier instance with this UUID has been kept",
                    hint="delete_volume() that one first, or destroy() without keep=",
                )
            kept[file] = target
        if kept:
            self._folders.ensure()
        return kept

    def remove_machine(self, uuid: UUID, record: Record) -> None:
        """Undo the making of a machine with this record. Another client may have destroyed it, and
        may have spawned the instance again: that machine was made at another time."""
        found = self._ours_if_there(uuid, path_of(RECORD))
        if found is not None and _made_at(found) == record.created_at:
            self._destroy(found, frozenset())


def _made_at(found: Machine) -> datetime | None:
    try:
        return record_in(found.row).created_at
    except errors.HypervisorFault:
        return None  # damaged by somebody: nothing says whose it is


def _has_lost(devices: Devices, found: Machine) -> bool:
    """Whether a disk of the machine's own is not attached to it any more."""
    disks = by_address(found.row.get("config.hardware.device") or ())
    return any(a not in disks for a, role in devices.own.items() if role not in DISCS)


def _home(found: Machine) -> str:
    """The folder of the machine's configuration; vCenter gives it its name."""
    return str(found.row.get("config.files.vmPathName") or "").rpartition("/")[0]
