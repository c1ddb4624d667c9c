"""What a rescue, or a rebuild, leaves until the machine's next start.

Both stop a running machine and start it again. Before that its mark says so (``restart``), so that
a repeated call, by whatever process, comes to the same end as one that was not interrupted.
"""

from __future__ import annotations

import secrets
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.driverkit import Undo
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.changes import Changes
from hvdrivers.vmware.devices import by_address, editing, file_of, removing
from hvdrivers.vmware.files import Files
from hvdrivers.vmware.folders import Folders
from hvdrivers.vmware.machines import VERSION, Machine, Machines
from hvdrivers.vmware.moved import RESCUE, RESCUE_SEED, ROOT, SEED
from hvdrivers.vmware.power_switch import PowerSwitch
from hvdrivers.vmware.record import DEVICES, RECORD, devices_in, option, path_of, record_in

CONFIGURATION = (path_of(RECORD), path_of(DEVICES), "config.hardware.device", "snapshot", VERSION)
"""What another root disk is put into a machine from."""


class Rescues:
    """Stops machines for another root disk, and brings them back."""

    def __init__(
        self,
        machines: Machines,
        changes: Changes,
        power: PowerSwitch,
        files: Files,
        folders: Folders,
    ) -> None:
        self._machines = machines
        self._changes = changes
        self._power = power
        self._files = files
        self._folders = folders

    def stopped(self, found: Machine, undo: Undo | None, *, alone: bool = False) -> Machine:
        """The machine, off: a running one is stopped, and ``undo`` starts it again. See
        ``Changes.mark()`` for ``alone``."""
        if found.state is InstanceState.STOPPED:
            return found
        self._changes.mark(found, alone=alone, restart=True)
        if undo is not None:
            undo.callback(self._start_again, found.uuid)
        self._power.ensure_off(found.obj)
        return self._machines.get(found.uuid, *CONFIGURATION)

    def mark_started(self, uuid: UUID) -> None:
        """Write down that a machine runs with its own root disk. 1 read, and 1 reconfiguration if
        that is news."""
        found = self._machines.get(uuid, VERSION)
        if found.mark.restart or found.mark.rescued:
            self._changes.mark(found, restart=False, rescued=False)

    def end(self, found: Machine) -> Machine:
        """power_on() ends what rescue() and rebuild() have left."""
        if not (found.mark.rescued or found.mark.restart):
            return found
        paths = tuple(found.row.values)
        self.leave(self._machines.get(found.uuid, *CONFIGURATION))
        self.mark_started(found.uuid)
        return self._machines.get(found.uuid, *paths)

    def over(self, found: Machine) -> Machine:
        """Before a snapshot: it would keep the rescue disk that a machine has which went off while
        it was rescued, and vSphere removes no disk that a snapshot has. No call without one; else 3
        reads and 2 reconfigurations. Whether the machine is to run again stays as it is."""
        if not found.mark.rescued or found.state is not InstanceState.STOPPED:
            return found
        paths = tuple(found.row.values)
        now = self._machines.get(found.uuid, *CONFIGURATION)
        if now.state is InstanceState.STOPPED:
            self.leave(now)
            self._changes.mark(self._machines.get(found.uuid, VERSION), rescued=False)
        return self._machines.get(found.uuid, *paths)

    def leave_of(self, uuid: UUID, path: str) -> None:
        """Undo a rescue that has failed: the machine stays off. One that has another rescue disk
        than ``path`` is another client's."""
        found = self._machines.get(uuid, *CONFIGURATION)
        disks = by_address(found.row.get("config.hardware.device") or ()).values()
        if path not in map(file_of, disks):
            return
        if found.state is InstanceState.RESCUED:
            self._power.ensure_off(found.obj)
        self.leave(found)
        found = self._machines.get(uuid, VERSION)
        if found.mark.rescued:
            self._changes.mark(found, rescued=False)

    def leave(self, found: Machine) -> None:
        """Take the rescue disk away and boot the own one again. The mark stays as it is."""
        self._changes.while_it_changes(found, self._take_away, *CONFIGURATION)

    def seed_of(self, uuid: UUID) -> str:
        """A path for the disc with which a machine is rescued: of two clients each has its own."""
        return f"{self._folders.instance(uuid)}/{RESCUE_SEED}-{secrets.token_hex(6)}.iso"

    def _start_again(self, uuid: UUID) -> None:
        found = self._machines.get(uuid)
        if found.state is InstanceState.RESCUED:
            return  # another client has rescued it
        if found.state is InstanceState.STOPPED:
            self._power.on(found.obj)
        self.mark_started(uuid)

    def _take_away(self, found: Machine) -> None:
        devices = devices_in(found.row)
        disks = by_address(found.row.get("config.hardware.device") or ())
        rescue = [a for a, role in devices.own.items() if role == RESCUE]
        if not rescue:
            return
        own = {a: role for a, role in devices.own.items() if role not in (RESCUE, RESCUE_SEED)}
        # what may be a disk of others is only taken away
        changes = [
            destroying(disks[a]) if a in devices.sure else removing(disks[a])
            for a in rescue
            if a in disks
        ]
        folder = self._folders.instance(found.uuid)
        drives = {a: each for a, each in disks.items() if is_rescue_seed(each, folder)}
        discs = [str(file_of(each)) for each in drives.values()]
        for address, drive in drives.items():
            if address in own:
                changes.append(with_disc(drive, f"{folder}/{SEED}.iso"))
            else:
                changes.append(removing(drive))
        boot = [a for a, role in own.items() if role == ROOT]
        boot += [a for a, each in devices.volumes.items() if each.boot_index == 0]
        keys = [disks[a].key for a in boot if a in disks]
        left = devices.model_copy(update={"own": own})
        record = record_in(found.row).model_copy(update={"rescue_image": None})
        values = [option(DEVICES, left), option(RECORD, record)]
        config = vim.vm.ConfigSpec(
            changeVersion=found.row.get(VERSION), deviceChange=changes, extraConfig=values
        )
        if keys:
            config.bootOptions = boots(keys[0])
        self._changes.reconfigure(found.obj, config)
        for disc in discs:
            self._files.delete(disc)


def is_rescue_seed(drive: Any, folder: str) -> bool:
    """Whether a drive has the disc of a rescue, which lies in the instance's folder."""
    return (file_of(drive) or "").startswith(f"{folder}/{RESCUE_SEED}")


def with_disc(drive: Any, path: str) -> Any:
    """A device change that puts another disc into a drive."""
    drive.backing = vim.vm.device.VirtualCdrom.IsoBackingInfo(fileName=path)
    return editing(drive)


def destroying(disk: Any) -> Any:
    """A device change that takes a disk away and deletes its files."""
    change = removing(disk)
    change.fileOperation = "destroy"
    return change


def boots(key: int) -> Any:
    """Boot options: the disk with this key comes first."""
    disk = vim.vm.BootOptions.BootableDiskDevice(deviceKey=key)
    return vim.vm.BootOptions(bootOrder=[disk])
