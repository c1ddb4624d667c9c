"""How far a long operation is: what a ``progress=`` callback receives."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Literal

from pydantic import Field

from hvdrivers.models.base import Model


class Phase(StrEnum):
    """What an operation is doing now. One operation may go through several phases."""

    DOWNLOAD = "download"
    """An image comes from its source to the machine the library runs on."""
    VERIFY = "verify"
    """A local file is read, inspected and hashed."""
    UPLOAD = "upload"
    """Bytes go from the machine the library runs on to the hypervisor."""
    CONVERT = "convert"
    """The hypervisor changes the format or the size of a disk."""
    COPY = "copy"
    """The hypervisor copies a disk."""
    SNAPSHOT = "snapshot"
    BACKUP = "backup"
    MIGRATE = "migrate"


class Progress(Model):
    """One report. Within a phase ``done`` never goes down.

    Reports are hints for people: they come as often as the operation finds useful, and the end of
    an operation is its return, never a report.
    """

    phase: Phase
    done: int = Field(ge=0)
    """How much is done, in ``unit``."""
    total: int | None = Field(default=None, ge=0)
    """How much there is to do, in ``unit``; None while it is unknown."""
    unit: Literal["bytes", "percent", "steps"] = "bytes"

    @property
    def fraction(self) -> float | None:
        """From 0.0 to 1.0, or None while the total is not known."""
        if self.total is None:
            return None
        return min(1.0, self.done / self.total) if self.total else 1.0


ProgressCallback = Callable[[Progress], None]
"""Called in the thread that does the work: it must be quick. What it raises stops the operation,
which undoes what it has begun and lets the exception through."""
