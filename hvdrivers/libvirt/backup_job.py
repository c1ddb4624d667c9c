"""A backup job of a machine that runs: begun, waited for, and told from those of other clients.

A machine has one backup job at a time, whoever began it. Libvirt gives a job no id. Its statistics,
and the event of a job's end, do not tell whose job it was. Two facts do:

* While the job runs, libvirt shows the file that it writes. The name of that file is this client's
  own, so the client sees that its job still runs, and stops no other one.
* Events come in order. After its job has ended the client sets a mark, which comes back as an
  event. Of the ends of backups that came before the mark, one is the end of the client's own job.
  An end that came while the client's job still ran belongs to another client. If all the others
  are successes, the client's own job is one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.hub import Listener, is_gap
from hvdrivers.driverkit.undo import undoing
from hvdrivers.libvirt.domains import Domains
from hvdrivers.libvirt.event_hub import BackupEnded, EventHub, Marked, RawEvent
from hvdrivers.libvirt.metadata import MARK_NAMESPACE
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import Element, parse
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

OPEN, END_IT = "a backup of the machine is open", "end_backup() it"
FIRST_LOOK, LOOKS_APART = 0.05, 1.0
"""Seconds: where no event comes, a job is looked at for its progress."""


def job_of(domain: Remote) -> Element | None:
    """A machine's backup job, whosever it is; None if none runs. One call."""
    try:
        return parse(domain.backupGetXMLDesc(0))
    except (errors.VolumeNotFound, errors.InvalidState):
        return None


def backup_target(domain: Remote) -> str | None:
    """The file that a machine's backup job writes; None if no such job runs. One call."""
    xml = job_of(domain)
    if xml is None:
        return None
    targets = (each.get("file") for each in xml.iterfind("disks/disk/target"))
    return next(filter(None, targets), None)


def is_open(domain: Remote) -> bool:
    """Whether others read a backup of a machine: one that lasts until somebody ends it. A job that
    writes a file ends by itself. One call."""
    job = job_of(domain)
    return job is not None and job.get("mode") == "pull"


def open_backup() -> errors.DeviceBusy:
    """What to say then."""
    return errors.DeviceBusy(OPEN, hint=END_IT, retryable=False)


def refuse_open_backup(domain: Remote) -> None:
    """Before what libvirt makes one at a time, and waits half a minute for: see that no backup is
    open. One call."""
    if is_open(domain):
        raise open_backup()


@dataclass(frozen=True)
class Backup:
    """A job that copies one disk into one file."""

    uuid: UUID
    """The machine's."""
    xml: str
    """Libvirt's description of the job."""
    target: str
    """Path of the file on the host, which no other job ever writes."""
    mark: str
    """A word that no other job ever has."""


class BackupJobs:
    """Run backup jobs."""

    def __init__(self, hub: EventHub, domains: Domains) -> None:
        self._hub = hub
        self._domains = domains

    def run(
        self,
        backup: Backup,
        domain: Remote,
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> None:
        """Run a backup job and wait for its end. Two calls, one for each look and each end of a
        backup, and one more for each look if the caller wants to know the progress.

        Raises:
            DeviceBusy: another client's job went before this one and took too long; or there were
                several, and one of them failed.
            HypervisorFault: the job failed, or somebody stopped it.
        """
        with self._hub.listening() as events, undoing() as undo:
            undo.callback(self._stop_backup, backup)
            domain.backupBegin(backup.xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
            ends = self._while_running(backup, domain, events, deadline, progress)
            domain.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                None,
                None,
                MARK_NAMESPACE + backup.mark,
                libvirt.VIR_DOMAIN_AFFECT_LIVE,
            )
            ends += self._until_mark(backup, events, deadline)
            _require_success(ends)

    @staticmethod
    def _while_running(
        backup: Backup,
        domain: Remote,
        events: Listener[RawEvent],
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> list[BackupEnded]:
        """The ends of backups that may be this one's, when it has ended."""
        ends: list[BackupEnded] = []
        pause = FIRST_LOOK
        while True:
            event = events.wait(
                lambda event: isinstance(event, BackupEnded) and event.uuid == backup.uuid,
                deadline.within(pause),
            )
            if is_gap(event):
                raise _missed()
            if isinstance(event, BackupEnded):
                ends.append(event)
            if backup_target(domain) != backup.target:
                return ends
            ends.clear()  # the job still runs: they were those of others
            if progress is not None:
                _report(domain, progress)
            deadline.check("the disk was copied")
            pause = min(2 * pause, LOOKS_APART)

    @staticmethod
    def _until_mark(
        backup: Backup, events: Listener[RawEvent], deadline: Deadline
    ) -> list[BackupEnded]:
        ends: list[BackupEnded] = []
        while True:
            event = events.wait(
                lambda event: isinstance(event, BackupEnded | Marked) and event.uuid == backup.uuid,
                deadline.left,
            )
            if is_gap(event):
                raise _missed()
            if event is None:
                deadline.check("the host told how the copy ended")
            if isinstance(event, BackupEnded):
                ends.append(event)
            if isinstance(event, Marked) and event.mark == backup.mark:
                return ends

    def _stop_backup(self, backup: Backup) -> None:
        """Stop the job that writes this file, if it runs. Up to three calls."""
        # the machine is looked up now: this is how a job is stopped after a connection was lost
        with suppress(errors.InstanceNotFound, errors.InvalidState):
            domain = self._domains.find(backup.uuid)
            if backup_target(domain) == backup.target:
                domain.abortJob()


def _report(domain: Remote, progress: ProgressCallback) -> None:
    found = domain.jobStats(0)
    if int(found.get("type", 0)) != libvirt.VIR_DOMAIN_JOB_NONE:
        done, total = int(found.get("disk_processed", 0)), int(found.get("disk_total", 0))
        progress(Progress(phase=Phase.COPY, done=min(done, total), total=total or None))


def _require_success(ends: list[BackupEnded]) -> None:
    failed = [each for each in ends if not each.success]
    if ends and not failed:
        return
    if len(ends) > 1:
        raise errors.DeviceBusy(
            "another client copied the disk too, and one of the two copies failed",
            hint="call again: nobody can tell which of the two it was",
        )
    reason = failed[0].message if failed else "the host did not tell how it ended"
    raise errors.HypervisorFault(
        f"the copy failed: {reason or 'somebody stopped it'}", retryable=not reason
    )


def _missed() -> errors.ConnectionFailed:
    return errors.ConnectionFailed("the connection broke while the disk was copied")
