"""A new root disk for the same machine.

libvirt renames no volume, so the new disk has a name of its own, and one call puts it in the old
one's place in the definition. That call changes nothing else, and fails if destroy() has removed
the machine. What the new disk was made from is written before it, under the disk's own name: the
definition says with one word which disk the machine has, and of which image.

The old disk goes last, when the machine has started with the new one. Of two rebuilds at the same
moment the later one wins. Each removes its own disk if the definition does not name it any more,
and the disks that its own has replaced. It leaves alone a disk that was never in the definition:
another client may be about to put it in.

A machine that runs is marked before it is switched off. The next rebuild() finds the mark if this
one is interrupted, and lets the machine run. power_off() removes the mark.

The root disk of an adopted machine is a file that others have made, in a place of theirs. The new
one is the driver's, in its pool, at the old one's device. Both are noted first
(``left_files.py``), and the old file goes when the machine runs with the new one, unless others use
it.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import PurePosixPath
from uuid import UUID

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.contract.lifecycle import Rebuild
from hvdrivers.driverkit.checks import root_disk_bytes
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt.adopted import ADOPTED_NAMESPACE, Adoption, adoption_in
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import own_disk
from hvdrivers.libvirt.domains import LookAgain, xml_of
from hvdrivers.libvirt.files import clean
from hvdrivers.libvirt.halves import rest
from hvdrivers.libvirt.held_volumes import in_both
from hvdrivers.libvirt.left_files import File, delete_files, note, noted_in, unnamed
from hvdrivers.libvirt.metadata import (
    STATE_NAMESPACE,
    RootDisk,
    disk_namespace,
    keep,
    kept,
    record_in,
    root_text,
    roots_in,
    to_run_text,
)
from hvdrivers.libvirt.naming import ROOT, disk_name, is_root
from hvdrivers.libvirt.overlays import Base
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import growing
from hvdrivers.libvirt.roots_of_others import refuse_odd_root, root_at
from hvdrivers.libvirt.snapshot_data import Machine
from hvdrivers.libvirt.start import cut, forget_crash, note_disk, shall_run, start
from hvdrivers.libvirt.turns import Robbed, Turn
from hvdrivers.libvirt.xml import Element, attribute, parse, text
from hvdrivers.models.image import ImageRef
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState

_FLAGS = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG


class LibvirtRebuild(Topic, Rebuild):
    """Rebuild."""

    def rebuild(
        self,
        uuid: UUID,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget from a cached image: 26 calls, 30 if it runs; 3 more where a rebuild() has made
        the disk before it, 8 where it is in another pool than the driver's own, and 2 where an
        earlier one was cut; of an adopted machine 15 more, and those of delete_volume().
        It waits for what another client does with the snapshots, as those are in the disk that
        goes."""
        del timeout
        deadline = current_deadline()
        domain, _ = self.domains.checked("rebuild", uuid, deadline)
        if own_disk(xml_of(domain, inactive=True), ROOT) is None:
            raise _no_root()
        base = self.images.base(image, deadline, progress)
        deadline.check("the image was brought to the host")

        def act(turn: Turn, domain: Remote, state: InstanceState) -> None:
            xml = parse(domain.XMLDesc(_FLAGS))
            machine = Machine(uuid, domain, state, xml, deadline, turn)
            adoption = adoption_in(xml)
            if adoption is not None:
                self._rebuilt_adopted(machine, adoption, base)
            else:
                self._rebuilt(machine, base)

        self.turns.change("rebuild", uuid, deadline, act)

    def _rebuilt(self, machine: Machine, base: Base) -> None:
        uuid, domain, state, xml = machine.uuid, machine.domain, machine.state, machine.xml
        record = record_in(xml)
        pool = self.pools.holding(source_of(_root_of(xml)))
        self.snapshot_data.require_none(machine, "the disk has snapshots")
        runs = state is InstanceState.RUNNING
        runs = runs or (state is InstanceState.STOPPED and shall_run(domain, xml))
        capacity = root_disk_bytes(base.virtual_size, record.flavor.disk_gib)
        role = f"{ROOT}-{secrets.token_hex(4)}"
        name = disk_name(uuid, role)
        self._note_away(machine, pool, name)
        with undoing() as undo:
            self.overlays.make(name, capacity, base, undo, pool)
            undo.callback(self._forget_root, uuid, role)
            made = undo.steps
            undo.callback(self._run_again, uuid)
            # the disk that this one replaces is the one that is there now
            xml = parse(domain.XMLDesc(_FLAGS))
            old = _root_of(xml)
            replaces = self._replaced_by(uuid, xml)
            about = RootDisk(image=base.key, replaces=replaces)
            keep(domain, disk_namespace(role), root_text(about), _CONFIG)
            back = undo.callback(self._put_back, uuid, old, name, guards=made)
            new = deepcopy(old)
            path = f"{self.pools.path(pool)}/{name}"
            new.find("source").set("file", path)  # type: ignore[union-attr]
            machine.turn.check()
            try:
                domain.updateDeviceFlags(text(new), _CONFIG)
                with changed():
                    placed = about.model_copy(update={"placed": True})
                    keep(domain, disk_namespace(role), root_text(placed), _CONFIG)
                    if runs or not self._is_off_with(path, domain, state, base):
                        self._restarted(domain, is_off=runs and state is not InstanceState.RUNNING)
                    with rest():
                        now = parse(domain.XMLDesc(_FLAGS))
            except errors.OutcomeUnknown:
                back.block()  # the new disk may be the machine's
                raise
        with changed():
            self._delete_others(uuid, pool, {name, *replaces}, now)
            if pool.name() != self.config.pool:
                note(domain, ())
            if state is InstanceState.CRASHED and self.domains.state(domain) is state:
                forget_crash(domain)

    def _rebuilt_adopted(self, machine: Machine, adoption: Adoption, base: Base) -> None:
        uuid, domain, state = machine.uuid, machine.domain, machine.state
        left: list[File] = []
        if noted_in(uuid, machine.xml):
            self._clear(machine, ())  # what an interrupted one has left
            left = noted_in(uuid, xml_of(domain, inactive=True))  # a running machine has it still
        self.snapshot_data.require_none(machine, "the disk has snapshots")
        shown = _root_of(machine.xml)
        old = _as_it_stands(machine.xml, shown)
        refuse_odd_root(shown, adoption)
        volume = self.connection.remote.storageVolLookupByPath(source_of(shown))
        old_file = File(
            pool=volume.storagePoolLookupByVolume().name(), path=clean(source_of(shown))
        )
        capacity = root_disk_bytes(base.virtual_size, record_in(machine.xml).flavor.disk_gib)
        capacity = max(capacity, int(volume.info()[1]))
        runs = state is InstanceState.RUNNING
        runs = runs or (state is InstanceState.STOPPED and shall_run(domain, machine.xml))
        role = f"{ROOT}-{secrets.token_hex(4)}"
        name, pool = disk_name(uuid, role), self.pools.disks()
        new_file = File(pool=pool.name(), path=self.pools.disk_path(name))
        with undoing() as undo:
            undo.callback(self._clear, machine, (new_file,))
            note(domain, list(dict.fromkeys([*left, old_file, new_file])))
            self.overlays.make(name, capacity, base, undo, pool)
            made = undo.steps
            undo.callback(self._run_again, uuid)
            back = undo.callback(self._put_back_adopted, uuid, old, new_file, guards=made)
            machine.turn.check()
            try:
                domain.updateDeviceFlags(text(root_at(shown, new_file.path)), _CONFIG)
                with changed():
                    placed = RootDisk(image=base.key, placed=True)
                    keep(domain, disk_namespace(role), root_text(placed), _CONFIG)
                    path = new_file.path
                    if runs or not self._is_off_with(path, domain, state, base):
                        self._restarted(domain, is_off=runs and state is not InstanceState.RUNNING)
            except errors.OutcomeUnknown:
                back.block()  # the new disk may be the machine's
                raise
        with changed():
            self._clear(machine, ())
            for each in roots_in(machine.xml):
                self._forget_root(uuid, each)
            disks = tuple(
                each.model_copy(update={"path": new_file.path}) if each.role == ROOT else each
                for each in adoption.disks
            )
            content = Adoption(uuid=adoption.uuid, disks=disks).text()
            in_both(partial(keep, domain, ADOPTED_NAMESPACE, content))
            if state is InstanceState.CRASHED and self.domains.state(domain) is state:
                forget_crash(domain)

    def _clear(self, machine: Machine, made: Collection[File]) -> None:
        """Delete each file that is noted, or of these, and that an adopted machine has not, and
        nothing else uses."""
        # the machine is looked up now: this is how things are undone after a connection was lost
        try:
            domain = self.domains.find(machine.uuid)
        except errors.InstanceNotFound:
            delete_files(self.pools, made)
            return
        mine = True
        try:
            machine.turn.again(self.connection.remote)
        except Robbed:
            mine = False  # what is noted now is another client's
        stored, live = xml_of(domain, inactive=True), xml_of(domain)
        files = noted_in(machine.uuid, stored, live) if mine else list(made)
        gone = unnamed(files, stored, live)
        theirs = {clean(each.path) for each in gone if not each.name.startswith(f"{machine.uuid}.")}
        used = self.adopting.used(machine.uuid, theirs)
        away = delete_files(self.pools, [each for each in gone if clean(each.path) not in used])
        if mine:
            # what only one of both names is left until the machine starts by its definition
            one = {*unnamed(files, stored)} ^ {*unnamed(files, live)}
            note(domain, [each for each in files if each in away or each in one])

    def _put_back_adopted(self, uuid: UUID, old: Element, new: File) -> None:
        """Undo the change of the disk."""
        with suppress(errors.InstanceNotFound):
            domain = self.domains.find(uuid)
            if clean(source_of(_root_of(parse(domain.XMLDesc(_FLAGS))))) == new.path:
                _refuse_running(domain, new.path)
                domain.updateDeviceFlags(text(old), _CONFIG)

    def _note_away(self, machine: Machine, pool: Remote, name: str) -> None:
        """Before a root disk is made in another pool than the driver's own: without a note
        destroy() would find there what the definition names, and nothing else. Two calls."""
        if pool.name() == self.config.pool:
            return
        folder = self.pools.path(pool)
        names = {name, *self._replaced_by(machine.uuid, machine.xml)}
        names |= {disk_name(machine.uuid, role) for role in roots_in(machine.xml)}
        files = [File(pool=pool.name(), path=f"{folder}/{each}") for each in sorted(names)]
        note(machine.domain, [*noted_in(machine.uuid, machine.xml), *files])

    def _replaced_by(self, uuid: UUID, xml: Element) -> tuple[str, ...]:
        """Names of the root disk that is there, and of those before it that an interrupted
        rebuild() may have left."""
        name = _name_of(_root_of(xml))
        if not is_root(name, uuid):
            raise LookAgain  # another client has just made a snapshot
        known = roots_in(xml)
        mine = known.get(name.removeprefix(f"{uuid}."))
        # what is remembered of a disk goes when the disk has gone; nothing is of the first one
        left = {disk_name(uuid, each) for each in (ROOT, *known)}
        return (name, *(each for each in (mine.replaces if mine else ()) if each in left))

    def _is_off_with(self, path: str, domain: Remote, state: InstanceState, base: Base) -> bool:
        """Whether a machine that was off has the new disk as it should be; False if another client
        has started it meanwhile with the old one. One call."""
        if state is InstanceState.CRASHED and self.domains.state(domain) is state:
            cut(domain)
        xml = xml_of(domain)
        root = _root_of(xml)
        if xml.get("id") is not None:
            return source_of(root) == path
        wanted = root_disk_bytes(base.virtual_size, record_in(xml).flavor.disk_gib)
        if source_of(root) == path:
            volume = self.connection.remote.storageVolLookupByPath(path)
            if int(volume.info()[1]) < wanted:
                # another client has given the machine a larger disk
                with growing(self.connection.remote, [path], capacity=wanted):
                    volume.resize(wanted, 0)
        return True

    def _restarted(self, domain: Remote, *, is_off: bool) -> None:
        """Let the machine start with the new disk. Eight calls. What another client has switched
        off meanwhile stays off."""
        keep(domain, STATE_NAMESPACE, to_run_text(), _CONFIG)
        if is_off or cut(domain):
            note_disk(domain)
            uuid = UUID(domain.UUIDString())
            self.rescues.leave(uuid, domain)
            with self.dedicated.starting(uuid, domain):
                start(domain)
        elif self.domains.state(domain) is InstanceState.SUSPENDED:
            # its memory knows the old disk
            keep(domain, STATE_NAMESPACE, None, _CONFIG)
            raise LookAgain
        with rest():
            keep(domain, STATE_NAMESPACE, None, _CONFIG)

    def _run_again(self, uuid: UUID) -> None:
        """Undo the end of a machine that ran: the mark says that it did."""
        # the machine is looked up now: this is how things are undone after a connection was lost
        with suppress(errors.InstanceNotFound):
            domain = self.domains.find(uuid)
            if kept(xml_of(domain, inactive=True), STATE_NAMESPACE) is not None:
                with self.dedicated.starting(uuid, domain):
                    start(domain)
                keep(domain, STATE_NAMESPACE, None, _CONFIG)

    def _put_back(self, uuid: UUID, old: Element, name: str) -> None:
        """Undo the change of the disk, if the old one is still there."""
        with suppress(errors.InstanceNotFound):
            domain = self.domains.find(uuid)
            new = _root_of(parse(domain.XMLDesc(_FLAGS)))
            if _name_of(new) != name:
                return
            _refuse_running(domain, source_of(new))
            domain.updateDeviceFlags(text(old), _CONFIG)
            try:
                self.connection.remote.storageVolLookupByPath(source_of(old))
            except errors.VolumeNotFound:  # another rebuild() has removed it
                domain.updateDeviceFlags(text(new), _CONFIG)
                raise

    def _forget_root(self, uuid: UUID, role: str) -> None:
        with suppress(errors.InstanceNotFound, errors.InvalidState):
            keep(self.domains.find(uuid), disk_namespace(role), None, _CONFIG)

    def _delete_others(self, uuid: UUID, pool: Remote, names: set[str], xml: Element) -> None:
        """Delete these root disks but the one that the machine has. Two calls for each, and one for
        each that rebuild() had made; two more for each in another pool than the driver's own."""
        current = _name_of(_root_of(xml))
        remembered = roots_in(xml)
        replaced = {disk_name(uuid, role) for role, disk in remembered.items() if disk.placed}
        for name in sorted((names | replaced) - {current}):
            self.pools.delete_disk(name, pool.name())
            role = name.removeprefix(f"{uuid}.")
            if role in remembered:
                self._forget_root(uuid, role)


def _refuse_running(domain: Remote, path: str) -> None:
    """What is not to be taken back: the machine has been started with the new disk. One call."""
    xml = xml_of(domain)
    if xml.get("id") is not None and clean(source_of(_root_of(xml))) == clean(path):
        raise errors.DeviceBusy(
            "the machine runs with its new disk",
            hint=hints.CALL_AGAIN,
            retryable=False,
        )


def _no_root() -> errors.InvalidRequest:
    return errors.InvalidRequest(
        "the instance boots from a volume: there is no root disk",
        hint=hints.WRITE_VOLUME,
    )


def _root_of(xml: Element) -> Element:
    disk = own_disk(xml, ROOT)
    if disk is None or disk.find("source") is None:
        raise _no_root()
    return disk


def _as_it_stands(xml: Element, root: Element) -> Element:
    """The root disk as the definition names it: maybe by its pool and volume."""
    target = attribute(root, "target", "dev")
    disks = xml.iterfind("devices/disk")
    return next((each for each in disks if attribute(each, "target", "dev") == target), root)


def _name_of(disk: Element) -> str:
    return PurePosixPath(source_of(disk)).name
