"""HTTP below the simulated WS-Management service: connections, TLS, and what is no SOAP."""

from __future__ import annotations

import logging
import socket
import ssl
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from hvdrivers.hyperv.simulator.wsman_auth import Authentication, Unauthorised

_log = logging.getLogger("hvdrivers.hyperv.simulator")
_LINE = 65536
"""Bytes of the longest line of a header."""
_HEADERS = 100


class Cut(Exception):
    """Close the connection, without an answer."""


class Raw(Exception):
    """An answer that is none of WS-Management's."""

    def __init__(self, status: int, body: bytes = b"") -> None:
        super().__init__(str(status))
        self.status = status
        self.body = body


class Machine(Protocol):
    """What the service runs on."""

    @property
    def up(self) -> bool:
        """Whether it is switched on."""


class Service(Protocol):
    """What answers the messages that come by HTTP."""

    @property
    def host(self) -> Machine: ...

    def opened(self, connection: socket.socket) -> None:
        """A client has connected."""

    def closed(self, connection: socket.socket) -> None:
        """It has gone, or is sent away."""

    def authentication(self, connection: socket.socket) -> Authentication:
        """The state of a new connection."""

    def answer(self, data: bytes, user: str) -> tuple[int, bytes]:
        """Status and body for a message."""


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    tls: ssl.SSLContext | None = None

    def __init__(self, address: tuple[str, int], service: Service) -> None:
        self.service = service
        super().__init__(address, Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """A host that is down takes no connection."""
        return self.service.host.up

    def finish_request(self, request: Any, client_address: Any) -> None:
        # in the connection's own thread: a client that never ends its handshake stops no other
        if self.tls is not None:
            request.settimeout(30)
            request = self.tls.wrap_socket(request, server_side=True)
            request.settimeout(None)
        self.service.opened(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self.service.closed(request)
            with suppress(OSError):
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is the client's affair, and often the purpose."""
        _log.debug("a connection ended", exc_info=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Microsoft-HTTPAPI/2.0"
    sys_version = ""
    # One packet per answer, at once: a delayed acknowledgement costs 40 ms otherwise.
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Listener
    raw_requestline: bytes
    _who: Authentication
    """Of this connection."""

    def setup(self) -> None:
        super().setup()
        self._who = self.server.service.authentication(self.request)

    def parse_request(self) -> bool:
        """The line and the headers of a message. That of the base class reads headers as those of
        an e-mail, which takes longer than the rest of a message together."""
        self.close_connection = True
        self.requestline = self.raw_requestline.decode("latin-1").rstrip("\r\n")
        words = self.requestline.split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self.send_error(400, "Bad request line")
            return False
        self.command, self.path, self.request_version = words
        fields: dict[str, str] = {}
        while (line := self.rfile.readline(_LINE + 1)) not in {b"\r\n", b"\n", b""}:
            if len(line) > _LINE or len(fields) > _HEADERS:
                self.send_error(431)
                return False
            name, _, value = line.decode("latin-1").partition(":")
            fields[name.strip().lower()] = value.strip()
        self._fields = fields
        asked = fields.get("connection", "").lower()
        self.close_connection = asked == "close" or (
            words[2] == "HTTP/1.0" and asked != "keep-alive"
        )
        if fields.get("expect", "").lower() == "100-continue":
            return self.handle_expect_100()
        return True

    def do_POST(self) -> None:
        """Every message of WS-Management is one."""
        size = self._fields.get("content-length")
        if size is None or not size.isdigit():
            self._respond(411, b"")
            return
        data = self.rfile.read(int(size))
        try:
            self._who.identify(self._fields.get("authorization"))
            message, sealed = self._who.unseal(self._fields.get("content-type", ""), data)
            if not message:
                self._respond(200, b"")
                return
            if self.path.rstrip("/") != "/wsman":
                self._respond(404, b"")
                return
            status, body = self.server.service.answer(message, self._who.user or "")
        except Unauthorised as error:
            if not error.more:
                self._who.expire()
            self._respond(401, b"", challenges=error.challenges)
            return
        except Raw as raw:
            self._respond(raw.status, raw.body)
            return
        except Cut:
            self.close_connection = True
            with suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)
            return
        content_type = "application/soap+xml;charset=UTF-8"
        if sealed:
            content_type, body = self._who.seal(body)
        self._respond(status, body, content_type=content_type)

    def _respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "application/soap+xml;charset=UTF-8",
        challenges: tuple[str, ...] = (),
    ) -> None:
        self.send_response(status)
        for each in challenges:
            self.send_header("WWW-Authenticate", each)
        if body:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """The server is quiet."""
