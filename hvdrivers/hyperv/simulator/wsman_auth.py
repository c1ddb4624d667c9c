"""Who asks: Basic, NTLM with sealed messages, client certificates. State of one connection."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

BOUNDARY: Final = b"--Encrypted Boundary"
_PROTOCOL: Final = "application/HTTP-SPNEGO-session-encrypted"
_MUTUAL: Final = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"
_LENGTH = re.compile(rb"Length=(\d+)")

_environment_lock = threading.Lock()
"""pyspnego reads where its accounts are from the environment, which is global."""


class Unauthorised(Exception):
    """HTTP 401, with these challenges.

    Args:
        more: the handshake goes on: the connection keeps what it has agreed so far.
    """

    def __init__(self, *challenges: str, more: bool = False) -> None:
        super().__init__("401")
        self.challenges = challenges
        self.more = more


class Accounts:
    """The users of a host, by name without a domain."""

    def __init__(self, users: dict[str, str], machine: str) -> None:
        self._users = users
        self._folder = TemporaryDirectory(prefix="hvsim-accounts-")
        self.file = Path(self._folder.name) / "users"
        lines = [
            f"{domain}:{user}:{secret}"
            for user, secret in users.items()
            for domain in ("", machine, ".")
        ]
        self.file.write_text("\n".join(lines) + "\n")
        self.file.chmod(0o600)

    def check(self, user: str, password: str) -> bool:
        """Whether it is this user's password."""
        known = self._users.get(user.rpartition("\\")[2])
        return known is not None and hmac.compare_digest(known.encode(), password.encode())

    @contextmanager
    def visible(self) -> Iterator[None]:
        """Let pyspnego see the accounts."""
        with _environment_lock:
            before = os.environ.get("NTLM_USER_FILE")
            os.environ["NTLM_USER_FILE"] = str(self.file)
            try:
                yield
            finally:
                if before is None:
                    del os.environ["NTLM_USER_FILE"]
                else:
                    os.environ["NTLM_USER_FILE"] = before

    def close(self) -> None:
        """Forget them."""
        self._folder.cleanup()


class Authentication:
    """One connection's: NTLM authenticates a connection and not a request.

    Args:
        basic: whether Basic is allowed (``AllowUnencrypted`` or TLS, and ``Auth/Basic``).
        plain: whether an NTLM connection may send messages that are not sealed: under TLS.
    """

    def __init__(
        self, accounts: Accounts, *, basic: bool, ntlm: bool, plain: bool, certificate: str | None
    ) -> None:
        self._accounts = accounts
        self._basic = basic
        self._ntlm = ntlm
        self._plain = plain
        self._certificate = certificate
        self._context: Any = None
        self._scheme = "Negotiate"
        self.user: str | None = None

    def expire(self) -> None:
        """Forget who it is."""
        self._context = None
        self.user = None

    def identify(self, header: str | None) -> None:
        """Find out who asks.

        Raises:
            Unauthorised: nobody who may, or not yet.
        """
        if header is None:
            if self._context is not None and self._context.complete:
                return
            raise Unauthorised(*self._offers())
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "basic" and self._basic:
            self._check_basic(token)
        elif scheme.lower() in {"ntlm", "negotiate"} and self._ntlm:
            self._step(scheme, token)
        elif header == _MUTUAL and self._certificate is not None:
            self.user = self._certificate
        else:
            raise Unauthorised(*self._offers())

    def _offers(self) -> list[str]:
        offers = ["Negotiate"] if self._ntlm else []
        return offers + (['Basic realm="WSMAN"'] if self._basic else [])

    def _check_basic(self, token: str) -> None:
        try:
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise Unauthorised(*self._offers()) from None
        if not self._accounts.check(user, password):
            raise Unauthorised(*self._offers())
        self.user = user

    def _step(self, scheme: str, token: str) -> None:
        import spnego

        with self._accounts.visible():
            if self._context is None or self._context.complete:
                self.expire()
                self._context = spnego.server(
                    protocol="negotiate", options=spnego.NegotiateOptions.use_negotiate
                )
            try:
                answer = self._context.step(base64.b64decode(token))
            except Exception as error:
                self.expire()
                raise Unauthorised(*self._offers()) from error
        if not self._context.complete:
            encoded = base64.b64encode(answer or b"").decode()
            raise Unauthorised(f"{scheme} {encoded}", more=True)
        self.user = str(self._context.client_principal).rpartition("\\")[2]

    @property
    def sealed(self) -> bool:
        """Whether this connection's messages have to be sealed."""
        return self._context is not None and self._context.complete and not self._plain

    def unseal(self, content_type: str, data: bytes) -> tuple[bytes, bool]:
        """The message in a request, and whether it was sealed.

        Raises:
            Unauthorised: it is not, and has to be; or it was changed on the way.
        """
        if not content_type.startswith("multipart/encrypted"):
            if self.sealed and data:
                raise Unauthorised(*self._offers())
            return data, False
        parts = [part for part in data.split(BOUNDARY + b"\r\n") if part]
        found = _LENGTH.search(parts[0])
        payload = parts[1].removeprefix(b"\tContent-Type: application/octet-stream\r\n")
        payload = payload.removesuffix(BOUNDARY + b"--\r\n")
        size = struct.unpack("<i", payload[:4])[0]
        try:
            message = self._context.unwrap_winrm(payload[4 : 4 + size], payload[4 + size :])
        except Exception as error:
            self.expire()
            raise Unauthorised(*self._offers()) from error
        if found is None or int(found[1]) != len(message):
            raise Unauthorised(*self._offers())
        return bytes(message), True

    def seal(self, message: bytes) -> tuple[str, bytes]:
        """A response's content type and body."""
        sealed = self._context.wrap_winrm(message)
        body = (
            BOUNDARY + b"\r\n\tContent-Type: " + _PROTOCOL.encode() + b"\r\n"
            b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length="
            + str(len(message)).encode()
            + b"\r\n"
            + BOUNDARY
            + b"\r\n\tContent-Type: application/octet-stream\r\n"
            + struct.pack("<i", len(sealed.header))
            + sealed.header
            + sealed.data
            + BOUNDARY
            + b"--\r\n"
        )
        return f'multipart/encrypted;protocol="{_PROTOCOL}";boundary="Encrypted Boundary"', body
