"""Snapshots on libvirt: internal ones, in the qcow2 files of the machine's own disks.

Why not external ones, a new file over each disk: libvirt 9 cannot go back to one, nor delete one
that several others stand on, and of a machine that is off nobody but ``qemu-img`` on the host could
merge files. An internal snapshot is made, read and deleted in a moment, and goes with the disk.
What libvirt's own calls do not do with them ``snapshot_data.py`` says.

A snapshot with memory is made and read by QEMU (``snapshot-save``, ``snapshot-load``), which stands
still meanwhile. It leaves volumes out, as well as the variables of UEFI, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.snapshots import Snapshots
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.driverkit.undo import Undo, changed, undoing
from hvdrivers.libvirt import points
from hvdrivers.libvirt.adopted import name_disks
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.definition import complete
from hvdrivers.libvirt.domain import definable
from hvdrivers.libvirt.domains import LookAgain, affecting, xml_of
from hvdrivers.libvirt.halves import put_back, rest, whole
from hvdrivers.libvirt.metadata import put
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import growing, needing_room, unsaved_in
from hvdrivers.libvirt.snapshot_data import LiveDisk, Machine
from hvdrivers.libvirt.snapshot_tree import (
    Node,
    Note,
    forget,
    give_back,
    make_current,
    new_id,
    note_deletion,
    own_files,
    remember,
    shape_of,
    tree_of,
)
from hvdrivers.libvirt.start import cut, start_new
from hvdrivers.libvirt.turns import LOADING_NAMESPACE, Robbed, Turn
from hvdrivers.libvirt.xml import Element, parse, text
from hvdrivers.models.base import Name
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState

_POINTS = "dirty bitmaps"
"""In what qemu-img says of a disk that has points of backups."""
_LEAST = 1 << 20
"""Bytes: more than the tables that a snapshot adds to a small disk."""


class LibvirtSnapshots(Topic, Snapshots):
    """The tree."""

    @provides(Capability.SNAPSHOT_MEMORY)
    def create_snapshot(
        self, uuid: UUID, name: Name, *, memory: bool = False, timeout: float | None = None
    ) -> Snapshot:
        """Budget: 14 calls for a machine that is on, 16 with its memory, and one more for each look
        at QEMU's job; 14 for one that is off. Where there are snapshots 1 more, and 1 for each.
        1 more for an adopted machine."""
        del timeout
        deadline = current_deadline()

        def act(turn: Turn, domain: Remote, state: InstanceState) -> Snapshot:
            if memory and state is InstanceState.STOPPED:
                raise errors.InvalidRequest(
                    "a stopped machine has no memory to keep", hint="power_on() it, or leave it out"
                )
            xml = xml_of(domain)
            own_files(uuid, xml)
            if memory and (refusal := unsaved_in(xml)) is not None:
                raise refusal
            machine = Machine(uuid, domain, state, xml, deadline, turn)
            tree = self.snapshot_data.settled(machine)
            if any(node.note.name == name for node in tree.nodes.values()):
                raise errors.InvalidRequest(
                    f"the instance has a snapshot {name!r} already",
                    hint=hints.TAKEN_SNAPSHOT,
                )
            note = Note(name=name, created_at=datetime.now(UTC))
            if memory:
                note = note.model_copy(update={"state": state, "shape": shape_of(xml)})
            made = new_id()
            # a job at the disks, which is refused, would keep libvirt from writing anything down
            disks = self.snapshot_data.disks_now(machine)
            with undoing() as undo:
                if memory:
                    undo.callback(self.snapshot_data.forget_jobs, uuid, turn)
                again = partial(remember, name=made, note=note, parent=tree.current, xml=xml)
                undo.callback(self._take_back_snapshot, uuid, turn, made, again)
                room = self.snapshot_data.keep_room(turn, xml)
                with needing_room(self.pools.disks()):
                    half = again(domain, half=True)
                try:
                    self._save(machine, note, made, disks)
                except errors.DeviceBusy:
                    forget(half)  # QEMU has refused it as a whole
                    undo.forget_all()
                    raise
                except errors.HypervisorFault as error:
                    self._look_again_if_moved(domain, state, error)
                    raise
                give_back(room)
                with needing_room(self.pools.disks()):
                    remember(domain, made, note, tree.current, xml)
                turn.check()
            return Snapshot(
                id=made,
                name=name,
                parent=tree.current,
                created_at=note.created_at,
                with_memory=note.with_memory,
                current=True,
            )

        def clear(turn: Turn, domain: Remote, state: InstanceState) -> None:
            self.snapshot_data.settled(Machine(uuid, domain, state, xml_of(domain), deadline, turn))

        try:
            return self.turns.change("create_snapshot", uuid, deadline, act)
        except errors.DeviceBusy as error:
            if isinstance(error.__cause__, Robbed):
                with suppress(errors.HypervisorError):
                    self.turns.change("delete_snapshot", uuid, deadline, clear)
            raise

    def _save(self, machine: Machine, note: Note, made: str, disks: list[LiveDisk]) -> None:
        """Make the snapshot's data."""
        size = _LEAST
        if note.with_memory:
            size += int(machine.xml.findtext("memory") or 0) << 10
        files = own_files(machine.uuid, machine.xml).values()
        with growing(self.connection.remote, files, size):
            if machine.state is InstanceState.STOPPED:
                self.snapshot_data.tag(machine.turn, machine.xml, made)
            elif note.with_memory:
                self.snapshot_data.run_live("snapshot-save", machine, disks, made)
            else:
                self.snapshot_data.tag_live(machine.turn, machine.domain, disks, made)

    def _look_again_if_moved(
        self, domain: Remote, state: InstanceState, error: errors.HypervisorFault
    ) -> None:
        """After a failure: look again if another client has started the machine, or switched it
        off, meanwhile. Two calls."""
        if (self.domains.state(domain) is InstanceState.STOPPED) is not (
            state is InstanceState.STOPPED
        ):
            raise LookAgain from error

    def _take_back_snapshot(
        self, uuid: UUID, turn: Turn, made: str, again: Callable[..., Remote]
    ) -> None:
        """Undo create_snapshot(), as far as it has come."""
        # all is looked up now: this is how things are undone after a connection was lost
        with suppress(errors.InstanceNotFound):
            domain = self.domains.find(uuid)
            try:
                turn.again(self.connection.remote)
            except Robbed:
                # what the other client did not find then is for the next turn
                again(domain, half=True)
                return
            tree = tree_of(domain)
            node = tree.halves.get(made) or tree.nodes.get(made)
            if node is not None:
                xml, state = xml_of(domain), self.domains.state(domain)
                machine = Machine(uuid, domain, state, xml, Deadline(None), turn)
                self.snapshot_data.erase(
                    machine, [node], self.snapshot_data.disks_now(machine), set()
                )

    def list_snapshots(self, uuid: UUID, *, timeout: float | None = None) -> Sequence[Snapshot]:
        """Budget: 4 calls, 5 for a machine that is off, and 1 for each snapshot; 1 less where there
        is none: libvirt tells of one at a time. 1 more for an adopted machine."""
        del timeout
        domain, _ = self.domains.checked("list_snapshots", uuid, current_deadline())
        return tree_of(domain).shown()

    def revert_snapshot(
        self, uuid: UUID, snapshot_id: str, *, timeout: float | None = None
    ) -> None:
        """Budget: 15 calls, 19 for a machine that is on, 15 with memory and one more for each look
        at QEMU's job, and 1 for each snapshot; 6 more with the memory of one that is off, and 1
        where that one has macvtap NICs. Of an adopted machine 1 more, and for each disk 1 and those
        of delete_volume()."""
        del timeout
        deadline = current_deadline()

        def act(turn: Turn, domain: Remote, state: InstanceState) -> None:
            xml = xml_of(domain)
            machine = Machine(uuid, domain, state, xml, deadline, turn)
            node = self.snapshot_data.settled(machine).nodes.get(snapshot_id)
            if node is None:
                raise errors.VolumeNotFound(
                    f"the instance has no snapshot {snapshot_id!r}", hint=hints.SNAPSHOTS
                )
            _refuse_other_disks(uuid, xml, node)
            _refuse_checkpoints(domain)
            self.adopting.require_alone(uuid, xml)
            room = self.snapshot_data.keep_room(turn, xml)
            if not node.note.with_memory:
                _without_points(domain, self.snapshot_data.disks_now(machine))
            try:
                if node.note.with_memory:
                    self._continue(machine, node, snapshot_id)
                else:
                    if state is not InstanceState.STOPPED:
                        if not domain.isPersistent():
                            complete(domain)  # or it would vanish, and leave its disks
                        self.plugging.settle_before_the_end(uuid, domain)
                        turn.check()
                        if not cut(domain):
                            # it is off, or has saved memory that knows the disks as they are
                            raise LookAgain
                    with nullcontext() if state is InstanceState.STOPPED else rest():
                        self._bring_back(machine, snapshot_id)
            except errors.HypervisorFault as error:
                now = InstanceState.STOPPED if not node.note.with_memory else state
                self._look_again_if_moved(domain, now, error)
                raise
            with rest():
                give_back(room)
                make_current(domain, node)

        self.turns.change("revert_snapshot", uuid, deadline, act)

    def _bring_back(self, machine: Machine, name: str) -> None:
        """Bring the disks of a machine that is off back to a snapshot. Two calls, and one for each
        disk; eight more where the disks have points of backups, which only QEMU removes: it is
        started for that, with its CPUs frozen."""
        try:
            self.snapshot_data.apply(machine.turn, machine.xml, name)
        except errors.HypervisorFault as error:
            if _POINTS not in error.message:
                raise
            with undoing() as undo:
                _, live = self._start_to_load(machine, undo)
                with changed():
                    own = own_files(machine.uuid, machine.xml)
                    disks = self.snapshot_data.live_disks(machine.domain, live, own)
                    removed = _without_points(machine.domain, disks)
                    cut(machine.domain)
            if not removed:
                raise  # others have made them
            self.snapshot_data.apply(machine.turn, machine.xml, name)

    def _continue(self, machine: Machine, node: Node, name: str) -> None:
        """Go on where the guest was."""
        domain, state = machine.domain, machine.state
        if node.note.shape != shape_of(machine.xml):
            raise errors.InvalidRequest(
                "flavor or devices differ from those that the guest in the snapshot's memory has",
                hint="bring them back, which cannot be done for CPUs and memory that were plugged"
                " while the guest ran; or revert to a snapshot without memory",
            )
        runs = node.note.state is InstanceState.RUNNING
        run, live = machine.xml.get("id"), machine.xml
        is_off = state is InstanceState.STOPPED
        disks = [] if is_off else self.snapshot_data.live_disks(domain, live, node.files())
        if is_off:
            self.networks.refuse_ports(machine.uuid, live)
            self.rescues.leave(machine.uuid, domain)
        with undoing() as undo:
            undo.callback(self.snapshot_data.forget_jobs, machine.uuid, machine.turn)
            if is_off:
                run, live = self._start_to_load(machine, undo)
            elif state is InstanceState.RUNNING and not runs:
                domain.suspend()
            with changed():
                try:
                    if is_off:
                        disks = self.snapshot_data.live_disks(domain, live, node.files())
                    _without_points(domain, disks)
                    goes_on = runs and state is not InstanceState.RUNNING
                    self.snapshot_data.run_live(
                        "snapshot-load", machine, disks, name, domain.resume if goes_on else None
                    )
                except (errors.HypervisorFault, errors.InvalidState) as error:
                    if xml_of(domain).get("id") != run:
                        # another client has switched it off, restarted it, or rescues it
                        raise LookAgain from error
                    cut(domain)  # half of it may have been brought back
                    raise

    def _start_to_load(self, machine: Machine, undo: Undo) -> tuple[str, Element]:
        """Start the machine with its CPUs frozen; the id of this run, and what runs. Four calls. It
        runs by a definition that is not stored, and that names the turn: if this client dies before
        the memory is there, the next turn knows the machine by it. So does the undo."""
        domain = machine.domain
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        xml = definable(parse(domain.XMLDesc(flags)))
        name_disks(xml)
        put(xml, LOADING_NAMESPACE, str(machine.turn.id))
        machine.turn.check()
        undo.callback(self.turns.end_half_loaded, machine.uuid, str(machine.turn.id))
        try:
            with self.dedicated.placed(machine.uuid, xml):
                started = start_new(domain.connect(), text(xml), paused=True)
        except (errors.InvalidState, errors.HypervisorFault, errors.DeviceBusy) as error:
            if domain.isActive():
                raise LookAgain from error  # another client has started it
            raise
        if not started.isPersistent():
            cut(started)
            raise errors.InstanceNotFound(
                "the instance was destroyed meanwhile", instance=machine.uuid
            )
        return str(started.ID()), xml

    def delete_snapshot(
        self,
        uuid: UUID,
        snapshot_id: str,
        *,
        children: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Budget: 18 calls for a machine that is off, 16 for one that is on, and 1 for each
        snapshot; with children 4 more for each of them, and of one that is on 2 for each further
        disk. 1 more for an adopted machine."""
        del timeout
        deadline = current_deadline()

        def act(turn: Turn, domain: Remote, state: InstanceState) -> None:
            xml = xml_of(domain)
            machine = Machine(uuid, domain, state, xml, deadline, turn)
            tree = self.snapshot_data.settled(machine)
            node = tree.nodes.get(snapshot_id)
            if node is None:
                return
            # one by one, leaves first: libvirt 9.0 has died of its own flag for the children
            family = [*tree.below(snapshot_id)] if children else [snapshot_id]
            disks = self.snapshot_data.disks_now(machine)
            flags = affecting(domain, state)
            begun: set[str] = set()
            room = self.snapshot_data.keep_room(turn, xml)
            turn.check()  # what is noted will be done
            unnote = partial(put_back, partial(note_deletion, domain, (), flags))
            with whole(unnote):
                note_deletion(domain, family, flags)
            with changed():
                try:
                    nodes = [tree.nodes[each] for each in family]
                    self.snapshot_data.erase(machine, nodes, disks, begun, room)
                except (errors.DeviceBusy, errors.HypervisorFault) as error:
                    turn.check()  # or the other client has done it
                    if isinstance(error, errors.HypervisorFault):
                        self._look_again_if_moved(domain, state, error)
                    put_back(partial(note_deletion, domain, begun, flags))
                    raise
                except Robbed:
                    unnote()
                    raise
                unnote()  # a note of snapshots that have gone says nothing

        self.turns.change("delete_snapshot", uuid, deadline, act)


def _without_points(domain: Remote, disks: list[LiveDisk]) -> bool:
    """Remove the points of backups from the disks of a machine that is on: QEMU brings no disk
    back that has one. A backup since one of them raises VolumeNotFound then. One call where there
    are some; False where there are none."""
    known = {disk.node: disk.points for disk in disks}
    return points.remove(domain, known, {name for each in known.values() for name in each})


def _refuse_checkpoints(domain: Remote) -> None:
    """QEMU brings no disk back that has dirty bitmaps (QEMU 7.2: "Device has active dirty
    bitmaps"), and says so only after the machine was switched off."""
    if points.forget_checkpoints(domain):
        raise errors.DeviceBusy(
            "the instance has checkpoints of another client's incremental backups",
            hint="delete them first, while the machine is on: virsh checkpoint-delete",
            retryable=False,
        )


def _refuse_other_disks(uuid: UUID, xml: Element, node: Node) -> None:
    if own_files(uuid, xml) != node.files():
        raise errors.DeviceBusy(
            "the instance has other disks than at the time of the snapshot",
            hint="others have changed it; put its disks back",
            retryable=False,
        )
