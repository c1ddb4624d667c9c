"""Requests to addresses that the server gives: files of a guest, which are at an ESXi host.

The address is its own permission, so no session goes along. The certificate of the host is verified
as that of the server is. Where the server's is pinned by its thumbprint, the host's must be the one
that the server has of it.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

from hvdrivers.contract import errors
from hvdrivers.vmware.reader import Reader
from hvdrivers.vmware.session import Session, by_chance
from hvdrivers.vmware.transport import Reply, Request, Sink, Transport

_CERTIFICATE = "config.certificate"
_ANY_HOST = "*"
"""What stands in an address for the server that was asked (``FileTransferInformation.url``)."""


class Elsewhere:
    """Connections to hosts of the server. Thread-safe."""

    def __init__(self, session: Session, reader: Reader) -> None:
        self._session = session
        self._reader = reader
        self._lock = threading.Lock()
        self._transports: dict[tuple[str, int], Transport] = {}

    def send(
        self,
        method: str,
        url: str,
        *,
        host: Any,
        body: bytes | None = None,
        sink: Sink | None = None,
    ) -> Reply:
        """One request; 1 read before the first one to a host, if the server's thumbprint is given.

        Args:
            host: the managed object of the ESXi host, whose certificate the server knows.

        Raises:
            ConnectionFailed: the host cannot be reached.
        """
        parts = urlsplit(url)
        path = parts.path or "/"
        if parts.query:
            path = f"{path}?{parts.query}"
        transport = self._transport(parts.hostname or _ANY_HOST, parts.port or 443, host)
        headers = {}
        if body is not None:
            headers["Content-Type"] = "application/octet-stream"
            headers["Content-Length"] = str(len(body))
        try:
            return self._session.elsewhere(
                transport, Request(method, path, headers, body, sink=sink)
            )
        except errors.ConnectionFailed as error:
            if error.retryable and transport is not self._session.transport:
                error.hint = (
                    f"files of a guest go over {parts.hostname}, port {parts.port or 443}, the"
                    " host that runs it: this machine must reach it"
                )
            raise

    def _transport(self, name: str, port: int, host: Any) -> Transport:
        config = self._session.config
        if name == _ANY_HOST or (name, port) == (config.host.lower(), config.port):
            return self._session.transport
        with self._lock:
            found = self._transports.get((name, port))
        if found is not None:
            return found
        changes: dict[str, Any] = {"host": name, "port": port}
        if config.thumbprint is not None:
            changes["thumbprint"] = self._thumbprint(host)
        made = Transport(config.model_copy(update=changes))
        with self._lock:
            return self._transports.setdefault((name, port), made)

    def _thumbprint(self, host: Any) -> str:
        """The thumbprint of a host's certificate, of which the server has a copy. 1 call."""
        with by_chance():  # whether this is the first file of a guest on that host
            octets = self._reader.one(host, _CERTIFICATE).get(_CERTIFICATE) or ()
        try:
            der = ssl.PEM_cert_to_DER_cert(bytes(each & 0xFF for each in octets).decode().strip())
        except ValueError as error:
            raise errors.ConnectionFailed(
                "the server does not tell the certificate of the host that runs the machine",
                hint="give ca_file= instead of thumbprint=",
                retryable=False,
            ) from error
        return hashlib.sha256(der).hexdigest()

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            transports, self._transports = self._transports, {}
        for each in transports.values():
            each.close()
