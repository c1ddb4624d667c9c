"""The serial line of a guest, over the connection that the driver has to the host.

``get_console()`` of the contract gives an address at which a client reaches a console. Some
hypervisors can also carry the serial line over the driver's own connection. Then no port has to be
open on the host. A driver that can do that derives from :class:`SerialLines` as well.
:func:`hvdrivers.guard.serial_lines` finds it behind the guard. The command ``hvdrivers console HOST
INSTANCE serial --attach`` uses it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self
from uuid import UUID

__all__ = ["SerialLine", "SerialLines"]


class SerialLine(ABC):
    """An open line. One thread may receive while another one sends."""

    @abstractmethod
    def receive(self) -> bytes:
        """Wait for output of the guest and return it. Empty bytes: the line has ended. The machine
        is off, or this line was closed, or another client has taken it over."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Write to the guest.

        Raises:
            ConnectionFailed: the line has ended.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the line. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SerialLines(ABC):
    """A driver that carries serial lines."""

    @abstractmethod
    def open_serial(
        self, uuid: UUID, *, force: bool = False, timeout: float | None = None
    ) -> SerialLine:
        """Open the first serial port of a machine that is on. The console log still records what
        the guest writes.

        Args:
            force: take the port from another client that has it open.
            timeout: seconds that the opening may take.

        Raises:
            InvalidState: the machine is off.
            DeviceBusy: another client has it.
        """
