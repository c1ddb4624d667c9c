"""What the server says about our machines, as it happens: one long poll for each driver.

A property collector of its own, in a session of its own, watches a few properties of each machine.
A poll whose answer was lost may have had news in it, so the streams then read the states anew.

A property collector tells the newest value of a property, not each value that it had between two
polls. So changes that lie closer together are merged (the limit ``events-merged``). The time of the
last start is watched too, so a machine that was off and runs again is not merged into nothing.

A stream reads the states of all machines by itself (a resync). An answer that comes after that may
have been written by the server before it: it tells of a machine that has gone since. So the stream
passes over what is told until an answer has come to a poll that was sent after its reading. Then
the feed says what it knows (:class:`Settled`), and the stream tells what differs from its reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from pyVmomi import vim, vmodl

from hvdrivers.contract import errors
from hvdrivers.driverkit.feeds import Missed
from hvdrivers.driverkit.hub import Hub
from hvdrivers.models.state import POWERED_ON, InstanceState
from hvdrivers.vmware.machines import (
    STATE,
    is_out_of_reach,
    is_unreadable,
    state_of,
    uuid_in,
)
from hvdrivers.vmware.moved import Devices
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.reader import IN_POOL, Row, filter_spec
from hvdrivers.vmware.record import DEVICES, mark_in, path_of, value_in
from hvdrivers.vmware.session import Session, by_chance

_PC = vmodl.query.PropertyCollector
_POLL = 30
"""Seconds of one poll without news."""
_ENDED = frozenset({"ManagedObjectNotFound", "InvalidCollectorVersion"})
"""Faults of a collector whose session has ended."""
_REBOOTS = ("VmResettingEvent", "VmGuestRebootEvent")
"""Events that tell of a start without a change of the power state."""
_BOOTED = "runtime.bootTime"
"""When the machine was last powered on after it was off; unset while it is off."""
WATCHED = (*STATE, path_of(DEVICES), _BOOTED)
"""What is watched, and what a stream reads."""


@dataclass(frozen=True)
class Update:
    """What a machine of ours is now; ``state`` is None once it is gone."""

    uuid: UUID
    state: InstanceState | None
    devices: frozenset[str] | None = frozenset()
    """None while the server cannot read them."""
    host: str | None = None
    had: frozenset[str] | None = None
    """Its devices before; None if this is the first that was seen of it or of them."""
    came_from: str | None = None
    """The host on which it was before."""
    booted: datetime | None = None
    """When it was last powered on; None while it is off."""
    restarted: bool = False
    """It ran before and runs now, and was off in between."""


@dataclass(frozen=True)
class Rebooted:
    """A machine of ours was reset, or its guest has rebooted."""

    uuid: UUID


@dataclass(frozen=True)
class Settled:
    """All that the feed knows, by managed object, for streams that have read the states."""

    answer: int
    """Number of the answer after which it is so."""
    told: Mapping[str, Update]


Raw = Update | Rebooted | Settled


@dataclass(frozen=True)
class Reading:
    """What a stream has read, by managed object."""

    until: int
    """Number of the last answer that may be older."""
    seen: Mapping[str, Update]


class EventFeed:
    """The questions of the feed: ``begin`` and ``ask``."""

    def __init__(self, session: Session, places: Places, hub: Hub[Raw]) -> None:
        self._hub = hub
        self._session = session
        self._places = places
        self._collector: Any = None
        self._version = ""
        self._values: dict[str, dict[str, Any]] = {}
        self._told: dict[str, Update] = {}
        self._changed: dict[str, Any] = {}
        self._answers = 0
        """How many answers have come."""
        self._new: SimpleQueue[Reading] = SimpleQueue()
        self._readings: list[Reading] = []
        """Those that an answer may still be older than."""
        self._page: list[Any] = []
        self._unsaid: list[Raw] = []
        """What was found and not yet given away: a later page of the answer may fail to come."""
        self._log: Any = None
        self._newest = 0

    def begin(self) -> None:
        """Make the filter, and take what is there as known."""
        self.end()
        place = self._places.get()
        root = self._session.object("ResourcePool", place.root_pool._moId)
        self._collector = self._session.content.propertyCollector.CreatePropertyCollector()
        spec = filter_spec([(vim.VirtualMachine, WATCHED)], [(root, IN_POOL)])
        self._collector.CreateFilter(spec, False)
        self._values, self._told, self._version = {}, {}, ""
        self._changed = {}
        self._watch_log()
        self._receive(wait=0)
        self._unsaid.clear()

    def _watch_log(self) -> None:
        """Also watch the newest events: a reset does not change the power state."""
        manager = self._session.content.eventManager
        spec = vim.event.EventFilterSpec(eventTypeId=list(_REBOOTS))
        with suppress(errors.NotSupported):
            self._log = manager.CreateCollectorForEvents(spec)
            page = filter_spec(
                [(vim.event.EventHistoryCollector, ["latestPage"])], [(self._log, [])]
            )
            self._collector.CreateFilter(page, False)

    def has_read(self, rows: Sequence[Row]) -> Reading:
        """A stream has read all machines (:data:`WATCHED`). A :class:`Settled` follows whose answer
        is later than the reading's ``until``."""
        seen = {row.moid: now for row in rows if (now := _seen(row)) is not None}
        # a poll may be on its way: the one after that is sent after the reading
        reading = Reading(self._answers + 1, seen)
        self._new.put(reading)
        return reading

    def ask(self) -> list[Raw]:
        """What has happened since; it waits for something to happen.

        Raises:
            Missed: the server is away, and what was watched is lost.
        """
        try:
            with suppress(Empty):
                while True:
                    self._readings.append(self._new.get_nowait())
            # a machine that came and went since a reading would be no news at all
            self._receive(wait=0 if self._readings else _POLL)
            self._settle()
            self._tell_reboots()
        except errors.OutcomeUnknown:
            self._begin_again()
        except errors.HypervisorError as error:
            if error.vendor_code == "RequestCanceled":
                return []
            if error.vendor_code not in _ENDED:
                raise
            self._begin_again()
        said, self._unsaid = self._unsaid, []
        return said

    def _begin_again(self) -> None:
        """Make a new filter, and then tell that events were missed: what happens after the streams
        have read the states is told by the new one."""
        try:
            self.begin()
        except errors.HypervisorError as error:
            raise Missed("the session of the events has ended") from error
        self._hub.lost()

    def interrupt(self) -> None:
        """Make a waiting ask() return."""
        if self._collector is not None:
            with suppress(errors.HypervisorError):
                self._collector.CancelWaitForUpdates()

    def end(self) -> None:
        """Destroy what is on the server."""
        for each, name in (
            (self._collector, "DestroyPropertyCollector"),
            (self._log, "DestroyCollector"),
        ):
            if each is not None:
                with suppress(errors.HypervisorError):
                    getattr(each, name)()
        self._collector = self._log = None

    def _receive(self, *, wait: int) -> None:
        """Take one answer of the server, with all its pages."""
        more = True
        while more:
            update = self._collector.WaitForUpdatesEx(
                self._version, _PC.WaitOptions(maxWaitSeconds=wait)
            )
            if update is None:
                break
            more = bool(update.truncated) or (wait == 0 and not self._version)
            self._version = update.version
            for each in update.filterSet or ():
                for changed in each.objectSet or ():
                    self._take(changed)
        self._answers += 1
        while self._changed:
            moid = next(iter(self._changed))
            self._compare(moid)
            del self._changed[moid]

    def _take(self, changed: Any) -> None:
        """Note new values. Nothing is told before the whole answer was read: the machine may have
        changed on while the server wrote it, so that a later part says what an earlier one knew."""
        moid = changed.obj._moId
        if not isinstance(changed.obj, vim.VirtualMachine):
            for change in changed.changeSet or ():
                events = change.val or ()
                self._page.extend([events] if isinstance(events, vim.event.Event) else events)
            return
        self._changed[moid] = changed.obj
        if changed.kind == "leave":
            self._values.pop(moid, None)
            return
        values = self._values.setdefault(moid, {})
        for change in changed.changeSet or ():
            # an indirect remove says that a value is not set any more
            if change.op in ("remove", "indirectRemove"):
                values.pop(change.name, None)
            else:
                values[change.name] = change.val

    def _settle(self) -> None:
        """Say what is known to the streams whose readings are older than this answer."""
        settled = [each for each in self._readings if each.until < self._answers]
        if not settled:
            return
        for moid, now in [pair for each in settled for pair in each.seen.items()]:
            # the stream knows from before which machine it is that cannot be read now
            if moid not in self._told and is_unreadable(self._row(moid)):
                self._tell(moid, now)
        self._readings = [each for each in self._readings if each not in settled]
        self._unsaid.append(Settled(self._answers, dict(self._told)))

    def _compare(self, moid: str) -> None:
        """Tell what a machine is now."""
        row = self._row(moid)
        if is_unreadable(row):
            return  # it is there, and what it is now is told when the server can read it again
        self._tell(moid, self._ours(row))

    def _row(self, moid: str) -> Row:
        return Row(self._changed.get(moid), self._values.get(moid, {}))

    def _ours(self, row: Row) -> Update | None:
        """A machine of ours, on our cluster or host."""
        now = _seen(row)
        return now if now is not None and self._here(row.get("runtime.host")) else None

    def _tell(self, moid: str, now: Update | None) -> None:
        """Tell what a machine is, if it is not what was told before."""
        before = self._told.get(moid)
        if now is not None and before is not None and {now.state, before.state} <= POWERED_ON:
            # a start is told in two steps: the time comes after the power state
            now = replace(now, booted=now.booted or before.booted)
        step = changed(before, now)
        if step is None:
            return
        if now is None:
            del self._told[moid]
        else:
            self._told[moid] = now
        self._unsaid.append(step)

    def _here(self, host: Any) -> bool:
        with by_chance():
            return self._places.holds(host)

    def _tell_reboots(self) -> None:
        for event in sorted(self._page, key=lambda each: each.key):
            if event.key > self._newest:
                self._newest = event.key
                told = self._told.get(event.vm.vm._moId) if event.vm is not None else None
                if told is not None:
                    self._unsaid.append(Rebooted(told.uuid))
        self._page.clear()


