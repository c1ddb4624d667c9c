"""The move of one machine to another libvirt host (see ``migration.py``)."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import libvirt

from hvdrivers.addresses import bracketed
from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.undo import Step, Undo, changed, undoing
from hvdrivers.libvirt import moving_adopted
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.domain import definable
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.leaving import (
    LEAVING_NAMESPACE,
    Leaving,
    cut_in,
    forget,
    go_on,
)
from hvdrivers.libvirt.metadata import METADATA_NAMESPACE, keep, kept, put
from hvdrivers.libvirt.move_copies import carry
from hvdrivers.libvirt.move_mark import ARRIVED_NAMESPACE
from hvdrivers.libvirt.move_shapes import without
from hvdrivers.libvirt.moving_plan import Plan
from hvdrivers.libvirt.moving_wait import await_end, told
from hvdrivers.libvirt.naming import console_name, disk_name
from hvdrivers.libvirt.pinning import without_own_pins
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import lacking_room, needing_room, size_alone
from hvdrivers.libvirt.start import cut
from hvdrivers.libvirt.states import is_restoring
from hvdrivers.libvirt.unseen import arrived, end, has_ended, one_of_both
from hvdrivers.libvirt.xml import Element, attribute, parse, text
from hvdrivers.models.migration import Destination
from hvdrivers.models.progress import ProgressCallback

_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
)


@dataclass(frozen=True)
class Call:
    """What is to be moved, and where to."""

    uuid: UUID
    domain: Remote
    destination: Destination
    running: bool


class Move:
    """What the two daemons are made to do."""

    def __init__(self, here: Topic, there: Topic, call: Call, plan: Plan) -> None:
        self._here = here
        self._there = there
        self._call = call
        self._plan = plan
        self._note = Leaving(
            where=call.destination.host, shared=plan.shared, log_shared=plan.log_shared
        )
        self._metadata: str | None = None
        """What has been sent of set_metadata()."""
        self._news: str | None = None

    def make(self, deadline: Deadline, progress: ProgressCallback | None) -> None:
        """Move it; all that was made on the way goes again if the move fails."""
        uuid, there, call = self._call.uuid, self._there, self._call
        with undoing() as undo:
            self._prepare(deadline, undo)
            for attachment in call.destination.volumes:
                there.secrets.make(uuid, attachment, undo, needed=self._is_there)
            forget = undo.callback(self._forget)
            self._note.on(call.domain, running=call.running)
            if not call.running:
                undo.callback(self._stop_again)
                self._start_frozen()
            try:
                await_end(call.domain, self._sending(), deadline, progress, self._look_again)
            except errors.HypervisorError as error:
                self._look_there(error, forget)
        with changed():
            if not call.running:
                cut(there.domains.find(uuid))
            self._clear()
            self._bring_news()

    def _look_again(self) -> None:
        """Another client may have set metadata between the look at the definition and the beginning
        of the migration, from which on libvirt lets nobody change the machine. One call."""
        now = kept(xml_of(self._call.domain, inactive=True), METADATA_NAMESPACE)
        self._news = now if now != self._metadata else None

    def _bring_news(self) -> None:
        """No call, two there if another client has set metadata."""
        if self._news is None:
            return
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE if self._call.running else 0
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG | live
        keep(self._there.domains.find(self._call.uuid), METADATA_NAMESPACE, self._news, flags)

    def _look_there(self, error: errors.HypervisorError, forget: Step) -> None:
        """After a failure: return if the machine has arrived all the same. Calls as for
        one_of_both() and told(), and those of a lack of room."""
        uuid, there, running = self._call.uuid, self._there, self._call.running
        find = partial(arrived, there, uuid, self._note.token)
        try:
            if one_of_both(self._here, find, uuid, running=running, error=error):
                return
        except errors.OutcomeUnknown:
            forget.block()  # the next call finds the machine there by the note
            raise
        if isinstance(error, errors.HypervisorFault):
            lacking = self._lacking_room(error)
            if lacking is not None:
                raise lacking from error
        raise told(error, self._call.domain, running=running)

    def leave_one(self, note: Leaving) -> bool:
        """After a migration of which it is not known how it has ended, and whose machine goes on
        here: end the one that it has brought there, if it has. Calls as for arrived(); where it has
        arrived three more, and those of a destroy()."""
        found = arrived(self._there, self._call.uuid, note.token)
        if found is None:
            return False
        end(found)
        with changed():
            by_name = self._plan.adoption is None
            _leave(self._there, self._call.uuid, self._plan, by_name=by_name)
        return True

    def _lacking_room(self, error: errors.HypervisorFault) -> errors.InsufficientResources | None:
        """After a failure: the pool there has less room than the copies lack; None if it has as
        much. Three calls there, and two for each disk; here two for each disk and what it stands
        on."""
        if self._plan.shared:
            return None
        pool, lacking = self._there.pools.disks(), 0
        with suppress(errors.HypervisorError):
            for each in self._plan.disks:
                lacking += size_alone(self._here.connection.remote, each.path)
                lacking -= int(pool.storageVolLookupByName(each.name).info()[2])
        return lacking_room(pool, lacking, error)

    def settle(self, note: Leaving) -> bool:
        """After a migration that was cut at its end: leave one of both machines; whether it is the
        one there. Two calls here and one there; five more there and those of a destroy() here where
        it has arrived."""
        uuid, there, domain = self._call.uuid, self._there, self._call.domain
        try:
            arrived = there.connection.remote.lookupByUUIDString(str(uuid))
        except errors.InstanceNotFound:
            go_on(domain)
            return False
        if is_restoring(*arrived.state(0)) or not arrived.isPersistent():
            raise errors.DeviceBusy(
                "the destination still waits for the end of the migration",
                hint="call again: another client ends it, or the destination does",
            )
        if kept(xml_of(arrived), ARRIVED_NAMESPACE) != note.token:
            raise errors.InvalidState(
                "the machine with this UUID that is there has not come by this migration",
                instance=uuid,
                hint="look at both machines, and destroy() the one that is too many",
            )
        end(domain)
        with changed():
            self._clear()
        return True

    def _clear(self) -> None:
        """Remove what is left here of a machine that is there."""
        uuid, there, plan = self._call.uuid, self._there, self._plan
        if plan.adoption is not None:
            moving_adopted.arrived(there, uuid, there.domains.find(uuid))
        by_name, ended = plan.adoption is None, partial(has_ended, self._note.token)
        _leave(self._here, uuid, plan, by_name=by_name, ended=ended)

    def _is_there(self) -> bool:
        """Whether the machine has come to the other host: the reply to its move was lost. One
        call."""
        with suppress(errors.InstanceNotFound):  # another machine has its UUID
            return self._there.domains.if_there(self._call.uuid) is not None
        return False

    def _forget(self) -> None:
        """A machine that stays."""
        domain = self._here.domains.if_there(self._call.uuid)
        if domain is not None:
            with suppress(errors.InvalidState):  # it has gone off meanwhile
                if not self._call.running or cut_in(domain) is None:
                    forget(domain, running=self._call.running)

    def _prepare(self, deadline: Deadline, undo: Undo) -> None:
        """Make what the machine needs there: the claim first, which is its log."""
        uuid, there, plan = self._call.uuid, self._there, self._plan
        if plan.adoption is not None:
            undo.callback(_leave, there, uuid, plan)
            moving_adopted.begin(self._here, there, uuid, plan, undo)
        elif not plan.log_shared:
            log = self._here.pools.consoles().storageVolLookupByName(console_name(uuid))
            undo.callback(_leave, there, uuid, plan)
            carry(log, there, there.pools.consoles(), console_name(uuid), deadline)
        if plan.shared:
            return
        pool = there.pools.disks()
        for disk in plan.disks:
            deadline.check("the disks were made there")
            if disk.read_only:
                carry(disk.volume, there, pool, disk.name, deadline)
                continue
            capacity = int(disk.volume.info()[1])
            with needing_room(pool):
                pool.createXML(volume_xml(disk.name, capacity, disk.format), 0)

    def _sending(self) -> Future[None]:
        """Begin the move, in a thread of its own."""
        here, there, call, plan = self._here, self._there, self._call, self._plan
        parameters = self._parameters()
        flags = _FLAGS
        if plan.shared:
            # libvirt calls any file system unsafe that it does not know as one of a cluster
            flags |= libvirt.VIR_MIGRATE_UNSAFE
        elif libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS in parameters:
            flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK

        def send() -> None:
            with there.connection.operation(None):
                other = there.connection.remote
                with here.connection.operation(None):
                    machine = here.connection.remote.lookupByUUIDString(str(call.uuid))
                    machine.migrate3(other, parameters, flags)

        # no deadline of its own: it is stopped, and then it says what came of it
        return here.connection.links.workers.submit(lambda: contextvars.Context().run(send))

    def _parameters(self) -> dict[str, Any]:
        call, plan = self._call, self._plan
        domain, address = call.domain, call.destination.address
        secure = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE
        live = parse(domain.XMLDesc(secure))
        stored = parse(domain.XMLDesc(secure | libvirt.VIR_DOMAIN_XML_INACTIVE))
        self._metadata = kept(stored, METADATA_NAMESPACE)
        copied = [each.target for each in plan.disks if not each.read_only]
        for each in (live, stored):
            if not plan.shared:
                _alone(each, copied)
            if self._here.config.aside and not call.running:
                without_own_pins(each)
            plan.rewiring.on(each)
            without(each, LEAVING_NAMESPACE)
            put(each, ARRIVED_NAMESPACE, self._note.token)
            if plan.adoption is None:
                place(each, self._call.uuid, self._here, self._there)
            else:
                moving_adopted.place(each, plan, plan.adoption, self._there)
        parameters: dict[str, Any] = {
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: text(live),
            libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: text(stored),
        }
        if address is not None:
            parameters[libvirt.VIR_MIGRATE_PARAM_URI] = f"tcp://{bracketed(address)}"
        if copied and not plan.shared:
            parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = copied
        return parameters

    def _start_frozen(self) -> None:
        """Start a machine for its move, with its CPUs frozen. What a NIC is wired to here may be
        gone where it has another wiring there: it is what it will be there, and leads nowhere. A
        machine with CPUs to itself gets none, as it does not run. This start alone knows of that,
        the definition does not."""
        call = self._call
        pinned = bool(self._here.config.aside)
        if not call.destination.vifs and not pinned:
            call.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
            return
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        xml = definable(parse(call.domain.XMLDesc(flags)))
        if pinned:
            without_own_pins(xml)
        xml = self._plan.rewiring.nowhere(xml)
        call.domain.connect().createXML(text(xml), libvirt.VIR_DOMAIN_START_PAUSED)

    def _stop_again(self) -> None:
        """A machine that was started to be moved."""
        domain = self._here.domains.if_there(self._call.uuid)
        if domain is not None:
            cut(domain)


def place(xml: Element, uuid: UUID, here: Topic, there: Topic) -> None:
    """Let a definition name the other host's folders."""
    folders = (
        (here.pools.disk_path(""), there.pools.disk_path("")),
        (here.pools.console_path(""), there.pools.console_path("")),
    )
    own = (disk_name(uuid, ""), console_name(uuid))
    for element in xml.iter():
        for key in ("file", "path"):
            value = element.get(key)
            for mine, other in folders:
                if value and value.startswith(tuple(f"{mine}{each}" for each in own)):
                    element.set(key, other + value.removeprefix(mine))
        for mine, other in folders:
            if element.tag == "nvram" and (element.text or "").startswith(mine):
                element.text = other + (element.text or "").removeprefix(mine)


def _alone(xml: Element, targets: Collection[str]) -> None:
    """Let disks that are copied stand alone. A daemon that has started anew takes the files below
    them for some that the definition names, and asks for them there."""
    for disk in xml.iterfind("devices/disk"):
        below = disk.find("backingStore")
        if below is not None and attribute(disk, "target", "dev") in targets:
            disk.remove(below)


def _leave(
    host: Topic,
    uuid: UUID,
    plan: Plan,
    *,
    by_name: bool = True,
    ended: Callable[[Remote], bool] = lambda _: False,
) -> None:
    """Remove what is left of a machine that has gone to the other host, or has not come here.
    Nothing of one that is here.

    Args:
        by_name: its disks have names of the driver's; an adopted machine's are noted.
        ended: ends one that is here and has gone; False: it has not.
    """
    domain = host.domains.if_there(uuid)
    if domain is not None and not ended(domain):
        return
    if by_name and not plan.shared:
        disks = {volume.name(): volume for volume in host.removal.disks_of(uuid)}
        host.removal.remove(uuid, None, disks)
    host.secrets.delete(uuid, host.removal.delete_left)
    if not plan.log_shared:
        host.removal.delete_console(uuid)
