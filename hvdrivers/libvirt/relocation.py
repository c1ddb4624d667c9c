"""The disks of an instance in another storage pool, while the machine runs or not.

Of a machine that runs QEMU copies each disk, and the guest's writes go to both files. When all
copies are whole, each disk goes on with its copy (libvirt's pivot), in the machine and in its
definition at once. Of a machine that is off the host copies the files, and the definition names the
copies then. Another client may start and stop such a machine meanwhile: the times of the old file
tell, and it is copied again.

What is made and what is replaced is noted first (``left_files.py``). So one step takes back what
has failed, clears away what has been replaced, and removes what a dead client has left: it ends the
copies, and deletes each noted file that the machine has not. A client that dies leaves each disk
whole in one of both pools; the same call moves the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from secrets import token_hex
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.storage import StorageMigration
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt.adopted import ADOPTED_NAMESPACE, Adoption, adoption_in
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.definition import complete
from hvdrivers.libvirt.domain import own_disk
from hvdrivers.libvirt.domains import LookAgain, xml_of
from hvdrivers.libvirt.files import Times, clean
from hvdrivers.libvirt.halves import second_half
from hvdrivers.libvirt.held_volumes import in_both
from hvdrivers.libvirt.left_files import (
    File,
    delete_files,
    end_copies,
    note,
    noted_in,
    unnamed,
)
from hvdrivers.libvirt.metadata import (
    RootDisk,
    disk_namespace,
    keep,
    record_in,
    root_text,
    roots_in,
)
from hvdrivers.libvirt.mirroring import Mirroring
from hvdrivers.libvirt.move_mark import Step, mark_in
from hvdrivers.libvirt.naming import ROOT, disk_name, is_own
from hvdrivers.libvirt.relocating import (
    Move,
    Part,
    files_of,
    moving,
    parts_of,
    refuse_by_pool,
    require_same,
)
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import needing_room, require_room
from hvdrivers.libvirt.snapshot_data import Machine
from hvdrivers.libvirt.turns import Robbed, Turn
from hvdrivers.libvirt.xml import Element, el, parse
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState

_STORED = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_LOOKS_APART = 1.0
"""Seconds."""


class LibvirtRelocation(Topic, StorageMigration):
    """Storage migration."""

    def migrate_storage(
        self,
        uuid: UUID,
        pool: str,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: 9 calls for disks that are there. Else for one disk 31 calls if it runs, and 2
        for each further look, about one a second; 35 if it is off, and 5 for each look. For each
        further disk 15 more; for each one of an adopted machine 5 more, and those of
        delete_volume(); 2 for each root disk that rebuild() has made. It waits for what
        another client does with the snapshots, as those are in the disks."""
        del timeout
        deadline = current_deadline()
        relocating = _Relocating(self, progress)

        def act(turn: Turn, domain: Remote, state: InstanceState) -> None:
            try:
                relocating.act(Machine(uuid, domain, state, el("domain"), deadline, turn), pool)
            except (errors.VolumeNotFound, errors.DeviceBusy, errors.HypervisorFault):
                self.domains.find(uuid)  # or destroy() has removed the files
                raise

        self.turns.change("migrate_storage", uuid, deadline, act)


