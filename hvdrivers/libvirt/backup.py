"""Backups that other software reads: libvirt's pull mode, over NBD at a unix socket of the host.

``backupBegin`` makes, at one moment, a point in time of all own disks that can be read, and a
bitmap in each that marks what is written from then on (``points.py``). What the guest overwrites
while the backup is open is kept in a scratch file beside the disk, which libvirt removes.

The socket is in the folder of the machine's channels: only root and QEMU's user may enter it, and
libvirt removes it with whatever is in it when the machine goes off, also where QEMU was killed. No
port is opened: NBD itself asks for no password.

Libvirt gives a job no id. The names of the scratch files carry the backup's.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.snapshots import IncrementalBackup
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.driverkit.hub import is_gap
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt import nbd, points
from hvdrivers.libvirt.backup_job import FIRST_LOOK, LOOKS_APART, job_of
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.domain import OWN_ALIAS
from hvdrivers.libvirt.domains import LookAgain, xml_of
from hvdrivers.libvirt.event_hub import BackupEnded
from hvdrivers.libvirt.halves import unwritten
from hvdrivers.libvirt.metadata import BACKUP_NAMESPACE, keep, kept
from hvdrivers.libvirt.naming import disk_name
from hvdrivers.libvirt.pools import refresh
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import needing_room
from hvdrivers.libvirt.session import unnoticed
from hvdrivers.libvirt.snapshot_data import LiveDisk
from hvdrivers.libvirt.snapshot_tree import bare, devices_of, own_files
from hvdrivers.libvirt.turns import Turn
from hvdrivers.libvirt.xml import Element, el, text
from hvdrivers.models.snapshot import Backup, ChangedExtent
from hvdrivers.models.state import InstanceState

_SOCKET = "backup.sock"
"""Shorter than the name of the agent's socket, which has room in the folder's path."""
_BOTH = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
_BITMAP = "changed"
_OLD = "0.10"
"""What QEMU calls version 2 of qcow2."""
_SCRATCH = re.compile(r"\.(backup-[0-9]+-[0-9a-f]{8})\.")
_REDEFINE = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE


class LibvirtBackup(Topic, IncrementalBackup):
    """Backups."""

    def begin_backup(
        self, uuid: UUID, *, since: str | None = None, timeout: float | None = None
    ) -> Backup:
        """Budget: 12 calls, 2 more with ``since``, and 1 where old points go; 1 more for an
        adopted machine. It waits for what
        another client does with the snapshots, as a disk with points goes back to none."""
        del timeout
        deadline = current_deadline()

        def act(turn: Turn, domain: Remote, state: InstanceState) -> Backup:
            turn.check()
            if (job := job_of(domain)) is not None:
                raise _busy(_id_of(job))
            xml = xml_of(domain)
            disks = self.snapshot_data.live_disks(domain, xml, own_files(uuid, xml))
            known = [disk.points for disk in disks]
            if since is not None and since not in points.whole(known):
                raise errors.VolumeNotFound(
                    f"there is no point {since!r} in the machine's disks (any more)",
                    hint="make a full backup",
                )
            made = points.next_id(name for disk in known for name in disk)
            socket = _socket_in(xml)
            _refuse_old(disks, xml)
            devices = devices_of(xml)
            targets = {disk.alias: devices[disk.alias] for disk in disks}
            job_xml = self._described(uuid, made, since, socket, targets)
            if (left := kept(xml, BACKUP_NAMESPACE)) is not None:
                self._delete_scratch(uuid, left, targets)
            with unnoticed():
                keep(domain, BACKUP_NAMESPACE, made, _BOTH)
            with undoing() as undo:
                undo.callback(self._take_back_backup, uuid, made, targets)
                try:
                    if since is not None:
                        with unnoticed():
                            domain.checkpointCreateXML(
                                _known(since, targets.values(), xml), _REDEFINE
                            )
                    with needing_room(self.pools.disks()):
                        domain.backupBegin(job_xml, _checkpoint(made, targets.values()), 0)
                except (errors.NotSupported, errors.HypervisorFault) as error:
                    # a machine that is off has no backups, says libvirt
                    if self.domains.state(domain) is not state:
                        raise LookAgain from error
                    raise
                points.forget_checkpoints(domain)
                here = self._here(socket)
                try:
                    extents = tuple(
                        ChangedExtent(
                            disk=_role(disk), offset=each.offset, length=each.length, zero=each.zero
                        )
                        for disk in disks
                        for each in nbd.extents(
                            here, _role(disk), None if since is None else _BITMAP, deadline
                        )
                    )
                except (errors.NotSupported, errors.HypervisorFault) as error:
                    now = job_of(domain)
                    if now is None or _id_of(now) != made:
                        raise LookAgain from error  # another client has ended it
                    raise
                old = points.outdated(known, since)
                by_node = {disk.node: disk.points for disk in disks}
                points.remove(domain, by_node, old)
            return Backup(
                id=made,
                since=since,
                disks=tuple(map(_role, disks)),
                extents=extents,
                location=f"nbd+unix:///?socket={quote(str(here))}",
            )

        return self.turns.change("begin_backup", uuid, deadline, act)

    def end_backup(
        self, uuid: UUID, backup_id: str | None = None, *, timeout: float | None = None
    ) -> None:
        """Budget: 3 calls where none is open; else 6, and one for each further look at the job,
        which ends at once. 3 for a machine that is off. 1 more for an adopted machine; 2 more with
        ``backup_id``, as it waits for what another client does with the snapshots then: libvirt
        ends whatever backup is open, which must not be one that has just been begun."""
        del timeout
        deadline = current_deadline()

        def act(domain: Remote, state: InstanceState) -> None:
            if state is InstanceState.STOPPED:
                return  # a backup ends with its machine
            job = job_of(domain)
            found = _id_of(job) if job is not None else None
            if found is not None and backup_id in {None, found}:
                self._stop(uuid, domain, found, deadline)
                with changed():
                    points.forget_checkpoints(domain)
                    with unwritten():  # it says nothing without the job
                        keep(domain, BACKUP_NAMESPACE, None, _BOTH)

        if backup_id is None:
            self.domains.change("end_backup", uuid, deadline, act)
        else:
            self.turns.change(
                "end_backup", uuid, deadline, lambda _, domain, state: act(domain, state)
            )

    def _stop(self, uuid: UUID, domain: Remote, backup_id: str, deadline: Deadline) -> None:
        """End the job of this backup, and wait for its end. Two calls, and one for each look; after
        a failure of libvirt's own one more, and one for each disk."""
        with self.hub.listening() as events:
            try:
                domain.abortJob()
            except errors.InvalidState:  # it has just ended; or libvirt began it and then failed
                points.end_jobs(domain)
            pause = FIRST_LOOK
            while (job := job_of(domain)) is not None and _id_of(job) == backup_id:
                deadline.check("the backup came to its end")
                event = events.wait(
                    lambda event: isinstance(event, BackupEnded) and event.uuid == uuid,
                    deadline.within(pause),
                )
                if is_gap(event):
                    raise errors.ConnectionFailed("the connection broke while the backup ended")
                pause = min(2 * pause, LOOKS_APART)

    def _take_back_backup(self, uuid: UUID, made: str, aliases: Iterable[str]) -> None:
        """Undo begin_backup(), as far as it has come."""
        # the machine is looked up now: this is how things are undone after a connection was lost
        with suppress(errors.InstanceNotFound, errors.InvalidState):
            domain = self.domains.find(uuid)
            job = job_of(domain)
            if job is not None and _id_of(job) == made:
                self._stop(uuid, domain, made, current_deadline())
            points.forget_checkpoints(domain)
            xml = xml_of(domain)
            self._delete_scratch(uuid, made, aliases)  # libvirt leaves it where it fails late
            with suppress(errors.DeviceBusy):  # another client's backup: it goes with the old ones
                disks = self.snapshot_data.live_disks(domain, xml, own_files(uuid, xml))
                by_node = {disk.node: disk.points for disk in disks}
                points.remove(domain, by_node, {made})

    def _described(
        self, uuid: UUID, made: str, since: str | None, socket: str, targets: Mapping[str, str]
    ) -> str:
        """The job, for libvirt."""
        copied = []
        for alias, target in targets.items():
            role = alias.removeprefix(OWN_ALIAS)
            name = _scratch_name(uuid, made, role)
            options = {} if since is None else {"exportbitmap": _BITMAP}
            copied.append(
                el(
                    "disk",
                    el("driver", type="qcow2"),
                    el("scratch", file=self.pools.disk_path(name)),
                    name=target,
                    backup="yes",
                    type="file",
                    exportname=role,
                    **options,
                )
            )
        return text(
            el(
                "domainbackup",
                el("incremental", since) if since is not None else None,
                el("server", transport="unix", socket=socket),
                el("disks", *copied),
                mode="pull",
            )
        )

    def _delete_scratch(self, uuid: UUID, backup_id: str, aliases: Iterable[str]) -> None:
        """Delete what a backup has left whose QEMU and daemon died at once, as with their host.
        Two calls, two for each disk."""
        refresh(self.pools.disks())
        for alias in aliases:
            role = alias.removeprefix(OWN_ALIAS)
            with suppress(errors.VolumeNotFound):
                self.pools.delete_disk(_scratch_name(uuid, backup_id, role))

    def _here(self, path: str) -> Path:
        """Where this machine sees a file of the host."""
        root = self.config.host_root
        return Path(path) if root is None else Path(root) / path.lstrip("/")


