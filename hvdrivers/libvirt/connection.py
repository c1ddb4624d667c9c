"""The connection to one libvirt daemon, and the seam through which every remote call passes.

Nothing else in this package touches a libvirt object directly: ``Connection.remote`` hands out
proxies (``Remote``) that send each method through ``Connection.call``. There, and only there,

* calls are counted (``counting()``), which is how the budgets are tested;
* a test may cut a call before or after it is sent (``seam``);
* libvirt's errors become the contract's, and a call that was under way when the connection broke
  becomes OutcomeUnknown if it could have changed something, ConnectionFailed if it could not.

A connection that is found dead is replaced at the next call. Libvirt's keepalive finds that out,
and needs an event loop: one thread of the process runs libvirt's own.
"""

from __future__ import annotations

import functools
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.errors import translate, translate_opening
from hvdrivers.workers import Workers

_T = TypeVar("_T")

Seam = Callable[[str, Callable[[], Any]], Any]
"""Called with the name of a remote call (``Domain.create``) and the call itself."""

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
}

# Answered by the client library from what it has, without a message to the daemon.
_LOCAL = frozenset({"name", "UUIDString", "UUID", "ID", "key", "connect", "isAlive", "newStream"})
# Messages of a stream that nobody answers one by one; finish() has the answer.
_STREAM = frozenset({"send", "sendHole", "recv", "recvAll"})
_READ = re.compile(
    r"(lookup|list|get|is|has|info|state|XMLDesc|path|download|recv|managedSaveGetXMLDesc"
    r"|(storageVol|storagePool|network|interface|nodeDevice|secret)Lookup|domainEvent)"
)
"""Methods that change nothing, by the beginning of their name."""
_MOST_ATTEMPTS = 4
"""Attempts to connect that may hang at the same time."""

_loop_lock = threading.Lock()
_loop_thread: threading.Thread | None = None


def _run_event_loop() -> None:
    while True:
        # an error of one round (a descriptor closed in between) must not end all events
        with suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()


def ensure_event_loop() -> None:
    """Start libvirt's event loop, once a process: libvirt has exactly one, and it must be there
    before the first connection. It is a daemon thread and stays until the process ends."""
    global _loop_thread  # noqa: PLW0603 - libvirt's loop is itself global to the process
    with _loop_lock:
        if _loop_thread is None:
            libvirt.virEventRegisterDefaultImpl()
            libvirt.registerErrorHandler(lambda _context, _error: None, None)  # no prints
            _loop_thread = threading.Thread(
                target=_run_event_loop, name="hvdrivers-libvirt-events", daemon=True
            )
            _loop_thread.start()


class Remote:
    """A libvirt object whose remote methods go through the seam."""

    __slots__ = ("_connection", "_kind", "_object")

    def __init__(self, connection: Connection, wrapped: Any) -> None:
        self._connection = connection
        self._object = wrapped
        self._kind = _KINDS[type(wrapped)]

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._object, name)
        if name in _LOCAL:
            return lambda *args: self._connection.wrap(method(*args))
        return functools.partial(self._connection.call, f"{self._kind}.{name}", method)

    def __repr__(self) -> str:
        return f"<Remote {self._kind}>"


class _Session:
    """One open connection, and what has been read through it."""

    def __init__(self, connect: Any) -> None:
        self.connect = connect
        self.facts: dict[str, Any] = {}
        self.reading = threading.RLock()
        """Held while a fact is read: so that threads that need the same one ask once."""
        self.first_to_know = threading.Lock()
        """Taken, for good, by whoever first sees that the connection is lost."""


