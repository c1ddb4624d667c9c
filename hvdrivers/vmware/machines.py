"""Machines as the server shows them: find one of ours, check its state, list all of the place."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.driver import check_state
from hvdrivers.contract.power import RebootKind
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.reader import IN_FOLDERS, IN_POOL, ON_DATASTORES, Reader, Row
from hvdrivers.vmware.record import DEVICES, MARK, Mark, mark_in, path_of
from hvdrivers.vmware.session import Session

_CONNECTION = "runtime.connectionState"
STATE = (
    "config.instanceUuid",
    path_of(MARK),
    "runtime.powerState",
    "runtime.host",
    _CONNECTION,
)
"""What the state of a machine, and whose it is, are read from."""
_OUT_OF_REACH = frozenset({"inaccessible", "invalid"})
"""Connection states in which the server tells nothing of a machine's configuration."""
VERSION = "config.changeVersion"
"""What tells whether a machine was changed since it was read."""
HARDWARE = (path_of(DEVICES), "config.hardware.device", VERSION)
"""What a change of the devices is made from."""
_SEEN = (
    "config.instanceUuid",
    path_of(MARK),
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
)
"""What is remembered of a machine of ours, for such a time."""
_POWER = {
    "poweredOn": InstanceState.RUNNING,
    "poweredOff": InstanceState.STOPPED,
    "suspended": InstanceState.SUSPENDED,
}


@dataclass(frozen=True)
class Machine:
    """A machine of ours, as it was read a moment ago."""

    uuid: UUID
    row: Row
    mark: Mark
    state: InstanceState

    @property
    def obj(self) -> Any:
        """The managed object."""
        return self.row.obj


def uuid_in(row: Row) -> UUID | None:
    """The instance UUID of a machine; a machine that is being made or removed may have none."""
    try:
        return UUID(row.get("config.instanceUuid", ""))
    except ValueError:
        return None


def is_out_of_reach(row: Row) -> bool:
    """Whether the server cannot read the files of a machine now. The row has ``STATE``."""
    return row.get(_CONNECTION) in _OUT_OF_REACH


def is_unreadable(row: Row) -> bool:
    """The same, if the server does not tell either which machine it is."""
    return uuid_in(row) is None and is_out_of_reach(row)


def _require_readable(row: Row, uuid: UUID) -> None:
    if is_unreadable(row):
        raise errors.HypervisorFault(
            "the server cannot read the machine's configuration",
            hint="its datastore may be out of reach: what it has is there when that is",
            retryable=True,
            instance=uuid,
        )


def state_of(power: str | None, mark: Mark | None) -> InstanceState:
    """The state for a power state and a mark."""
    state = _POWER.get(str(power), InstanceState.STOPPED)
    if mark is not None and state is InstanceState.STOPPED and mark.building:
        return InstanceState.BUILDING
    if mark is not None and state is InstanceState.RUNNING and mark.rescued:
        return InstanceState.RESCUED
    return state


