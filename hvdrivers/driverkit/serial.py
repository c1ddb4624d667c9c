"""The serial line of a guest, for a process that holds it: what a terminal is connected to.

The contract says where a console can be reached (``get_console()``). Some hypervisors carry the
line over the driver's own connection instead, so that nothing has to listen anywhere. A driver that
can do that is a :class:`SerialLines` too. :func:`hvdrivers.guard.serial_lines` finds it
behind the guard. ``hvdrivers console HOST INSTANCE serial --attach`` uses it.
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
        """Wait for what the guest writes. Empty: the line has ended, as the machine is off, or the
        line was closed or taken over."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Write to the guest.

        Raises:
            ConnectionFailed: the line has ended.
        """

    @abstractmethod
    def close(self) -> None:
        """End it. Twice is allowed."""

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
        """Open the first serial port of a machine that is on. The console log goes on.

        Args:
            force: take it from whoever has it.
            timeout: seconds for the opening.

        Raises:
            InvalidState: the machine is off.
            DeviceBusy: another client has it.
        """
