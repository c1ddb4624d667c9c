"""Libvirt's events, inside this process: registered once a connection, given to whoever waits.

``event_streams.py`` builds the contract's streams on it; detach, unplug, shutdown and reboot wait
on it instead of asking again and again. All callbacks run in libvirt's one event thread, so they
only put things into queues.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, bounding, current_deadline, waitable
from hvdrivers.driverkit.hub import Hub, Listener
from hvdrivers.libvirt.errors import translate_opening
from hvdrivers.libvirt.identity import mark_in, rescue_in
from hvdrivers.libvirt.link import Link, NoAnswer, NotMade
from hvdrivers.libvirt.metadata import MARK_NAMESPACE, STATE_NAMESPACE
from hvdrivers.libvirt.session import Connection
from hvdrivers.models.state import InstanceState

_Callback = tuple[str, int]
"""Kind and number of what is registered for."""
_REGISTERING = 30.0
"""Seconds that the registration for events may take."""


@dataclass(frozen=True)
class Lifecycle:
    """VIR_DOMAIN_EVENT_ID_LIFECYCLE."""

    name: str
    uuid: UUID
    event: int
    detail: int


@dataclass(frozen=True)
class Reboot:
    """VIR_DOMAIN_EVENT_ID_REBOOT: the guest was reset, by itself or on request."""

    name: str
    uuid: UUID


@dataclass(frozen=True)
class AgentLeft:
    """VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: the guest's agent has closed its channel. It has ended,
    or its guest has begun anew: at the reset of its machine, or in the memory of a snapshot."""

    name: str
    uuid: UUID


@dataclass(frozen=True)
class Dropped:
    """A machine that was off is STOPPED now: its saved memory was thrown away, or its crash is
    forgotten (see ``power.py``)."""

    name: str
    uuid: UUID


@dataclass(frozen=True)
class Device:
    """A device was added, removed, or could not be removed; named by its alias."""

    name: str
    uuid: UUID
    kind: str
    alias: str


@dataclass(frozen=True)
class BackupEnded:
    """VIR_DOMAIN_EVENT_ID_JOB_COMPLETED of a backup: any client's. It does not tell whose."""

    name: str
    uuid: UUID
    success: bool
    message: str
    """QEMU's reason; empty if it gave none, and for a job that was stopped."""


@dataclass(frozen=True)
class Marked:
    """A client has set a mark into the sequence of the events (see ``backup_job.py``)."""

    name: str
    uuid: UUID
    mark: str


@dataclass(frozen=True)
class Adopted:
    """A machine of others has been adopted (see ``identity.py``)."""

    name: str
    """Its label."""
    uuid: UUID
    state: InstanceState
    """That it was in when it was adopted."""


@dataclass(frozen=True)
class Rescued:
    """The mark of a rescue has been set on an adopted machine, or taken away."""

    name: str
    """The role of the rescue disk."""
    uuid: UUID
    begins: bool


RawEvent = (
    Lifecycle | Reboot | AgentLeft | Dropped | Device | BackupEnded | Marked | Adopted | Rescued
)


