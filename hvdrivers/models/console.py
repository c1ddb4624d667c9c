"""Consoles: the log, interactive access, pictures."""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime, SecretStr

from hvdrivers.models.base import Model


class ConsoleLog(Model):
    """The end of what the guest wrote to its serial console."""

    data: bytes
    """Raw bytes: escape sequences and broken UTF-8 are the guest's own."""
    truncated: bool
    """True if the hypervisor has more before ``data``."""

    @property
    def text(self) -> str:
        """``data`` as UTF-8, with what is not UTF-8 replaced."""
        return self.data.decode("utf-8", errors="replace")


class ConsoleKind(StrEnum):
    """Kinds of interactive console."""

    SERIAL = "serial"
    VNC = "vnc"
    SPICE = "spice"
    MKS = "mks"
    WEBMKS = "webmks"
    RDP = "rdp"


class ConsoleAccess(Model):
    """How to reach an interactive console.

    Its holder can use the console without further credentials. Do not keep it longer than needed.
    """

    kind: ConsoleKind
    host: str
    port: int | None = None
    tls_port: int | None = None
    path: str | None = None
    """Path of a WebSocket or socket; the RDP pre-connection blob."""
    ticket: SecretStr | None = None
    """Password or one-time ticket."""
    expires_at: AwareDatetime | None = None


class Screenshot(Model):
    """A picture of the screen."""

    data: bytes
    media_type: str
    """``image/png``, ``image/x-portable-pixmap``."""