def _id_of(job: Element) -> str | None:
    """The id of a backup of the driver's; None for any other job."""
    for scratch in job.iterfind("disks/disk/scratch"):
        if found := _SCRATCH.search(posixpath.basename(scratch.get("file") or "")):
            return f"hv-{found[1]}"
    return None


def _busy(backup_id: str | None) -> errors.DeviceBusy:
    if backup_id is not None:
        return errors.DeviceBusy(
            f"the backup {backup_id} of the instance is open already",
            hint="end_backup() closes it, also if its client has died",
            retryable=False,
        )
    return errors.DeviceBusy(
        "another copy of the machine's disks is being made",
        hint="call again when it has ended; virsh backup-dumpxml shows it",
    )


def _scratch_name(uuid: UUID, backup_id: str, role: str) -> str:
    return disk_name(uuid, f"{backup_id.removeprefix('hv-')}.{role}")


def _role(disk: LiveDisk) -> str:
    return disk.alias.removeprefix(OWN_ALIAS)


def _socket_in(xml: Element) -> str:
    """Where QEMU is to listen: beside the socket of the guest agent."""
    for source in xml.iterfind("devices/channel/source"):
        if path := source.get("path"):
            return posixpath.join(posixpath.dirname(path), _SOCKET)
    raise errors.NotSupported(
        "the machine has no channel for a guest agent, in whose folder backups are read",
        hint="power_off() it, and add one: virsh attach-device, <channel type='unix'><target"
        " type='virtio' name='org.qemu.guest_agent.0'/></channel>",
    )


def _refuse_old(disks: Iterable[LiveDisk], xml: Element) -> None:
    """Only others make such disks."""
    for disk in disks:
        if disk.version == _OLD:
            raise errors.NotSupported(
                f"the disk {devices_of(xml)[disk.alias]} is qcow2 of version 2, which keeps no"
                " point of a backup",
                hint="while the machine is off: qemu-img amend -o compat=1.1 FILE",
            )


def _checkpoint(name: str, targets: Iterable[str]) -> str:
    marked = (el("disk", name=each, checkpoint="bitmap") for each in targets)
    return text(el("domaincheckpoint", el("name", name), el("disks", *marked)))


def _known(name: str, targets: Iterable[str], xml: Element) -> str:
    """A point as libvirt is told of it again."""
    marked = (el("disk", name=each, checkpoint="bitmap", bitmap=name) for each in targets)
    return text(
        el(
            "domaincheckpoint",
            el("name", name),
            el("creationTime", "1"),
            el("disks", *marked),
            bare(xml, xml.findtext("name") or "", xml.findtext("uuid") or ""),
        )
    )
