"""The migrations of a machine, as the server's list of recent tasks shows them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hvdrivers.contract import errors
from hvdrivers.vmware.reader import Reader, Row
from hvdrivers.vmware.session import Session

_NAMES = ("relocate", "migrate")
"""In the ``descriptionId`` of the tasks that move a machine."""


class Moves:
    """Looks at migrations, and ends them."""

    def __init__(self, session: Session, reader: Reader) -> None:
        self._session = session
        self._reader = reader

    def end(self, obj: Any) -> None:
        """End what moves a machine. Two reads, and one call if it is moved."""
        for row in self.of(obj):
            if row.get("info.state") in {"queued", "running"}:
                with suppress(errors.InvalidState):  # it has ended meanwhile
                    row.obj.CancelTask()

    def of(self, obj: Any) -> list[Row]:
        """The tasks that have moved a machine lately, the oldest first. Two reads."""
        manager = self._session.content.taskManager
        recent = self._reader.one(manager, "recentTask").get("recentTask") or []
        paths = ("info.entity", "info.descriptionId", "info.state", "info.error", "info.progress")
        return [
            row
            for row in self._reader.many(recent, *paths)
            if row.get("info.entity") == obj
            and any(each in str(row.get("info.descriptionId")).lower() for each in _NAMES)
        ]
