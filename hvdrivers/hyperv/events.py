"""Events on Hyper-V: see :mod:`hvdrivers.hyperv.event_feed`."""

from __future__ import annotations

from hvdrivers.contract.events import Events, EventStream
from hvdrivers.hyperv.base import Topic


class HypervEvents(Topic, Events):
    """Subscribe."""

    def watch(self, *, timeout: float | None = None) -> EventStream:
        """Budget: 1 call, and 1 every two seconds while a stream is open."""
        del timeout
        return self.feed.stream()
