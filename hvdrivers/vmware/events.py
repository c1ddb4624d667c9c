"""Events on vSphere: what the feed saw, in the words of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from uuid import UUID

from hvdrivers.contract.events import Events, EventStream
from hvdrivers.driverkit.events import Change, DeviceChange, InstanceStream, Streams
from hvdrivers.driverkit.hub import Hub
from hvdrivers.models.events import DeviceKind, LifecycleKind
from hvdrivers.models.state import POWERED_ON, InstanceState
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.event_feed import WATCHED, EventFeed, Raw, Rebooted
from hvdrivers.vmware.machines import state_of, uuid_in
from hvdrivers.vmware.record import mark_in

_S, _K = InstanceState, LifecycleKind


def translate(
    raw: Raw, seen: Mapping[UUID, InstanceState], at: datetime
) -> Iterator[Change | DeviceChange]:
    """The changes that an update tells of."""
    del at
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
    for device in sorted(raw.devices - raw.had):
        yield DeviceChange(raw.uuid, DeviceKind.ADDED, device)
    for device in sorted(raw.had - raw.devices):
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
        stream = InstanceStream(self.hub, self._states, lambda: translate)
        return self.streams.begin(stream)

    def _states(self) -> dict[UUID, InstanceState]:
        found = {}
        answers = self.questions.answers
        rows = self.machines.rows(*WATCHED)
        self.questions.has_read(answers, rows)
        for row in rows:
            uuid = uuid_in(row)
            mark = mark_in(row, uuid)
            if uuid is not None and mark is not None:
                found[uuid] = state_of(row.get("runtime.powerState"), mark)
        return found
