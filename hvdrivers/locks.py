"""Locks by key. The guard has one for each instance: changes of one instance never overlap."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from hvdrivers.driverkit.deadline import waitable


class KeyLocks:
    """One lock for each key that is in use, and none for those that are not."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[Hashable, tuple[threading.Lock, int]] = {}

    def acquire(self, key: Hashable, timeout: float) -> bool:
        """Wait for the key; False if it was not free within ``timeout`` seconds."""
        with self._guard:
            lock, users = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = (lock, users + 1)
        acquired = False
        try:
            acquired = lock.acquire(timeout=waitable(timeout))
        finally:
            if not acquired:  # also when the wait was interrupted
                self._leave(key)
        return acquired

    def release(self, key: Hashable) -> None:
        """Give it back. Any thread may: a worker releases what the caller's thread acquired."""
        with self._guard:
            lock, _ = self._held[key]
        lock.release()
        self._leave(key)

    def __len__(self) -> int:
        """How many keys are held or waited for."""
        return len(self._held)

    def _leave(self, key: Hashable) -> None:
        with self._guard:
            lock, users = self._held[key]
            if users > 1:
                self._held[key] = (lock, users - 1)
            else:
                del self._held[key]
