"""Consoles of fake machines."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.consoles import Consoles, InteractiveConsole, ScreenCapture
from hvdrivers.fake.base import FakeBase
from hvdrivers.models.console import ConsoleAccess, ConsoleKind, ConsoleLog, Screenshot

_PORTS = {
    ConsoleKind.SERIAL: 7000,
    ConsoleKind.VNC: 5900,
    ConsoleKind.SPICE: 5930,
    ConsoleKind.MKS: 902,
    ConsoleKind.WEBMKS: 443,
    ConsoleKind.RDP: 2179,
}
_TICKET_SECONDS = 120


class FakeConsoles(FakeBase, Consoles):
    """The consoles topic of Core."""

    def get_console_log(
        self, uuid: UUID, *, max_bytes: int = 65536, timeout: float | None = None
    ) -> ConsoleLog:
        """1 call."""
        with self.link.task("get_console_log", uuid, timeout) as task:
            return task.call("read-console", lambda: self._log(uuid, max_bytes), changes=False)

    def _log(self, uuid: UUID, max_bytes: int) -> ConsoleLog:
        log = bytes(self.machines.checked("get_console_log", uuid).console)
        return ConsoleLog(data=log[-max_bytes:], truncated=len(log) > max_bytes)


class FakeInteractiveConsole(FakeBase, InteractiveConsole):
    """Addresses and tickets. Nothing listens there."""

    @provides(
        Capability.CONSOLE_SERIAL,
        Capability.CONSOLE_VNC,
        Capability.CONSOLE_SPICE,
        Capability.CONSOLE_MKS,
        Capability.CONSOLE_WEBMKS,
        Capability.CONSOLE_RDP,
    )
    def get_console(
        self, uuid: UUID, kind: ConsoleKind, *, timeout: float | None = None
    ) -> ConsoleAccess:
        """1 call."""
        with self.link.task("get_console", uuid, timeout) as task:
            return task.call("open-console", lambda: self._open(uuid, kind, task.token))

    def _open(self, uuid: UUID, kind: ConsoleKind, token: int) -> ConsoleAccess:
        self.machines.checked("get_console", uuid)
        return ConsoleAccess(
            kind=kind,
            host=f"{self.fake_host.name}.invalid",
            port=_PORTS[kind],
            path=f"/{uuid}" if kind in {ConsoleKind.WEBMKS, ConsoleKind.RDP} else None,
            ticket=SecretStr(f"ticket-{token}"),
            expires_at=self.fake_host.clock.wall() + timedelta(seconds=_TICKET_SECONDS),
        )


class FakeScreenCapture(FakeBase, ScreenCapture):
    """Pictures of one pixel: green while the machine runs, grey while it is paused."""

    def screenshot(self, uuid: UUID, *, timeout: float | None = None) -> Screenshot:
        """1 call."""
        with self.link.task("screenshot", uuid, timeout) as task:
            return task.call("take-screenshot", lambda: self._picture(uuid), changes=False)

    def _picture(self, uuid: UUID) -> Screenshot:
        machine = self.machines.checked("screenshot", uuid)
        pixel = b"\x80\x80\x80" if machine.state == "paused" else b"\x00\xff\x00"
        return Screenshot(data=b"P6 1 1 255\n" + pixel, media_type="image/x-portable-pixmap")
