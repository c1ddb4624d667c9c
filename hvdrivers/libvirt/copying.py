"""An image out of an instance: the root disk as it is at one moment, in a file beside the caller.

The host makes a volume that stands alone, and that is read through libvirt. Of a machine that is
off it is a copy; of one that is on QEMU itself writes it, as a backup job, while the guest runs on:
nobody else may open a disk that QEMU has.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.contract.snapshots import SnapshotToImage
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.driverkit.files import new_file
from hvdrivers.driverkit.undo import undoing
from hvdrivers.libvirt.backup_job import Backup, backup_target, refuse_open_backup
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.definition import complete
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.disguised import refuse_disguised
from hvdrivers.libvirt.domain import own_disk
from hvdrivers.libvirt.domains import await_job, xml_of
from hvdrivers.libvirt.naming import ROOT, disk_name
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import lacking_room, needing_room, size_alone
from hvdrivers.libvirt.xml import Element, attribute, el, text
from hvdrivers.models.image import ImageFormat, ImageInfo
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.models.state import InstanceState

_FORMATS = {ImageFormat.RAW: "raw", ImageFormat.QCOW2: "qcow2"}
_COPY = "copy-"
"""Beginning of the role of a copy on the host; a word that no other copy has follows."""
_CHUNK = 240 * 1024
_ATTEMPTS = 5
"""How often a copy is made if other clients change what is copied."""
_HOLE = -3
"""What libvirt returns instead of data where a sparse stream comes to a hole."""


_FAILURES = (
    errors.HypervisorFault,
    errors.VolumeNotFound,
    errors.InvalidState,
    errors.NotSupported,  # a backup of a machine that is off
)
"""What comes of a copy if another client changes the machine; and if there is no room."""


class _Again(errors.DeviceBusy):
    """Another client has changed what is copied, so that another attempt may succeed."""


@dataclass(frozen=True)
class _Wanted:
    """One call of snapshot_to_image()."""

    uuid: UUID
    format: str
    file: BinaryIO
    deadline: Deadline
    progress: ProgressCallback | None


class LibvirtCopying(Topic, SnapshotToImage):
    """Copy the root disk out."""

    def snapshot_to_image(
        self,
        uuid: UUID,
        target: Path,
        format: ImageFormat = ImageFormat.QCOW2,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """Budget: 12 calls, those of the stream, and, for a machine that is on, two more and one
        for each look at the job, about one a second; two with ``progress``. One more for each copy
        that a dead process has left, and one for all of them; one for a raw disk, which an adopted
        machine may have."""
        del timeout
        deadline = current_deadline()
        size = 0
        with ExitStack() as stack:
            file: BinaryIO | None = None

            def act(domain: Remote, state: InstanceState) -> int:
                nonlocal file, size
                if format not in _FORMATS:
                    raise errors.NotSupported(
                        f"images of format {format} are not made here", hint="take raw or qcow2"
                    )
                xml = xml_of(domain)
                if own_disk(xml, ROOT) is None:
                    raise errors.InvalidRequest(
                        "the instance was booted from a volume: it has no root disk",
                        hint=hints.COPY_VOLUME,
                    )
                if state in {InstanceState.RUNNING, InstanceState.PAUSED}:
                    refuse_open_backup(domain)
                    if not domain.isPersistent():
                        complete(domain)  # or it would vanish with its power
                if file is None:
                    file = stack.enter_context(new_file(target))
                    self._remove_dead_copies(uuid, domain)
                file.seek(0)
                file.truncate()
                wanted = _Wanted(uuid, _FORMATS[format], file, deadline, progress)
                capacity = self._copied_out(wanted, domain, state, xml)
                size = file.seek(0, os.SEEK_END)
                return capacity

            capacity = self._until_copied(uuid, deadline, act)
        return ImageInfo(format=format, virtual_size_bytes=capacity, file_size_bytes=size)

    def _until_copied(
        self, uuid: UUID, deadline: Deadline, act: Callable[[Remote, InstanceState], int]
    ) -> int:
        attempt = 1
        while True:
            try:
                return self.domains.change("snapshot_to_image", uuid, deadline, act)
            except _Again:
                if attempt == _ATTEMPTS:
                    raise
            attempt += 1
            deadline.check("another client changed the machine or its disk")

    def _copied_out(
        self, wanted: _Wanted, domain: Remote, state: InstanceState, xml: Element
    ) -> int:
        """Make a copy on the host, read it, and delete it; the bytes that a guest sees."""
        disk = own_disk(xml, ROOT)
        assert disk is not None  # noqa: S101 - the caller has looked
        word = secrets.token_hex(8)
        name = disk_name(wanted.uuid, _COPY + word)
        path = self.pools.disk_path(name)
        made = False
        with undoing() as undo:
            undo.callback(self.pools.delete_disk, name)
            try:
                if state in {InstanceState.STOPPED, InstanceState.SUSPENDED}:
                    volume, capacity = self._copied(disk, name, wanted.format)
                    made = True
                else:
                    volume, capacity = self._made_for_job(domain, disk, name, wanted.format)
                    made = True
                    job = Backup(wanted.uuid, _job(disk, xml, path, wanted.format), path, word)
                    self.backup_jobs.run(job, domain, wanted.deadline, wanted.progress)
                self._download(volume, capacity, wanted)
            except _FAILURES as error:
                copy = name if made else None
                raise self._explained(domain, state, disk, copy, error) from error
            undo.close()
        return capacity

    def _remove_dead_copies(self, uuid: UUID, domain: Remote) -> None:
        """Remove the copies of this instance that nobody writes any more: their process has died.
        One call; if there is any, one more and one for each.

        Libvirt refuses to delete one that it still makes. Another client that has just made one,
        and has not begun to read it, makes it again; to one that reads it, its deletion does
        nothing: the host has it open.
        """
        prefix = disk_name(uuid, _COPY)
        found = self.pools.volumes(self.pools.disks())
        copies = {name: each for name, each in found.items() if name.startswith(prefix)}
        if not copies:
            return
        written = backup_target(domain)
        for name, copy in copies.items():
            if self.pools.disk_path(name) != written:
                with suppress(errors.InvalidState, errors.VolumeNotFound):
                    copy.delete(0)

    def _explained(
        self,
        domain: Remote,
        state: InstanceState,
        disk: Element,
        copy: str | None,
        error: errors.HypervisorError,
    ) -> errors.HypervisorError:
        """Why a copy failed. Up to five calls, and three for each file of the disk's chain.

        Args:
            copy: name of the copy on the host, if it was made.

        Raises:
            InstanceNotFound: another client has destroyed the instance.
        """
        if state not in {InstanceState.STOPPED, InstanceState.SUSPENDED}:
            await_job(domain)  # QEMU may be gone, and the machine not be off yet
        now = self.domains.state(domain)
        if now is not state:
            return _Again(f"another client changed the machine to {now}: {error.message}")
        root = own_disk(xml_of(domain), ROOT)
        if root is None or source_of(root) != source_of(disk):
            return _Again(f"another client replaced the root disk: {error.message}")
        if root.find("mirror") is not None:
            return errors.DeviceBusy(
                "a migrate_storage() of the machine is under way",
                vendor_code=error.vendor_code,
                hint="call again when it has ended. If its client has died, the same call moves the"
                " disks, and power_off() ends the copy",
            )
        pool = self.pools.disks()
        taken = 0
        if copy is not None:
            try:
                taken = int(pool.storageVolLookupByName(copy).info()[2])
            except errors.VolumeNotFound:
                return _Again(f"another client removed the copy: {error.message}")
        if not isinstance(error, errors.HypervisorFault):
            return error
        needed = size_alone(self.connection.remote, source_of(disk)) - taken
        return lacking_room(pool, needed, error) or error

    def _copied(self, disk: Element, name: str, format_: str) -> tuple[Remote, int]:
        pool = self.pools.disks()
        root = self.connection.remote.storageVolLookupByPath(source_of(disk))
        refuse_disguised(disk, root, "start_paused() it first: QEMU copies it as the guest sees it")
        capacity = int(root.info()[1])
        made: Remote = pool.createXMLFrom(volume_xml(name, capacity, format_), root, 0)
        return made, capacity

    def _made_for_job(
        self, domain: Remote, disk: Element, name: str, format_: str
    ) -> tuple[Remote, int]:
        pool = self.pools.disks()
        capacity = int(domain.blockInfo(attribute(disk, "target", "dev"), 0)[0])
        with needing_room(pool):
            volume: Remote = pool.createXML(volume_xml(name, capacity, format_), 0)
        return volume, capacity

    def _download(self, volume: Remote, total: int, wanted: _Wanted) -> None:
        """Read a volume, without its holes."""
        file, progress = wanted.file, wanted.progress
        stream = self.connection.remote.newStream(0)
        volume.download(stream, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        done = 0
        try:
            while True:
                wanted.deadline.check("the image was read from the host")
                data = stream.recvFlags(_CHUNK, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
                if data == _HOLE:
                    done = file.seek(int(stream.recvHole(0)), 1)
                elif data:
                    done += file.write(data)
                else:
                    break
                if progress is not None:
                    progress(
                        Progress(phase=Phase.DOWNLOAD, done=min(done, total), total=total or None)
                    )
            file.truncate(done)  # a hole at the end
        except BaseException:
            with suppress(errors.HypervisorError):
                stream.abort()
            raise
        stream.finish()


def _job(disk: Element, xml: Element, path: str, format_: str) -> str:
    """A backup of one disk of a machine into a file."""
    device = attribute(disk, "target", "dev")
    copied = el(
        "disk",
        el("driver", type=format_),
        el("target", file=path),
        name=device,
        backup="yes",
        type="file",
    )
    others = {each.get("dev") or "" for each in xml.iterfind("devices/disk/target")} - {device}
    left_out = [el("disk", name=each, backup="no") for each in sorted(others)]
    return text(el("domainbackup", el("disks", copied, *left_out), mode="push"))
