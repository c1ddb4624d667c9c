"""The data of snapshots: tags inside the qcow2 files of a machine's own disks.

A machine that is on has its disks in QEMU, and QEMU makes and deletes the tags. Libvirt has calls
for that (``snapshotCreateXML``, ``snapshot.delete``), which take every disk or none: a volume that
is attached would become part of the snapshot, or, as the variables of UEFI do, forbid it. So QEMU's
monitor is asked for the machine's own disks alone.

The tags of a machine that is off are made and read by ``qemu-img``, which the daemon runs. It too
takes all disks of a machine, and afterwards the machine has the definition of the time of the
snapshot. So a second machine with the same disks and nothing else, which never starts, is defined
for the moment. A mark in the real machine's metadata says that it may be there: destroy() removes
it with the machine where a process has died in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from secrets import token_hex
from uuid import UUID, uuid5

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.hub import is_gap
from hvdrivers.driverkit.undo import undoing
from hvdrivers.libvirt import monitor
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.definition import define, undefine
from hvdrivers.libvirt.event_hub import Lifecycle
from hvdrivers.libvirt.metadata import NAMESPACE, keep, kept
from hvdrivers.libvirt.session import Remote
from hvdrivers.libvirt.snapshot_tree import bare, known_to
from hvdrivers.libvirt.xml import Element, text
from hvdrivers.models.state import InstanceState

_HELPER_NAMESPACE = f"{NAMESPACE}/snapshot-helper"
_HELPER = "hv-snapshot-of-"
_FIRST_LOOK, _LOOKS_APART = 0.05, 1.0
"""Seconds: where no event comes, a job is looked at."""
_REDEFINE = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE


def is_helper(name: str) -> bool:
    """Whether a domain is there for the moment of an operation."""
    return name.startswith(_HELPER)


def may_have_helper(xml: Element) -> bool:
    """Whether a machine's metadata say that an operation of it was interrupted."""
    return kept(xml, _HELPER_NAMESPACE) is not None


def remove_helper(remote: Remote, uuid: UUID) -> None:
    """Remove the second machine of an instance. One call, two where it is there."""
    with suppress(errors.InstanceNotFound):
        undefine(remote.lookupByUUIDString(str(_helper_uuid(uuid))))


def _helper_uuid(uuid: UUID) -> UUID:
    return uuid5(uuid, "hvdrivers snapshot helper")


@dataclass(frozen=True)
class Machine:
    """An instance as an operation finds it."""

    uuid: UUID
    domain: Remote
    state: InstanceState
    xml: Element
    deadline: Deadline


@dataclass(frozen=True)
class LiveDisk:
    """A disk as QEMU has it."""

    node: str
    """What QEMU calls it."""
    tags: frozenset[str]
    """The snapshots in it."""


def _copied() -> errors.DeviceBusy:
    return errors.DeviceBusy(
        "a job, such as another client's backup, is at the machine's disks",
        hint="call again when it has ended",
    )


