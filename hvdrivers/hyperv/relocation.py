"""Moving the disks of an instance to another pool with Move-VMStorage. The machine stays.

What the disks are based on in the image cache stays there. Disks with checkpoints are not moved.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from hvdrivers.contract.storage import StorageMigration
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.watching import watched
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

_END_LIMIT: Final = 5.0
"""Seconds for one attempt to end it."""


class HypervRelocation(Topic, StorageMigration):
    """Storage migration."""

    def migrate_storage(
        self,
        uuid: UUID,
        pool: str,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: 1 call, and with ``progress`` one more for each half second that it takes. The
        instance's own folder is the pool ``default``."""
        deadline = Deadline(timeout)

        def move() -> None:
            arguments = {"pool": pool}
            self.session.change("migrate_storage", "Relocate", uuid, arguments, deadline.left)

        if progress is None:
            move()
            return
        progress(Progress(phase=Phase.COPY, done=0, total=100, unit="percent"))
        watched(
            move,
            progress,
            Phase.COPY,
            percent=lambda: self._relocated_percent(uuid, deadline),
            end=lambda: self._end_relocation(uuid),
        )

    def _relocated_percent(self, uuid: UUID, deadline: Deadline) -> int | None:
        arguments = {"uuid": str(uuid), "storage": True}
        found = self.session.call("MoveState", arguments, deadline, counted=False)
        return None if found["percent"] < 0 else int(found["percent"])

    def _end_relocation(self, uuid: UUID) -> None:
        limit = Deadline(_END_LIMIT)
        self.session.call("RelocateEnd", {"uuid": str(uuid)}, limit, counted=False)
