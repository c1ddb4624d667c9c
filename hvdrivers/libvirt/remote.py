"""Libvirt's objects, as the driver has them: each call of one goes through ``Connection.call``.

Here stands what there is to know about single calls: which of them change nothing, and which are no
messages to the daemon.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

import libvirt

from hvdrivers.libvirt.link import Link

_KINDS = {
    libvirt.virConnect: "Connect",
    libvirt.virDomain: "Domain",
    libvirt.virStoragePool: "StoragePool",
    libvirt.virStorageVol: "StorageVol",
    libvirt.virStream: "Stream",
    libvirt.virNetwork: "Network",
    libvirt.virInterface: "Interface",
    libvirt.virNodeDevice: "NodeDevice",
    libvirt.virSecret: "Secret",
    libvirt.virDomainSnapshot: "DomainSnapshot",
    libvirt.virDomainCheckpoint: "DomainCheckpoint",
}

# Answered by the client library from what it has, without a message to the daemon.
_LOCAL = frozenset({"name", "UUIDString", "UUID", "ID", "key", "connect", "isAlive", "newStream"})
_LOCAL |= {"usageID", "usageType", "getName"}
# Messages of a stream that nobody answers one by one; finish() has the answer.
_STREAM = frozenset({"send", "sendHole", "recv", "recvAll", "recvFlags", "recvHole"})
_READ = re.compile(
    r"(lookup|list|get|is|has|info|state|XMLDesc|path|download|recv|managedSaveGetXMLDesc|screenshot"
    r"|(storageVol|storagePool|network|interface|nodeDevice|secret)Lookup|domainEvent"
    r"|interfaceAddresses|blockInfo|blockJobInfo|jobStats|controlInfo|backupGetXMLDesc|snapshotNum"
    r"|snapshotCurrent|value)"
)
"""Methods that change nothing, by the beginning of their name."""
_NO_MATTER = frozenset(
    {"Connect.storagePoolDefineXML"}
    | {f"StoragePool.{name}" for name in ("refresh", "create", "setAutostart")}
)
"""Calls after which an operation that failed has still changed nothing that a caller sees."""


class Caller(Protocol):
    """What makes the calls: the connection."""

    def call(
        self, link: Link, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """One remote call."""


class Remote:
    """A libvirt object whose remote methods go through the seam."""

    __slots__ = ("_connection", "_kind", "_link", "_object")

    def __init__(self, connection: Caller, link: Link, wrapped: Any) -> None:
        self._connection = connection
        self._link = link
        self._object = wrapped
        self._kind = _KINDS[type(wrapped)]

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._object, name)
        if name in _LOCAL:
            return functools.partial(self._local, method)
        call = self._connection.call
        return functools.partial(call, self._link, f"{self._kind}.{name}", method)

    def _local(self, method: Callable[..., Any], *args: Any) -> Any:
        call = functools.partial(method, *args)
        # other objects than the connection keep what they need of it
        result = self._link.locally(call) if self._kind == "Connect" else call()
        return wrapped(self._connection, self._link, result)

    def __repr__(self) -> str:
        return f"<Remote {self._kind}>"


class Bulk:
    """Domains with their statistics, as many as a host has. Only those that need it get a proxy."""

    __slots__ = ("_connection", "_link", "_rows")

    def __init__(self, of: Remote, rows: list[tuple[Any, dict[str, Any]]]) -> None:
        self._connection, self._link, self._rows = of._connection, of._link, rows

    def rows(self) -> list[tuple[UUID, str, dict[str, Any]]]:
        """The UUID, the name and the statistics of each."""
        return [(_uuid(domain.UUID()), domain.name(), stats) for domain, stats in self._rows]

    def domain(self, number: int) -> Remote:
        """The domain of the row with this number."""
        return Remote(self._connection, self._link, self._rows[number][0])


@functools.lru_cache(16384)
def _uuid(value: bytes) -> UUID:
    # a list makes the UUID of each machine, mostly the same ones as before
    return UUID(bytes=value)


def statistics_of(remote: Remote, method: str, *args: object) -> Bulk:
    """``getAllDomainStats()`` or ``domainListGetStats()`` of a connection. One call."""
    ask = functools.partial(_in_bulk, remote, getattr(remote._object, method))
    found: Bulk = remote._connection.call(remote._link, f"Connect.{method}", ask, *args)
    return found


def _in_bulk(remote: Remote, ask: Callable[..., Any], *args: object) -> Bulk:
    return Bulk(remote, ask(*args))


def wrapped(connection: Caller, link: Link, value: Any) -> Any:
    """A result with proxies in the place of libvirt's objects."""
    if type(value) in _KINDS:
        return Remote(connection, link, value)
    if isinstance(value, list):
        return [wrapped(connection, link, item) for item in value]
    if isinstance(value, tuple):
        return tuple(wrapped(connection, link, item) for item in value)
    return value


def plain(value: Any) -> Any:
    """An argument with libvirt's objects in the place of their proxies."""
    if isinstance(value, Remote):
        return value._object
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def call_about(domain: Remote, name: str, function: Callable[..., Any], *args: object) -> Any:
    """A call of libvirt's that is a function, and no method of the domain.

    Args:
        name: what the seam sees, after ``Domain.``.
        function: gets the domain and the arguments.
    """
    call = functools.partial(function, domain._object)
    return domain._connection.call(domain._link, f"Domain.{name}", call, *args)


@functools.cache
def changes_nothing(method: str) -> bool:
    """Whether a method reads, so that nobody misses its answer."""
    return _READ.match(method) is not None


def is_counted(method: str) -> bool:
    """Whether a method waits for an answer of its own; not so the messages of a stream."""
    return method not in _STREAM


def matters(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call has changed what a caller sees, if nothing follows it."""
    if name == "Domain.managedSaveDefineXML":
        # resume() marks saved memory as running, and nobody sees that; otherwise it is the
        # definition that comes back with the memory
        return bool(args[-1] != libvirt.VIR_DOMAIN_SAVE_RUNNING)
    return name not in _NO_MATTER


def pool_has_gone(kind: str, method: str, code: str | None) -> bool:
    """Whether a refusal says that a storage pool was stopped, or is another one now."""
    if code == "VIR_ERR_NO_STORAGE_POOL":
        return kind in {"StoragePool", "StorageVol"}
    # "not active"; but create() of a pool that is active has the same code
    return code == "VIR_ERR_OPERATION_INVALID" and kind == "StoragePool" and method != "create"
