"""The hub's raw events, turned into the contract's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from types import MappingProxyType
from uuid import UUID

import libvirt

from hvdrivers.driverkit.events import Change, DeviceChange
from hvdrivers.libvirt.devices import vif_in_alias
from hvdrivers.libvirt.event_hub import (
    Adopted,
    AgentLeft,
    BackupEnded,
    Device,
    Dropped,
    Lifecycle,
    Marked,
    RawEvent,
    Reboot,
    Rescued,
)
from hvdrivers.libvirt.naming import from_alias, is_rescued, label_of
from hvdrivers.models.events import DeviceKind, LifecycleKind
from hvdrivers.models.state import InstanceState

_ONE_REBOOT = timedelta(seconds=2)
"""One reset of a machine is two to nine RESET events of QEMU: its BIOS resets it again."""

_S, _K = InstanceState, LifecycleKind
_ON = {_S.RUNNING, _S.PAUSED}
_Change = tuple[LifecycleKind, InstanceState | None]

_CRASHED = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED,
    # QEMU itself has died
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED,
}
# PAUSED and RESUMED of these details are steps inside a migration, which has its own events
_INNER_PAUSES = {
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY,
}


def translate(raw: Lifecycle, before: InstanceState | None) -> tuple[_Change, ...]:
    """Kind and new state for libvirt's event and detail; nothing for what is no change.

    Args:
        before: the state until now; None for a machine that is not known.
    """
    change = _translated(raw, before)
    if change is None:
        return ()
    kind, state = change
    if before is None and kind is _K.STARTED:
        # spawn() starts a machine before it defines it
        return (_K.CREATED, _S.BUILDING), change
    if kind in {_K.DESTROYED, _K.CREATED}:
        # the end of one that is not known was already in a resynchronisation
        return (change,) if (before is None) is (kind is _K.CREATED) else ()
    # An event of before a resynchronisation says again what that had said; and a step inside a
    # longer change (RESUMED after STARTED) says what its main event has said.
    return () if state is before and kind is not _K.MIGRATED else (change,)


def _translated(raw: Lifecycle, before: InstanceState | None) -> _Change | None:  # noqa: PLR0911
    match raw.event:
        case libvirt.VIR_DOMAIN_EVENT_DEFINED:
            if raw.detail == libvirt.VIR_DOMAIN_EVENT_DEFINED_ADDED:
                return _K.CREATED, _S.STOPPED
            return None
        case libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            if raw.detail == libvirt.VIR_DOMAIN_EVENT_UNDEFINED_RENAMED:
                return None
            return _K.DESTROYED, None
        case libvirt.VIR_DOMAIN_EVENT_STARTED:
            return _started(raw.detail)
        case libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
            return None if raw.detail in _INNER_PAUSES else (_K.PAUSED, _S.PAUSED)
        case libvirt.VIR_DOMAIN_EVENT_RESUMED:
            # otherwise the CPUs' first start, which comes before STARTED
            return (_K.RESUMED, _S.RUNNING) if before is _S.PAUSED else None
        case libvirt.VIR_DOMAIN_EVENT_STOPPED:
            return _stopped(raw.detail)
        case libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED:
            return _K.PAUSED, _S.PAUSED
        case libvirt.VIR_DOMAIN_EVENT_CRASHED:
            return _K.CRASHED, _S.CRASHED
    return None


def _started(detail: int) -> _Change:
    if detail == libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED:
        return _K.MIGRATED, _S.RUNNING
    if detail in {
        libvirt.VIR_DOMAIN_EVENT_STARTED_RESTORED,
        libvirt.VIR_DOMAIN_EVENT_STARTED_WAKEUP,
    }:
        return _K.RESUMED, _S.RUNNING
    return _K.STARTED, _S.RUNNING


def _stopped(detail: int) -> _Change:
    if detail in _CRASHED:
        return _K.CRASHED, _S.CRASHED
    if detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED:
        return _K.MIGRATED, None
    if detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED:
        return _K.SUSPENDED, _S.SUSPENDED
    return _K.STOPPED, _S.STOPPED


class Translation:
    """What one stream knows of the machines whose events it translates.

    What pauses a machine for another purpose shows too: suspend() is PAUSED and then SUSPENDED,
    as libvirt's event does not tell why.
    """

    def __init__(
        self,
        not_defined: Iterable[UUID] = (),
        rescues: Mapping[UUID, AbstractSet[str]] = MappingProxyType({}),
    ) -> None:
        self._not_defined = set(not_defined)
        """Machines that spawn() has started and not defined yet: they end with their power."""
        self._rescues = {uuid: set(roles) for uuid, roles in rescues.items()}
        """The marks of rescues of adopted machines. Others say it in their names."""
        self._foreign: dict[UUID, InstanceState] = {}
        """What machines of others have told of their states: one may be adopted, and the event of
        that may tell an older state."""
        self._rebooted: dict[UUID, datetime] = {}
        self._halves: dict[UUID, int] = {}
        """Of a start that has told one of its two events, which one. A start tells that the CPUs
        run (RESUMED) and that it has ended (STARTED). One with frozen CPUs tells STARTED, and then
        SUSPENDED: its STARTED does not say that it runs."""

    def __call__(
        self, raw: RawEvent, seen: Mapping[UUID, InstanceState], at: datetime
    ) -> Iterator[Change | DeviceChange]:
        """The changes of one event; see ``driverkit.events.Translate``."""
        if isinstance(raw, AgentLeft | BackupEnded | Marked | Rescued):
            self._note(raw)
            return
        if isinstance(raw, Adopted):
            if raw.uuid not in seen:
                yield Change(raw.uuid, _K.CREATED, self._foreign.pop(raw.uuid, raw.state))
            return
        if label_of(raw.name, raw.uuid) is None and raw.uuid not in seen:
            self._remember(raw)
            return
        if isinstance(raw, Device):
            yield _device(raw)
            return
        before = seen.get(raw.uuid)
        changes: tuple[_Change, ...]
        if isinstance(raw, Reboot):
            changes = self._reboot(at, raw.uuid, before)
        elif isinstance(raw, Dropped):
            off = before in {_S.SUSPENDED, _S.CRASHED}
            changes = ((_K.STOPPED, _S.STOPPED),) if off else ()
        else:
            changes = self._changes(raw, before)
        for kind, state in changes:
            if state is None:
                self._rebooted.pop(raw.uuid, None)
            elif state in _ON and self._is_rescued(raw):
                state = _S.RESCUED  # noqa: PLW2901 - the mark says what it runs as
                if before is state and kind is not _K.REBOOTED:
                    continue
            yield Change(raw.uuid, kind, state)

    def _note(self, raw: RawEvent) -> None:
        if isinstance(raw, Rescued):
            marks = self._rescues.setdefault(raw.uuid, set())
            (marks.add if raw.begins else marks.discard)(raw.name)

    def _is_rescued(self, raw: RawEvent) -> bool:
        return is_rescued(raw.name, raw.uuid) or bool(self._rescues.get(raw.uuid))

    def _remember(self, raw: RawEvent) -> None:
        """The state of a machine of others."""
        if not isinstance(raw, Lifecycle):
            return
        change = _translated(raw, self._foreign.get(raw.uuid))
        if change is not None:
            _, state = change
            if state is None:
                self._foreign.pop(raw.uuid, None)
            else:
                self._foreign[raw.uuid] = state

    def _changes(self, raw: Lifecycle, before: InstanceState | None) -> tuple[_Change, ...]:
        if raw.event == libvirt.VIR_DOMAIN_EVENT_DEFINED:
            self._not_defined.discard(raw.uuid)
        elif raw.event == libvirt.VIR_DOMAIN_EVENT_STARTED and before is None:
            self._not_defined.add(raw.uuid)
        elif raw.event == libvirt.VIR_DOMAIN_EVENT_STOPPED and raw.uuid in self._not_defined:
            self._not_defined.discard(raw.uuid)
            return ((_K.DESTROYED, None),)
        return self._start(raw, before)

    def _start(self, raw: Lifecycle, before: InstanceState | None) -> tuple[_Change, ...]:
        if raw.event == libvirt.VIR_DOMAIN_EVENT_DEFINED:  # by another client, in between
            return translate(raw, before)
        other = self._halves.pop(raw.uuid, None)
        resumed, started = libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_STARTED
        booted = raw.event == started and raw.detail == libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED
        if before is _S.STOPPED and (booted or raw.event == resumed):
            if other is None:
                self._halves[raw.uuid] = raw.event
                return ()
            return ((_K.STARTED, _S.RUNNING),)
        return translate(raw, before)

    def _reboot(
        self, at: datetime, uuid: UUID, before: InstanceState | None
    ) -> tuple[_Change, ...]:
        last = self._rebooted.get(uuid)
        if before is None or (last is not None and at - last < _ONE_REBOOT):
            return ()
        self._rebooted[uuid] = at
        return ((_K.REBOOTED, before),)


def _device(raw: Device) -> DeviceChange:
    vif = vif_in_alias(raw.alias)
    device = from_alias("volume", raw.alias) or (vif[1] if vif else raw.alias)
    return DeviceChange(raw.uuid, DeviceKind(raw.kind), device)
