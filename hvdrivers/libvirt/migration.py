"""Migration to another libvirt host, of a machine that runs or is stopped.

``Destination.host`` is the libvirt URI of the other host as the caller sees it: the caller's
process steers both daemons, and the two QEMUs talk to each other directly, without encryption, at
``Destination.address`` or the name by which the destination knows itself. Disks that the hosts do
not share are copied by QEMU while the guest runs. A caller that dies on the way leaves the machine
at the source: its daemon ends the migration with the connection.

A stopped machine is moved in the same way, started with its CPUs frozen: libvirt hands the state of
a TPM to another host in no other way.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import libvirt
from pydantic import ValidationError

from hvdrivers.addresses import bracketed
from hvdrivers.contract import errors
from hvdrivers.contract.driver import Driver
from hvdrivers.contract.migration import (
    ColdMigration,
    LiveMigration,
    LiveMigrationAbort,
    LiveMigrationForce,
)
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.undo import Undo, changed, undoing
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.consoles import read_stream
from hvdrivers.libvirt.devices import vifs_of
from hvdrivers.libvirt.domain import definable
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.moving_plan import MovingPlan, Plan
from hvdrivers.libvirt.naming import console_name, disk_name
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.libvirt.room import needing_room
from hvdrivers.libvirt.session import Remote
from hvdrivers.libvirt.start import cut
from hvdrivers.libvirt.xml import Element, parse, text
from hvdrivers.models.migration import (
    Blocker,
    BlockerKind,
    Destination,
    MigrationPhase,
    MigrationPlan,
    MigrationProgress,
)
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
)
_LOOKS_APART = 0.5
"""Seconds between two looks at a migration: libvirt has no event for its progress. Its end is seen
at once."""
_LARGEST = 64 << 20
"""Bytes of a seed disc or a log that are carried over in memory."""
_NO_LIMIT = 8796093022207
"""MiB per second: the most that libvirt takes."""
_STANDSTILL = 60_000
"""Milliseconds that the guest may stand still when a migration is forced."""


@dataclass(frozen=True)
class _Call:
    """What is to be moved, and where to."""

    uuid: UUID
    domain: Remote
    destination: Destination
    running: bool


class LibvirtMigration(
    MovingPlan, LiveMigration, LiveMigrationAbort, LiveMigrationForce, ColdMigration
):
    """Live and cold migration."""

    def check_live_migration(
        self, uuid: UUID, destination: Destination, *, timeout: float | None = None
    ) -> MigrationPlan:
        """Budget: 6 calls and 3 for each disk here; there those of a connection, 10, and 2 for each
        disk and NIC."""
        domain, _ = self.domains.checked("check_live_migration", uuid, Deadline(timeout))
        with self._reached(destination) as there:
            if isinstance(there, Blocker):
                found = Plan(xml_of(domain), blockers=[there])
            else:
                found = self._planned(uuid, domain, there, destination, running=True)
        return MigrationPlan(
            destination=destination,
            copy_storage=bool(found.disks) and not found.shared,
            blockers=tuple(found.blockers),
        )

    def live_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: that of check_live_migration() and 5 calls, and 2 for each disk that is copied;
        one more for each half second that it takes."""
        deadline = Deadline(timeout)
        domain, _ = self.domains.checked("live_migrate", uuid, deadline)
        self._moved(_Call(uuid, domain, destination, running=True), deadline, progress)

    def cold_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: that of live_migrate() and 3 calls. Both hosts need room for the machine's
        memory: it is PAUSED meanwhile."""
        deadline = Deadline(timeout)
        domain, _ = self.domains.checked("cold_migrate", uuid, deadline)
        self.rescues.leave(uuid, domain)
        self._moved(_Call(uuid, domain, destination, running=False), deadline, progress)

    def migration_progress(self, uuid: UUID, *, timeout: float | None = None) -> MigrationProgress:
        """Budget: 2 calls. What became of a migration is not remembered: it is NONE then."""
        del timeout
        found = _job(self.domains.find(uuid))
        if not found:
            return MigrationProgress(phase=MigrationPhase.NONE)
        total, remaining = _bytes(found)
        if not total:  # it has just begun
            return MigrationProgress(phase=MigrationPhase.COPYING, percent=0)
        return MigrationProgress(
            phase=MigrationPhase.COPYING,
            total_bytes=total,
            remaining_bytes=min(remaining, total),
            downtime_ms=int(found["downtime"]) if "downtime" in found else None,
        )

    def abort_migration(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 4 calls, 3 without a migration."""
        domain, _ = self.domains.checked("abort_migration", uuid, Deadline(timeout))
        if _job(domain):
            _abort(domain)

    def force_migration(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 5 calls. The guest may stand still for a minute, and the speed has no limit any
        more; a copy of disks that is under way keeps the speed that it began with."""
        domain, _ = self.domains.checked("force_migration", uuid, Deadline(timeout))
        if not _job(domain):
            raise errors.InvalidState("no migration of this instance runs")
        domain.migrateSetMaxDowntime(_STANDSTILL, 0)
        with changed():
            domain.migrateSetMaxSpeed(_NO_LIMIT, 0)

    # ---- the other host --------------------------------------------------------------------------

    @contextmanager
    def _reached(self, destination: Destination) -> Iterator[LibvirtMigration | Blocker]:
        """A driver of the other host; or why there is none."""
        options: dict[str, Any] = {
            "uri": destination.host,
            "username": destination.user,
            "password": destination.password,
        }
        if destination.storage is not None:
            options["pool"] = destination.storage
        there: LibvirtMigration | Blocker
        try:
            config = LibvirtConfig(**(self.config.model_dump() | options))
            there = cast(LibvirtMigration, cast(type[Driver], type(self)).connect(config))
        except (ValidationError, errors.HypervisorError) as error:
            reason = error.message if isinstance(error, errors.HypervisorError) else "no such host"
            yield Blocker(
                kind=BlockerKind.CONNECTION,
                reason=f"the destination does not answer: {reason}",
                hint="host= is its libvirt URI, as this process reaches it",
            )
            return
        try:
            yield there
        finally:
            cast(Driver, there).close()

    # ---- the move --------------------------------------------------------------------------------

    def _moved(
        self,
        call: _Call,
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> None:
        uuid = call.uuid
        with self._reached(call.destination) as there:
            if isinstance(there, Blocker):
                raise errors.InvalidRequest(there.reason, hint=there.hint)
            plan = self._planned(uuid, call.domain, there, call.destination, running=call.running)
            if plan.blockers:
                raise errors.InvalidRequest(
                    "; ".join(each.reason for each in plan.blockers),
                    hint="check_live_migration() lists each of them",
                )
            if progress is not None:
                progress(Progress(phase=Phase.MIGRATE, done=0))
            with undoing() as undo:
                self._prepare(uuid, plan, there, deadline, undo)
                for attachment in call.destination.volumes:
                    there.secrets.make(uuid, attachment, undo)
                if not call.running:
                    undo.callback(self._stop_again, uuid)
                    self._start_frozen(call)
                sending = self._sending(call, plan, there)
                self._await_end(call.domain, sending, deadline, progress)
            with changed():
                if not call.running:
                    cut(there.domains.find(uuid))
                self._leave(uuid, plan)

    def _prepare(
        self, uuid: UUID, plan: Plan, there: LibvirtMigration, deadline: Deadline, undo: Undo
    ) -> None:
        """Make what the machine needs there: the claim first, which is its log."""
        if not plan.log_shared:
            log = self.pools.consoles().storageVolLookupByName(console_name(uuid))
            undo.callback(there._leave, uuid, plan)
            self._carry(log, there, there.pools.consoles(), console_name(uuid), deadline)
        if plan.shared:
            return
        pool = there.pools.disks()
        for disk in plan.disks:
            deadline.check("the disks were made there")
            if disk.read_only:
                self._carry(disk.volume, there, pool, disk.name, deadline)
                continue
            capacity = int(disk.volume.info()[1])
            with needing_room(pool):
                pool.createXML(volume_xml(disk.name, capacity, disk.format), 0)

    def _carry(
        self, volume: Remote, there: LibvirtMigration, pool: Remote, name: str, deadline: Deadline
    ) -> None:
        """Copy a small file. Five calls."""
        size = int(volume.info()[1])
        data = b""
        if size:
            stream = self.connection.remote.newStream(0)
            volume.download(stream, 0, min(size, _LARGEST), 0)
            data = read_stream(stream, min(size, _LARGEST), deadline)
        made = pool.createXML(volume_xml(name, len(data), "raw"), 0)
        if data:
            there.images.upload_bytes(made, data)

    def _sending(self, call: _Call, plan: Plan, there: LibvirtMigration) -> Future[None]:
        """Begin the move, in a thread of its own."""
        parameters = self._parameters(call, plan, there)
        flags = _FLAGS
        if plan.shared:
            # libvirt calls any file system unsafe that it does not know as one of a cluster
            flags |= libvirt.VIR_MIGRATE_UNSAFE
        elif libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS in parameters:
            flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK

        def send() -> None:
            with there.connection.operation(None):
                other = there.connection.remote
                with self.connection.operation(None):
                    machine = self.connection.remote.lookupByUUIDString(str(call.uuid))
                    machine.migrate3(other, parameters, flags)

        # no deadline of its own: it is stopped, and then it says what came of it
        return self.connection.links.workers.submit(lambda: contextvars.Context().run(send))

    def _await_end(
        self,
        domain: Remote,
        sending: Future[None],
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> None:
        try:
            self._watch(domain, sending, deadline, progress)
        except BaseException:
            while not sending.done():
                with suppress(errors.HypervisorError):
                    _abort(domain)
                with suppress(TimeoutError, errors.HypervisorError):
                    sending.result(timeout=_LOOKS_APART)
            if sending.exception() is not None:
                raise
        if (failed := sending.exception()) is not None:
            raise failed

    @staticmethod
    def _watch(
        domain: Remote,
        sending: Future[None],
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> None:
        """Tell how far it has come until it has ended."""
        done = 0
        while True:
            try:
                sending.result(timeout=min(deadline.within(_LOOKS_APART), _LOOKS_APART))
            except TimeoutError:
                if sending.done():
                    return
            except errors.HypervisorError:
                return  # the caller looks at it
            else:
                return
            deadline.check("the machine was moved")
            if progress is None:
                continue
            found: dict[str, Any] = {}
            with suppress(errors.HypervisorError):  # what came of it the move itself says
                found = _job(domain)
            if found:
                total, remaining = _bytes(found)
                done = max(done, total - remaining)
                progress(Progress(phase=Phase.MIGRATE, done=done, total=max(total, done) or None))

    def _parameters(self, call: _Call, plan: Plan, there: LibvirtMigration) -> dict[str, Any]:
        domain, address = call.domain, call.destination.address
        secure = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE
        live = parse(domain.XMLDesc(secure))
        stored = parse(domain.XMLDesc(secure | libvirt.VIR_DOMAIN_XML_INACTIVE))
        for each in (live, stored):
            plan.rewiring.on(each)
            self._place(call.uuid, each, there)
        parameters: dict[str, Any] = {
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: text(live),
            libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: text(stored),
        }
        if address is not None:
            parameters[libvirt.VIR_MIGRATE_PARAM_URI] = f"tcp://{bracketed(address)}"
        copied = [each.target for each in plan.disks if not each.read_only]
        if copied and not plan.shared:
            parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = copied
        return parameters

    def _place(self, uuid: UUID, xml: Element, there: LibvirtMigration) -> None:
        """Let a definition name the other host's folders."""
        folders = (
            (self.pools.disk_path(""), there.pools.disk_path("")),
            (self.pools.console_path(""), there.pools.console_path("")),
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

    @staticmethod
    def _start_frozen(call: _Call) -> None:
        """Start a machine for its move, with its CPUs frozen. What a NIC is wired to here may be
        gone where it has another wiring there: it gets a device that leads nowhere. This start
        alone knows of that, the definition does not."""
        if not call.destination.vifs:
            call.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
            return
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        xml = definable(parse(call.domain.XMLDesc(flags)))
        nics = vifs_of(xml)
        for vif in call.destination.vifs:
            _, interface = nics[vif.id]
            interface.set("type", "ethernet")
            for each in list(interface):
                if each.tag in {"source", "virtualport", "target", "vlan", "bandwidth"}:
                    interface.remove(each)
        call.domain.connect().createXML(text(xml), libvirt.VIR_DOMAIN_START_PAUSED)

    def _stop_again(self, uuid: UUID) -> None:
        """A machine that was started to be moved."""
        domain = self.domains.if_there(uuid)
        if domain is not None:
            cut(domain)

    def _leave(self, uuid: UUID, plan: Plan) -> None:
        """Remove what is left of a machine that has gone to the other host, or has not come here.
        Nothing of one that is here."""
        if self.domains.if_there(uuid) is not None:
            return
        if not plan.shared:
            disks = {volume.name(): volume for volume in self.removal.disks_of(uuid)}
            self.removal.remove(uuid, None, disks)
        self.secrets.delete(uuid)
        if not plan.log_shared:
            self.removal.delete_console(uuid)


def _job(domain: Remote) -> dict[str, Any]:
    """The migration away from this host that is under way; empty without one. One call."""
    try:
        found: dict[str, Any] = domain.jobStats(0)
    except (errors.InvalidState, errors.InstanceNotFound):
        return {}  # it is off, or has gone
    if int(found.get("type", 0)) == libvirt.VIR_DOMAIN_JOB_NONE:
        return {}
    if found.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
        return {}
    return found


def _bytes(found: dict[str, Any]) -> tuple[int, int]:
    """All there is to move, and what is left of it."""
    return int(found.get("data_total", 0)), int(found.get("data_remaining", 0))


def _abort(domain: Remote) -> None:
    with suppress(errors.InvalidState, errors.InstanceNotFound):  # it has ended
        domain.abortJob()