class EventHub(Hub[RawEvent]):
    """One per driver object. It has a link for itself, on which no other call is made: opening it
    costs 10 calls, in the background where nobody waits for an event."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._opening = threading.Lock()
        self._link: Link | None = None

    def prepare(self) -> None:
        """Begin to register for events, in the background."""

        def ensure() -> None:
            # whoever needs events tries again, and gets the error
            with suppress(errors.HypervisorError), bounding(Deadline(_REGISTERING)):
                self.ensure()

        with suppress(RuntimeError):
            self._connection.links.workers.submit(ensure)

    def ensure(self) -> None:
        """Be registered for events. No call, unless the connection was lost.

        Raises:
            ConnectionFailed: the host cannot be reached.
            OperationTimeout: the deadline passed.
        """
        if self._listens():
            return
        deadline = current_deadline()
        if not self._opening.acquire(timeout=waitable(deadline.left)):
            raise errors.OperationTimeout("the deadline passed; nothing was sent")
        try:
            if not self._listens():
                self._drop()
                self._link = self._registered(deadline.at)
                self.back()
        finally:
            self._opening.release()

    def _listens(self) -> bool:
        link = self._link
        return link is not None and link.alive

    def _registered(self, end: float) -> Link:
        """A link with its callbacks. One without all of them would miss events: none then."""
        links = self._connection.links
        link = links.lease(end)
        links.keep(link)
        ids: list[_Callback] = []
        link.before_close = partial(_deregister, ids)
        # what libvirt holds must not keep a driver that its user has dropped
        lost = partial(_call, weakref.WeakMethod(self._lost))
        callbacks = {
            event: partial(_call, weakref.WeakMethod(method))
            for event, method in self._callbacks().items()
        }
        try:
            on_secret = partial(_call, weakref.WeakMethod(self._on_secret))
            register = partial(_register, link.connect, callbacks, on_secret, lost, ids)
            link.run(register, min(end, time.monotonic() + _REGISTERING), links.notify)
        except BaseException as error:
            links.discard(link)
            if isinstance(error, NotMade | NoAnswer):
                raise errors.OperationTimeout("the host did not answer in time") from None
            if isinstance(error, libvirt.libvirtError):
                raise translate_opening(error) from error
            raise
        return link

    def _callbacks(self) -> dict[int, Callable[..., None]]:
        return {
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: self._on_lifecycle,
            libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: self._on_reboot,
            libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: self._on_agent,
            libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: self._on_metadata,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: self._on_added,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: self._on_removed,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: self._on_failed,
            libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED: self._on_job,
        }

    def _lost(self, *_: Any) -> None:
        self.lost()

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._connection.links.discard(link)

    def _on_lifecycle(self, _c: Any, domain: Any, event: int, detail: int, _o: Any) -> None:
        self.put(Lifecycle(domain.name(), UUID(domain.UUIDString()), event, detail))

    def _on_reboot(self, _c: Any, domain: Any, _o: Any) -> None:
        self.put(Reboot(domain.name(), UUID(domain.UUIDString())))

    def _on_agent(self, _c: Any, domain: Any, state: int, _reason: int, _o: Any) -> None:
        if state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_DISCONNECTED:
            self.put(AgentLeft(domain.name(), UUID(domain.UUIDString())))

    def _on_metadata(
        self, _c: Any, domain: Any, _kind: int, namespace: str | None, _o: Any
    ) -> None:
        if namespace is None:
            return  # a title or a description
        if namespace == STATE_NAMESPACE:
            self.put(Dropped(domain.name(), UUID(domain.UUIDString())))
        elif namespace.startswith(MARK_NAMESPACE):
            mark = namespace.removeprefix(MARK_NAMESPACE)
            self.put(Marked(domain.name(), UUID(domain.UUIDString()), mark))

    def _on_job(self, _c: Any, domain: Any, found: Mapping[str, Any], _o: Any) -> None:
        if found.get(libvirt.VIR_DOMAIN_JOB_OPERATION) == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
            success = bool(found.get(libvirt.VIR_DOMAIN_JOB_SUCCESS))
            message = str(found.get(libvirt.VIR_DOMAIN_JOB_ERRMSG, ""))
            self.put(BackupEnded(domain.name(), UUID(domain.UUIDString()), success, message))

    def _on_secret(self, _c: Any, secret: Any, event: int, _detail: int, _o: Any) -> None:
        if secret.usageType() != libvirt.VIR_SECRET_USAGE_TYPE_TLS:
            return  # a volume's, whose id may be any text
        usage = str(secret.usageID() or "")
        rescue = rescue_in(usage)
        if rescue is not None:
            uuid, role = rescue
            self.put(Rescued(role, uuid, event == libvirt.VIR_SECRET_EVENT_DEFINED))
            return
        mark = mark_in(usage)
        # a later number is that of a rename()
        if mark is not None and mark.number == 1 and event == libvirt.VIR_SECRET_EVENT_DEFINED:
            self.put(Adopted(mark.label, mark.uuid, mark.state))

    def _on_added(self, _c: Any, domain: Any, alias: str, _o: Any) -> None:
        self.put(Device(domain.name(), UUID(domain.UUIDString()), "added", alias))

    def _on_removed(self, _c: Any, domain: Any, alias: str, _o: Any) -> None:
        self.put(Device(domain.name(), UUID(domain.UUIDString()), "removed", alias))

    def _on_failed(self, _c: Any, domain: Any, alias: str, _o: Any) -> None:
        self.put(Device(domain.name(), UUID(domain.UUIDString()), "removal-failed", alias))

    @contextmanager
    def listening(self) -> Iterator[Listener[RawEvent]]:
        """As the hub of the kit, of events that are registered for.

        Raises:
            ConnectionFailed: the host cannot be reached.
        """
        self.ensure()
        with super().listening() as listener:
            yield listener


def _register(
    connect: Any,
    callbacks: Mapping[int, Callable[..., None]],
    on_secret: Callable[..., None],
    lost: Callable[..., None],
    ids: list[_Callback],
) -> None:
    # a hypervisor without one of these events, or a connection without a daemon (libvirt's test
    # driver has both) has no such thing happening to it either
    with suppress(libvirt.libvirtError):
        connect.registerCloseCallback(lost, None)
    wanted = [
        *((connect.domainEventRegisterAny, "domain", *each) for each in callbacks.items()),
        (
            connect.secretEventRegisterAny,
            "secret",
            libvirt.VIR_SECRET_EVENT_ID_LIFECYCLE,
            on_secret,
        ),
    ]
    for registered, kind, event, callback in wanted:
        try:
            ids.append((kind, registered(None, event, callback, None)))
        except libvirt.libvirtError as error:
            if error.get_error_code() not in _NO_EVENT:
                raise


_NO_EVENT = {
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
}


def _deregister(ids: list[_Callback], connect: Any) -> None:
    of_secrets = {"secret": connect.secretEventDeregisterAny}
    for kind, number in ids:
        with suppress(libvirt.libvirtError):
            of_secrets.get(kind, connect.domainEventDeregisterAny)(number)
    with suppress(libvirt.libvirtError):
        connect.unregisterCloseCallback()


def _call(method: weakref.WeakMethod[Callable[..., None]], *args: Any) -> None:
    target = method()
    if target is not None:
        target(*args)
