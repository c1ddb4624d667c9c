"""Removing what a run that was killed has left on a host."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hvdrivers.conformance.engine.journal import PREFIX, Entry, is_suites, unfinished
from hvdrivers.conformance.engine.trial import METADATA_KEY
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.base import Model


class Leftover(Model):
    """One thing of the suite's on a host."""

    kind: str
    """``instance`` or ``volume``."""
    id: str
    name: str
    why: str
    """How it is known to be the suite's."""
    outcome: str = "found"
    """``found``, ``removed``, or why it was not."""


def leftovers_on(driver: ComputeDriver, journals: Iterable[Path] = ()) -> list[Leftover]:
    """What the suite has left: by the prefix of its names, by its mark, by its journals. Nothing
    that others made is among it: foreign machines are not looked at."""
    written = {entry for path in journals for entry in unfinished(path)}
    found = []
    for each in driver.list_instances():
        if each.name.startswith(PREFIX):
            why = f"its name begins with {PREFIX}"
        elif METADATA_KEY in driver.get_instance(each.uuid).metadata:
            why = f"its metadata has {METADATA_KEY}"
        elif Entry("instance", str(each.uuid)) in written:
            why = "it is in the journal"
        else:
            continue
        found.append(Leftover(kind="instance", id=str(each.uuid), name=each.name, why=why))
    if Capability.HOST_VOLUMES in driver.capabilities:
        for volume in driver.list_volumes():
            if is_suites(volume):
                why = f"its name begins with {PREFIX}"
            elif written & {Entry("volume", volume.name), Entry("volume", volume.volume_id)}:
                why = "it is in the journal"
            else:
                continue
            found.append(Leftover(kind="volume", id=volume.volume_id, name=volume.name, why=why))
    return found


def half_made(driver: ComputeDriver, journals: Iterable[Path]) -> list[Leftover]:
    """Instances of the journals that the host does not list: an interrupted spawn may have left
    parts of them, which ``destroy`` removes by the UUID."""
    listed = {str(each.uuid) for each in driver.list_instances()}
    return [
        Leftover(kind="instance", id=entry.id, name="-", why="it is in the journal, and not listed")
        for path in journals
        for entry in unfinished(path)
        if entry.kind == "instance" and entry.id not in listed
    ]


def reap(driver: ComputeDriver, found: Iterable[Leftover]) -> list[Leftover]:
    """Remove it: machines before the volumes that they have."""
    from uuid import UUID

    done = []
    for each in sorted(found, key=lambda each: each.kind):
        try:
            if each.kind == "instance":
                driver.destroy(UUID(each.id))
            else:
                driver.delete_volume(each.id)
            outcome = "removed"
        except errors.HypervisorError as error:
            outcome = f"{type(error).__name__}: {error.message}"
        done.append(each.model_copy(update={"outcome": outcome}))
    return done
