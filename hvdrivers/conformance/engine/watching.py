"""Reads a stream of events for ``events.py``, counting along."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract.events import EventStream
from hvdrivers.models.events import Event, LifecycleEvent, LifecycleKind, ResyncEvent
from hvdrivers.models.state import InstanceState

QUIET = 0.15
"""Seconds after which an event that should not come has not come."""

CLOCK_SLACK = timedelta(seconds=5)
"""How far a time that a driver gives may be off: a clock may be set meanwhile."""


def patience(trial: Trial) -> float:
    """Seconds within which a change must have been told."""
    return trial.patience(20.0)


class Watcher:
    """Reads a stream, counting along."""

    def __init__(self, trial: Trial, stream: EventStream) -> None:
        self.stream = stream
        self.sequence = 0
        self._trial = trial

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event; its number must be the next one."""
        event = self.stream.next(patience(self._trial) if timeout is None else timeout)
        if event is not None:
            self.sequence += 1
            self._trial.equal(event.sequence, self.sequence, "number of an event")
        return event

    def until(self, what: str, matches: Callable[[Event], bool]) -> list[Event]:
        """Events up to the one that matches."""
        end = time.monotonic() + patience(self._trial)
        seen: list[Event] = []
        while time.monotonic() < end:
            event = self.next(max(0.01, end - time.monotonic()))
            if event is not None:
                seen.append(event)
                if matches(event):
                    self._trial.check(True, what)
                    return seen
        self._trial.check(False, f"no event tells that {what}; what came: {_told(seen)}")
        raise AssertionError  # check() has raised

    def resync(self) -> dict[UUID, InstanceState]:
        """The states in the resync that must come next."""
        event = self.next()
        self._trial.check(isinstance(event, ResyncEvent), f"no resync came, but {event!r}")
        assert isinstance(event, ResyncEvent)  # noqa: S101 - for the type checker
        return event.states

    def change(self, uuid: UUID, kind: LifecycleKind, state: InstanceState | None) -> list[Event]:
        """Wait for a change of an instance. Before it only others, or steps on the way to it."""
        return self.until(
            f"the instance {kind} and is {state or 'gone'}",
            lambda event: (
                isinstance(event, LifecycleEvent)
                and (event.uuid, event.kind, event.state) == (uuid, kind, state)
            ),
        )

    def state(self, uuid: UUID, state: InstanceState) -> list[Event]:
        """Wait until an instance has this state, by whatever kind of event."""
        return self.until(
            f"instance {uuid} is {state}",
            lambda event: (
                isinstance(event, LifecycleEvent) and (event.uuid, event.state) == (uuid, state)
            ),
        )

    def made(self, uuid: UUID) -> list[Event]:
        """Wait until an instance is there, STOPPED; it may have been shown BUILDING before."""
        seen = self.until(
            f"instance {uuid} is there",
            lambda event: (
                isinstance(event, LifecycleEvent) and (event.uuid, event.state) == (uuid, "stopped")
            ),
        )
        mine = [each for each in seen if isinstance(each, LifecycleEvent) and each.uuid == uuid]
        self._trial.equal(mine[0].kind, LifecycleKind.CREATED, "first event of an instance")
        return seen

    def quiet(self, why: str) -> None:
        """Nothing more comes."""
        event = self.next(QUIET)
        self._trial.check(event is None, f"{why}, and yet an event came: {event!r}")


def _told(events: list[Event]) -> str:
    return (
        ", ".join(
            f"{each.kind}/{each.state}" if isinstance(each, LifecycleEvent) else each.type
            for each in events
        )
        or "nothing"
    )


def watching(trial: Trial) -> Watcher:
    """A new stream, closed after the check."""
    stream = trial.driver.watch()
    trial.after(stream.close)
    return Watcher(trial, stream)
