"""The source of a move in steps: marked, kept as it is, and free again."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, bounding, current_deadline
from hvdrivers.driverkit.undo import undoing
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.definition import undefine
from hvdrivers.libvirt.domains import LookAgain, affecting, xml_of
from hvdrivers.libvirt.metadata import keep
from hvdrivers.libvirt.move_copies import carry, clear, drop_beside
from hvdrivers.libvirt.move_mark import MOVE_NAMESPACE, Mark, Step, mark_in, nvram_name
from hvdrivers.libvirt.move_shapes import as_before, finished, without
from hvdrivers.libvirt.naming import NVRAM, disk_name, domain_name, is_moving, is_root, label_of
from hvdrivers.libvirt.other_host import reached
from hvdrivers.libvirt.pools import refresh
from hvdrivers.libvirt.redefining import redefine, redefine_saved
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.turns import remove_helper
from hvdrivers.libvirt.xml import Element, parse
from hvdrivers.models.migration import Blocker
from hvdrivers.models.state import InstanceState

_FLAGS = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG


class Source:
    """One instance that moves, on its host."""

    def __init__(self, here: Topic, uuid: UUID) -> None:
        self._here = here
        self._uuid = uuid

    @property
    def uuid(self) -> UUID:
        """Which instance it is."""
        return self._uuid

    # Each looks the machine up: this is how things are undone after a connection was lost.

    def read(self) -> tuple[Remote, Element]:
        """The machine, and what it will be at its next start. Two calls."""
        domain = self._here.domains.find(self._uuid)
        return domain, parse(domain.XMLDesc(_FLAGS))

    def keep_as_it_is(self, domain: Remote, mark: Mark, password: str | None) -> None:
        """Mark it. Two calls; two more for a password."""
        if password is not None:
            self._here.secrets.keep_note(self._uuid, password)
        keep(domain, MOVE_NAMESPACE, mark.text, _CONFIG)
        self._rename(domain, moving=True)

    def require_kept(self) -> None:
        """That nobody has taken the name away meanwhile, or started it: who looked at it before it
        was marked may have. Two calls."""
        domain = self._here.domains.find(self._uuid)
        if not is_moving(domain.name(), self._uuid) or domain.isActive():
            raise LookAgain

    def set_step(self, mark: Mark, step: Step) -> None:
        """Note how far it has come. Two calls."""
        with suppress(errors.InstanceNotFound):
            domain = self._here.domains.find(self._uuid)
            keep(domain, MOVE_NAMESPACE, mark.at(step).text, _CONFIG)

    def free(self) -> None:
        """Let it be the instance again, and remove what is left of the move: copies beside it,
        and the mark. Up to eight calls, and one for each file."""
        with suppress(errors.InstanceNotFound):
            domain, xml = self.read()
            self._rename(domain, moving=False)
            mark = mark_in(xml)
            if mark is not None:
                self._clean(domain, mark)

    def _clean(self, domain: Remote, mark: Mark) -> None:
        here, uuid = self._here, self._uuid
        drop_beside(here, uuid, mark.token)
        if mark.step is Step.ENDED:
            was = {path.rpartition("/")[2] for path in mark.disks.values()}
            later = {each.name(): each for each in here.removal.disks_of(uuid)}
            # a rebuild() between finish_move() and revert_move() has made another one
            here.removal.delete(
                {k: v for k, v in later.items() if is_root(k, uuid) and k not in was}
            )
        if mark.has_password:
            here.secrets.forget_note(uuid)
        keep(domain, MOVE_NAMESPACE, None, _CONFIG)

    def _rename(self, domain: Remote, *, moving: bool) -> None:
        """One call, none where it has that name."""
        before = domain.name()
        name = domain_name(label_of(before, self._uuid) or "", self._uuid, moving=moving)
        if is_moving(before, self._uuid) is not moving:
            domain.rename(name, 0)

    def remove(self, domain: Remote) -> None:
        """Remove it, when it is at the destination. The definition goes last: who is interrupted
        finds the mark in it. Seven calls, and one for each file."""
        here, uuid = self._here, self._uuid
        here.removal.delete({each.name(): each for each in here.removal.disks_of(uuid)})
        here.secrets.delete(uuid)
        here.removal.delete_console(uuid)
        remove_helper(here.connection.remote, uuid)  # this client's turn: nobody looks for it later
        undefine(domain)

    # ---- within one host -------------------------------------------------------------------------

    def finish(self, mark: Mark) -> None:
        """Give it the copies and the new flavor. Six calls."""
        here, uuid = self._here, self._uuid
        with undoing() as undo:
            undo.callback(self._prepared_again, mark)
            domain = here.domains.find(uuid)
            if mark.step is Step.PREPARED:
                redefine(
                    here.hub,
                    uuid,
                    domain,
                    lambda xml: finished(xml, uuid, mark, here.pools.disk_path),
                )
            self._rename(domain, moving=False)

    def _prepared_again(self, mark: Mark) -> None:
        with suppress(errors.InstanceNotFound):
            domain, xml = self.read()
            now = mark_in(xml)
            self._rename(domain, moving=True)
            if now is not None and now.step is Step.FINISHED:
                domain = self._here.domains.find(self._uuid)
                redefine(
                    self._here.hub,
                    self._uuid,
                    domain,
                    lambda xml: as_before(xml, mark, Step.PREPARED),
                )

    def give_back(self, domain: Remote, mark: Mark) -> None:
        """Bring the old disks and the old flavor back, of a move that is finished."""
        here, uuid = self._here, self._uuid
        if domain.snapshotNum(0):
            raise errors.InvalidState(
                "the instance has snapshots in the disks that would go",
                instance=uuid,
                hint="delete them first",
            )
        try:
            for path in mark.disks.values():
                here.connection.remote.storageVolLookupByPath(path)
        except errors.VolumeNotFound as error:
            raise errors.InvalidState(
                "the disks as they were are there no more",
                instance=uuid,
                hint="a confirm_move() was interrupted: confirm_move() again",
            ) from error
        self._bring_back_variables(mark)
        with undoing() as undo:
            undo.callback(self._finished_again, mark)
            redefine(here.hub, uuid, domain, lambda xml: as_before(xml, mark, Step.ENDED))
            if domain.isActive():
                raise LookAgain  # another client has started it, with the disks that would go

    def _finished_again(self, mark: Mark) -> None:
        with suppress(errors.InstanceNotFound):
            domain, xml = self.read()
            now = mark_in(xml)
            if now is not None and now.step is Step.ENDED:
                path = self._here.pools.disk_path
                uuid = self._uuid
                redefine(self._here.hub, uuid, domain, lambda xml: finished(xml, uuid, mark, path))

    def _bring_back_variables(self, mark: Mark) -> None:
        """UEFI's variables as they were. Seven calls; two where there were none."""
        here, pool = self._here, self._here.pools.disks()
        now, before = disk_name(self._uuid, NVRAM), nvram_name(self._uuid, mark.token)
        refresh(pool)
        try:
            old = pool.storageVolLookupByName(before)
        except errors.VolumeNotFound:
            here.pools.delete_disk(now)
            return
        here.pools.delete_disk(now)
        carry(old, here, pool, now, current_deadline())

    def forget_before(self, domain: Remote, state: InstanceState, xml: Element, mark: Mark) -> None:
        """Delete what the instance was before its move, which is finished."""
        here, uuid = self._here, self._uuid
        in_use = {each.get("file") for each in xml.iterfind("devices/disk/source")}
        old = {path.rpartition("/")[2] for path in set(mark.disks.values()) - in_use}
        old.add(nvram_name(uuid, mark.token))
        files = {each.name(): each for each in here.removal.disks_of(uuid)}
        here.removal.delete({name: files[name] for name in sorted(old & files.keys())})
        if state is InstanceState.SUSPENDED:
            redefine_saved(domain, lambda saved: without(saved, MOVE_NAMESPACE))
        keep(domain, MOVE_NAMESPACE, None, affecting(domain, state))


def leave_destination(here: Topic, uuid: UUID, domain: Remote) -> None:
    """Remove what a move has prepared at the destination of a source that is destroyed. A host
    that does not answer keeps it until destroy() is called there. One call; those of a connection,
    and nine there."""
    mark = mark_in(xml_of(domain))
    if mark is None or mark.step is Step.ENDED:
        return
    destination = mark.destination(uuid, here.secrets)
    if destination is None:
        return
    unreachable = (errors.ConnectionFailed, errors.OperationTimeout, errors.OutcomeUnknown)
    # half the time: the rest is for the source, which goes whatever that host does
    patience = Deadline(current_deadline().left / 2)
    with suppress(*unreachable), bounding(patience), reached(here, destination) as there:
        if not isinstance(there, Blocker):
            clear(there, uuid, mark.token, patience)
