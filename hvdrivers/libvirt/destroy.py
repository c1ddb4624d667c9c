"""What destroy() does: everything of an instance goes, in an order that survives interruption.

The console log is the claim (see ``claim.py``) and goes last, so that nobody spawns the same
UUID over the remains of an interrupted destroy().
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt.adopted import adoption_in
from hvdrivers.libvirt.adopting import Adopting, refuse_copy_of_disguised
from hvdrivers.libvirt.chains import Chains
from hvdrivers.libvirt.definition import undefine
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import own_disks_in
from hvdrivers.libvirt.domains import Domains, xml_of
from hvdrivers.libvirt.event_hub import EventHub, Lifecycle, RawEvent
from hvdrivers.libvirt.files import clean, paths_in
from hvdrivers.libvirt.keeping import Keeping, is_mark, kept_disks, kept_of_adopted, own_names
from hvdrivers.libvirt.leaving import refuse_shared
from hvdrivers.libvirt.left_files import noted_in
from hvdrivers.libvirt.metadata import BACKUP_NAMESPACE
from hvdrivers.libvirt.metadata import kept as kept_in
from hvdrivers.libvirt.naming import NVRAM, console_name, disk_name, is_moving, is_root, label_of
from hvdrivers.libvirt.pools import Pools, delete, refresh
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.secrets import Secrets
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.turns import remove_helper
from hvdrivers.libvirt.xml import Element, parse, readable
from hvdrivers.models.instance import Keep

_SETTLING = 1.0
"""Seconds that a machine which is under way in the daemon has to appear."""


@dataclass(frozen=True)
class _Found:
    """What a machine's definition tells of what goes with it."""

    overlays: dict[str, Remote]
    """What snapshots have put over its own disks, by name."""
    away: dict[str, Remote] = field(default_factory=dict)
    """What migrate_storage() has put into other pools, by name; the disks of an adopted machine, by
    path. Nothing but the definition names it: so it goes before that."""
    in_use: Mapping[str, str] = field(default_factory=dict)
    """Names of the own disks by role; another root disk may be left of a rebuild() that was
    interrupted."""
    adopted: bool = False
    """Its disks have the names that others gave them: ``away`` has them by path."""
    to_keep: Mapping[str, tuple[Element, Remote]] = field(default_factory=dict)
    """Of an adopted machine whose disks are to be kept, the ``<disk>`` and the file of each, by
    role."""
    spared: frozenset[str] = frozenset()
    """Files that stay, also if their names are the instance's: those that ``away`` has not of an
    adopted machine, as others use them."""
    backed_up: bool = False
    """A backup has been open: where its QEMU died with the daemon, files are left of it that the
    pool has not seen."""


