"""Streams of a host's events, as watch() gives them."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import libvirt

from hvdrivers.driverkit.events import InstanceStream
from hvdrivers.libvirt.event_hub import EventHub, RawEvent
from hvdrivers.libvirt.listing import Listing
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.translation import Translation
from hvdrivers.models.state import InstanceState


class EventStreams:
    """Make them."""

    def __init__(self, connection: Connection, hub: EventHub, listing: Listing) -> None:
        self._connection = connection
        self._hub = hub
        self._listing = listing

    def made(self, limit: int = 10_000) -> InstanceStream[RawEvent]:
        """A stream that has not begun.

        Args:
            limit: events that may wait for its consumer.
        """
        rescues: dict[UUID, frozenset[str]] = {}
        """Of each instance that the last reading of the states has found."""

        def states() -> dict[UUID, InstanceState]:
            found = self._read()
            rescues.clear()
            rescues.update((uuid, roles) for uuid, (_, roles) in found.items())
            return {uuid: state for uuid, (state, _) in found.items()}

        return InstanceStream(self._hub, states, lambda: self._translation(rescues), limit=limit)

    def _translation(self, rescues: Mapping[UUID, frozenset[str]]) -> Translation:
        # After an interrupted spawn there are machines without a definition: the end of their power
        # is their end. One that has ended since the states were read is not listed any more, so
        # those that have a definition are asked for.
        with self._connection.operation(None):
            defined = self._listing.uuids_of(libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT)
        return Translation(rescues.keys() - defined, rescues)

    def _read(self) -> dict[UUID, tuple[InstanceState, frozenset[str]]]:
        """The state of each instance, and what marks it as rescued."""
        with self._connection.operation(None):
            self._hub.ensure()  # what happens after the reading is an event
            ours = self._listing.ours()
        return {uuid: (state, known.rescues) for uuid, known, state, _ in ours}
