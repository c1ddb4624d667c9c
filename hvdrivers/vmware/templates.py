"""Templates: what vCenter clones machines from. An ESXi host clones nothing.

A cached image gets a template when the first machine is made from it: a machine in the image's own
folder, whose only disk is the image's, with one snapshot, and marked as a template. The snapshot
freezes the disk. A linked clone is a child of that frozen disk, and a full clone a copy of it; the
same file is what rescue() and rebuild() copy.

A template is found by the path of its configuration file, so of two clients that make one at the
same time one does, and the other finds it. One that was left half made is completed. One that
somebody has unregistered is made again: its files are put away first.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import uuid4

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor
from hvdrivers.models.volume import DiskBus
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.devices import Slots, adding, by_address, file_of
from hvdrivers.vmware.files import Files
from hvdrivers.vmware.names import file_name
from hvdrivers.vmware.place import Places, Surroundings
from hvdrivers.vmware.reader import Reader, Row
from hvdrivers.vmware.record import IMAGE, ImageMark, image_in, option, path_of
from hvdrivers.vmware.room import Room
from hvdrivers.vmware.seen_images import Base, SeenImages, Template
from hvdrivers.vmware.session import Session
from hvdrivers.vmware.specs import disk_at
from hvdrivers.vmware.tasks import Tasks

_SNAPSHOT = "hvdrivers"
_PATHS = (
    "config.instanceUuid",
    path_of(IMAGE),
    "config.template",
    "config.hardware.device",
    "runtime.powerState",
    "snapshot",
)
_MAKING = frozenset({"Folder.createVm"})
"""``descriptionId`` of the task that makes a template."""
_TAKEN = frozenset({"FileAlreadyExists", "AlreadyExists", "DuplicateName"})


class Templates:
    """Find the template of an image, or make it."""

    def __init__(
        self,
        config: VmwareConfig,
        session: Session,
        reader: Reader,
        tasks: Tasks,
        places: Places,
        *,
        files: Files,
        room: Room,
        seen: SeenImages,
    ) -> None:
        self._config = config
        self._session = session
        self._reader = reader
        self._tasks = tasks
        self._places = places
        self._files = files
        self._room = room
        self._seen = seen

    def of(self, base: Base, surroundings: Surroundings) -> Template | None:
        """The template of a cached image. No call if it was seen before; 3 if another client has
        made it; 11 to make it, 12 more where somebody has unregistered one. None if something else
        has its place."""
        found = self._seen.template(base)
        if found is None:
            row = self._template_row(base.path)
            if row is None:
                row = self._made(base, surroundings)
            found = self._completed(row, base) if row is not None else None
            if found is not None:
                self._seen.put_template(base, found)
        return found

    def _made(self, base: Base, surroundings: Surroundings) -> Row | None:
        """A template that is made now, also by another client."""
        taken = not self._make_template(base, surroundings)
        row = self._template_row(base.path)
        if row is None and taken and self._put_remains_away(base.path):
            self._make_template(base, surroundings)
            row = self._template_row(base.path)
        return row

    def _put_remains_away(self, disk: str) -> bool:
        """Delete what is in the folder of a template that is in no inventory. The image's disk, and
        the disks that are children of it, are elsewhere. 9 calls.

        Returns:
            False: another client is making the template, or a machine of others has its place.
        """
        if self._tasks.under_way(_MAKING) or self._at_home(disk) is not None:
            return False
        home, aside = _home(disk), f"{_home(disk)}.gone"
        with suppress(errors.VolumeNotFound):  # another client has done it
            try:
                self._files.move(home, aside)
            except errors.InvalidRequest as error:
                if error.vendor_code not in _TAKEN:
                    raise
                self._files.delete(aside)  # what a process that died has left
                self._files.move(home, aside)
            if self._at_home(disk) is None:
                self._files.delete(aside)
            else:  # another client has made the template since the last look
                self._files.move(aside, home)
        return True

    def _at_home(self, disk: str) -> Any:
        """The machine whose configuration is where that of the disk's template is."""
        index = self._session.content.searchIndex
        return index.FindByDatastorePath(self._places.get().datacenter, _vmx(disk))

    def _template_row(self, disk: str) -> Row | None:
        """The template whose disk this is, also one that is half made. 2 calls, 1 if there is
        none."""
        found = self._at_home(disk)
        rows = self._reader.many([found], *_PATHS) if found is not None else []
        return next((row for row in rows if image_in(row) is not None), None)

    def _make_template(self, base: Base, surroundings: Surroundings) -> bool:
        """Make the machine; False if the server has files, or a machine, in its place."""
        place = self._places.get()
        uuid = uuid4()
        small = Flavor(vcpus=1, memory_mib=64)
        slots = Slots()
        controller, unit, _ = slots.disk(DiskBus.SCSI)
        disk = disk_at(base.path, controller, unit, base.virtual_size, key=slots.key())
        config = vim.vm.ConfigSpec(
            name=f"hvdrivers.image.{base.key[:24]}.{file_name(base.path)[:8]}",
            instanceUuid=str(uuid),
            guestId=self._config.guest_id,
            numCPUs=small.vcpus,
            memoryMB=small.memory_mib,
            files=vim.vm.FileInfo(vmPathName=_vmx(base.path)),
            deviceChange=[*slots.added, adding(disk)],
            extraConfig=[option(IMAGE, ImageMark(uuid=uuid, key=base.key))],
        )
        host = None
        with suppress(errors.InsufficientResources):  # in maintenance: a template does not run
            host = self._room.host_for(small, surroundings)
        self._files.make_folder(_home(base.path))
        try:
            self._tasks.run(
                lambda: place.vm_folder.CreateVM_Task(config, place.root_pool, host),
                entity=place.vm_folder,
            )
        except errors.InvalidRequest as error:
            if error.vendor_code not in _TAKEN:
                raise
            return False  # another client was faster, or somebody has unregistered the machine
        return True

    def _completed(self, row: Row, base: Base) -> Template | None:
        """A template with its snapshot, marked. No call if it is complete."""
        obj = row.obj
        if row.get("snapshot") is None:
            if row.get("runtime.powerState") not in (None, "poweredOff"):
                raise _started_by_hand(None)  # its guest writes to the image's disk
            # a template takes no snapshot: another client was faster
            with suppress(errors.NotSupported, errors.InvalidState):
                self._tasks.run(
                    lambda: obj.CreateSnapshot_Task(_SNAPSHOT, "", False, False), entity=obj
                )
        if not row.get("config.template"):
            # another client was faster; or somebody has started it: the frozen disk is as it was
            with suppress(errors.NotSupported, errors.InvalidState):
                obj.MarkAsTemplate()
        if row.get("snapshot") is None:
            row = self._reader.one(obj, *_PATHS)
        info = row.get("snapshot")
        if info is None:
            return None
        # the oldest snapshot: of two clients that have completed it each may have made one
        snapshot = info.rootSnapshotList[0].snapshot
        then = self._reader.one(snapshot, "config.hardware.device")
        devices = then.get("config.hardware.device") or ()
        for address, disk in by_address(devices).items():
            if file_of(disk) == base.path:
                return Template(obj, snapshot, devices, address)
        return None

    def drop(self, disk: str) -> bool:
        """Take the template of an image out of the inventory, so that another one can be made. The
        image's disk stays. 5 calls, 1 if there is none.

        Returns:
            Whether there was one.

        Raises:
            DeviceBusy: somebody has made a machine of it and has started that.
        """
        row = self._template_row(disk)
        if row is None:
            return False
        try:
            row.obj.UnregisterVM()
        except errors.InvalidState as error:
            raise _started_by_hand(error) from error
        except errors.HypervisorFault as error:
            if error.vendor_code != "ManagedObjectNotFound":
                raise
        self._files.delete(_home(disk))
        return True


def _started_by_hand(error: errors.HypervisorError | None) -> errors.DeviceBusy:
    return errors.DeviceBusy(
        "the template of the image is a machine that is powered on",
        vendor_code=error.vendor_code if error is not None else None,
        hint="power it off; the driver makes a template of it again",
        retryable=False,
    )


def _home(disk: str) -> str:
    """The folder of the template, in that of the disk."""
    return f"{disk.rpartition('/')[0]}/template"


def _vmx(disk: str) -> str:
    return f"{_home(disk)}/template.vmx"
