"""Consoles: the log, interactive access, pictures."""

from __future__ import annotations

from abc import abstractmethod
from uuid import UUID

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Repeat, operation
from hvdrivers.contract.states import C, P, R, S, U, X, row
from hvdrivers.models.base import PositiveBytes
from hvdrivers.models.console import ConsoleAccess, ConsoleKind, ConsoleLog, Screenshot


class Consoles(Interface, capability=Capability.CONSOLE_LOG):
    """The console log. It is not Core: Hyper-V does not store the guest's serial output."""

    @operation(changes=False, states=row(same=(R, P, U, S, X, C)), timeout=30)
    @abstractmethod
    def get_console_log(
        self, uuid: UUID, *, max_bytes: PositiveBytes = 65536, timeout: float | None = None
    ) -> ConsoleLog:
        """The end of what the guest wrote to its first serial port, since spawn and over reboots,
        as far as the hypervisor keeps it: logs are bounded, so that a guest cannot fill the host.

        Args:
            max_bytes: at most this many bytes, from the end.
        """


CONSOLE_CAPABILITIES = {
    ConsoleKind.SERIAL: Capability.CONSOLE_SERIAL,
    ConsoleKind.VNC: Capability.CONSOLE_VNC,
    ConsoleKind.SPICE: Capability.CONSOLE_SPICE,
    ConsoleKind.MKS: Capability.CONSOLE_MKS,
    ConsoleKind.WEBMKS: Capability.CONSOLE_WEBMKS,
    ConsoleKind.RDP: Capability.CONSOLE_RDP,
}
"""The capability that each kind needs."""


class InteractiveConsole(Interface):
    """Optional: access for people. Has no capability of its own, each kind has one."""

    @operation(states=row(same=(R, P, X)), timeout=30, repeat=Repeat.AGAIN)
    @abstractmethod
    def get_console(
        self, uuid: UUID, kind: ConsoleKind, *, timeout: float | None = None
    ) -> ConsoleAccess:
        """Where and with which ticket to reach a console of this kind. Each call makes a new ticket
        where the hypervisor has tickets.

        Raises:
            NotSupported: not this kind here.
        """


class ScreenCapture(Interface, capability=Capability.SCREENSHOT):
    """A picture."""

    @operation(changes=False, states=row(same=(R, P, X)), timeout=30)
    @abstractmethod
    def screenshot(self, uuid: UUID, *, timeout: float | None = None) -> Screenshot:
        """What the screen shows now."""
