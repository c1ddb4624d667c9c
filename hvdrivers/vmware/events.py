"""Events on vSphere: what the feed saw, in the words of the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from uuid import UUID

from hvdrivers.contract.events import Events, EventStream
from hvdrivers.driverkit.events import Change, DeviceChange, InstanceStream, Streams, Translate
from hvdrivers.driverkit.hub import Hub
from hvdrivers.models.events import DeviceKind, LifecycleKind
from hvdrivers.models.state import POWERED_ON, InstanceState
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.event_feed import (
    WATCHED,
    EventFeed,
    Raw,
    Reading,
    Rebooted,
    Settled,
    Update,
    changed,
)
from hvdrivers.vmware.reader import Row

_S, _K = InstanceState, LifecycleKind


class Watcher:
    """What one stream reads, and what it tells.

    Args:
        read: reads :data:`WATCHED` of all machines.
        has_read: gives that to the feed.
    """

    def __init__(
        self, read: Callable[[], Sequence[Row]], has_read: Callable[[Sequence[Row]], Reading]
    ) -> None:
        self._read = read
        self._has_read = has_read
        self._readings: list[Reading] = []
        """Those since the last begin(), until an answer came that is newer than all of them."""
        self._reboots: list[Rebooted] = []

    def states(self) -> dict[UUID, InstanceState]:
        """Read the states."""
        reading = self._has_read(self._read())
        self._readings.append(reading)
        return {each.uuid: each.state for each in reading.seen.values() if each.state is not None}

    def begin(self) -> Translate[Raw]:
        """The stream goes on from what was read last."""
        del self._readings[:-1]
        self._reboots.clear()
        return self._translate

    def _translate(
        self, raw: Raw, seen: Mapping[UUID, InstanceState], at: datetime
    ) -> Iterator[Change | DeviceChange]:
        del at
        if isinstance(raw, Settled):
            if self._readings and raw.answer > self._readings[-1].until:
                yield from self._settled(raw, seen)
        elif not self._readings:
            yield from translate(raw, seen)
        elif isinstance(raw, Rebooted):
            self._reboots.append(raw)

    def _settled(
        self, raw: Settled, seen: Mapping[UUID, InstanceState]
    ) -> Iterator[Change | DeviceChange]:
        """What has happened since the readings, which the consumer has been told of."""
        steps = [*(each.seen for each in self._readings), raw.told]
        for before, now in pairwise(steps):
            for moid in {**before, **now}:
                step = changed(before.get(moid), now.get(moid))
                if step is not None:
                    yield from translate(step, seen)
        for each in self._reboots:
            yield from translate(each, seen)
        self._readings.clear()
        self._reboots.clear()


def translate(
    raw: Update | Rebooted, seen: Mapping[UUID, InstanceState]
) -> Iterator[Change | DeviceChange]:
    """The changes that an update tells of."""
    before = seen.get(raw.uuid)
    if isinstance(raw, Rebooted):
        if before in POWERED_ON:  # else it was switched off right after that
            yield Change(raw.uuid, _K.REBOOTED, before)
        return
    if raw.state is None:
        if before is not None:
            yield Change(raw.uuid, _K.DESTROYED, None)
        return
    if raw.restarted and before in POWERED_ON and raw.state in POWERED_ON:
        yield Change(raw.uuid, _K.STOPPED, _S.STOPPED)
        yield from _lifecycle(raw.uuid, _S.STOPPED, raw.state)
    else:
        yield from _lifecycle(raw.uuid, before, raw.state)
    if raw.had is None or before not in POWERED_ON or raw.state not in POWERED_ON:
        return
    if raw.host != raw.came_from and None not in (raw.host, raw.came_from):
        yield Change(raw.uuid, _K.MIGRATED, raw.state)
    devices = raw.had if raw.devices is None else raw.devices
    for device in sorted(devices - raw.had):
        yield DeviceChange(raw.uuid, DeviceKind.ADDED, device)
    for device in sorted(raw.had - devices):
        yield DeviceChange(raw.uuid, DeviceKind.REMOVED, device)


def _lifecycle(uuid: UUID, before: InstanceState | None, now: InstanceState) -> Iterator[Change]:
    if before is now:
        return
    if before is None:
        # a machine that runs was made and started between two polls
        yield Change(uuid, _K.CREATED, _S.BUILDING if now in POWERED_ON else now)
        if now in POWERED_ON:
            yield Change(uuid, _K.STARTED, now)
    elif now in POWERED_ON:
        kind = _K.RESUMED if before in (_S.SUSPENDED, _S.PAUSED) else _K.STARTED
        yield Change(uuid, kind, now)
    elif now is _S.SUSPENDED:
        yield Change(uuid, _K.SUSPENDED, now)
    elif now is _S.STOPPED:
        yield Change(uuid, _K.STOPPED, now)


class VmwareEvents(Topic, Events):
    """Subscribe."""

    hub: Hub[Raw]
    streams: Streams[Raw]
    questions: EventFeed

    @timed
    def watch(self, *, timeout: float | None = None) -> EventStream:
        """Budget: 1 call, and 1 more at the first next(); the first stream also makes the session
        and the filter of the feed."""
        del timeout
        watcher = Watcher(lambda: self.machines.rows(*WATCHED), self.questions.has_read)
        stream = InstanceStream(self.hub, watcher.states, watcher.begin)
        return self.streams.begin(stream)
