"""Events on Hyper-V: the numbered logs of the host, which leave nothing out and merge nothing.

A request waits on the host for new records and for changes of the folder that says which machine
is which instance. A record names a machine; only machines that are instances count. The spawn of
an instance is told when the instance is complete: records of its machine that are older than that
say nothing new.

The logs name no device by an id of ours. So the scripts write down which volumes and NICs they add
to a machine that is powered on, and remove. What somebody changes by hand is not told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from hvdrivers.contract.events import EventStream
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.events import Change, DeviceChange, InstanceStream, Streams
from hvdrivers.driverkit.feeds import Feed, Missed
from hvdrivers.driverkit.hub import Hub
from hvdrivers.hyperv.naming import from_word
from hvdrivers.hyperv.session import Session
from hvdrivers.models.events import DeviceKind, LifecycleKind
from hvdrivers.models.state import InstanceState

_K, _S = LifecycleKind, InstanceState
_POLL: Final = 2.0
"""Seconds that a request waits on the host: as long as the end of a stream may take."""
_LIMIT: Final = 30.0
_BOOTS_APART: Final = 10 * 10**7
"""Ticks: no host starts twice in so short a time."""

KINDS: Final[Mapping[int, tuple[LifecycleKind, InstanceState]]] = {
    18500: (_K.STARTED, _S.RUNNING),
    18596: (_K.RESUMED, _S.RUNNING),  # restored from saved memory
    18502: (_K.STOPPED, _S.STOPPED),  # turned off
    18504: (_K.STOPPED, _S.STOPPED),  # shut down by the integration service
    18508: (_K.STOPPED, _S.STOPPED),  # shut down by the guest
    18510: (_K.SUSPENDED, _S.SUSPENDED),
    18512: (_K.REBOOTED, _S.RUNNING),  # reset
    18514: (_K.REBOOTED, _S.RUNNING),  # reset by the guest
    18516: (_K.PAUSED, _S.PAUSED),
    18518: (_K.RESUMED, _S.RUNNING),
    18550: (_K.REBOOTED, _S.RUNNING),  # reset after an unrecoverable error
}
"""Event ids of the log Hyper-V-Worker-Admin. They were not compared with a host."""


@dataclass(frozen=True)
class Appeared:
    """An instance is complete."""

    uuid: UUID
    state: InstanceState


@dataclass(frozen=True)
class Vanished:
    """An instance is gone."""

    uuid: UUID


@dataclass(frozen=True)
class Logged:
    """A record of an instance's machine."""

    uuid: UUID
    event: int
    rescued: bool
    """It runs from a rescue disk now."""


@dataclass(frozen=True)
class Plugged:
    """A device of an instance came or went."""

    uuid: UUID
    kind: DeviceKind
    device: str


Raw = Appeared | Vanished | Logged | Plugged