class Connection:
    """One host. Thread-safe."""

    def __init__(self, config: LibvirtConfig) -> None:
        self.config = config
        self.seam: Seam | None = None
        self.on_open: list[Callable[[Remote], None]] = []
        """Called with each new connection, to register callbacks on it."""
        self.on_lost: list[Callable[[], None]] = []
        """Called once for each connection that has been lost: in libvirt's event thread, or in
        the thread that found it dead."""
        self.on_close: list[Callable[[Any], None]] = []
        """Called with the raw connection before it is closed, to take callbacks off it."""
        self._lock = threading.RLock()
        self._session: _Session | None = None
        self._closed = False
        self._failures = 0
        self._failure: errors.HypervisorError | None = None
        self._attempts: list[Future[Any]] = []
        self._counters: list[Counter[str]] = []
        self._counting = threading.Lock()
        self._workers = Workers("hvdrivers-libvirt-open", keep_idle=0)

    @property
    def remote(self) -> Remote:
        """The live connection, made again if it was lost."""
        return Remote(self, self._live().connect)

    def _live(self) -> _Session:
        failures = self._failures
        with self._lock:
            if self._closed:
                raise errors.ConnectionFailed("the connection has been closed", retryable=False)
            if self._session is not None and _alive(self._session.connect):
                return self._session
            if self._failure is not None and self._failures != failures:
                # tried while we waited for the lock: with a hundred threads and a dead host the
                # last one would otherwise wait for a hundred attempts
                raise _again(self._failure)
            self._drop()
            try:
                self._session = session = _Session(self._open())
                self._watch(session)
            except errors.HypervisorError as error:
                self._failures += 1
                self._failure = error
                raise
            self._failure = None
            return session

    def _watch(self, session: _Session) -> None:
        """Keepalive and callbacks. A connection without them would miss events: none then."""
        connect = session.connect
        try:
            with suppress(libvirt.libvirtError):  # local test drivers have no keepalive
                connect.setKeepAlive(self.config.keepalive_interval, self.config.keepalive_count)
            with suppress(libvirt.libvirtError):
                connect.registerCloseCallback(lambda *_: self._lost(session), None)
            remote = Remote(self, connect)
            for callback in self.on_open:
                callback(remote)
        except BaseException:
            self._drop()
            raise

    def fact(self, key: str, read: Callable[[Remote], _T]) -> _T:
        """Something about the host that does not change while one connection lasts, read once."""
        session = self._live()
        facts = session.facts
        if key not in facts:
            with session.reading:
                if key not in facts:
                    facts[key] = read(Remote(self, session.connect))
        return cast(_T, facts[key])

    def _open(self) -> Any:
        ensure_event_loop()
        # open() blocks without any limit on a host that accepts and never answers
        attempt = self._attempt()
        try:
            connect = attempt.result(self.config.connect_timeout)
        except TimeoutError:
            raise errors.ConnectionFailed(
                f"the host did not answer within {self.config.connect_timeout:g} seconds"
            ) from None
        except libvirt.libvirtError as error:
            self._attempts.remove(attempt)
            raise translate_opening(error) from error
        self._attempts.remove(attempt)
        return connect

    def _attempt(self) -> Future[Any]:
        """A new attempt, or an earlier one: each that hangs keeps a thread, and whoever retries
        for a day must not have a thousand of them."""
        finished = [each for each in self._attempts if each.done()]
        for late in finished:
            if late.exception() is None and _alive(late.result()):
                return late
            self._attempts.remove(late)
        if len(self._attempts) >= _MOST_ATTEMPTS:
            return self._attempts[0]
        attempt = self._workers.submit(self._open_blocking)
        self._attempts.append(attempt)
        return attempt

    def _open_blocking(self) -> Any:
        def credentials(wanted: list[list[Any]], _opaque: object) -> int:
            for each in wanted:
                if each[0] in (libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_USERNAME):
                    each[4] = self.config.username or ""
                elif each[0] in (libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT):
                    secret = self.config.password
                    each[4] = secret.get_secret_value() if secret else ""
            return 0

        kinds = [
            libvirt.VIR_CRED_AUTHNAME,
            libvirt.VIR_CRED_USERNAME,
            libvirt.VIR_CRED_PASSPHRASE,
            libvirt.VIR_CRED_NOECHOPROMPT,
        ]
        return libvirt.openAuth(self.config.uri, [kinds, credentials, None], 0)

    def _lost(self, session: _Session) -> None:
        if session.first_to_know.acquire(blocking=False):
            for callback in self.on_lost:
                callback()

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        for callback in self.on_close:
            callback(session.connect)
        with suppress(libvirt.libvirtError):
            session.connect.unregisterCloseCallback()
        with suppress(libvirt.libvirtError):
            session.connect.close()
        # a caller may find a connection dead before libvirt's event thread does
        self._lost(session)

    def close(self) -> None:
        """Close for good. Twice is allowed."""
        with self._lock:
            self._closed = True
            self._drop()
            attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            attempt.add_done_callback(_close_late)
        self._workers.close()

    def call(self, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One remote call."""
        plain = [arg._object if isinstance(arg, Remote) else arg for arg in args]
        owner = getattr(method, "__self__", None)
        connect = getattr(owner, "_conn", owner)

        def send() -> Any:
            if not _alive(connect):
                raise errors.ConnectionFailed(f"the connection broke before {name} was sent")
            return method(*plain, **kwargs)

        if name.partition(".")[2] not in _STREAM:
            with self._counting:
                for counter in self._counters:
                    counter[name] += 1
        try:
            result = self.seam(name, send) if self.seam is not None else send()
        except libvirt.libvirtError as error:
            raise self._translated(name, connect, error) from error
        return self.wrap(result)

    def _translated(
        self, name: str, connect: Any, error: libvirt.libvirtError
    ) -> errors.HypervisorError:
        translated = translate(error)
        kind, _, method = name.partition(".")
        # the object's own connection: there may be a new and living one by now
        if not _alive(connect):
            reason = f"the connection broke during {name}: {translated.message}"
            cls = errors.ConnectionFailed if _READ.match(method) else errors.OutcomeUnknown
            return cls(reason, vendor_code=translated.vendor_code)
        session = self._session
        if session is not None and _pool_has_gone(kind, method, translated.vendor_code):
            # somebody stopped it, or made another of that name: look for it at the next call
            session.facts.clear()
            return errors.HypervisorFault(
                translated.message,
                vendor_code=translated.vendor_code,
                hint="the storage pool was stopped or replaced; call again",
                retryable=True,
            )
        return translated

    def wrap(self, value: Any) -> Any:
        """Put proxies around libvirt objects in a result."""
        if type(value) in _KINDS:
            return Remote(self, value)
        if isinstance(value, list):
            return [self.wrap(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self.wrap(item) for item in value)
        return value

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Count the remote calls made meanwhile, by name, in all threads."""
        counter: Counter[str] = Counter()
        with self._counting:
            self._counters.append(counter)
        try:
            yield counter
        finally:
            with self._counting:
                # by identity: an empty Counter equals any other empty one
                self._counters = [each for each in self._counters if each is not counter]


def _alive(connect: Any) -> bool:
    """Whether the connection's socket is open, as far as the client library knows: no message."""
    try:
        return bool(connect.isAlive())
    except libvirt.libvirtError:
        return False


def _again(error: errors.HypervisorError) -> errors.HypervisorError:
    return type(error)(
        error.message,
        vendor_code=error.vendor_code,
        hint=error.hint,
        retryable=error.retryable,
    )


def _pool_has_gone(kind: str, method: str, code: str | None) -> bool:
    if code == "VIR_ERR_NO_STORAGE_POOL":
        return kind in {"StoragePool", "StorageVol"}
    # "not active"; but create() of a pool that is active has the same code
    return code == "VIR_ERR_OPERATION_INVALID" and kind == "StoragePool" and method != "create"


def _close_late(future: Future[Any]) -> None:
    """A connection that came after nobody waited for it any more."""
    with suppress(libvirt.libvirtError):
        future.result().close()
