"""One connection to a fake host: what a driver object holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.fake.config import FakeConfig, seconds_of
from hvdrivers.fake.faults import FaultRule, Faults, Occasion
from hvdrivers.fake.steps import Call, Task
from hvdrivers.models.progress import ProgressCallback

if TYPE_CHECKING:
    from hvdrivers.fake.event_streams import FakeEventStream
    from hvdrivers.fake.host import FakeHost

_T = TypeVar("_T")


class Link:
    """A connection, with its own faults and latencies beside those of the host."""

    def __init__(self, host: FakeHost, config: FakeConfig) -> None:
        self.host = host
        self.event_buffer = config.event_buffer
        self.streams: list[FakeEventStream] = []
        self._faults = Faults(config.faults)
        self._latency = config.latency
        self._closed = False

    def check_open(self) -> None:
        """Raise ConnectionFailed once it has been closed."""
        if self._closed:
            raise errors.ConnectionFailed(
                "the driver has been closed", hint="connect() again", retryable=False
            )

    def close(self) -> None:
        """End it, and its streams."""
        self._closed = True
        for stream in list(self.streams):
            stream.close()

    def task(
        self,
        operation: str,
        uuid: UUID | None,
        timeout: float | None,
        *,
        progress: ProgressCallback | None = None,
        slow: str | None = None,
    ) -> Task:
        """An operation over this connection, see :class:`~hvdrivers.fake.steps.Task`."""
        return Task(self, operation, uuid, timeout, progress=progress, slow=slow)

    def strike(self, occasion: Occasion) -> FaultRule | None:
        """The fault that strikes here, the connection's own before the host's."""
        return self._faults.strike(occasion) or self.host.faults.strike(occasion)

    def latency(self, name: str) -> float:
        """Seconds that an operation or a call of this name takes longer."""
        for rules in (self._latency, self.host.latency):
            if name in rules:
                return seconds_of(rules[name])
            if "-" in name and "*" in rules:
                return seconds_of(rules["*"])
        return 0.0

    def send(self, call: Call, effect: Callable[[], _T]) -> _T:
        """One round trip: the effect is atomic, and seen by every connection at once."""
        host = self.host
        with host.world.lock:
            host.check_reachable()
            host.record(call)
            return effect()