class _Relocating:
    """Does it, over the objects of the driver's topics."""

    def __init__(self, here: Topic, progress: ProgressCallback | None) -> None:
        self._here = here
        self._progress = progress

    def act(self, machine: Machine, name: str) -> None:
        """Move what is not in the pool of this name."""
        here, uuid, domain = self._here, machine.uuid, machine.domain
        target = here.pools.named(name)
        if target.name() == here.config.console_pool:
            raise errors.InvalidRequest(
                "this storage pool is for the logs of consoles", hint="name another pool"
            )
        if not domain.isPersistent():
            complete(domain)  # or it would vanish with its power
        live, stored = self._read(machine)
        if noted_in(uuid, live, stored):
            self.clear(uuid, machine.turn, ())
            live, stored = self._read(machine)
        disks = moving(uuid, stored, here.pools.path(target))
        if machine.state is InstanceState.RUNNING:
            require_same(live, stored)
            refuse_by_pool(stored, disks.values())
        if not disks:
            return
        machine = replace(machine, xml=stored)
        here.snapshot_data.require_none(machine, "the disks have snapshots")
        parts = tuple(parts_of(uuid, disks, here.pools, target, token_hex(4)))
        move = Move(machine, target, parts, self._progress)
        require_room(target, move.total)
        self.run(move, live if machine.state is InstanceState.RUNNING else None)

    @staticmethod
    def _read(machine: Machine) -> tuple[Element, Element]:
        """The machine as it runs and as it is defined. Two calls; one for one that is off."""
        stored = parse(machine.domain.XMLDesc(_STORED))
        if (mark := mark_in(stored)) is not None and mark.step is Step.FINISHED:
            raise errors.InvalidState(
                "a move of the instance is finished, and not confirmed",
                instance=machine.uuid,
                hint="confirm_move() or revert_move()",
            )
        running = machine.state is InstanceState.RUNNING
        return xml_of(machine.domain) if running else stored, stored

    def run(self, move: Move, live: Element | None) -> None:
        machine, parts = move.machine, move.parts
        with undoing() as undo:
            undo.callback(self.clear, machine.uuid, machine.turn, parts)
            note(machine.domain, files_of(parts))
            move.tell(0)
            if live is None:
                made = undo.steps
                times = self._copy(move)
                undo.callback(self._put_back, machine.uuid, parts, guards=made)
                self._place(move, times)
                undo.forget()
            else:
                Mirroring(self._here.hub).mirror(move, live)
            with changed(), second_half(machine.domain):
                self._name_root(move)
                undo.close()  # the old files go
                _record(move)
        move.tell(move.total)

    # ---- a machine that is off -------------------------------------------------------------------

    def _copy(self, move: Move) -> list[Times | None]:
        """Copy the files of a machine that is off; when they were written to. Five calls for each,
        and beside them five for each look, about one a second."""
        machine, done = move.machine, 0
        times = []
        for part in move.parts:
            machine.deadline.check("the disks were copied")
            machine.turn.check()
            before = part.times()
            self._copy_one(part, move, done)
            if part.times() != before or machine.domain.isActive():
                raise LookAgain  # another client has started the machine
            times.append(before)
            done += part.allocation
            move.tell(done)
        return times

    def _copy_one(self, part: Part, move: Move, before: int) -> None:
        ended = threading.Event()
        robbed: list[Robbed] = []

        def copy() -> None:
            try:
                with needing_room(move.pool, part.allocation):
                    move.pool.createXMLFrom(part.document(), part.volume, 0)
            except (errors.HypervisorFault, errors.InvalidState) as error:
                if move.machine.domain.isActive():
                    raise LookAgain from error  # QEMU has the file
                raise
            finally:
                ended.set()

        def watch() -> None:
            pause = _LOOKS_APART
            while not ended.wait(pause):
                remote = self._here.connection.remote
                try:
                    move.machine.turn.show(remote)
                    pool = remote.storagePoolLookupByName(part.new.pool)
                    taken = int(pool.storageVolLookupByName(part.new.name).info()[2])
                except Robbed as error:
                    robbed.append(error)
                    return
                except errors.HypervisorError:
                    continue
                move.tell(before + min(taken, part.allocation))

        self._here.connection.together(copy, watch)
        if robbed:
            raise robbed[0]

    def _place(self, move: Move, times: Sequence[Times | None]) -> None:
        """Let the definition name the copies. Two calls, and two for each disk.

        Args:
            times: of the old files, when they were copied.
        """
        machine = move.machine
        machine.turn.check()
        for part in move.parts:
            machine.domain.updateDeviceFlags(part.placed(machine.xml, part.new), _CONFIG)
        now = xml_of(machine.domain)
        for part, before in zip(move.parts, times, strict=True):
            if not part.is_on(own_disk(now, part.role)) or part.times() != before:
                # another client has started the machine with the old files
                raise LookAgain

    def _put_back(self, uuid: UUID, parts: Sequence[Part]) -> None:
        """Let the definition name the old files again."""
        # the machine is looked up now: this is how things are undone after a connection was lost
        with suppress(errors.InstanceNotFound):
            domain = self._here.domains.find(uuid)
            stored = parse(domain.XMLDesc(_STORED))
            for part in parts:
                if part.is_on(own_disk(stored, part.role)):
                    before = self._there(uuid, part)
                    domain.updateDeviceFlags(part.placed(stored, before), _CONFIG)

    def _there(self, uuid: UUID, part: Part) -> File:
        """The old file. One call. Another client that took this one for dead may have moved the
        disk: then the only other file of the disk that there is. One more for each pool."""
        with suppress(errors.VolumeNotFound):
            pool = self._here.pools.named(part.old.pool)
            pool.storageVolLookupByName(part.old.name)
            return part.old
        found = [
            File(pool=pool.name(), path=f"{self._here.pools.path(pool)}/{name}")
            for pool in self._here.pools.for_disks()
            for name in self._here.pools.volumes(pool)
            if is_own(name, uuid, part.role) and name != part.new.name
        ]
        if len(found) != 1:
            raise errors.HypervisorFault(
                f"another client has moved the {part.role} disk meanwhile, and it is not clear"
                " where to",
                hint="put the file into the definition: virsh edit",
            )
        return found[0]

    # ---- what is left ----------------------------------------------------------------------------

    def _name_root(self, move: Move) -> None:
        """Remember by its new name which image a root disk is of, where rebuild() has made it. No
        call where it has not; else one, and one for each root disk that is remembered."""
        machine = move.machine
        root = next((part for part in move.parts if part.role == ROOT), None)
        remembered = roots_in(machine.xml)
        if root is None or not remembered:
            return
        role = root.new.name.removeprefix(disk_name(machine.uuid, ""))
        known = RootDisk(image=record_in(machine.xml).image, placed=True)
        keep(machine.domain, disk_namespace(role), root_text(known), _CONFIG)
        for each in remembered:
            keep(machine.domain, disk_namespace(each), None, _CONFIG)

    def _unused(self, uuid: UUID, files: Sequence[File]) -> list[File]:
        """Those that nothing else uses. A file with a name of the driver's is the instance's alone.
        For each other one, of an adopted machine, those of delete_volume() and one more."""
        theirs = {clean(each.path) for each in files if not each.name.startswith(f"{uuid}.")}
        used = self._here.adopting.used(uuid, theirs)
        return [each for each in files if clean(each.path) not in used]

    def clear(self, uuid: UUID, turn: Turn, parts: Sequence[Part]) -> None:
        """End the copies that run, and delete each file that is noted, or of these parts, and that
        the machine has not. Six calls for a machine that is off, five for one that runs, and two
        for each file; one more for each in another pool than the driver's own, and where one is
        deleted that a running machine had."""
        files = files_of(parts)
        # all is looked up now: this is how things are undone after a connection was lost
        try:
            domain = self._here.domains.find(uuid)
        except errors.InstanceNotFound:
            # destroy() may have come before the last of them was made
            delete_files(self._here.pools, [part.new for part in parts])
            return
        mine = True
        try:
            turn.again(self._here.connection.remote)
        except Robbed:
            mine = False  # what is noted now is another client's
        stored, live = xml_of(domain, inactive=True), xml_of(domain)
        if mine:
            files = list(dict.fromkeys([*files, *noted_in(uuid, stored, live)]))
        if end_copies(domain, live, files):
            live = xml_of(domain)
        gone = self._unused(uuid, unnamed(files, stored, live))
        if mine and live.get("id") is not None and {*gone} - {part.new for part in parts}:
            # libvirt does not tell whether it could write which files the machine has gone on with
            note(domain, files)
        away = delete_files(self._here.pools, gone)
        if mine:
            # what only one of both names is left when the machine goes off
            one = {*unnamed(files, stored)} ^ {*unnamed(files, live)}
            note(domain, [each for each in files if each in away or each in one])


def _record(move: Move) -> None:
    """Record where the disks of an adopted machine are now. No call for any other; two, one for a
    machine that is off."""
    adoption = adoption_in(move.machine.xml)
    if adoption is None:
        return
    new = {part.role: part.new.path for part in move.parts}
    disks = tuple(
        each.model_copy(update={"path": new.get(each.role, each.path)}) for each in adoption.disks
    )
    content = Adoption(uuid=adoption.uuid, disks=disks).text()
    in_both(partial(keep, move.machine.domain, ADOPTED_NAMESPACE, content))
