"""The journal: what the suite has made on a host, written down before it is made.

A line a thing, appended and synced before the call that makes it, struck out when it is gone. A
run that was killed leaves a journal behind, and ``hvdrivers conformance reap`` reads it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from hvdrivers.models.volume import HostVolume

PREFIX = "hvct-"
"""Names of everything that the suite makes begin with this."""


def is_suites(volume: HostVolume) -> bool:
    """Whether the suite has made this volume. The hypervisor's own name may only contain the one
    that was asked for, which somebody else's may too; then the id is that one."""
    return volume.name.startswith(PREFIX) or volume.volume_id.startswith(PREFIX)


@dataclass(frozen=True)
class Entry:
    """One thing that was going to be made."""

    kind: str
    id: str


class Journal:
    """One run's journal."""

    def __init__(self, path: Path | None = None) -> None:
        self.run = uuid4().hex[:8]
        self.prefix = f"{PREFIX}{self.run}-"
        self.path = path
        self._lock = threading.Lock()

    def instance(self, uuid: UUID) -> None:
        """An instance is about to be made."""
        self._write({"make": "instance", "id": str(uuid)})

    def volume(self, volume_id: str) -> None:
        """A volume is about to be made."""
        self._write({"make": "volume", "id": volume_id})

    def done(self, id_: str) -> None:
        """It is gone."""
        self._write({"gone": id_})

    def _write(self, line: dict[str, str]) -> None:
        if self.path is None:
            return
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def unfinished(path: Path) -> Iterator[Entry]:
    """What a journal says was made and not removed."""
    open_: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the last line of a process that was killed while it wrote
        if "make" in entry:
            open_[entry["id"]] = entry["make"]
        else:
            open_.pop(entry.get("gone", ""), None)
    for id_, kind in open_.items():
        yield Entry(kind, id_)
