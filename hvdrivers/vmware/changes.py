"""Changes of a machine's configuration, and of what the driver remembers in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.vmware.machines import VERSION, Machine, Machines
from hvdrivers.vmware.moved import Devices
from hvdrivers.vmware.record import DEVICES, MARK, news_of_disks, option
from hvdrivers.vmware.tasks import Tasks

_T = TypeVar("_T")


class Changes:
    """Reconfigures machines."""

    def __init__(self, machines: Machines, tasks: Tasks) -> None:
        self._machines = machines
        self._tasks = tasks

    def reconfigure(self, obj: Any, config: Any) -> None:
        """Change a machine. 2 calls."""
        self._tasks.run(lambda: obj.ReconfigVM_Task(config), entity=obj)

    def change_devices(
        self, found: Machine, changes: Sequence[Any], devices: Devices, *, reserve: bool = False
    ) -> None:
        """Change devices and the record of them in one request. It fails if another client has
        changed the machine since it was read.

        Args:
            reserve: all of the machine's memory is reserved from now on.
        """
        config = vim.vm.ConfigSpec(
            changeVersion=found.row.get(VERSION),
            deviceChange=list(changes),
            extraConfig=[option(DEVICES, devices)],
        )
        if reserve:
            config.memoryReservationLockedToMax = True
        self.reconfigure(found.obj, config)

    def remember_disks(self, found: Machine) -> None:
        """Write which disks the machine has, before their files get other names. 2 calls, none if
        that is known."""
        disks = news_of_disks(found.row)
        if disks is not None:
            config = vim.vm.ConfigSpec(
                changeVersion=found.row.get(VERSION), extraConfig=[option(DEVICES, disks)]
            )
            self.reconfigure(found.obj, config)

    def make_whole(self, obj: Any, disk: Any) -> bool:
        """End that a linked clone's disk is a child of its image's: it becomes a whole disk, of a
        machine that is off and has no snapshots. 2 calls; none, and False, if it is whole."""
        if getattr(disk.backing, "parent", None) is None:
            return False
        self._tasks.run(lambda: obj.PromoteDisks_Task(True, [disk]), entity=obj)
        return True

    def mark(self, found: Machine, *, alone: bool = False, **values: bool) -> None:
        """Change the mark of a machine that was read with its version. 2 calls.

        Raises:
            DeviceBusy: ``alone``, and another client has begun or ended a rescue meanwhile.
        """
        rescued = found.mark.rescued

        def change(found: Machine) -> None:
            if alone and found.mark.rescued != rescued:
                raise errors.DeviceBusy(
                    "another client has begun or ended a rescue meanwhile",
                    retryable=True,
                    hint="get_instance() shows whether it is rescued now; then call again",
                )
            mark = found.mark.model_copy(update=values)
            config = vim.vm.ConfigSpec(
                changeVersion=found.row.get(VERSION), extraConfig=[option(MARK, mark)]
            )
            self.reconfigure(found.obj, config)

        self.while_it_changes(found, change, VERSION)

    def while_it_changes(self, found: Machine, change: Callable[[Machine], _T], *paths: str) -> _T:
        """Make a change for a machine as it was read. If another client has changed it since, and
        the server refuses the change for that, read it anew and make the change for that."""
        while True:
            try:
                return change(found)
            except errors.DeviceBusy as error:
                if error.vendor_code != "ConcurrentAccess":
                    raise
                current_deadline().check("another client changed the machine again and again")
                found = self._machines.get(found.uuid, *paths)
