"""Numbers that only one peer on this machine has at a time: ports and networks come of them."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from pathlib import Path


class Place:
    """A number that no other peer has, in this process or another, until it is closed.

    A port that is looked for, let go and bound again by a server, and a network that is drawn by
    lot, are now and then those of two servers.
    """

    def __init__(self, kind: str, count: int) -> None:
        """One of ``count`` numbers from 0; those of each ``kind`` are counted for themselves."""
        first = random.randrange(count)
        for step in range(count):
            self.number = (first + step) % count
            name = f"hvdrivers-{kind}-{self.number}-{os.geteuid()}.lock"
            self._lock = (Path(tempfile.gettempdir()) / name).open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                continue
            return
        raise AssertionError(f"all {count} {kind} of this machine are taken")

    def close(self) -> None:
        """Let another have it."""
        self._lock.close()
