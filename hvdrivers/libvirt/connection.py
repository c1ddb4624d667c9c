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
    r"(lookup|list|get|is|has|info|state|XMLDesc|path|download|managedSaveGetXMLDesc"
    r"|(storageVol|storagePool|network|interface)Lookup|domainEvent)"
)
"""Methods that change nothing, by the beginning of their name."""

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


class Connection:
    """One host. Thread-safe."""

    def __init__(self, config: LibvirtConfig) -> None:
        self.config = config
        self.seam: Seam | None = None
        self.on_open: list[Callable[[Remote], None]] = []
        """Called with each new connection, to register callbacks on it."""
        self.on_lost: list[Callable[[], None]] = []
        """Called, in libvirt's event thread, when a connection has been lost."""
        self.on_close: list[Callable[[Any], None]] = []
        """Called with the raw connection before it is closed, to take callbacks off it."""
        self._lock = threading.RLock()
        self._connect: Any = None
        self._closed = False
        self._counters: list[Counter[str]] = []
        self._facts: dict[str, Any] = {}
        self._workers = Workers("hvdrivers-libvirt-open", keep_idle=0)

    @property
    def remote(self) -> Remote:
        """The live connection, made again if it was lost."""
        with self._lock:
            if self._closed:
                raise errors.ConnectionFailed("the connection has been closed", retryable=False)
            if self._connect is None or not self._alive(self._connect):
                self._drop()
                self._connect = self._open()
                remote = Remote(self, self._connect)
                for callback in self.on_open:
                    callback(remote)
            return Remote(self, self._connect)

    def fact(self, key: str, read: Callable[[Remote], _T]) -> _T:
        """Something about the host that does not change while one connection lasts, read once."""
        remote = self.remote
        with self._lock:
            facts = self._facts
        if key not in facts:
            facts[key] = read(remote)
        return cast(_T, facts[key])

    @staticmethod
    def _alive(connect: Any) -> bool:
        try:
            return bool(connect.isAlive())
        except libvirt.libvirtError:
            return False

    def _open(self) -> Any:
        ensure_event_loop()
        # open() blocks without any limit on a host that accepts and never answers
        future = self._workers.submit(self._open_blocking)
        try:
            connect = future.result(self.config.connect_timeout)
        except TimeoutError:
            future.add_done_callback(_close_late)
            raise errors.ConnectionFailed(
                f"the host did not answer within {self.config.connect_timeout:g} seconds"
            ) from None
        except libvirt.libvirtError as error:
            raise translate_opening(error) from error
        with suppress(libvirt.libvirtError):  # local test drivers have no keepalive
            connect.setKeepAlive(self.config.keepalive_interval, self.config.keepalive_count)
        with suppress(libvirt.libvirtError):
            connect.registerCloseCallback(self._lost, None)
        return connect

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

    def _lost(self, _connect: Any, _reason: int, _opaque: Any) -> None:
        for callback in self.on_lost:
            callback()

    def _drop(self) -> None:
        connect, self._connect = self._connect, None
        self._facts = {}
        if connect is not None:
            for callback in self.on_close:
                callback(connect)
            with suppress(libvirt.libvirtError):
                connect.unregisterCloseCallback()
            with suppress(libvirt.libvirtError):
                connect.close()

    def close(self) -> None:
        """Close for good. Twice is allowed."""
        with self._lock:
            self._closed = True
            self._drop()
        self._workers.close()

    def call(self, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One remote call."""
        plain = [arg._object if isinstance(arg, Remote) else arg for arg in args]
        thunk = functools.partial(method, *plain, **kwargs)
        if name.partition(".")[2] not in _STREAM:
            for counter in self._counters:
                counter[name] += 1
        try:
            result = self.seam(name, thunk) if self.seam is not None else thunk()
        except libvirt.libvirtError as error:
            raise self._translated(name, error) from error
        return self.wrap(result)

    def _translated(self, name: str, error: libvirt.libvirtError) -> errors.HypervisorError:
        translated = translate(error)
        connect = self._connect
        if connect is not None and self._alive(connect):
            return translated
        reason = f"the connection broke during {name}: {translated.message}"
        if _READ.match(name.partition(".")[2]):
            return errors.ConnectionFailed(reason, vendor_code=translated.vendor_code)
        return errors.OutcomeUnknown(reason, vendor_code=translated.vendor_code)

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
        self._counters.append(counter)
        try:
            yield counter
        finally:
            # by identity: an empty Counter equals any other empty one
            self._counters = [each for each in self._counters if each is not counter]


def _close_late(future: Any) -> None:
    """A connection that came after nobody waited for it any more."""
    with suppress(Exception):
        future.result().close()
