"""The data of snapshots: tags inside the qcow2 files of a machine's own disks.

A machine that is on has its disks in QEMU, and QEMU makes and deletes the tags. Libvirt has calls
for that (``snapshotCreateXML``, ``snapshot.delete``), which take every disk or none: a volume that
is attached would become part of the snapshot, or, as the variables of UEFI do, forbid it. So QEMU's
monitor is asked for the machine's own disks alone.

The tags of a machine that is off are made and read by ``qemu-img``, which the daemon runs. It too
takes all disks of a machine, and afterwards the machine has the definition of the time of the
snapshot. So the helper of the client's turn (``turns.py``) gets the same disks and nothing else. A
client that has lost its turn has no helper, and reaches no disk.

What a client that died has left is cleared away here too, at the next turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import cast
from uuid import UUID

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.hub import is_gap
from hvdrivers.libvirt import monitor, points
from hvdrivers.libvirt.definition import define
from hvdrivers.libvirt.domains import affecting, xml_of
from hvdrivers.libvirt.event_hub import EventHub, Lifecycle
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection, unnoticed
from hvdrivers.libvirt.snapshot_tree import (
    Node,
    Tree,
    bare,
    being_deleted,
    forget,
    give_back,
    known_to,
    live_names,
    make_current,
    note_deletion,
    own_files,
    tree_of,
)
from hvdrivers.libvirt.turns import JOB, Turn
from hvdrivers.libvirt.xml import Element, text
from hvdrivers.models.state import InstanceState

_FIRST_LOOK, _LOOKS_APART = 0.05, 1.0
"""Seconds: where no event comes, a job is looked at."""
_REDEFINE = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
_ROOM, _LONG = "room", 2 << 10
"""The name of a helper's snapshot that takes room, and how often it is in there."""

_OFF = frozenset({InstanceState.STOPPED, InstanceState.SUSPENDED, InstanceState.CRASHED})


@dataclass(frozen=True)
class Machine:
    """An instance as an operation finds it."""

    uuid: UUID
    domain: Remote
    state: InstanceState
    xml: Element
    deadline: Deadline
    turn: Turn


@dataclass(frozen=True)
class LiveDisk:
    """A disk as QEMU has it."""

    node: str
    """What QEMU calls it."""
    tags: frozenset[str]
    """The snapshots in it."""
    alias: str
    """What the driver calls it."""
    points: Mapping[str, bool]
    """The points of backups in it, and whether each is whole."""
    version: str | None
    """Of the format, as QEMU calls it."""


def _jobs_of(turn: Turn) -> str:
    """How the ids of QEMU's jobs that are this turn's begin."""
    return f"{JOB}{turn.id}-"


def _copied() -> errors.DeviceBusy:
    return errors.DeviceBusy(
        "a job, such as a backup that is open, is at the machine's disks",
        hint="call again when it has ended; end_backup() closes one that nobody reads",
    )