class Known:
    """Which managed object an instance is: saves the search. And what was last read of it, for the
    time in which the server cannot read its files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[UUID, Any] = {}
        self._seen: dict[str, dict[str, Any]] = {}

    def get(self, uuid: UUID) -> Any:
        """The object, if it was seen."""
        with self._lock:
            return self._objects.get(uuid)

    def put(self, uuid: UUID, obj: Any, row: Row | None = None) -> None:
        """It was seen, and perhaps read."""
        with self._lock:
            if len(self._objects) > 100_000:
                self._objects.clear()  # a cache, not a record
                self._seen.clear()
            self._objects[uuid] = obj
            if row is not None:
                seen = {path: row.values[path] for path in _SEEN if path in row.values}
                self._seen.setdefault(row.moid, {}).update(seen)

    def restored(self, row: Row) -> Row:
        """The row of a machine that the server cannot read, with what was last read of it."""
        if not is_unreadable(row):
            return row
        with self._lock:
            return Row(row.obj, {**row.values, **self._seen.get(row.moid, {})})

    def forget(self, uuid: UUID) -> None:
        """It has gone, or is another one now (registered anew)."""
        with self._lock:
            obj = self._objects.pop(uuid, None)
            if obj is not None:
                self._seen.pop(obj._moId, None)


class Machines:
    """Finds machines."""

    def __init__(self, session: Session, reader: Reader, places: Places) -> None:
        self._session = session
        self._reader = reader
        self._places = places
        self.known = Known()

    def get(self, uuid: UUID, *paths: str) -> Machine:
        """A machine of ours and further properties. One call if it was seen before, else two.

        Raises:
            InstanceNotFound: it is not there, or not ours.
        """
        found = self.if_there(uuid, *paths)
        if found is None:
            raise errors.InstanceNotFound("there is no such instance", instance=uuid)
        if isinstance(found, Row):
            raise errors.InstanceNotFound("there is a machine with this UUID, made by others")
        return found

    def checked(
        self, operation: str, uuid: UUID, *paths: str, variant: RebootKind | None = None
    ) -> Machine:
        """The machine, if the contract allows the operation in its state."""
        found = self.get(uuid, *paths)
        check_state(operation, found.state, uuid, variant=variant)
        return found

    def read_again(self, found: Machine, *paths: str) -> Machine:
        """The same machine with further properties as they are now. Its state and its mark are
        those of the first look. One call."""
        return replace(found, row=self._reader.one(found.obj, *STATE, *paths))

    def if_there(self, uuid: UUID, *paths: str) -> Machine | Row | None:
        """A machine of ours; the row of a foreign one; None if there is none on this cluster or
        host."""
        found = self.anywhere(uuid, *paths)
        row = found.row if isinstance(found, Machine) else found
        if row is not None and not self._places.holds(row.get("runtime.host")):
            return None
        return found

    def anywhere(self, uuid: UUID, *paths: str) -> Machine | Row | None:
        """The same, on any cluster or host of the vCenter."""
        obj = self.known.get(uuid)
        if obj is not None:
            rows = self._reader.many([obj], *STATE, *paths)
            if rows and uuid_in(rows[0]) == uuid:
                return self._told(uuid, rows)
            for row in rows:
                _require_readable(row, uuid)
            self.known.forget(uuid)
        rows = self._reader.many(self.search(uuid), *STATE, *paths)
        for row in rows:
            _require_readable(row, uuid)
        return self._told(uuid, [row for row in rows if uuid_in(row) == uuid])

    def search(self, uuid: UUID) -> Sequence[Any]:
        """The objects with this UUID, in all datacenters: a UUID that is taken anywhere is taken.
        One call."""
        index = self._session.content.searchIndex
        return index.FindAllByUuid(None, str(uuid), True, True) or []

    def _told(self, uuid: UUID, rows: Sequence[Row]) -> Machine | Row | None:
        ours = []
        for row in rows:
            mark = mark_in(row, uuid)
            if mark is not None:
                state = state_of(row.get("runtime.powerState"), mark)
                ours.append(Machine(uuid, row, mark, state))
        if len(ours) > 1:
            raise errors.HypervisorFault(
                f"{len(ours)} machines have this instance UUID and our mark",
                hint="one is a copy of the other's files: unregister it, or give it another UUID",
                instance=uuid,
            )
        if ours:
            self.known.put(uuid, ours[0].obj, ours[0].row)
            return ours[0]
        return rows[0] if rows else None

    def rows(self, *paths: str, everywhere: bool = False, on_disks: bool = False) -> list[Row]:
        """Every machine in the place. One call, and one for each page of 1,000.

        Args:
            everywhere: and in the whole inventory of the server.
            on_disks: and those that have a file on a datastore of the place.
        """
        # a session that has ended shows only in the objects of an answer: the pool is always one
        roots: list[tuple[Any, Sequence[Any]]] = [(self._places.get().root_pool, IN_POOL)]
        if everywhere:
            roots.append((self._session.content.rootFolder, IN_FOLDERS))
        if on_disks and self._places.get().is_vcenter:
            roots.append((self._places.get().compute, ON_DATASTORES))
        wanted = [(vim.VirtualMachine, paths), (vim.ResourcePool, ("name",))]
        rows = self._reader.read(wanted, roots)
        return [self.known.restored(row) for row in rows if isinstance(row.obj, vim.VirtualMachine)]
