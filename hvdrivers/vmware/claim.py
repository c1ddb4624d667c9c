"""The claim on a UUID: the instance's folder on the datastore.

Making a folder is atomic, so of two spawns of one UUID, in whatever processes, one gets it. A spawn
whose request to make it was not answered does not know whether the folder is its own. Its undo
removes only a folder in which nothing is, and for which nothing is under way: another spawn may
have it, with its disks.
"""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.driverkit import Deadline, Undo
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.waiting import wait_for_change

_LONGEST = 5.0
"""Seconds that a spawn waits for what becomes of another one of its UUID."""
_MAKING = frozenset(
    {"VirtualMachine.clone", "VirtualDiskManager.copyVirtualDisk", "Folder.createVm"}
)
"""``descriptionId`` of the tasks by which a spawn fills its folder."""


class Claim(Topic):
    """Takes the folder of an instance, and gives it back."""

    _unfinished: dict[UUID, bool]
    """Instances of which this driver has left a folder because the server could not be reached, and
    whether it knows that it has made the folder."""

    def _refuse_existing(self, uuid: UUID) -> None:
        # a UUID that is taken anywhere in a vCenter is taken
        if self._machine_anywhere(uuid) is not None:
            raise errors.InstanceExists("a machine with this UUID exists", instance=uuid)

    def _claim(self, uuid: UUID, undo: Undo) -> None:
        """Make the instance's folder. One that is there is that of a spawn under way, or the
        remains of one that was interrupted: the driver waits a while for what comes of it.

        Raises:
            InstanceExists: a machine came of it.
            DeviceBusy: none did in time.
        """
        folder = self._instance_folder(uuid)
        left = self._unfinished.get(uuid)
        if left is not None:
            # an earlier spawn of this driver could not take back what it had begun
            self._unclaim(uuid, left)
        until = Deadline(min(_LONGEST, current_deadline().left / 2))
        while True:
            undo.callback(self._unclaim, uuid, False)
            if self.files.make_folder(folder):
                undo.forget()
                undo.callback(self._unclaim, uuid, True)
                return
            undo.forget()  # it is somebody else's
            self._refuse_existing(uuid)
            if until.passed:
                raise errors.DeviceBusy(
                    "a folder of an instance with this UUID exists, and no machine",
                    instance=uuid,
                    hint="a spawn of it is under way, or was interrupted: destroy() removes that",
                    retryable=False,
                )
            # a machine that comes is told by its folder; that the other spawn gave up is not
            children = self.places.get().vm_folder
            wait_for_change(self.reader, children, "childEntity", Deadline(until.within(1.0)))

    def _unclaim(self, uuid: UUID, made: bool) -> None:
        """Remove the folder.

        Args:
            made: this spawn has made it. Otherwise a folder stays that another spawn may have.
        """
        self._unfinished[uuid] = made
        if made or self._is_nobodys(uuid):
            self.files.remove_quietly(self._instance_folder(uuid))
        self._unfinished.pop(uuid, None)

    def _is_nobodys(self, uuid: UUID) -> bool:
        """Whether nothing has come of the folder of an instance yet, and nothing is coming. 5
        calls."""
        surroundings = self.places.surroundings()
        browser = surroundings.datastores[self.places.get().datastore]["browser"]
        if self.tasks.under_way(_MAKING):
            raise errors.DeviceBusy(
                "the folder of the instance is there, and may be another spawn's",
                instance=uuid,
                hint="call again, or destroy() the instance",
                retryable=True,
            )
        if self.files.search(browser, self._instance_folder(uuid)):
            return False
        return self._machine_anywhere(uuid) is None
