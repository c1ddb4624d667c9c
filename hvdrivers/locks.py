"""Locks of instances: changes of one instance never overlap."""

from __future__ import annotations

import threading
from uuid import UUID


class InstanceLocks:
    """One lock per instance that is being changed, and none for those that are not."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[UUID, tuple[threading.Lock, int]] = {}

    def acquire(self, uuid: UUID, timeout: float) -> bool:
        """Wait for the instance; False if it was not free within ``timeout`` seconds."""
        with self._guard:
            lock, users = self._held.get(uuid, (threading.Lock(), 0))
            self._held[uuid] = (lock, users + 1)
        acquired = False
        try:
            acquired = lock.acquire(timeout=max(0.0, timeout))
        finally:
            if not acquired:  # also when the wait was interrupted
                self._leave(uuid)
        return acquired

    def release(self, uuid: UUID) -> None:
        """Give it back. Any thread may: a worker releases what the caller's thread acquired."""
        with self._guard:
            lock, _ = self._held[uuid]
        lock.release()
        self._leave(uuid)

    def __len__(self) -> int:
        """How many instances are held or waited for."""
        return len(self._held)

    def _leave(self, uuid: UUID) -> None:
        with self._guard:
            lock, users = self._held[uuid]
            if users > 1:
                self._held[uuid] = (lock, users - 1)
            else:
                del self._held[uuid]
