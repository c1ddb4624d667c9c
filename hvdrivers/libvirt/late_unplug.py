"""Devices that a guest lets go of when nobody waits for it any more.

A request to unplug cannot be taken back: a guest may heed it minutes later. Then the device has
left the running machine, and its definition still has it: with the next start it would come back,
though its volume may belong to another machine by then. The caller may have given up (DeviceBusy),
or the connection may have broken while the guest was asked (OutcomeUnknown). So the driver expects
each device from before its request is sent until it has left the definition too, over broken
connections, and takes it out of the definition when the guest has let go.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.backoff import Backoff
from hvdrivers.driverkit.deadline import Deadline, bounding
from hvdrivers.driverkit.hub import Back, Lost
from hvdrivers.libvirt.event_hub import Device, EventHub, Lifecycle, RawEvent
from hvdrivers.workers import Workers

_log = logging.getLogger(__name__)
_CONNECTING = 30.0
"""Seconds of one attempt to hear events again."""


@dataclass
class Request:
    """One device that a guest has been asked for, or is about to be."""

    sent: bool = False
    """The guest may have been asked."""
    operations: int = 0
    """Operations that wait for the guest, and will see themselves that it has let go."""
    news: bool = False
    """The guest may have let go while an operation waited."""
    let_go: bool = False
    """The guest has let go: the device leaves the definition whatever becomes of the machine."""


class LateUnplugs:
    """The requests of one driver that may still be heeded. Thread-safe.

    Args:
        settle: takes the device with this alias out of a machine's definition, if the running
            machine has it no more; False if it has. Called in a thread of its own. A machine that
            is off has its definition alone: then its last argument says that the guest had let go.
    """

    def __init__(self, hub: EventHub, settle: Callable[[UUID, str, bool], bool]) -> None:
        self._hub = hub
        self._settle = settle
        self._lock = threading.Lock()
        self._pending: dict[tuple[UUID, str], Request] = {}
        self._listening_again = False
        self._closed = threading.Event()
        self._workers = Workers("hvdrivers-libvirt-unplug", keep_idle=0)

    @contextmanager
    def expecting(self, uuid: UUID, device_alias: str) -> Iterator[Request]:
        """Stands around an operation that asks the guest and then changes the definition. If it
        fails after the request was sent, the device is expected further on."""
        key = (uuid, device_alias)
        with self._lock:
            if not self._pending:
                self._hub.subscribe(self)
            request = self._pending.setdefault(key, Request())
            request.operations += 1
        try:
            yield request
        except BaseException:
            with self._lock:
                request.operations -= 1
                over = not request.sent and request.operations == 0
                news, request.news = request.news, False
            if over:
                self.forget(uuid, device_alias)
            elif news:
                self._begin(key)
            raise
        self.forget(uuid, device_alias)

    def of(self, uuid: UUID) -> tuple[str, ...]:
        """Aliases of a machine's devices that are still to leave the definition."""
        with self._lock:
            return tuple(name for owner, name in self._pending if owner == uuid)

    def expects(self, uuid: UUID, device_alias: str) -> bool:
        """Whether the device is still to leave the definition."""
        with self._lock:
            return (uuid, device_alias) in self._pending

    def forget(self, uuid: UUID, device_alias: str | None = None) -> None:
        """The device has been taken out, or is wanted again; None: all of a machine's, as it has
        been switched off."""
        with self._lock:
            before = bool(self._pending)
            self._pending = {
                key: request
                for key, request in self._pending.items()
                if key[0] != uuid or device_alias not in (None, key[1])
            }
            if before and not self._pending:
                self._hub.unsubscribe(self)

    def recall(self, uuid: UUID, device_alias: str) -> None:
        """The machine has the device still, and is to keep it: the definition does, if the guest
        lets go of it yet. An operation that waits for the guest comes after that, and decides."""
        with self._lock:
            request = self._pending.get((uuid, device_alias))
            waited_for = request is not None and request.operations > 0
        if not waited_for:
            self.forget(uuid, device_alias)

    def put(self, event: RawEvent | Lost | Back, /) -> None:
        """Called in libvirt's event thread."""
        if isinstance(event, Device) and event.kind == "removed":
            self._begin((event.uuid, event.alias), let_go=True)
        elif isinstance(event, Lifecycle) and event.event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            # a guest whose memory is saved may still heed a request
            if event.detail != libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED:
                self._ended(event.uuid)
        elif isinstance(event, Lost):
            self._listen_again()
        elif isinstance(event, Back):  # events have been missed
            with self._lock:
                pending = set(self._pending)
            for each in pending:
                self._begin(each)

    def _ended(self, uuid: UUID) -> None:
        """The machine is off: no guest will let go of anything any more."""
        with self._lock:
            ended = [
                name
                for (owner, name), request in self._pending.items()
                if owner == uuid and not request.let_go
            ]
        for name in ended:
            self.forget(uuid, name)

    def _begin(self, key: tuple[UUID, str], *, let_go: bool = False) -> None:
        with self._lock:
            request = self._pending.get(key)
            if request is None:
                return
            request.let_go = request.let_go or let_go
            if request.operations:
                request.news = True
                return
        with suppress(RuntimeError):  # the process can have no more threads
            self._start(partial(self._try, *key))

    def _start(self, work: Callable[[], None]) -> None:
        # In a context of its own: an operation that connects again tells all sinks of it, and its
        # deadline and its link are not for this work.
        Context().run(self._workers.submit, work)

    def _try(self, uuid: UUID, device_alias: str) -> None:
        with self._lock:
            request = self._pending.get((uuid, device_alias))
        if request is None:
            return
        try:
            # a machine that has a device again that its guest had let go of was started anew
            if self._settle(uuid, device_alias, request.let_go) or request.let_go:
                self.forget(uuid, device_alias)
        except errors.InstanceNotFound:
            self.forget(uuid)
        except errors.HypervisorError as error:
            # a connection that broke is made again, and then all are looked at again
            _log.warning("a device stays in the definition of %s: %s", uuid, error)

    def _listen_again(self) -> None:
        with self._lock:
            if self._listening_again or not self._pending:
                return
            self._listening_again = True
        try:
            self._start(partial(_listen_again, weakref.ref(self)))
        except RuntimeError:  # the process can have no more threads
            self._listening_again = False

    def _hears(self) -> bool:
        """Try to hear events again; True: events come, or nobody needs them any more."""
        with self._lock:
            wanted = bool(self._pending) and not self._closed.is_set()
            self._listening_again = wanted
        if not wanted:
            return True
        try:
            with bounding(Deadline(_CONNECTING)):
                self._hub.ensure()
        except errors.HypervisorError:
            return False
        with self._lock:
            self._listening_again = False
        return True

    def close(self) -> None:
        """No more."""
        with self._lock:
            self._pending.clear()
        self._closed.set()
        self._hub.unsubscribe(self)
        self._workers.close()


def _listen_again(reference: weakref.ref[LateUnplugs]) -> None:
    """Until the hub is registered for events again: it tells all sinks with a Back. Between two
    attempts nothing here keeps a driver that its user has dropped."""
    backoff = Backoff(first=0.2, longest=5.0)
    while (late := reference()) is not None and not late._hears():
        closed = late._closed
        del late
        backoff.failed()
        closed.wait(backoff.delay)
