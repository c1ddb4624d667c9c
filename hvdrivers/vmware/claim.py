"""The claim on a UUID: the instance's folder on the datastore.

Making a folder is atomic, so of two spawns of one UUID, in whatever processes, one gets it. The
spawn that got it makes an empty folder ``claim-TOKEN`` inside. Another client may destroy the
instance and spawn it again meanwhile, and the folder is then that client's, with its disks. So the
undo of a spawn removes only a folder that has its own token and no other. It renames the folder
first, and looks at the token once more: nobody else's files are deleted between look and deletion.

A spawn whose request to make the folder was not answered has no token in it. Its undo removes only
a folder in which nothing is, and for which nothing is under way.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.driverkit import Deadline, Undo
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.vmware.files import Files, Found
from hvdrivers.vmware.folders import Folders
from hvdrivers.vmware.machines import Machine, Machines
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.reader import Reader
from hvdrivers.vmware.tasks import Tasks
from hvdrivers.vmware.waiting import wait_for_change

HOME = "config.files.vmPathName"
"""The path of a machine's configuration."""
_LONGEST = 5.0
"""Seconds that a spawn waits for what becomes of another one of its UUID."""
_MAKING = frozenset(
    {"VirtualMachine.clone", "VirtualDiskManager.copyVirtualDisk", "Folder.createVm"}
)
"""``descriptionId`` of the tasks by which a spawn fills its folder."""
_CLAIM = "claim-"
"""How the name of the empty folder begins that says whose an instance's folder is."""


class Claims:
    """Takes the folder of an instance, and gives it back."""

    def __init__(
        self,
        reader: Reader,
        tasks: Tasks,
        places: Places,
        machines: Machines,
        *,
        files: Files,
        folders: Folders,
    ) -> None:
        self._reader = reader
        self._tasks = tasks
        self._places = places
        self._machines = machines
        self._files = files
        self._folders = folders
        self.unfinished: dict[UUID, str] = {}
        """Instances of which this driver has left a folder because the server could not be reached,
        and the token of the spawn that made it, or may have made it."""

    def refuse_existing(self, uuid: UUID) -> None:
        """A UUID that is taken anywhere in a vCenter is taken. One call, 2 for a machine."""
        if self._machines.anywhere(uuid) is not None:
            raise errors.InstanceExists("a machine with this UUID exists", instance=uuid)

    def take(self, uuid: UUID, undo: Undo) -> None:
        """Make the instance's folder. One that is there is that of a spawn under way, or the
        remains of one that was interrupted: the driver waits a while for what comes of it.

        Raises:
            InstanceExists: a machine came of it.
            DeviceBusy: none did in time, or another client has removed the folder at once.
        """
        token = secrets.token_hex(8)
        folder = self._folders.instance(uuid)
        left = self.unfinished.get(uuid)
        if left is not None:
            # an earlier spawn of this driver could not take back what it had begun
            self._unclaim(uuid, left)
        until = Deadline(min(_LONGEST, current_deadline().left / 2))
        while True:
            undo.callback(self._unclaim, uuid, token)
            if self._files.make_folder(folder):
                self._sign(uuid, token)
                return
            undo.forget()  # it is somebody else's
            self.refuse_existing(uuid)
            if until.passed:
                raise errors.DeviceBusy(
                    "a folder of an instance with this UUID exists, and no machine",
                    instance=uuid,
                    hint="a spawn of it is under way, or was interrupted: destroy() removes that",
                    retryable=False,
                )
            # a machine that comes is told by its folder; that the other spawn gave up is not
            children = self._places.get().vm_folder
            wait_for_change(self._reader, children, "childEntity", Deadline(until.within(1.0)))

    def home(self, uuid: UUID, undo: Undo) -> None:
        """Make the folder of an instance that is there: one that was adopted has none. If the call
        fails because another client has destroyed the instance meanwhile, the folder goes again. 1
        call."""
        undo.callback(self.forsake, uuid)
        self._files.make_folder(self._folders.instance(uuid), parents=True)

    def home_of_adopted(self, found: Machine, undo: Undo) -> None:
        """The same for a machine that others have made. No call for one of spawn(): its folder is
        there, and the path of its configuration has its UUID.

        Args:
            found: with ``HOME``.
        """
        if str(found.uuid) not in str(found.row.get(HOME)):
            self.home(found.uuid, undo)

    def forsake(self, uuid: UUID, *names: str) -> None:
        """Remove the folder of an instance that is not there any more, which a call of this driver
        has made again. 1 call if the instance is there, else 9.

        Args:
            names: files that the call has written into it.
        """
        if self._machines.anywhere(uuid) is not None:
            return
        for name in names:
            self._files.delete(f"{self._folders.instance(uuid)}/{name}")
        if self._is_nobodys(uuid):
            self._files.remove_quietly(self._folders.instance(uuid))

    def _sign(self, uuid: UUID, token: str) -> None:
        try:
            self._files.make_folder(f"{self._folders.instance(uuid)}/{_CLAIM}{token}")
        except errors.VolumeNotFound as error:
            raise errors.DeviceBusy(
                "another client has removed the instance's folder while it was being spawned",
                instance=uuid,
                retryable=True,
                hint="call again, unless the other client is right: it has called destroy()",
            ) from error

    def _unclaim(self, uuid: UUID, token: str) -> None:
        """Remove the folder, if it is that of the spawn with this token. 7 calls."""
        self.unfinished[uuid] = token
        folder = self._folders.instance(uuid)
        aside = aside_of(folder)
        if self._signed(aside, token):  # an earlier attempt has renamed it
            self._files.delete(aside)
        elif self._signed(folder, token):
            self._put_folder_aside(folder, aside)
            if self._signed(aside, token):
                self._files.delete(aside)
            else:  # another client has spawned the instance again since the last look
                with suppress(errors.VolumeNotFound):
                    self._files.move(aside, folder)
        elif self._is_nobodys(uuid):
            self._files.remove_quietly(folder)
        self.unfinished.pop(uuid, None)

    def _put_folder_aside(self, folder: str, aside: str) -> None:
        with suppress(errors.VolumeNotFound):  # it has gone
            try:
                self._files.move(folder, aside)
            except errors.InvalidRequest as error:
                if error.vendor_code != "FileAlreadyExists":
                    raise
                self._files.delete(aside)  # what a process that died has left
                self._files.move(folder, aside)

    def _signed(self, folder: str, token: str) -> bool:
        """Whether a folder has this token and no other. 3 calls."""
        found = {each.name for each in self._inside(folder) if each.name.startswith(_CLAIM)}
        return found == {f"{_CLAIM}{token}"}

    def _inside(self, folder: str) -> list[Found]:
        store = self._places.datastores().datastore(self._places.get().datastore)
        return self._files.search(store["browser"], folder)

    def _is_nobodys(self, uuid: UUID) -> bool:
        """Whether nothing has come of the folder of an instance yet, and nothing is coming. 5
        calls."""
        if self._tasks.under_way(_MAKING):
            raise errors.DeviceBusy(
                "the folder of the instance is there, and may be another spawn's",
                instance=uuid,
                hint="call again, or destroy() the instance",
                retryable=True,
            )
        if self._inside(self._folders.instance(uuid)):
            return False
        return self._machines.anywhere(uuid) is None


def aside_of(folder: str) -> str:
    """What the folder of an instance is called while an undo removes it."""
    return f"{folder}.undone"
