"""Streams of a host's events, as watch() gives them."""

from __future__ import annotations

from uuid import UUID

import libvirt

from hvdrivers.driverkit.events import InstanceStream
from hvdrivers.libvirt.event_hub import EventHub, RawEvent
from hvdrivers.libvirt.identity import Identity
from hvdrivers.libvirt.listing import Listing
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.translation import Translation
from hvdrivers.models.state import InstanceState


class EventStreams:
    """Make them."""

    def __init__(
        self, connection: Connection, hub: EventHub, listing: Listing, identity: Identity
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._listing = listing
        self._identity = identity

    def made(self, limit: int = 10_000) -> InstanceStream[RawEvent]:
        """A stream that has not begun.

        Args:
            limit: events that may wait for its consumer.
        """
        return InstanceStream(self._hub, self._states, self._translation, limit=limit)

    def _translation(self) -> Translation:
        # after an interrupted spawn there are such: the end of their power is their end
        with self._connection.operation(None):
            transient = self._listing.uuids_of(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)
        return Translation(transient)

    def _states(self) -> dict[UUID, InstanceState]:
        with self._connection.operation(None):
            self._hub.ensure()  # what happens after the reading is an event
            machines = self._listing.machines()
            ours = self._identity.labels((uuid, name) for uuid, name, _, _ in machines)
        return {uuid: state for uuid, _, state, _ in machines if uuid in ours}
