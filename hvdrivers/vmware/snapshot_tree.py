"""The tree of a machine's snapshots, also of those that others have made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hvdrivers.messages import shown_label
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.vmware.names import unescaped
from hvdrivers.vmware.reader import Row

SNAPSHOT = "snapshot"
"""What the tree of a machine is read from."""


@dataclass(frozen=True)
class Node:
    """A snapshot and the object of the server."""

    snapshot: Snapshot
    obj: Any


def nodes(row: Row) -> Iterator[Node]:
    """The tree of a machine that was read with ``snapshot``, parents before children."""
    info = row.get(SNAPSHOT)
    if info is None:
        return
    waiting: list[tuple[Any, str | None]] = [(each, None) for each in info.rootSnapshotList or ()]
    while waiting:
        item, parent = waiting.pop(0)
        current = item.snapshot == info.currentSnapshot
        yield Node(_model(item, parent, current=current), item.snapshot)
        waiting += [(each, str(item.id)) for each in item.childSnapshotList or ()]


def _model(item: Any, parent: str | None, *, current: bool) -> Snapshot:
    try:
        note = json.loads(item.description or "")
        name, memory = str(note["name"]), bool(note["memory"])
    except (ValueError, KeyError, TypeError):
        # made by others
        name, memory = unescaped(item.name), item.state == "poweredOn"
    return Snapshot(
        id=str(item.id),
        name=shown_label(name),  # others name snapshots as they like, and edit descriptions
        parent=parent,
        created_at=item.createTime,
        with_memory=memory,
        current=current,
    )
