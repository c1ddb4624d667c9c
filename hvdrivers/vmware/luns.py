"""LUNs of storage arrays, over iSCSI and Fibre Channel: each is a disk that maps it (RDM).

A machine may run on any host of its cluster, so every host that is connected must see the LUN. A
host knows only what it has found: over iSCSI it is told the targets first, and on both it looks
again. The number of a LUN may be another volume's by now, so a host looks again also if it knows
one of that number, unless the volume tells the LUN's own name (``wwn``).

The mapping is in physical mode: the guest talks to the array itself, snapshots leave the disk out,
and a LUN that has grown is as large in the guest. Machines do not lock such a LUN against each
other; the driver looks who has it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.driverkit import undoing
from hvdrivers.models.volume import IscsiVolume, VolumeAttachment
from hvdrivers.vmware.deadline import unbounded
from hvdrivers.vmware.devices import by_address, lun_of
from hvdrivers.vmware.iscsi_logins import Login, log_out
from hvdrivers.vmware.lun_paths import (
    LUNS,
    STORAGE,
    SYSTEM,
    Fibre,
    Iscsi,
    LunVolume,
    adapters_of,
    behind,
    initiator_of,
    is_known,
    kind_of,
    meant,
    name_of,
    refuse_wishes,
    size_of,
    told_of,
)
from hvdrivers.vmware.machines import Machines, uuid_in
from hvdrivers.vmware.moved import VolumeRecord
from hvdrivers.vmware.place import NO_HOST, Places, Surroundings
from hvdrivers.vmware.reader import Reader, Row
from hvdrivers.vmware.specs import Lun
from hvdrivers.vmware.told_targets import ToldTargets

_log = logging.getLogger(__name__)
_AT_ONCE = 8
"""Hosts that are asked at the same moment."""
HOLDING = ("config.instanceUuid", "runtime.powerState", "config.hardware.device")
"""What tells which LUNs a machine has, and whether it runs."""
_DOWN = frozenset({"offline", "fault"})
_P = ParamSpec("_P")
_T = TypeVar("_T")
_found: ContextVar[list[Lun]] = ContextVar("hvdrivers-vmware-luns")
"""The LUNs that the operation under way has found."""


def letting_go(operation: Callable[Concatenate[Any, _P], _T]) -> Callable[Concatenate[Any, _P], _T]:
    """An operation of a topic that finds LUNs. If it fails, hosts log out of the targets that
    nothing needs."""

    @wraps(operation)
    def call(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        found: list[Lun] = []
        token = _found.set(found)
        try:
            return operation(self, *args, **kwargs)
        except errors.HypervisorError:
            with unbounded():
                self.luns.let_go(
                    {each.uuid for each in found},
                    {target for each in found for target in each.targets},
                )
            raise
        finally:
            _found.reset(token)

    return call


class Luns:
    """Finds LUNs on hosts."""

    def __init__(
        self, reader: Reader, places: Places, machines: Machines, told: ToldTargets
    ) -> None:
        self._reader = reader
        self._places = places
        self._machines = machines
        self._told = told

    @provides(Capability.VOLUME_ISCSI, Capability.VOLUME_FC)
    def find(self, attachment: VolumeAttachment, volume: LunVolume, around: Surroundings) -> Lun:
        """The LUN, which all hosts see. 2 reads, and of each host one call for each adapter, to
        look again, and one to tell it of iSCSI targets, and 1 for each target that no host knows; 1
        read if the hosts know the LUN by its name.

        Raises:
            VolumeNotFound: a host does not see it.
            InsufficientResources: no host is connected, or one has no adapter for it.
            NotSupported: a wish that a mapping does not take.
        """
        refuse_wishes(attachment)
        hosts = [row.obj for row in around.usable_hosts]
        if not hosts:
            raise errors.InsufficientResources(
                "no host takes machines now: each is in maintenance or not connected", hint=NO_HOST
            )
        rows = self._reader.many(hosts, *STORAGE)
        if all(is_known(row, volume) for row in rows):
            return self._one(rows, volume)
        with undoing() as undo:
            looks = []
            told: dict[Any, Sequence[Any]] = {}
            if isinstance(volume, IscsiVolume):
                known = {name_of(each.iScsiName) for row in rows for each in told_of(row)}
                new = {name_of(each.iqn) for each in volume.targets} - known
                undo.callback(self._take_back, told, new)
                self._told.note(new)
            for row in rows:
                login = None
                if isinstance(volume, IscsiVolume):
                    login = Login.of(row, volume)
                    told[row.obj] = login.new
                looks.append(partial(_look, row, kind_of(volume), login))
            _at_once(looks)
            return self._one(self._reader.many(hosts, *STORAGE), volume)

    def _take_back(self, told: Mapping[Any, Sequence[Any]], noted: set[str]) -> None:
        """Let hosts forget targets that they were told of in vain: not those behind which a
        machine has got a LUN meanwhile, which another client has attached. 2 reads, and 2 calls for
        each host and for each note."""
        hosts = [host for host, new in told.items() if new]
        if not hosts:
            self._told.forget(noted)
            return
        held = {uuid for uuids in self._holders() for uuid in uuids}
        ends = []
        needed: set[str] = set()
        for row in self._reader.many(hosts, *STORAGE):
            busy = {target for lun, target, _ in behind(row, Iscsi) if lun.uuid in held}
            needed |= busy
            left = [each for each in told[row.obj] if name_of(each.iScsiName) not in busy]
            ends.append(partial(log_out, row, left))
        _at_once(ends)
        self._told.forget(noted - needed)

    @staticmethod
    def _one(rows: Sequence[Row], volume: LunVolume) -> Lun:
        """The LUN that all hosts mean."""
        lun = meant(rows, volume)
        _found.get().append(lun)
        return lun

    def require_free(self, uuid: UUID, luns: Iterable[str]) -> None:
        """Refuse a LUN that another powered-on machine has, whoever's it is. One call; none without
        LUNs. ``Usage.require_free()`` looks for LUNs too, in the call that it makes.

        Args:
            luns: their ids.
        """
        wanted = set(luns)
        if not wanted:
            return
        for row in self._machines.rows(*HOLDING, on_disks=True):
            refuse_held(row, uuid, wanted)

    def _holders(self) -> Iterator[set[str]]:
        for row in self._machines.rows(*HOLDING, on_disks=True):
            yield luns_in(row)

    def lacking(self, disks: Iterable[Any], hosts: Sequence[Any]) -> list[str]:
        """The names of hosts that do not see all LUNs of these disks. One call; none without."""
        wanted = {uuid for uuid in map(lun_of, disks) if uuid is not None}
        if not wanted:
            return []
        rows = self._reader.many(hosts, "name", LUNS)
        return [
            str(row.get("name"))
            for row in rows
            if wanted - {each.uuid for each in row.get(LUNS) or ()}
        ]

    def grown(self, disk: Any, size: int) -> None:
        """Let all hosts see that a LUN has grown. 3 reads, and one call for each host.

        Raises:
            InvalidRequest: a host does not see it so large.
        """
        uuid = lun_of(disk)
        hosts = [row.obj for row in self._places.surroundings().usable_hosts]
        rows = self._reader.many(hosts, *STORAGE)
        looks = [
            partial(_look, row, kind)
            for row in rows
            for kind in (Iscsi, Fibre)
            if any(lun.uuid == uuid for lun, _, _ in behind(row, kind))
        ]
        _at_once(looks)
        for row in self._reader.many(hosts, "name", LUNS):
            for lun in row.get(LUNS) or ():
                if lun.uuid != uuid:
                    continue
                seen = size_of(lun)
                if seen < size:
                    raise errors.InvalidRequest(
                        f"the host {row.get('name')} sees {seen} bytes of the LUN, not {size}",
                        hint="let it grow at its storage server first",
                    )

    @contextmanager
    def releasing(self, disks: Iterable[Any], records: Iterable[VolumeRecord]) -> Iterator[None]:
        """Stands around what detaches disks: the same afterwards, also if the reply was lost. What
        a machine has still, stays."""
        try:
            yield
        except errors.OutcomeUnknown:
            with unbounded():
                self.release(disks, records)
            raise
        self.release(disks, records)

    def release(self, disks: Iterable[Any], records: Iterable[VolumeRecord]) -> None:
        """Log out of the iSCSI targets that nothing needs any more, after the disks were detached.
        3 reads; if hosts were told of such a target 3 calls, 2 for each of those hosts, and 2 for
        each target. None without LUNs.

        A target with another LUN stays, and so does one whose LUN another machine has, or of which
        not the driver has told the hosts. What fails is logged: the disk is detached, and a host
        with a target too many loses nothing.

        Args:
            records: what was remembered of the disks: the array may export the LUN no more.
        """
        records = [each for each in records if each.targets]
        targets = {each for record in records for each in record.targets}
        gone = {uuid for uuid in map(lun_of, disks) if uuid is not None}
        # and those that somebody has detached before
        self.let_go(gone | {each.held for each in records}, targets)

    def let_go(self, gone: set[str], targets: set[str]) -> None:
        """The same, for LUNs by their ids, and targets by their names."""
        if not gone:
            return
        try:
            for held in self._holders():
                if gone & held:
                    gone, targets = gone - held, set()  # one may be that LUN's
            if not gone:
                return
            around = self._places.surroundings()
            hosts = [row.obj for row in around.connected_hosts]
            rows = self._reader.many(hosts, *STORAGE)
            idle = {row.obj: _idle(row, gone, targets) for row in rows}
            ours = self._told.among({name_of(t.iScsiName) for ts in idle.values() for t in ts})
            ends, stay = [], set[str]()
            for row in rows:
                left = [each for each in idle[row.obj] if name_of(each.iScsiName) in ours]
                stay |= {name_of(each.iScsiName) for each in told_of(row) if each not in left}
                if left:
                    ends.append(partial(log_out, row, left))
            _at_once(ends)
            if len(hosts) == len(around.hosts):  # one that is not connected may know them too
                self._told.forget(ours - stay)
        except errors.HypervisorError as error:
            _log.warning("hosts stay logged in to a target that nothing needs: %s", error)


def _idle(row: Row, gone: set[str], targets: set[str]) -> list[Any]:
    """Those of these targets that a host was told of and behind which it sees no other LUN than
    these."""
    there: dict[str, set[str]] = {name_of(each): set() for each in targets}
    for lun, target, _ in behind(row, Iscsi):
        if target in there:  # a machine that was adopted brings none of ours
            there[target].add(lun.uuid)
    idle = {target for target, luns in there.items() if luns <= gone}
    return [each for each in told_of(row) if name_of(each.iScsiName) in idle]


def luns_in(row: Row) -> set[str]:
    """Ids of the LUNs that a machine has. The row has ``HOLDING``."""
    devices = by_address(row.get("config.hardware.device") or ()).values()
    return {uuid for uuid in map(lun_of, devices) if uuid is not None}


def refuse_held(row: Row, uuid: UUID, luns: Set[str]) -> None:
    """Refuse LUNs that a machine has, if it is powered on and another one than this.

    Raises:
        DeviceBusy: it has one.
    """
    on = row.get("runtime.powerState") == "poweredOn"
    if on and uuid_in(row) != uuid and luns_in(row) & luns:
        raise errors.DeviceBusy(
            f"a powered-on machine ({row.get('config.instanceUuid')}) has the LUN",
            hint="detach it there, or stop that machine",
        )


def _at_once(calls: Sequence[Callable[[], object]]) -> None:
    """Ask several hosts at once: each takes seconds to look for its LUNs. The first error is raised
    when all have answered."""
    if len(calls) <= 1:
        for call in calls:
            call()
        return
    with ThreadPoolExecutor(min(len(calls), _AT_ONCE), "hvdrivers-vmware-luns") as pool:
        # each with the deadline of the operation
        asked = [pool.submit(copy_context().run, call) for call in calls]
    for each in asked:
        each.result()


def _look(row: Row, kind: Any, login: Login | None = None) -> None:
    """Let a host look for what is behind its adapters of a kind, after it was told of targets."""
    if login is not None:
        login.tell(row)
    adapters = [initiator_of(row)] if kind is Iscsi else adapters_of(row, kind)
    adapters = [each for each in adapters if each.status not in _DOWN]
    if not adapters:
        raise errors.InsufficientResources(
            f"the host {row.get('name')} has no adapter for the volume that is up",
            hint="a volume over Fibre Channel needs an adapter that is online",
        )
    for each in adapters:
        row[SYSTEM].RescanHba(each.device)
