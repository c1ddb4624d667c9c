"""The copies that a move in steps makes: at the destination, or beside the instance.

At the destination the first file is the document (``move_mark.document_name()``), empty: what is
there of the instance from then on belongs to this move. Then come the console's log, which is the
claim on the UUID, and the disks. The definition is written into the document last. So a document
that can be read stands for a whole copy.

Between two hosts the caller's process carries the disks, from one daemon's stream to the other's,
without their holes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.undo import undoing
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.move_mark import copy_name, document_name, nvram_name
from hvdrivers.libvirt.moving_plan import Own
from hvdrivers.libvirt.naming import NVRAM, console_name, disk_name
from hvdrivers.libvirt.pools import backing_of, refresh, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import full_while_sent, needing_room, needing_room_alone
from hvdrivers.libvirt.sent import LastPart
from hvdrivers.libvirt.streams import read_stream
from hvdrivers.libvirt.turns import Turn
from hvdrivers.libvirt.xml import Element, parse

_CHUNK = 240 * 1024
_HOLE = -3
"""What libvirt returns instead of data where a sparse stream comes to a hole."""
_LARGEST = 64 << 20
"""Bytes of a seed disc or a log that are carried over in memory."""
_A_SIGN = 64 << 20
"""Bytes after which other clients are shown that this one lives."""
Told = Callable[[int], None]
"""Is told of bytes that have been copied."""


class Copying:
    """One prepare_move() that copies."""

    def __init__(self, uuid: UUID, token: str, turn: Turn, deadline: Deadline, told: Told) -> None:
        self._uuid = uuid
        self._token = token
        self._turn = turn
        self._deadline = deadline
        self._told = told

    def _goes_on(self) -> None:
        self._deadline.check("the disks were copied")
        self._turn.check()

    # ---- within one host -------------------------------------------------------------------------

    def beside(self, here: Topic, disks: dict[str, Own]) -> None:
        """Copy own disks, by role, and UEFI's variables. Three calls and four for each disk; six
        more for the variables."""
        pool = here.pools.disks()
        for role, disk in disks.items():
            self._goes_on()
            self._stand_alone(pool, disk, copy_name(self._uuid, role, self._token))
        refresh(pool)  # QEMU's driver has made the file, the pool has not seen it
        with suppress(errors.VolumeNotFound):
            nvram = pool.storageVolLookupByName(disk_name(self._uuid, NVRAM))
            carry(nvram, here, pool, nvram_name(self._uuid, self._token), self._deadline)

    def _stand_alone(self, pool: Remote, disk: Own, name: str) -> Remote:
        _, capacity, allocation = disk.volume.info()
        xml = volume_xml(name, int(capacity), "qcow2")
        with needing_room_alone(pool, disk.volume):
            made: Remote = pool.createXMLFrom(xml, disk.volume, 0)
        self._told(int(allocation))
        return made

    # ---- to another host -------------------------------------------------------------------------

    def there(self, here: Topic, there: Topic, disks: list[Own], document: bytes) -> None:
        """Copy all that the instance needs there."""
        uuid, deadline = self._uuid, self._deadline
        pool, consoles = there.pools.disks(), there.pools.consoles()
        name = document_name(uuid, self._token)
        size = len(document)
        with needing_room(pool, size):
            made = pool.createXML(volume_xml(name, size, "raw", allocation=size), 0)
        log = here.pools.consoles().storageVolLookupByName(console_name(uuid))
        try:
            carry(log, there, consoles, console_name(uuid), deadline)
        except errors.DeviceBusy as error:
            made.delete(0)  # so the claim, which is another client's, is not taken for this move's
            raise errors.DeviceBusy(
                "another client makes an instance of this UUID at the destination",
                instance=uuid,
                vendor_code=error.vendor_code,
                hint="call again when it has ended; destroy() removes what a dead client has left",
            ) from error
        for disk in disks:
            self._goes_on()
            if disk.read_only:
                carry(disk.volume, there, pool, disk.name, deadline)
            else:
                self._sent(here, there, pool, disk)
        refresh(here.pools.disks())
        with suppress(errors.VolumeNotFound):
            nvram = here.pools.disks().storageVolLookupByName(disk_name(uuid, NVRAM))
            carry(nvram, there, pool, disk_name(uuid, NVRAM), deadline)
        self._goes_on()
        there.images.upload_bytes(made, document)

    def _sent(self, here: Topic, there: Topic, pool: Remote, disk: Own) -> None:
        """Copy a disk over; one over a cached image as a disk that stands alone."""
        volume = disk.volume
        with undoing() as undo:
            if backing_of(parse(volume.XMLDesc(0))) is not None:
                name = disk_name(self._uuid, f"copy-{self._token}")
                undo.callback(here.pools.delete_disk, name)
                here.pools.delete_disk(name)  # a dead client's
                volume = self._stand_alone(here.pools.disks(), disk, name)
                self._goes_on()
            _, capacity, allocation = volume.info()
            xml = volume_xml(disk.name, int(capacity), "qcow2")
            with needing_room(pool, int(allocation)):
                made = pool.createXML(xml, 0)
                with full_while_sent(there.pools.disks):
                    self._pipe(volume, made)
            undo.close()

    def _pipe(self, source: Remote, target: Remote) -> None:
        """Carry a file's bytes from one daemon to the other, without its holes."""
        last, at = LastPart(), 0
        download = source.connect().newStream(0)
        source.download(download, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        upload = target.connect().newStream(0)
        try:
            target.upload(upload, 0, 0, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
            shown = 0
            while True:
                data = download.recvFlags(_CHUNK, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
                if data == _HOLE:
                    hole = int(download.recvHole(0))
                    upload.sendHole(hole)
                    at += hole
                elif data:
                    view = memoryview(data)
                    while view:
                        view = view[upload.send(view.tobytes()) :]
                    last.note(at, data)
                    at += len(data)
                    self._told(len(data))
                    shown += len(data)
                    self._deadline.check("the disks were copied")
                    if shown > _A_SIGN:
                        shown = 0
                        self._turn.check()
                else:
                    break
        except BaseException:
            for stream in (download, upload):
                with suppress(errors.HypervisorError):
                    stream.abort()
            raise
        download.finish()
        upload.finish()
        last.require_written(target, self._deadline)


def prepared_there(there: Topic, uuid: UUID, token: str, deadline: Deadline) -> Element:
    """The definition of a copy that is whole. Five calls.

    Raises:
        InstanceNotFound: there is none.
    """
    data = b""
    with suppress(errors.VolumeNotFound):
        volume = there.pools.disks().storageVolLookupByName(document_name(uuid, token))
        size = int(volume.info()[1])
        stream = volume.connect().newStream(0)
        volume.download(stream, 0, size, 0)
        data = read_stream(stream, size, deadline)
    with suppress(errors.HypervisorFault, UnicodeDecodeError):
        return parse(data.decode())
    raise nothing_prepared(
        uuid,
        hint="if Destination.storage names a pool, this driver has to have that pool: pool=",
    )


def nothing_prepared(uuid: UUID, *, hint: str | None = None) -> errors.InstanceNotFound:
    """There is no copy here for the move."""
    return errors.InstanceNotFound(
        "nothing has been prepared on this host for that move", instance=uuid, hint=hint
    )


def clear(there: Topic, uuid: UUID, token: str, deadline: Deadline) -> bool:
    """Remove what was prepared at the destination; False if the instance is there. Eight calls and
    one for each file, of which the document goes last."""
    with there.turns.take(uuid, deadline):
        if there.domains.if_there(uuid) is not None:
            return False
        disks = {volume.name(): volume for volume in there.removal.disks_of(uuid)}
        document = disks.pop(document_name(uuid, token), None)
        if document is None:
            return True
        there.removal.delete(disks)
        there.secrets.delete(uuid)
        there.removal.delete_console(uuid)
        there.removal.delete({document.name(): document})
    return True


def drop_beside(here: Topic, uuid: UUID, token: str) -> None:
    """Remove the copies of a move within one host. One call, and one for each."""
    ours = {
        volume.name(): volume
        for volume in here.removal.disks_of(uuid)
        if volume.name().endswith(f"-{token}")
    }
    here.removal.delete(ours)


def carry(volume: Remote, there: Topic, pool: Remote, name: str, deadline: Deadline) -> None:
    """Copy a small file. Five calls.

    Args:
        there: the host that the copy is made on.
        pool: where it is made, on that host.
        name: of the copy.

    Raises:
        InsufficientResources: the pool has no room for it.
    """
    size = int(volume.info()[1])
    data = b""
    if size:
        stream = volume.connect().newStream(0)
        volume.download(stream, 0, min(size, _LARGEST), 0)
        data = read_stream(stream, min(size, _LARGEST), deadline)
    with needing_room(pool, len(data)):
        copy = pool.createXML(volume_xml(name, len(data), "raw", allocation=len(data)), 0)
    if data:
        there.images.upload_bytes(copy, data)
