"""One change, tried again and again while its calls are cut; and what is compared afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.fault_plans import Plan
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState


@dataclass
class Run:
    """One operation, tried again and again with the same UUID and the same names."""

    trial: Trial
    name: str
    plan: Plan
    uuid: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        self.trial.will_destroy(self.uuid)

    def remove(self) -> None:
        self.plan.reset(self.trial, self.uuid)
        self.trial.driver.destroy(self.uuid)

    def prepare(self) -> dict[str, Any]:
        self.remove()
        self.plan.prepare(self.trial, self.uuid)
        return self.picture()

    def call(self, timeout: float | None = None) -> errors.HypervisorError | None:
        try:
            self.plan.call(self.trial, self.uuid, timeout)
        except errors.HypervisorError as error:
            return error
        return None

    def settled(self, seen: dict[str, Any]) -> dict[str, Any]:
        """The host when two looks in a row have seen the same. A picture is made of several reads,
        and what was under way as the deadline passed may come to its end between two of them."""
        while (now := self.picture()) != seen:
            seen = now
        return now

    def picture(self) -> dict[str, Any]:
        return {part: _comparable(value) for part, value in self.trial.picture().items()}


def _comparable(value: Any) -> Any:
    """Without what differs from one attempt to the next: times of creation, and the ids that the
    host chooses for snapshots."""
    if isinstance(value, InstanceInfo):
        return value.model_copy(update={"created_at": None})
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items()}
    if isinstance(value, list):
        names = {each.id: each.name for each in value if isinstance(each, Snapshot)}
        return [_nameless(each, names) if isinstance(each, Snapshot) else each for each in value]
    return value


def _nameless(snapshot: Snapshot, names: Mapping[str, str]) -> Snapshot:
    """A snapshot by its name and that of its parent, which a tree of the suite has once only."""
    parent = None if snapshot.parent is None else names.get(snapshot.parent, snapshot.parent)
    return snapshot.model_copy(update={"created_at": None, "id": snapshot.name, "parent": parent})


def same(trial: Trial, found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    for part, value in expected.items():
        if isinstance(value, frozenset):
            extra, gone = sorted(found[part] - value), sorted(value - found[part])
            told = [f"left over: {extra}"] if extra else []
            told += [f"missing: {gone}"] if gone else []
            trial.check(not told, f"{what}: {'; '.join(told)}")
        else:
            trial.equal(found[part], value, f"{what}: {part}")


def whole(
    run: Run, now: dict[str, Any], before: dict[str, Any], complete: dict[str, Any], where: str
) -> None:
    """What was there before, and still is in the end, is there in between; and so is all of an
    instance that is new."""
    if "residue" not in now:
        return
    kept = before["residue"] & complete["residue"]
    made = now["instances"].get(run.uuid)
    if made is not None and run.uuid not in before["instances"]:
        # BUILDING says itself that not all of it is there
        kept = kept if made.state is InstanceState.BUILDING else complete["residue"]
    gone = sorted(kept - now["residue"])
    run.trial.check(not gone, f"{where}; missing: {gone}")