def changed(before: Update | None, now: Update | None) -> Update | None:
    """The update that leads from what a machine was to what it is; None if nothing has changed."""
    if before is None or before == now:
        return now if before is None else None
    if now is None:
        return Update(before.uuid, None)
    restarted = _restarted(before, now)
    return replace(now, had=before.devices, came_from=before.host, restarted=restarted)


def _seen(row: Row) -> Update | None:
    uuid = uuid_in(row)
    mark = mark_in(row, uuid)
    if uuid is None or mark is None:
        return None
    host = row.get("runtime.host")
    state = state_of(row.get("runtime.powerState"), mark)
    return Update(
        uuid=uuid,
        state=state,
        devices=None if is_out_of_reach(row) else _ids(value_in(row, DEVICES)),
        host=host._moId if host is not None else None,
        booted=row.get(_BOOTED) if state in POWERED_ON else None,
    )


def _restarted(before: Update, now: Update) -> bool:
    # the time may change with the host, which then counts it anew
    known = before.booted is not None and now.booted is not None
    return known and before.host == now.host and before.booted != now.booted


def _ids(text: str | None) -> frozenset[str]:
    try:
        devices = Devices.model_validate_json(text or "{}")
    except ValidationError:
        return frozenset()
    volumes = {each.id for each in devices.volumes.values()}
    return frozenset(volumes | {each.id for each in devices.vifs.values()})