class Log:
    """Where the feed stands, and which machine is which instance."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._positions: dict[str, int] = {}
        self._owners: dict[str, UUID] = {}
        self._names: list[str] = []
        self._since: dict[str, int] = {}
        self._devices: dict[str, int] = {}
        self._boot = 0

    def begin(self) -> None:
        """Go to the end of the logs."""
        found = self._session.call("EventsBegin", {}, Deadline(_LIMIT), counted=False)
        self._positions = found["positions"]
        self._devices = found["devices"]
        self._boot = found["boot"]
        self._owners, self._since, self._names = {}, {}, []
        for _ in self._changed(found["index"]):
            pass

    def ask(self) -> list[Raw]:
        """What has happened since.

        Raises:
            Missed: a log was cleared, or the host has started again: one that lost its power told
                nobody what became of its machines.
        """
        arguments = {
            "positions": self._positions,
            "known": self._names,
            "devices": self._devices,
            "wait": int(_POLL * 1000),
        }
        found = self._session.call("Events", arguments, Deadline(_LIMIT), counted=False)
        if found["missed"]:
            raise Missed("a log of the host was cleared")
        # Windows reckons the time of its start from the clock, which somebody may set right
        if abs(found["boot"] - self._boot) > _BOOTS_APART:
            raise Missed("the host has started again")
        self._positions = found["positions"]
        self._devices = found["devices"]
        before = self._owners
        changes = list(self._changed(found["index"])) if found["index"] is not None else []
        owners = {**before, **self._owners}
        rescued = {UUID(each) for each in found["rescued"]}
        new = {each.uuid for each in changes if isinstance(each, Appeared)}
        # devices come and go at instances that are complete
        told: list[tuple[int, int, Raw]] = [
            (ticks, place, Plugged(UUID(uuid), DeviceKind(kind), from_word(word)))
            for place, (uuid, ticks, kind, word) in enumerate(found["changes"])
        ]
        for ticks, event, machine, number in found["records"]:
            uuid = owners.get(machine)
            if uuid is not None and (uuid not in new or ticks > self._since.get(machine, 0)):
                told.append((ticks, number, Logged(uuid, event, uuid in rescued)))
        told.sort(key=lambda each: each[:2])
        earlier = [raw for _, _, raw in told if raw.uuid not in new]
        later = [raw for _, _, raw in told if raw.uuid in new]
        return [*earlier, *changes, *later]

    def _changed(self, index: Iterable[Any]) -> Iterable[Raw]:
        before = self._owners
        now = {machine: UUID(uuid) for machine, uuid, _, _ in index}
        self._since = {machine: ticks for machine, _, ticks, _ in index}
        self._names = [f"{uuid}.{machine}.vm" for machine, uuid, _, _ in index]
        self._owners = now
        states = {machine: state for machine, _, _, state in index}
        for machine, uuid in now.items():
            if machine not in before:
                running = states[machine] == "running"
                yield Appeared(uuid, _S.RUNNING if running else _S.STOPPED)
        for machine, uuid in before.items():
            if machine not in now:
                yield Vanished(uuid)


def translate(
    raw: Raw, seen: Mapping[UUID, InstanceState], at: datetime, /
) -> Iterable[Change | DeviceChange]:
    """The changes that a raw event tells of."""
    del at
    before = seen.get(raw.uuid)
    if isinstance(raw, Appeared):
        return _appeared(raw) if before is None else []  # a resync may have told it
    if before is None:
        return []
    if isinstance(raw, Vanished):
        return [Change(raw.uuid, _K.DESTROYED, None)]
    if isinstance(raw, Plugged):
        return [DeviceChange(raw.uuid, raw.kind, raw.device)]
    kind, state = KINDS.get(raw.event, (None, None))
    if state is _S.RUNNING and raw.rescued:
        state = _S.RESCUED
    # a record of before a resync says again what that has said
    if kind is None or (kind is not _K.REBOOTED and state is before):
        return []
    return [Change(raw.uuid, kind, state)]


def _appeared(raw: Appeared) -> list[Change]:
    if raw.state is _S.RUNNING:
        return [
            Change(raw.uuid, _K.CREATED, _S.BUILDING),
            Change(raw.uuid, _K.STARTED, _S.RUNNING),
        ]
    return [Change(raw.uuid, _K.CREATED, raw.state)]


class EventFeed:
    """The streams of one driver, which one request at a time feeds."""

    def __init__(self, session: Session) -> None:
        self._session = session
        log = Log(session)
        self._hub: Hub[Raw] = Hub()
        self._streams: Streams[Raw] = Streams(Feed(self._hub, begin=log.begin, ask=log.ask))

    def stream(self) -> EventStream:
        """A new one."""
        return self._streams.begin(InstanceStream(self._hub, self._states, lambda: translate))

    def _states(self) -> dict[UUID, InstanceState]:
        found = self._session.call("List", {}, Deadline(_LIMIT))
        return {UUID(uuid): InstanceState(state) for uuid, _, state, _, _ in found["ours"]}

    def close(self) -> None:
        """End them all."""
        self._streams.close()
