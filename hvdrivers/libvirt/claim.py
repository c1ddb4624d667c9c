"""The claim on a UUID: of two spawns of one UUID, in whatever processes, one gets it.

The claim is the console log's volume, as creating a volume is atomic. A claim without a machine is
that of a spawn under way, or the remains of one that could not be undone. InstanceExists says that
there is an instance, so it is never the answer to such a claim alone.

A spawn whose request to make the volume was not answered does not know whether the claim is its
own. Its undo removes only a claim of which nothing has come: another spawn may have it, with its
disks, or its machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.hub import Listener
from hvdrivers.driverkit.undo import Step, Undo, undoing
from hvdrivers.libvirt.definition import complete
from hvdrivers.libvirt.destroy import Removal, is_about
from hvdrivers.libvirt.domains import Domains
from hvdrivers.libvirt.event_hub import EventHub, RawEvent
from hvdrivers.libvirt.naming import console_name
from hvdrivers.libvirt.pools import Pools, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import needing_room

_LONGEST = 60.0
"""Seconds that another client's spawn has to come from its claim to its machine. Images are
uploaded before the claim."""
_LOOK_AGAIN = 0.5
"""Seconds after which the claim is looked at again: the end of one has no event."""
_SETTLING = 2.5
"""Seconds in which the first disk comes of another spawn's claim."""


class Claims:
    """Take a UUID, or say who has it."""

    def __init__(self, hub: EventHub, pools: Pools, domains: Domains, removal: Removal) -> None:
        self._hub = hub
        self._pools = pools
        self._domains = domains
        self._removal = removal
        self._unfinished: dict[UUID, bool] = {}
        """UUIDs whose spawn, by this driver, left a claim that could not be removed, and whether it
        knows that it has made the claim."""

    @contextmanager
    def take(self, uuid: UUID, deadline: Deadline) -> Iterator[Undo]:
        """Have the UUID for the length of the block, and undo what fails in it. A claim that could
        not be removed, as the host was away, is remembered: it stops no later spawn of this
        driver."""
        undone: list[bool] = []
        made = False
        try:
            with undoing() as undo:
                last = undo.callback(undone.append, True)
                self._claim(uuid, deadline, undo, last)
                made = True
                yield undo
        except BaseException:
            if not undone:
                self._unfinished[uuid] = made
            raise

    def _claim(self, uuid: UUID, deadline: Deadline, undo: Undo, last: Step) -> None:
        """Create the volume that stands for the instance's name on the host.

        The daemon would make the console log's file itself; made as a volume it is known to the
        pool, so that it can be read through the pool without a refresh.

        Raises:
            InstanceExists: there is a machine with this UUID, or another client's spawn makes it.
            DeviceBusy: there is a claim, and no machine came of it in time.
        """
        until = Deadline(deadline.within(_LONGEST))
        with self._hub.listening() as events:
            while True:
                undo.callback(self._unclaim, uuid, guards=[last])
                try:
                    pool = self._pools.consoles()
                    with needing_room(pool):
                        pool.createXML(volume_xml(console_name(uuid), 0, "raw"), 0)
                except errors.DeviceBusy as error:
                    undo.forget()  # it is another client's
                    self._make_way(uuid, events, until, error)
                else:
                    undo.forget()
                    undo.callback(self._removal.delete_console, uuid, guards=[last])
                    self._unfinished.pop(uuid, None)
                    return

    def _make_way(
        self, uuid: UUID, events: Listener[RawEvent], until: Deadline, taken: errors.DeviceBusy
    ) -> None:
        """Wait until a taken claim may be free."""
        domain = self._not_made(uuid)
        made = self._unfinished.get(uuid)
        if domain is None and made is not None:
            if made:
                self._removal.destroy(uuid, frozenset())
            else:
                self._unclaim(uuid)
            self._unfinished.pop(uuid, None)
            return
        events.wait(lambda event: is_about(event, uuid), until.within(_LOOK_AGAIN))
        if until.passed:  # another attempt would not be sent
            if self._not_made(uuid) is not None:
                raise errors.DeviceBusy(
                    "a spawn of this UUID is starting its machine",
                    instance=uuid,
                    vendor_code=taken.vendor_code,
                    hint="call again: the start ends by itself",
                ) from taken
            raise errors.DeviceBusy(
                "a volume of an instance with this UUID exists, and no machine",
                instance=uuid,
                vendor_code=taken.vendor_code,
                hint="a spawn of it is under way, or was interrupted: destroy() removes the rest",
                retryable=False,
            ) from taken

    def _not_made(self, uuid: UUID) -> Remote | None:
        """The machine of a spawn that has not come to its end, if it has one.

        Raises:
            InstanceExists: one has come to its end.
        """
        domain = self._domains.if_there(uuid)
        if domain is not None and is_made(domain):
            raise errors.InstanceExists("a machine with this UUID exists", instance=uuid)
        return domain

    def _unclaim(self, uuid: UUID) -> None:
        """Remove a claim that may be another spawn's: not if anything has come of it."""
        volumes = self._pools.volumes(self._pools.consoles())
        if console_name(uuid) in volumes and self._is_nobodys(uuid):
            self._removal.delete_console(uuid)

    def _is_nobodys(self, uuid: UUID) -> bool:
        """Whether nothing comes of a claim. Three calls for each look."""
        until = Deadline(_SETTLING)
        with self._hub.listening() as events:
            while not self._removal.anything_of(uuid):
                if until.passed:
                    return True
                events.wait(lambda event: is_about(event, uuid), until.within(_LOOK_AGAIN))
        return False


def is_made(domain: Remote) -> bool:
    """Whether a spawn has come to its machine. One that runs without a definition gets it. One that
    is being started may fail still: then there is none."""
    try:
        if not domain.isPersistent():
            complete(domain)
        return bool(domain.isPersistent())
    except errors.InstanceNotFound:
        return False