class SnapshotData(Topic):
    """Make, read and delete the tags of an instance's own disks."""

    # ---- a machine that is on --------------------------------------------------------------------

    def _live_disks(self, domain: Remote, aliases: Iterable[str]) -> list[LiveDisk]:
        """The machine's own disks. One call.

        Raises:
            DeviceBusy: a job, such as another client's backup, has put a filter over a disk. What
                QEMU tells then are the filter's snapshots, which has none.
        """
        found = []
        for each in monitor.ask(self.connection, domain, "query-block", reads=True):
            inserted = each.get("inserted") or {}
            if not set(str(each.get("qdev") or "").split("/")).isdisjoint(aliases):
                if inserted["drv"] != "qcow2":
                    raise _copied()
                tags = inserted.get("image", {}).get("snapshots", ())
                names = frozenset(str(tag["name"]) for tag in tags)
                found.append(LiveDisk(str(inserted["node-name"]), names))
        return found

    def _tag_live(self, domain: Remote, disks: list[LiveDisk], name: str) -> None:
        """Make a snapshot of all disks at one moment. One call, however large they are."""
        actions = [
            {
                "type": "blockdev-snapshot-internal-sync",
                "data": {"device": disk.node, "name": name},
            }
            for disk in disks
        ]
        with self._unless_copied(domain):
            monitor.ask(self.connection, domain, "transaction", {"actions": actions})

    def _untag_live(self, domain: Remote, disks: Iterable[LiveDisk], name: str) -> None:
        """Delete a snapshot's data. One call for each disk that has it."""
        for disk in disks:
            if name in disk.tags:
                with self._unless_copied(domain):
                    monitor.ask(
                        self.connection,
                        domain,
                        "blockdev-snapshot-delete-internal-sync",
                        {"device": disk.node, "name": name},
                    )

    @contextmanager
    def _unless_copied(self, domain: Remote) -> Iterator[None]:
        """Stands around what QEMU refuses while a job, such as a backup, is at a disk of the
        machine. One call after a refusal.

        Raises:
            DeviceBusy: there is such a job.
        """
        try:
            yield
        except errors.HypervisorFault as error:
            if monitor.ask(self.connection, domain, "query-block-jobs", reads=True):
                raise _copied() from error
            raise

    def _run_live(self, command: str, machine: Machine, disks: list[LiveDisk], name: str) -> None:
        """Save memory and disks (``snapshot-save``), or bring both back (``snapshot-load``). Two
        calls, and one for each look at the job: QEMU answers none while it reads or writes the
        memory, so there is one look more than looks that come too early.

        Raises:
            HypervisorFault: QEMU cannot; its words are in the message.
        """
        domain, deadline = machine.domain, machine.deadline
        job = f"hv-{token_hex(8)}"
        nodes = [disk.node for disk in disks]
        arguments = {"job-id": job, "tag": name, "vmstate": nodes[0], "devices": nodes}
        with self.hub.listening() as events:
            monitor.ask(self.connection, domain, command, arguments)
            pause = _FIRST_LOOK
            while True:
                # QEMU stops the machine for it, which libvirt has events of
                event = events.wait(
                    lambda event: isinstance(event, Lifecycle) and event.uuid == machine.uuid,
                    deadline.within(pause),
                )
                if is_gap(event):
                    raise errors.ConnectionFailed("the connection broke at a snapshot")
                jobs = monitor.ask(self.connection, domain, "query-jobs", reads=True)
                found = next((each for each in jobs if each["id"] == job), None)
                if found is None or found["status"] == "concluded":
                    break
                deadline.check("QEMU was done with the snapshot")
                pause = min(2 * pause, _LOOKS_APART)
            if found is None:
                raise errors.HypervisorFault("QEMU ended while it was at the snapshot")
            monitor.ask(self.connection, domain, "job-dismiss", {"id": job})
        if found.get("error"):
            raise errors.HypervisorFault(f"QEMU: {found['error']}", vendor_code="QMP_job")

    # ---- a machine that is off -------------------------------------------------------------------

    def _tag(self, uuid: UUID, domain: Remote, xml: Element, name: str) -> None:
        """Make a snapshot of all disks. Seven calls."""
        with undoing() as undo:
            undo.callback(self._drop_helper, uuid)
            helper, _ = self._helper(uuid, domain, xml)
            helper.snapshotCreateXML(f"<domainsnapshot><name>{name}</name></domainsnapshot>", 0)
            undo.close()

    def _apply(self, uuid: UUID, domain: Remote, xml: Element, name: str) -> None:
        """Bring the disks back to a snapshot. Eight calls."""
        with undoing() as undo:
            undo.callback(self._drop_helper, uuid)
            helper, shape = self._helper(uuid, domain, xml)
            snapshot = helper.snapshotCreateXML(known_to(shape, name), _REDEFINE)
            helper.revertToSnapshot(snapshot, 0)
            undo.close()

    def _untag(self, uuid: UUID, domain: Remote, xml: Element, name: str) -> None:
        """Delete the data of a snapshot that libvirt does not know. Eight calls."""
        with undoing() as undo:
            undo.callback(self._drop_helper, uuid)
            helper, shape = self._helper(uuid, domain, xml)
            helper.snapshotCreateXML(known_to(shape, name), _REDEFINE).delete(0)
            undo.close()

    def _helper(self, uuid: UUID, domain: Remote, xml: Element) -> tuple[Remote, Element]:
        keep(domain, _HELPER_NAMESPACE, "", libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        shape = bare(xml, f"{_HELPER}{uuid}", str(_helper_uuid(uuid)))
        return define(self.connection.remote, text(shape)), shape

    def _drop_helper(self, uuid: UUID) -> None:
        # the machine is looked up now: this is how things are undone after a connection was lost
        remove_helper(self.connection.remote, uuid)
        with suppress(errors.InstanceNotFound, errors.InvalidState):
            keep(
                self._domain(uuid),
                _HELPER_NAMESPACE,
                None,
                libvirt.VIR_DOMAIN_AFFECT_CONFIG,
            )
