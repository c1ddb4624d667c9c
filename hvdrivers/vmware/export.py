"""An image out of an instance.

The disk of a machine that runs is locked, but what a snapshot has frozen is not: the server copies
that, with the whole chain below it, into one disk beside the machine. The copy is read over HTTPS,
converted here if it must be, and deleted.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.snapshots import SnapshotToImage
from hvdrivers.driverkit import undoing
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.files import writing
from hvdrivers.hints import NEW_FILE
from hvdrivers.models.image import ImageFormat, ImageInfo
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.claim import HOME
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.devices import capacity_of, file_of
from hvdrivers.vmware.host_devices import refuse_with_devices
from hvdrivers.vmware.machines import Machine
from hvdrivers.vmware.reader import Row
from hvdrivers.vmware.record import DEVICES, path_of, root_disk
from hvdrivers.vmware.snapshot_tree import SNAPSHOT, nodes

_PATHS = (path_of(DEVICES), "config.hardware.device")
_FORMATS = (ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.VMDK, ImageFormat.VHDX)
_CHUNK = 1 << 20
_AT_REST = frozenset({InstanceState.STOPPED, InstanceState.SUSPENDED})


class VmwareExport(Topic, SnapshotToImage):
    """Snapshot to image."""

    @timed
    def snapshot_to_image(
        self,
        uuid: UUID,
        target: Path,
        format: ImageFormat = ImageFormat.QCOW2,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """Budget: 1 read, the copy, 1 request and the deletion; of a running machine a snapshot is
        made and deleted, with 2 reads more; of an adopted one 1 call more.

        A process that dies on the way leaves the snapshot (``hvdrivers.export-…``) and the copy.
        The first is deleted as any other; both go with the instance.
        """
        del timeout
        found = self.machines.checked("snapshot_to_image", uuid, HOME, *_PATHS)
        if format not in _FORMATS:
            known = ", ".join(each.value for each in _FORMATS)
            raise errors.NotSupported(f"no image in the format {format.value}", hint=f"use {known}")
        root_disk(found.row)
        if found.state not in _AT_REST:
            # a running machine's disk is copied below a snapshot
            refuse_with_devices(found.row.get("config.hardware.device"), "makes snapshots of")
        copy = f"{self.folders.instance(uuid)}/export-{secrets.token_hex(6)}.vmdk"
        with _beside(target) as folder, undoing() as undo:
            self.claims.home_of_adopted(found, undo)
            undo.callback(self.files.delete_disk, copy)
            size = self._copy(found, copy, progress)
            raw = folder / "raw"
            with raw.open("wb") as file:
                self.files.download(copy.replace(".vmdk", "-flat.vmdk"), _Sparse(file, progress))
                file.truncate(size)
            made = raw if format is ImageFormat.RAW else _converted(raw, format, progress)
            length = made.stat().st_size
            self.files.delete_disk(copy)
            undo.forget()
            _publish(made, target)
        return ImageInfo(format=format, virtual_size_bytes=size, file_size_bytes=length)

    def _copy(self, found: Machine, copy: str, progress: ProgressCallback | None) -> int:
        """One disk with what the root disk has at this moment; its size."""
        disk = root_disk(found.row)
        if found.state in _AT_REST:
            self.files.copy_disk(str(file_of(disk)), copy, progress=progress)
            return capacity_of(disk)
        name = f"hvdrivers.export-{secrets.token_hex(6)}"
        with undoing() as undo:
            undo.callback(self._drop, found, name)
            made = self.tasks.run(
                lambda: found.obj.CreateSnapshot_Task(name, "", False, False), entity=found.obj
            )
            # a disk may have been moved since the first look
            then = self.reader.one(made, *_PATHS[1:])
            frozen = root_disk(Row(made, {**found.row.values, **then.values}))
            self.files.copy_disk(str(file_of(frozen)), copy, progress=progress)
            self._drop(found, name)
            undo.forget()
        return capacity_of(disk)

    def _drop(self, found: Machine, name: str) -> None:
        """Delete the snapshot, if it was made."""
        for node in list(nodes(self.reader.one(found.obj, SNAPSHOT))):
            if node.snapshot.name == name:
                self.tasks.run(partial(node.obj.RemoveSnapshot_Task, False, True), entity=found.obj)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder for what is not whole yet, on the file system of the target."""
    if os.path.lexists(target):
        raise errors.InvalidRequest(f"{target} exists already", hint=NEW_FILE)
    with writing(target), TemporaryDirectory(prefix=".hvdrivers-", dir=target.parent) as folder:
        yield Path(folder)


def _publish(made: Path, target: Path) -> None:
    with writing(target):
        os.link(made, target)  # refuses a name that is taken meanwhile


def _converted(raw: Path, target: ImageFormat, progress: ProgressCallback | None) -> Path:
    from hvdrivers.images.convert import converted_disk

    made = raw.with_name("image")
    with (
        raw.open("rb") as disk,
        converted_disk(
            disk.fileno(),
            target,
            deadline=current_deadline(),
            progress=progress,
            workdir=raw.parent,
        ) as source,
        made.open("wb") as file,
    ):
        shutil.copyfileobj(source, file, _CHUNK)
    return made


class _Sparse:
    """Writes what comes, with holes where it is zero, and reports it."""

    def __init__(self, file: IO[bytes], progress: ProgressCallback | None) -> None:
        self._file = file
        self._progress = progress

    def write(self, data: bytes) -> None:
        """The next bytes."""
        current_deadline().check("the disk was downloaded")
        if data.count(0) == len(data):
            self._file.seek(len(data), os.SEEK_CUR)
        else:
            self._file.write(data)
        if self._progress is not None:
            report = Progress(phase=Phase.DOWNLOAD, done=self._file.tell(), total=None)
            self._progress(report)

    def begin(self) -> None:
        """The request is sent again: from the beginning."""
        self._file.seek(0)
        self._file.truncate()
