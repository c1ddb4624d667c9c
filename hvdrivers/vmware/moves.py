"""The migrations of a machine, as the server's list of recent tasks shows them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hvdrivers.contract import errors
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.reader import Row

_NAMES = ("relocate", "migrate")
"""In the ``descriptionId`` of the tasks that move a machine."""


class Moves(Topic):
    """Looks at migrations, and ends them."""

    def _end_moves(self, obj: Any) -> None:
        for row in self._moves(obj):
            if row.get("info.state") in {"queued", "running"}:
                with suppress(errors.InvalidState):  # it has ended meanwhile
                    row.obj.CancelTask()

    def _moves(self, obj: Any) -> list[Row]:
        """The tasks that have moved a machine lately, the oldest first. Two reads."""
        manager = self.session.content.taskManager
        recent = self.reader.one(manager, "recentTask").get("recentTask") or []
        paths = ("info.entity", "info.descriptionId", "info.state", "info.error", "info.progress")
        return [
            row
            for row in self.reader.many(recent, *paths)
            if row.get("info.entity") == obj
            and any(each in str(row.get("info.descriptionId")).lower() for each in _NAMES)
        ]