class Removal:
    """Remove an instance, or what there is of it."""

    def __init__(
        self,
        connection: Connection,
        hub: EventHub,
        pools: Pools,
        domains: Domains,
        *,
        chains: Chains,
        keeping: Keeping,
        secrets: Secrets,
        adopting: Adopting,
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._pools = pools
        self._domains = domains
        self._chains = chains
        self._keeping = keeping
        self._secrets = secrets
        self._adopting = adopting

    def destroy(
        self,
        uuid: UUID,
        keep: AbstractSet[Keep],
        leave: Callable[[Remote], None] | None = None,
    ) -> bool:
        """Remove what is there; whether there was something that did not run.

        Args:
            leave: is called first for the source of a move in steps.

        A spawn whose process, or connection, has died may have left a call under way in the
        daemon: what that makes comes after we have looked, so the caller looks again.
        """
        with self._hub.listening() as events:
            domain = self._domains.if_there(uuid)
            disks = {volume.name(): volume for volume in self.disks_of(uuid)}
            found = _Found({})
            if domain is not None and leave is not None and is_moving(domain.name(), uuid):
                leave(domain)
            if domain is not None:
                found = self._found(domain, disks, keeps=bool(keep))
                disks |= found.overlays
                if found.backed_up:
                    refresh(self._pools.disks())
                    disks |= {volume.name(): volume for volume in self.disks_of(uuid)}
            disks = {
                name: each
                for name, each in disks.items()
                if clean(self._pools.disk_path(name)) not in found.spared
            }
            own = disks | found.away
            paths = {role: clean(str(file.path())) for role, (_, file) in found.to_keep.items()}
            originals = {paths[role]: file for role, (_, file) in found.to_keep.items()}
            kept = (
                kept_of_adopted(uuid, keep, paths)
                if found.adopted
                else kept_disks(uuid, keep, own, found.in_use)
            )
            own |= originals
            for each in kept:
                self._keeping.refuse_taken(each, own)
            ran = domain is not None and _switched_off(domain)
            with changed():
                with undoing() as undo:
                    for each in kept:
                        if each.role in found.to_keep and ran:
                            # the guest may have written to it since
                            refuse_copy_of_disguised(*found.to_keep[each.role])
                        # before the definition goes: if there is no room, the instance is there
                        if self._keeping.keep(each, own):
                            undo.callback(self._keeping.take_back, each)
                gone = found.away.keys() | originals.keys()
                disks |= {name: each for name, each in own.items() if name not in gone}
                logs = self._remove_all(uuid, domain, found, disks)
            anything = domain is not None or bool(disks) or logs
            if anything and domain is None:
                events.wait(lambda event: is_about(event, uuid), _SETTLING)
                # a start that was under way, and fails as its disks have gone, has made a log
                self.delete_console(uuid)
            return anything and not ran

    def _remove_all(
        self, uuid: UUID, domain: Remote | None, found: _Found, disks: dict[str, Remote]
    ) -> bool:
        """Remove what there is of a machine that is off: whether it had console logs.

        Two things are done at the same time: the helper, the definition and the disks go, in this
        order; and the console pool is looked through, whose files of the machine go last: one of
        them is the claim on the UUID, which nobody else gets while there is a disk. They are
        deleted over the link that found them: when both are done, that link may be another
        operation's.
        """
        logs: dict[str, Remote] = {}
        undefined, deleted = Future[bool](), Future[bool]()

        def remove() -> None:
            try:
                remove_helper(self._connection.remote, uuid)
                self._delete_all(found.away.items())
                self._undefine(uuid, domain, disks)
                undefined.set_result(True)
                self._delete_disks(uuid, disks)
                deleted.set_result(True)
            finally:
                for each in (undefined, deleted):
                    if not each.done():
                        each.set_result(False)

        def look() -> None:
            self._look_for_logs()
            logs.update(self._logs_of(uuid))
            # What is defined keeps its secrets. They go by their names: others may have taken the
            # volume out of the definition.
            if undefined.result():
                self._secrets.delete(uuid, self.delete_left if domain is None else None)
                if deleted.result():
                    self._delete_all(logs.items())

        self._connection.together(remove, look)
        return bool(logs)

    def remove(self, uuid: UUID, domain: Remote | None, disks: dict[str, Remote]) -> None:
        """Remove a definition and these disks."""
        self._undefine(uuid, domain, disks)
        self._delete_disks(uuid, disks)

    def _undefine(self, uuid: UUID, domain: Remote | None, disks: dict[str, Remote]) -> None:
        gone = domain is None or not undefine(domain)
        if gone and disks:
            # a spawn was interrupted before the definition, with which libvirt removes this too
            self.delete_nvram(uuid)

    def _delete_disks(self, uuid: UUID, disks: dict[str, Remote]) -> None:
        # the marks say which disks have been kept: they go when these have gone, and stay where one
        # could not be deleted
        marks = {name for name in disks if is_mark(name, uuid)}
        in_order = sorted(disks.items(), key=lambda each: not is_root(each[0], uuid))
        self._delete_all(each for each in in_order if each[0] not in marks)
        self._delete_all(each for each in in_order if each[0] in marks)

    def delete_left(self, uuid: UUID, paths: Iterable[str]) -> None:
        """Delete what an adopted machine, which has moved to another host, has left of its disks.
        For each file one call, and those of delete_volume()."""
        self._delete_all(self._adopting.left_files(uuid, paths).items())

    def delete(self, volumes: Mapping[str, Remote]) -> None:
        """Delete these files, each whether or not another can be. One call for each."""
        self._delete_all(volumes.items())

    @staticmethod
    def _delete_all(volumes: Iterable[tuple[str, Remote]]) -> None:
        """Delete each; one that cannot be deleted does not keep the others, and is named."""
        failed: list[tuple[str, errors.HypervisorError]] = []
        for name, volume in volumes:
            try:
                delete(volume)
            except (errors.ConnectionFailed, errors.OutcomeUnknown):
                raise
            except errors.HypervisorError as error:
                failed.append((name, error))
        if failed:
            first = failed[0][1]
            raise type(first)(
                f"left on the host: {', '.join(name for name, _ in failed)}; {first.message}",
                vendor_code=first.vendor_code,
                hint="the rest is gone: call destroy() again when the cause has been removed",
                retryable=first.retryable,
            ) from first

    def disks_of(self, uuid: UUID) -> list[Remote]:
        """What the disk pool has of an instance. One call."""
        volumes = self._pools.volumes(self._pools.disks())
        return [each for name, each in volumes.items() if name.startswith(f"{uuid}.")]

    def _found(self, domain: Remote, own: dict[str, Remote], *, keeps: bool) -> _Found:
        """What the definition tells. One call; more if there is any snapshot, and two for each file
        in another pool than the driver's own."""
        uuid = UUID(domain.UUIDString())
        xml = readable(f"the machine {uuid}", partial(xml_of, domain))
        if xml is None:
            return _Found({})
        refuse_shared(domain, xml)
        adoption = adoption_in(xml)
        backed_up = kept_in(xml, BACKUP_NAMESPACE) is not None
        if adoption is not None:
            files = self._adopting.files_of(uuid, adoption, xml)
            noted = {clean(file.path) for file in noted_in(uuid, xml)} - files.keys()
            files |= self._adopting.left_files(uuid, noted)
            return _Found(
                {},
                away=files,
                adopted=True,
                backed_up=backed_up,
                to_keep=self._adopting.to_keep(uuid, adoption, xml) if keeps else {},
                spared=frozenset(clean(each.path) for each in adoption.disks),
            )
        if label_of(domain.name(), uuid) is None:
            # others have made another machine with the UUID of an adopted one: its mark stood
            return _Found({}, spared=frozenset(paths_in(xml)))
        noted = {clean(file.path) for file in noted_in(uuid, xml)}
        tops = {clean(source_of(disk)) for disk in own_disks_in(xml).values()}
        paths = {clean(self._pools.disk_path(name)) for name in own}
        others = (tops | noted) - paths - {""}
        if not others:
            return _Found({}, in_use=own_names(xml, own), backed_up=backed_up)
        above = {path: self._chains.above(path, paths, uuid) for path in others}
        if not all(above.values()):
            busy: errors.DeviceBusy | None = None
            for pool in self._pools.files():
                try:
                    refresh(pool)
                except errors.DeviceBusy as error:
                    busy = error
                except errors.HypervisorError:
                    continue
            above = {path: self._chains.above(path, paths, uuid) for path in others}
            lost = {path for path, found in above.items() if not found}
            if busy is not None and lost:
                raise busy  # one of them may be in that pool, and would be left there
            self._refuse_inactive(lost)
        found = {volume.name(): volume for each in above.values() for volume in each}
        mine = disk_name(uuid, "")
        return _Found(
            overlays={name: each for name, each in found.items() if not name.startswith(mine)},
            away={name: each for name, each in found.items() if name.startswith(mine)},
            in_use=own_names(xml, own | found),
            backed_up=backed_up,
        )

    def _refuse_inactive(self, paths: AbstractSet[str]) -> None:
        """Raise DeviceBusy if a file that is not found lies in a pool that is not active. One call,
        and one for each such pool."""
        folders = {posixpath.dirname(path) for path in paths}
        if not folders:
            return
        inactive = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE
        for pool in self._connection.remote.listAllStoragePools(inactive):
            if clean(parse(pool.XMLDesc(0)).findtext("target/path") or "") in folders:
                raise errors.DeviceBusy(
                    f"storage pool '{pool.name()}' is not active, and has disks of the instance",
                    hint=f"start it on the host (virsh pool-start {pool.name()}); if it has gone"
                    f" for good: virsh pool-undefine {pool.name()}",
                    retryable=False,
                )

    def anything_of(self, uuid: UUID) -> bool:
        """Whether there is a machine, or a disk of one. Two calls."""
        return self._domains.if_there(uuid) is not None or bool(self.disks_of(uuid))

    def remove_domain(self, uuid: UUID, *, is_coming: bool = False) -> None:
        """Undo a definition.

        Args:
            is_coming: the reply to it was lost: the daemon may still be at it.
        """
        with self._hub.listening() as events:
            domain = self._domains.if_there(uuid)
            if domain is None and is_coming:
                events.wait(lambda event: is_about(event, uuid), _SETTLING)
                domain = self._domains.if_there(uuid)
        if domain is None:
            return
        _switched_off(domain)
        undefine(domain)

    def delete_nvram(self, uuid: UUID) -> None:
        """Delete the firmware's variables. Three calls."""
        refresh(self._pools.disks())  # QEMU's driver has made the file, the pool has not seen it
        self._pools.delete_disk(disk_name(uuid, NVRAM))

    def delete_console(self, uuid: UUID) -> None:
        """Delete the console logs, and with them the claim. Two calls, and one for each."""
        self._look_for_logs()
        self._delete_all(self._logs_of(uuid).items())

    def _look_for_logs(self) -> None:
        """The daemon's log rotation makes files (".0", ".1") that the pool has not seen. One
        call."""
        refresh(self._pools.consoles())

    def _logs_of(self, uuid: UUID) -> dict[str, Remote]:
        """The console logs that the pool has seen. One call."""
        volumes = self._pools.volumes(self._pools.consoles())
        return {name: log for name, log in volumes.items() if name.startswith(console_name(uuid))}


def is_about(event: RawEvent, uuid: UUID) -> bool:
    """Whether the event is one of this machine's life."""
    return isinstance(event, Lifecycle) and event.uuid == uuid


def _switched_off(domain: Remote) -> bool:
    """Power off at once; False if it was off, or has gone."""
    try:
        domain.destroyFlags(0)
    except (errors.InvalidState, errors.InstanceNotFound):
        return False
    return True
