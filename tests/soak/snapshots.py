"""Which snapshots an instance may have, after any sequence of outcomes."""

from __future__ import annotations

from collections.abc import Collection, Set

from tests.soak.errors import Violation


class ExpectedSnapshots:
    """Names of snapshots: those that must be there, and those that may be."""

    def __init__(self, *, known: bool) -> None:
        """``known=False``: an earlier client had the instance, and may have made any."""
        self._known = known
        self._there: set[str] = set()
        self._maybe: set[str] = set()
        """A lost reply was about these: they may come or go as long as the instance is there."""

    def made(self, name: str, done: bool | None) -> None:
        """create_snapshot() returned (True), has changed nothing (False), or nobody knows."""
        if done is None:
            self._maybe.add(name)
        elif done:
            self._there.add(name)

    def deleted(self, names: Collection[str], done: bool | None) -> None:
        """delete_snapshot() of these returned, has changed nothing, or nobody knows."""
        if done is None:
            self._maybe.update(names)
            self._there.difference_update(names)
        elif done:
            self._maybe.difference_update(names)
            self._there.difference_update(names)

    def seen(self, names: Set[str]) -> None:
        """list_snapshots() shows these."""
        if missing := self._there - names:
            raise Violation(f"the snapshots {sorted(missing)} have gone")
        strange = names - self._there - self._maybe
        if self._known and strange:
            raise Violation(f"there are snapshots {sorted(strange)}, and nobody made them")
        self._there |= strange
