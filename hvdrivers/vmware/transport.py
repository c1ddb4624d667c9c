"""HTTPS to the server: one pool of connections for SOAP calls and datastore transfers.

A request that was never sent raises NotSent and may be sent again. One whose reply was lost raises
ReplyLost: it may have taken effect.
"""

from __future__ import annotations

import hashlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from typing import Protocol

from hvdrivers.contract import errors
from hvdrivers.driverkit import NotSent, ReplyLost
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.hints import CA_FILE
from hvdrivers.vmware.config import VmwareConfig


class Readable(Protocol):
    """The body of a transfer. ``seek(0)`` begins it again when it must be sent twice."""

    def read(self, count: int = -1, /) -> bytes:
        """The next bytes; none at the end."""

    def seek(self, offset: int, /) -> int:
        """Go to a place."""


class Sink(Protocol):
    """Where the body of a large answer goes."""

    def write(self, data: bytes, /) -> object:
        """The next bytes. An exception ends the transfer."""

    def begin(self) -> object:
        """The answer comes from its beginning: forget what came before."""


Body = bytes | Readable | None
_CHUNK = 1 << 20
"""Bytes of a transfer that are read and sent at once. http.client's own 8 KiB cost more time than
the encryption."""
_GRACE = 0.2
"""Seconds that a request may take beyond the deadline: the driver shall see the deadline pass, and
not a lost reply."""


@dataclass(frozen=True)
class Request:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body = None
    timeout: float | None = None
    """Seconds that the server may take; None: the configured ones."""
    sink: Sink | None = None
    """Takes the body of an answer of status 200, which is empty in the reply then."""


@dataclass(frozen=True)
class Reply:
    """What the server answered, read to its end. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Connections to one server. Thread-safe."""

    def __init__(self, config: VmwareConfig) -> None:
        self._config = config
        self._context = _tls(config)
        self._lock = threading.Lock()
        self._idle: list[HTTPConnection] = []
        self._busy: set[HTTPConnection] = set()
        self._closed = False

    def send(self, request: Request) -> Reply:
        """Send a request and read the reply.

        Raises:
            NotSent: the request was never sent.
            ConnectionFailed: no connection can be made.
            OperationTimeout: the deadline had passed before it was sent.
            ReplyLost: it was sent and no reply came.
        """
        connection = self._take(self._seconds(request.timeout))
        until = time.monotonic() + current_deadline().left + _GRACE
        sent = False
        try:
            headers = dict(request.headers)
            connection.request(request.method, request.path, body=request.body, headers=headers)
            sent = True
            # an answer that ends its connection holds the socket itself
            with connection.getresponse() as response:
                content = _content(response, request.sink, until)
        except _Stopped as stopped:
            self._discard(connection)
            raise stopped.error from None
        except (OSError, HTTPException, ValueError) as error:
            # ValueError: what http.client raises when its socket was closed by another thread
            self._discard(connection)
            self.drop()  # the others were made to the same server
            if sent:
                raise ReplyLost(_words(error), retryable=True) from error
            raise NotSent(_words(error), retryable=True) from error
        except BaseException:
            self._discard(connection)
            raise
        self._give_back(connection)
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, content)

    def _seconds(self, timeout: float | None) -> float:
        deadline = current_deadline()
        deadline.check("the next request was sent")
        return min(timeout or self._config.request_timeout, deadline.left + _GRACE)

    def _take(self, seconds: float) -> HTTPConnection:
        while True:
            with self._lock:
                if self._closed:
                    raise errors.ConnectionFailed("the driver has been closed", retryable=False)
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self._connect(seconds)
            elif connection.sock is None or _has_ended(connection.sock):
                connection.close()
                continue
            with self._lock:
                self._busy.add(connection)
            connection.sock.settimeout(seconds)
            return connection

    def _connect(self, seconds: float) -> HTTPConnection:
        config = self._config
        connection = HTTPSConnection(
            config.host, config.port, timeout=seconds, context=self._context, blocksize=_CHUNK
        )
        try:
            connection.connect()
            self._check_thumbprint(connection)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise errors.ConnectionFailed(
                f"the server's certificate is not trusted: {error.verify_message}",
                hint="give ca_file= or thumbprint=",
                retryable=False,
            ) from error
        except OSError as error:
            connection.close()
            raise errors.ConnectionFailed(
                f"the server does not answer: {_words(error)}", retryable=True
            ) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_thumbprint(self, connection: HTTPConnection) -> None:
        wanted = self._config.thumbprint
        if wanted is None:
            return
        sock = connection.sock
        certificate = (
            sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
        )
        found = hashlib.sha256(certificate or b"").hexdigest()
        if found != wanted:
            raise errors.ConnectionFailed(
                f"the server's certificate has the thumbprint {found}, not the one given",
                hint="if the certificate was renewed, give its new thumbprint",
                retryable=False,
            )

    def _discard(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def _give_back(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
            keep = (
                not self._closed
                and connection.sock is not None
                and len(self._idle) < self._config.connections
            )
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()

    def drop(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def cut(self) -> None:
        """Shut the sockets of all connections, idle and busy, as a broken network does."""
        with self._lock:
            connections = [*self._idle, *self._busy]
        for connection in connections:
            sock = connection.sock
            if sock is not None:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the server has closed it already

    def close(self) -> None:
        """Close for good. A request that waits for its reply is cut."""
        with self._lock:
            self._closed = True
        self.cut()
        self.drop()


class _Stopped(Exception):
    """A sink has raised; what it raised is not the connection's."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def _content(response: HTTPResponse, sink: Sink | None, until: float) -> bytes:
    if sink is None or response.status != 200:
        return b"".join(_pieces(response, until))
    try:
        sink.begin()
    except Exception as error:
        raise _Stopped(error) from error
    for data in _chunks(_pieces(response, until)):
        try:
            sink.write(data)
        except Exception as error:
            raise _Stopped(error) from error
    return b""


def _chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Larger pieces: what comes at once is as much as one TLS record holds."""
    waiting: list[bytes] = []
    size = 0
    for data in pieces:
        waiting.append(data)
        size += len(data)
        if size >= _CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _pieces(response: HTTPResponse, until: float) -> Iterator[bytes]:
    """An answer as it comes. The timeout of a socket bounds each wait for a byte, not all of them
    together; and http.client does not say that less has come than was promised."""
    while data := response.read1(_CHUNK):
        yield data
        if time.monotonic() > until:
            raise TimeoutError("the answer did not come to its end in time")
    if response.length:
        raise IncompleteRead(b"", response.length)


def _has_ended(sock: socket.socket) -> bool:
    """Whether the server has closed an idle connection: it has nothing to say on one that lives.
    A request on a closed one would count as sent, with its reply lost."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _tls(config: VmwareConfig) -> ssl.SSLContext:
    if config.thumbprint is not None or not config.verify_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except OSError as error:
        raise errors.InvalidRequest(
            f"ca_file cannot be read: {_words(error)}", hint=CA_FILE
        ) from error


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
