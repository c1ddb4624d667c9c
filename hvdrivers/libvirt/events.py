"""Events on libvirt (see ``event_hub.py``, ``translation.py`` and ``event_streams.py``)."""

from __future__ import annotations

from hvdrivers.contract.events import Events, EventStream
from hvdrivers.driverkit.events import Streams
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.event_hub import RawEvent


class LibvirtEvents(Topic, Events):
    """Subscribe."""

    streams: Streams[RawEvent]

    def watch(self, *, timeout: float | None = None) -> EventStream:
        """Budget: 3 calls (the callbacks are registered with the connection), 3 for each
        resynchronisation later, and 2 for the first next()."""
        del timeout
        return self.streams.begin(self.event_streams.made())
