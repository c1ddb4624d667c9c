"""Snapshots on Hyper-V: checkpoints. A checkpoint brings back more than the disks; the script puts
that back as it was, in the same request.

A checkpoint of a machine that is on always has its memory. One that was made without
``memory=True`` loses it when it is applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.snapshots import Snapshots
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.record import when
from hvdrivers.messages import shown_label
from hvdrivers.models.snapshot import Snapshot


class HypervSnapshots(Topic, Snapshots):
    """Budget of each operation: 1 call."""

    @provides(Capability.SNAPSHOT_MEMORY)
    def create_snapshot(
        self, uuid: UUID, name: str, *, memory: bool = False, timeout: float | None = None
    ) -> Snapshot:
        """Budget: 1 call. A machine with volumes is refused: Hyper-V takes every disk."""
        arguments = {"name": name, "memory": memory}
        found: dict[str, Any] = self.session.change(
            "create_snapshot", "Snapshot", uuid, arguments, timeout
        )
        return _snapshot(found)

    def list_snapshots(self, uuid: UUID, *, timeout: float | None = None) -> Sequence[Snapshot]:
        """Budget: 1 call. Checkpoints that somebody else has made are there too."""
        found: list[Any] = self.session.call("Snapshots", {"uuid": str(uuid)}, Deadline(timeout))
        return parents_first([_snapshot(each) for each in found])

    def revert_snapshot(
        self, uuid: UUID, snapshot_id: str, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 call."""
        self.session.change("revert_snapshot", "Revert", uuid, {"id": snapshot_id}, timeout)

    def delete_snapshot(
        self,
        uuid: UUID,
        snapshot_id: str,
        *,
        children: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Budget: 1 call. It waits until the disks below are merged."""
        arguments = {"id": snapshot_id, "children": children}
        self.session.change("delete_snapshot", "DeleteSnapshot", uuid, arguments, timeout)


def _snapshot(found: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        id=found["id"],
        name=shown_label(found["name"]),
        parent=found["parent"] or None,
        created_at=when(found["created"]),
        with_memory=found["memory"],
        current=found["current"],
    )


def parents_first(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """The tree in an order in which each parent comes before its children."""
    ids = {each.id for each in snapshots}
    below: dict[str | None, list[Snapshot]] = {}
    for each in sorted(snapshots, key=lambda one: one.created_at):
        parent = each.parent if each.parent in ids else None
        below.setdefault(parent, []).append(each)
    ordered = list(below.get(None, ()))
    for each in ordered:  # it grows meanwhile
        ordered.extend(below.get(each.id, ()))
    return ordered
