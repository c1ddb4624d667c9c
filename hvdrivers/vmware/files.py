"""Files on datastores: folders, virtual disks, transfers over HTTPS."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.vmware.names import split_path, web_path
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.session import Session
from hvdrivers.vmware.tasks import Tasks
from hvdrivers.vmware.transport import Body, Sink

_ABSENT = frozenset({"FileNotFound", "NotFound"})
_DESCRIPTION = 64 << 10
"""Bytes of a description: far more than it can have."""
_Search = vim.host.DatastoreBrowser.SearchSpec


@dataclass(frozen=True)
class Found:
    """A file, with the folder that holds it."""

    folder: str
    """``[datastore] folder``, without a slash at the end."""
    name: str
    size: int
    modified: Any
    is_folder: bool


class Files:
    """Files on the datastores of the place."""

    def __init__(self, session: Session, tasks: Tasks, places: Places) -> None:
        self._session = session
        self._tasks = tasks
        self._places = places

    @property
    def _datacenter(self) -> Any:
        return self._places.get().datacenter

    @property
    def _manager(self) -> Any:
        return self._session.content.fileManager

    @property
    def _disks(self) -> Any:
        return self._session.content.virtualDiskManager

    def make_folder(self, path: str, *, parents: bool = False) -> bool:
        """Make a folder; False if something of this name is there. One call: of two makers one
        gets it. With its parents it is nobody's own, and is made again if the reply was lost."""
        try:
            self._manager.MakeDirectory(path, self._datacenter, parents)
        except errors.OutcomeUnknown:
            if not parents:
                raise
            return self.make_folder(path)
        except errors.InvalidRequest as error:
            if error.vendor_code != "FileAlreadyExists":
                raise
            return False
        return True

    def delete(self, path: str) -> bool:
        """Delete a file, or a folder with what is in it; False if there is none."""
        return self._gone(lambda: self._manager.DeleteDatastoreFile_Task(path, self._datacenter))

    def delete_disk(self, path: str) -> bool:
        """Delete a virtual disk with its extents; False if there is none."""
        return self._gone(lambda: self._disks.DeleteVirtualDisk_Task(path, self._datacenter))

    def _gone(self, start: Any) -> bool:
        try:
            self._tasks.run(start, entity=None)
        except errors.HypervisorError as error:
            if error.vendor_code not in _ABSENT:
                raise
            return False
        return True

    def move(self, source: str, target: str) -> None:
        """Rename a file or a folder; it fails if the target is there."""
        where = self._datacenter
        self._tasks.run(
            lambda: self._manager.MoveDatastoreFile_Task(source, where, target, where, False)
        )

    def create_disk(self, path: str, size: int, *, kind: str = "thin") -> None:
        """Make an empty virtual disk of ``size`` bytes, in whole KiB."""
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType=kind, adapterType="lsiLogic", capacityKb=-(-size // 1024)
        )
        self._tasks.run(lambda: self._disks.CreateVirtualDisk_Task(path, self._datacenter, spec))

    def copy_disk(
        self, source: str, target: str, *, progress: ProgressCallback | None = None
    ) -> None:
        """Copy a virtual disk. A copy whose start was not answered goes on, and is waited for."""
        where = self._datacenter
        self._tasks.run(
            lambda: self._disks.CopyVirtualDisk_Task(source, where, target, where, None, False),
            entity=self._disks,
            progress=progress,
        )

    def move_disk(self, source: str, target: str) -> None:
        """Rename a virtual disk with its extents."""
        where = self._datacenter
        self._tasks.run(
            lambda: self._disks.MoveVirtualDisk_Task(source, where, target, where, False, None),
            entity=self._disks,
        )

    def extend_disk(self, path: str, size: int) -> None:
        """Let a virtual disk have ``size`` bytes. It must not be in use by a running machine."""
        self._tasks.run(
            lambda: self._disks.ExtendVirtualDisk_Task(
                path, self._datacenter, -(-size // 1024), False
            ),
            entity=self._disks,
        )

    def search(self, browser: Any, path: str, *, below: bool = False) -> list[Found]:
        """What is in a folder, or also in all folders below it; nothing if it is not there."""
        spec = _Search(
            details=vim.host.DatastoreBrowser.FileInfo.Details(
                fileType=True, fileSize=True, modification=True, fileOwner=False
            ),
            matchPattern=["*"],
        )
        start = browser.SearchDatastoreSubFolders_Task if below else browser.SearchDatastore_Task
        try:
            result = self._tasks.run(lambda: start(path, spec))
        except errors.HypervisorError as error:
            if error.vendor_code not in _ABSENT:
                raise
            return []
        results: Sequence[Any] = result if below else [result]
        return [
            Found(
                folder=each.folderPath.rstrip("/"),
                name=file.path,
                size=int(file.fileSize or 0),
                modified=file.modification,
                is_folder=isinstance(file, vim.host.DatastoreBrowser.FolderInfo),
            )
            for each in results
            for file in each.file or ()
        ]

    # ---- transfers ------------------------------------------------------------------------------

    def _address(self, path: str) -> str:
        datastore, inside = split_path(path)
        return web_path(self._places.get().datacenter_path, datastore, inside)

    def upload(self, path: str, body: Body, size: int) -> None:
        """Write a file from its beginning to its end."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        reply = self._session.http("PUT", self._address(path), body=body, headers=headers)
        if reply.status not in (200, 201, 204):
            raise _refused("write", reply.status)

    def download(self, path: str, sink: Sink) -> None:
        """A large file, piece by piece.

        Raises:
            VolumeNotFound: it is not there.
        """
        status = self._session.http("GET", self._address(path), sink=sink).status
        if status == 404:
            raise errors.VolumeNotFound(
                f"there is no file {path}",
                vendor_code="HTTP 404",
                hint="another client may have removed it: call again",
            )
        if status != 200:
            raise _refused("read", status)

    def read(self, path: str) -> bytes | None:
        """A small file; None if it is not there."""
        reply = self._session.http("GET", self._address(path))
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise _refused("read", reply.status)
        return reply.body

    def disk_size(self, path: str) -> int | None:
        """The size of a virtual disk in bytes, from the text that describes it; None if it is not
        there. One request, which is given up where the file is no such text.

        Raises:
            VolumeNotFound: it is no virtual disk.
        """
        sink = _Text(path)
        try:
            self.download(path, sink)
        except errors.VolumeNotFound as error:
            if error.vendor_code is None:
                raise
            return None
        return capacity_in(bytes(sink.data))

    def read_end(self, path: str, size: int) -> tuple[bytes, bool]:
        """The last ``size`` bytes of a file, and whether there are more before them. Nothing if it
        is not there."""
        headers = {"Range": f"bytes=-{size}"}
        reply = self._session.http("GET", self._address(path), headers=headers)
        if reply.status in (404, 416):
            return b"", False
        if reply.status not in (200, 206):
            raise _refused("read", reply.status)
        data = reply.body[-size:]
        first = reply.headers.get("content-range", "bytes 0-").removeprefix("bytes ").split("-")[0]
        more = len(reply.body) > size or (reply.status == 206 and first != "0")
        return data, more

    def exists(self, path: str) -> bool:
        """Whether a file is there. One request."""
        status = self._session.http("HEAD", self._address(path)).status
        if status not in (200, 404):
            raise _refused("look for", status)
        return status == 200

    def remove_quietly(self, path: str) -> None:
        """Undo the making of a folder or a file."""
        with suppress(errors.VolumeNotFound):
            self.delete(path)


class _Text:
    """Takes a disk's description: 20 sectors at most, in every format that VMware documents."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.data = bytearray()

    def begin(self) -> None:
        """Forget what came before."""
        self.data.clear()

    def write(self, data: bytes) -> None:
        """The next bytes."""
        self.data += data
        if len(self.data) > _DESCRIPTION:
            raise errors.VolumeNotFound(
                f"{self._path} is no virtual disk",
                hint="name the VMDK that describes the disk, not the one with its content",
            )


def capacity_in(descriptor: bytes) -> int:
    """The size of a disk in bytes, from the text that describes it.

    Each extent has a line ``RW <sectors> VMFS "name-flat.vmdk"`` (Virtual Disk Format 5.0).
    """
    sectors = re.findall(rb"^(?:RW|RDONLY|NOACCESS)\s+(\d+)\s", descriptor, re.MULTILINE)
    return sum(int(each) for each in sectors) * 512


def _refused(what: str, status: int) -> errors.HypervisorError:
    code = f"HTTP {status}"
    if status == 403:
        return errors.PermissionDenied(
            f"the server does not let this user {what} a file of the datastore",
            vendor_code=code,
            hint="the privilege is Datastore.FileManagement, and Datastore.Browse",
        )
    if status in (413, 507):
        return errors.InsufficientResources(
            "the datastore is full",
            vendor_code=code,
            hint="free room there, or use another datastore",
        )
    return errors.HypervisorFault(f"the server could not {what} a file", vendor_code=code)
