"""Events of a fake host, and who listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvdrivers.contract.events import Events, EventStream
from hvdrivers.fake.base import FakeBase

if TYPE_CHECKING:
    pass
from hvdrivers.fake.event_streams import FakeEventStream


class FakeEvents(FakeBase, Events):
    """The events topic."""

    def watch(self, *, timeout: float | None = None) -> EventStream:
        """One call."""
        with self.link.task("watch", None, timeout) as task:
            made: list[FakeEventStream] = []
            stream = task.call(
                "subscribe-events",
                lambda: self._stream(made),
                undo=("unsubscribe-events", lambda: _close_all(made)),
                changes=False,
            )
            self.link.streams.append(stream)
            return stream

    def _stream(self, made: list[FakeEventStream]) -> FakeEventStream:
        stream = FakeEventStream(self.fake_host, self.link.event_buffer, self._unsubscribe)
        made.append(stream)
        self.fake_host.streams.add(stream)
        return stream

    def _unsubscribe(self, stream: FakeEventStream) -> None:
        with self.fake_host.world.lock:
            self.fake_host.streams.discard(stream)
            if stream in self.link.streams:
                self.link.streams.remove(stream)


def _close_all(streams: list[FakeEventStream]) -> None:
    for stream in streams:
        stream.close()
