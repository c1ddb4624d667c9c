"""Snapshots on libvirt: internal ones, in the qcow2 files of the machine's own disks.

Why not external ones, a new file over each disk: libvirt 9 cannot go back to one, nor delete one
that several others stand on, and of a machine that is off nobody but ``qemu-img`` on the host could
merge files. An internal snapshot is made, read and deleted in a moment, and goes with the disk.
What libvirt's own calls do not do with them ``snapshot_data.py`` says.

A snapshot with memory is made and read by QEMU (``snapshot-save``, ``snapshot-load``), which stands
still meanwhile. It leaves volumes out, as well as the variables of UEFI, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.snapshots import Snapshots
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt.base import LookAgain
from hvdrivers.libvirt.definition import complete
from hvdrivers.libvirt.rescue import LeavingRescue
from hvdrivers.libvirt.room import needing_room
from hvdrivers.libvirt.session import Remote
from hvdrivers.libvirt.snapshot_data import Machine, SnapshotData
from hvdrivers.libvirt.snapshot_tree import (
    Node,
    Note,
    make_current,
    new_id,
    own_files,
    remember,
    shape_of,
    tree_of,
)
from hvdrivers.libvirt.start import cut, start
from hvdrivers.libvirt.unplug import Plugging
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.base import Name
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState

_LEAST = 1 << 20
"""Bytes: more than the tables that a snapshot adds to a small disk."""


class LibvirtSnapshots(LeavingRescue, Plugging, SnapshotData, Snapshots):
    """The tree."""

    @provides(Capability.SNAPSHOT_MEMORY)
    def create_snapshot(
        self, uuid: UUID, name: Name, *, memory: bool = False, timeout: float | None = None
    ) -> Snapshot:
        """Budget: 7 calls for a machine that is on, 9 with its memory, and one more for each look
        at QEMU's job; 13 for one that is off. Where there are snapshots 1 more, and 1 for each."""
        deadline = Deadline(timeout)

        def act(domain: Remote, state: InstanceState) -> Snapshot:
            if memory and state is InstanceState.STOPPED:
                raise errors.InvalidRequest(
                    "a stopped machine has no memory to keep", hint="power_on() it, or leave it out"
                )
            xml = self._xml(domain)
            own_files(uuid, xml)
            machine = Machine(uuid, domain, state, xml, deadline)
            tree = tree_of(domain)
            if any(node.note.name == name for node in tree.nodes.values()):
                raise errors.InvalidRequest(f"the instance has a snapshot {name!r} already")
            note = Note(name=name, created_at=datetime.now(UTC))
            if memory:
                note = note.model_copy(update={"state": state, "shape": shape_of(xml)})
            made = new_id()
            with undoing() as undo:
                undo.callback(self._take_back_snapshot, uuid, made)
                try:
                    self._save(machine, note, made)
                except errors.HypervisorFault as error:
                    self._look_again_if_moved(domain, state, error)
                    raise
                remember(domain, made, note, tree.current, xml)
            return Snapshot(
                id=made,
                name=name,
                parent=tree.current,
                created_at=note.created_at,
                with_memory=note.with_memory,
                current=True,
            )

        return self._change("create_snapshot", uuid, deadline, act)

    def _save(self, machine: Machine, note: Note, made: str) -> None:
        """Make the snapshot's data."""
        domain, xml = machine.domain, machine.xml
        size = _LEAST
        if note.with_memory:
            size += int(xml.findtext("memory") or 0) << 10
        with needing_room(self.pools.disks(), size):
            if machine.state is InstanceState.STOPPED:
                self._tag(machine.uuid, domain, xml, made)
                return
            disks = self._live_disks(domain, own_files(machine.uuid, xml))
            if note.with_memory:
                self._run_live("snapshot-save", machine, disks, made)
            else:
                self._tag_live(domain, disks, made)

    def _look_again_if_moved(
        self, domain: Remote, state: InstanceState, error: errors.HypervisorFault
    ) -> None:
        """After a failure: look again if another client has started the machine, or switched it
        off, meanwhile. Two calls."""
        if (self._state(domain) is InstanceState.STOPPED) is not (state is InstanceState.STOPPED):
            raise LookAgain from error

    def _take_back_snapshot(self, uuid: UUID, made: str) -> None:
        """Undo create_snapshot(), as far as it has come."""
        # the machine is looked up now: this is how things are undone after a connection was lost
        with suppress(errors.InstanceNotFound):
            domain = self._domain(uuid)
            node = tree_of(domain).nodes.get(made)
            state = self._state(domain)
            if state is not InstanceState.STOPPED:
                xml = self._xml(domain)
                self._untag_live(domain, self._live_disks(domain, own_files(uuid, xml)), made)
                if node is not None:
                    _forget(node)
            elif node is not None:
                node.remote.delete(0)
            else:
                self._untag(uuid, domain, self._xml(domain), made)

    def list_snapshots(self, uuid: UUID, *, timeout: float | None = None) -> Sequence[Snapshot]:
        """Budget: 4 calls, 5 for a machine that is off, and 1 for each snapshot; 1 less where there
        is none: libvirt tells of one at a time."""
        domain, _ = self._checked("list_snapshots", uuid, Deadline(timeout))
        return tree_of(domain).shown()

    def revert_snapshot(
        self, uuid: UUID, snapshot_id: str, *, timeout: float | None = None
    ) -> None:
        """Budget: 15 calls, 16 for a machine that is on, 9 with memory and one more for each look
        at QEMU's job, and 1 for each snapshot."""
        deadline = Deadline(timeout)

        def act(domain: Remote, state: InstanceState) -> None:
            node = tree_of(domain).nodes.get(snapshot_id)
            if node is None:
                raise errors.VolumeNotFound(f"the instance has no snapshot {snapshot_id!r}")
            xml = self._xml(domain)
            _refuse_other_disks(uuid, xml, node)
            machine = Machine(uuid, domain, state, xml, deadline)
            try:
                if node.note.with_memory:
                    self._continue(machine, node, snapshot_id)
                else:
                    if state is not InstanceState.STOPPED:
                        if not domain.isPersistent():
                            complete(domain)  # or it would vanish, and leave its disks
                        self._settle_before_the_end(uuid, domain)
                        if not cut(domain):
                            # another client has switched it off, or saved memory that knows the
                            # disks as they are
                            raise LookAgain
                    self._apply(uuid, domain, xml, snapshot_id)
            except errors.HypervisorFault as error:
                now = InstanceState.STOPPED if not node.note.with_memory else state
                self._look_again_if_moved(domain, now, error)
                raise
            with changed():
                make_current(domain, node)

        self._change("revert_snapshot", uuid, deadline, act)

    def _continue(self, machine: Machine, node: Node, name: str) -> None:
        """Go on where the guest was."""
        domain, state = machine.domain, machine.state
        if node.note.shape != shape_of(machine.xml):
            raise errors.InvalidRequest(
                "flavor or devices differ from those that the guest in the snapshot's memory has",
                hint="bring them back, or revert to a snapshot without memory",
            )
        runs = node.note.state is InstanceState.RUNNING
        run = machine.xml.get("id")
        is_off = state is InstanceState.STOPPED
        disks = [] if is_off else self._live_disks(domain, node.files())
        if is_off:
            self._leave_rescue(machine.uuid, domain)
            if not start(domain, paused=True):
                raise LookAgain  # another client has started it
        elif state is InstanceState.RUNNING and not runs:
            domain.suspend()
        with changed():
            if is_off:
                disks = self._live_disks(domain, node.files())
            try:
                self._run_live("snapshot-load", machine, disks, name)
            except errors.HypervisorFault as error:
                if run is not None and self._xml(domain).get("id") != run:
                    raise LookAgain from error  # another client has restarted it, or rescues it
                cut(domain)  # half of it may have been brought back
                raise
            if runs and state is not InstanceState.RUNNING:
                domain.resume()

    def delete_snapshot(
        self,
        uuid: UUID,
        snapshot_id: str,
        *,
        children: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Budget: 6 calls for a machine that is off, 7 for one that is on, and 1 for each snapshot;
        with children 1 for each of them, 2 of one that is on."""

        def act(domain: Remote, state: InstanceState) -> None:
            tree = tree_of(domain)
            node = tree.nodes.get(snapshot_id)
            if node is None:
                return
            # one by one, leaves first: libvirt 9.0 has died of its own flag for the children
            family = tree.below(snapshot_id) if children else (snapshot_id,)
            if state is InstanceState.STOPPED:
                for each in family:
                    with suppress(errors.VolumeNotFound):
                        tree.nodes[each].remote.delete(0)
                return
            disks = self._live_disks(domain, node.files())
            for each in family:
                self._untag_live(domain, disks, each)
                with changed():
                    _forget(tree.nodes[each])

        self._change("delete_snapshot", uuid, Deadline(timeout), act)


def _forget(node: Node) -> None:
    """Take a snapshot without data out of the tree. One call."""
    with suppress(errors.VolumeNotFound):
        node.remote.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


def _refuse_other_disks(uuid: UUID, xml: Element, node: Node) -> None:
    if own_files(uuid, xml) != node.files():
        raise errors.DeviceBusy(
            "the instance has other disks than at the time of the snapshot",
            hint="others have changed it; put its disks back",
            retryable=False,
        )