class SnapshotData:
    """Make, read and delete the tags of an instance's own disks."""

    def __init__(self, connection: Connection, hub: EventHub) -> None:
        self._connection = connection
        self._hub = hub

    # ---- a machine that is on --------------------------------------------------------------------

    def live_disks(self, domain: Remote, xml: Element, wanted: Collection[str]) -> list[LiveDisk]:
        """The machine's own disks. One call.

        Args:
            xml: of the machine that runs.
            wanted: what the driver calls them.

        Raises:
            DeviceBusy: a job, such as another client's backup, has put a filter over a disk. What
                QEMU tells then are the filter's snapshots, which has none.
        """
        found = []
        names = {name: alias for name, alias in live_names(xml).items() if alias in wanted}
        for each in monitor.ask(domain, "query-block", reads=True):
            inserted = each.get("inserted") or {}
            for name in names.keys() & set(str(each.get("qdev") or "").split("/")):
                if inserted["drv"] != "qcow2":
                    raise _copied()
                image = inserted.get("image", {})
                told = image.get("format-specific", {}).get("data", {})
                found.append(
                    LiveDisk(
                        node=str(inserted["node-name"]),
                        tags=frozenset(str(tag["name"]) for tag in image.get("snapshots", ())),
                        alias=names[name],
                        points=points.points_in(inserted.get("dirty-bitmaps", ())),
                        version=told.get("compat"),
                    )
                )
        return found

    def tag_live(self, turn: Turn, domain: Remote, disks: list[LiveDisk], name: str) -> None:
        """Make a snapshot of all disks at one moment. Two calls, however large they are."""
        actions = [
            {
                "type": "blockdev-snapshot-internal-sync",
                "data": {"device": disk.node, "name": name},
            }
            for disk in disks
        ]
        turn.check()
        with self._unless_copied(domain):
            monitor.ask(domain, "transaction", {"actions": actions})

    def _untag_live(self, turn: Turn, domain: Remote, disk: LiveDisk, name: str) -> None:
        """Delete a snapshot's data in one disk. Two calls."""
        turn.check()
        with self._unless_copied(domain):
            monitor.ask(
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
            if monitor.ask(domain, "query-block-jobs", reads=True):
                raise _copied() from error
            raise

    def run_live(
        self,
        command: str,
        machine: Machine,
        disks: list[LiveDisk],
        name: str,
        then: Callable[[], object] | None = None,
    ) -> None:
        """Save memory and disks (``snapshot-save``), or bring both back (``snapshot-load``). Three
        calls, and one for each look at the job: QEMU answers none while it reads or writes the
        memory, so there is one look more than looks that come too early.

        Args:
            then: done before QEMU forgets the job, by which others see that it has succeeded.

        Raises:
            HypervisorFault: QEMU cannot; its words are in the message.
        """
        domain, deadline = machine.domain, machine.deadline
        job = f"{_jobs_of(machine.turn)}{token_hex(4)}"
        nodes = [disk.node for disk in disks]
        arguments = {"job-id": job, "tag": name, "vmstate": nodes[0], "devices": nodes}
        machine.turn.check()
        with self._hub.listening() as events:
            monitor.ask(domain, command, arguments)
            pause = _FIRST_LOOK
            while True:
                # QEMU stops the machine for it, which libvirt has events of
                event = events.wait(
                    lambda event: isinstance(event, Lifecycle) and event.uuid == machine.uuid,
                    deadline.within(pause),
                )
                if is_gap(event):
                    raise errors.ConnectionFailed("the connection broke at a snapshot")
                jobs = monitor.ask(domain, "query-jobs", reads=True)
                found = next((each for each in jobs if each["id"] == job), None)
                if found is None or found["status"] == "concluded":
                    break
                deadline.check("QEMU was done with the snapshot")
                pause = min(2 * pause, _LOOKS_APART)
            if found is None:
                raise errors.HypervisorFault("QEMU ended while it was at the snapshot")
            if then is not None and not found.get("error"):
                then()
            monitor.ask(domain, "job-dismiss", {"id": job})
        if found.get("error"):
            raise errors.HypervisorFault(f"QEMU: {found['error']}", vendor_code="QMP_job")

    def forget_jobs(self, uuid: UUID, turn: Turn) -> None:
        """Undo ``run_live()``: QEMU keeps no job of this turn that has ended. Two calls, and one
        for each."""
        # the machine is looked up now: this is how things are undone after a connection was lost
        with suppress(errors.InstanceNotFound, errors.InvalidState):
            domain = self._connection.remote.lookupByUUIDString(str(uuid))
            for job in monitor.ask(domain, "query-jobs", reads=True):
                if str(job["id"]).startswith(_jobs_of(turn)) and job["status"] == "concluded":
                    monitor.ask(domain, "job-dismiss", {"id": job["id"]})

    def _end_jobs(self, domain: Remote) -> None:
        """Clear away what QEMU keeps of a dead client's ``run_live()``. One call, and one for
        each."""
        for job in monitor.ask(domain, "query-jobs", reads=True):
            if str(job["id"]).startswith(JOB):
                if job["status"] != "concluded":
                    raise errors.DeviceBusy(
                        "QEMU is at a snapshot still, whose client has died", hint=hints.CALL_AGAIN
                    )
                monitor.ask(domain, "job-dismiss", {"id": job["id"]})

    # ---- a machine that is off -------------------------------------------------------------------

    def tag(self, turn: Turn, xml: Element, name: str) -> None:
        """Make a snapshot of all disks. One call, and one for each disk."""
        self._reach_disks(turn, xml)
        turn.tagged = name
        with turn.own():
            turn.helper.snapshotCreateXML(
                f"<domainsnapshot><name>{name}</name></domainsnapshot>", 0
            )

    def apply(self, turn: Turn, xml: Element, name: str) -> None:
        """Bring the disks back to a snapshot. Two calls, and one for each disk."""
        shape = self._reach_disks(turn, xml)
        with turn.own():
            with unnoticed():
                snapshot = turn.helper.snapshotCreateXML(known_to(shape, name), _REDEFINE)
            turn.helper.revertToSnapshot(snapshot, 0)

    def _untag(self, turn: Turn, shape: Element, name: str, begun: set[str]) -> None:
        """Delete the data of a snapshot, where it is. Two calls.

        Args:
            shape: what :meth:`_reach_disks` returned.
            begun: gets the name, once it may have lost data.
        """
        with turn.own():
            if name == turn.tagged:  # the helper knows it, unless it was not made
                with suppress(errors.VolumeNotFound):
                    snapshot = turn.helper.snapshotLookupByName(name)
                    begun.add(name)
                    snapshot.delete(0)
                    return
            with unnoticed():
                snapshot = turn.helper.snapshotCreateXML(known_to(shape, name), _REDEFINE)
            begun.add(name)
            snapshot.delete(0)

    def _reach_disks(self, turn: Turn, xml: Element) -> Element:
        """Give the helper the machine's own disks; what it is then. One call for each, once."""
        shape = bare(xml, turn.name, str(turn.id))
        disks = [text(disk) for disk in shape.iterfind("devices/disk")]
        with turn.own(), unnoticed():
            if turn.disks and turn.disks != disks:  # others have changed them meanwhile
                turn.check()
                turn.helper = define(self._connection.remote, text(shape))
            elif not turn.disks:
                # to define it anew would bring back a helper that another client has removed
                for disk in disks:
                    turn.helper.attachDeviceFlags(disk, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        turn.disks = disks
        return shape

    # ---- what libvirt writes down ----------------------------------------------------------------

    def keep_room(self, turn: Turn, xml: Element) -> Remote:
        """Take room where libvirt writes snapshots down, before any data changes; ``give_back()``
        is for what is written down at the end. One call.

        Libvirt 9.0 writes down last which snapshots there are, and which is the current one. If it
        cannot, it forgets some that are there, until it is restarted, or brings back some that are
        gone. So the helper gets a snapshot without data first, longer than the machine's own are.
        It goes with the helper, if not before.
        """
        with turn.own(), unnoticed():
            shape = bare(xml, turn.name, str(turn.id))
            kept = known_to(shape, _ROOM, note=_ROOM * _LONG)
            return cast(Remote, turn.helper.snapshotCreateXML(kept, _REDEFINE))

    # ---- what dead clients have left -------------------------------------------------------------

    def disks_now(self, machine: Machine) -> list[LiveDisk]:
        """The own disks, as QEMU has them. One call, none for a machine that is off."""
        if machine.state in _OFF:
            return []
        own = own_files(machine.uuid, machine.xml)
        return self.live_disks(machine.domain, machine.xml, own)

    def settled(self, machine: Machine) -> Tree:
        """The tree, without what dead clients have left in it. As ``tree_of``; more where one
        has."""
        domain, turn = machine.domain, machine.turn
        tree = tree_of(domain)
        deleted = being_deleted(machine.xml)
        if turn.after is None and not tree.halves and not deleted:
            return tree
        if machine.state not in _OFF:
            self._end_jobs(domain)
        brought = tree.nodes.get(turn.inherited or "")
        if brought is not None and turn.inherited != tree.current:
            make_current(domain, brought)
        left = [
            *tree.halves.values(),
            *(tree.nodes[each] for each in deleted if each in tree.nodes),
        ]
        if left:
            self.erase(machine, left, self.disks_now(machine), set())
        if deleted:
            note_deletion(domain, (), affecting(domain, machine.state))
        turn.after = turn.inherited = None
        return tree_of(domain)

    def erase(
        self,
        machine: Machine,
        nodes: Collection[Node],
        disks: list[LiveDisk],
        begun: set[str],
        room: Remote | None = None,
    ) -> None:
        """Remove snapshots, and their data where there is any. Of a machine that is off three
        calls, and three for each; of one that is on one for each, and two for each of its disks.

        Args:
            begun: gets the names of those that have lost data and are in the tree still.
            room: what ``keep_room()`` has taken.
        """
        uuid, domain, xml, turn = machine.uuid, machine.domain, machine.xml, machine.turn
        if machine.state in _OFF:
            shape = self._reach_disks(turn, xml)
            for number, node in enumerate(nodes):
                if number:
                    turn.check()
                self._untag(turn, shape, node.remote.getName(), begun)
            # libvirt does not say so where qemu-img could not open a disk, as the machine has it
            if domain.isActive():
                disks = self.live_disks(domain, xml_of(domain), own_files(uuid, xml))
        for node in nodes:
            name = node.remote.getName()
            for disk in disks:
                if name in disk.tags:
                    self._untag_live(turn, domain, disk, name)
                    begun.add(name)
            if room is not None:
                give_back(room)
                room = None
            forget(node.remote)
            begun.discard(name)

    def require_none(self, machine: Machine, what: str) -> None:
        """Raise DeviceBusy if the instance has snapshots; what dead clients have left is none, and
        is cleared away. One call, more where there is any."""
        if not machine.domain.snapshotNum(0):
            return
        self.settled(machine)
        if machine.domain.snapshotNum(0):
            raise errors.DeviceBusy(what, hint="delete the snapshots first", retryable=False)
