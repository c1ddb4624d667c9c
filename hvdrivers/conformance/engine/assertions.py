"""What several topics look at in the same way."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.instance import Flavor, InstanceInfo, VgpuRequest
from hvdrivers.models.state import InstanceState

STATE_NEEDS = {
    InstanceState.PAUSED: Capability.PAUSE,
    InstanceState.SUSPENDED: Capability.SUSPEND,
    InstanceState.RESCUED: Capability.RESCUE,
}
"""Without what a state cannot be reached."""

IMPOSSIBLE_MEMORY_MIB = 1 << 30
"""A pebibyte: more than any host has."""

IMPOSSIBLE_DISK_GIB = 1 << 22
"""Four pebibytes."""


def expect_state(trial: Trial, uuid: UUID, state: InstanceState, when: str) -> None:
    """An instance is in this state: by two connections, by a list, and by the observer."""
    other = trial.other
    trial.equal(trial.state(uuid), state, f"state {when}")
    trial.equal(other.get_instance(uuid).state, state, f"state on another connection {when}")
    listed = {each.uuid: each.state for each in other.list_instances()}
    trial.equal(listed.get(uuid), state, f"state in the list {when}")
    if trial.observer is not None:
        trial.equal(trial.observer.states().get(uuid), state, f"observed state {when}")


def expect_only_state(trial: Trial, before: InstanceInfo, state: InstanceState, when: str) -> None:
    """Nothing but the state of an instance may differ from what it was."""
    expect_state(trial, before.uuid, state, when)
    after = lasting(trial.driver.get_instance(before.uuid))
    wanted = lasting(before).model_copy(update={"state": state})
    trial.equal(after, wanted, f"the instance but its state {when}")


def lasting(info: InstanceInfo) -> InstanceInfo:
    """Without what a device has only while the machine is powered on, or anew at each start."""
    vif = {"device": None, "pci_address": None}
    return info.model_copy(
        update={
            "vifs": tuple(each.model_copy(update=vif) for each in info.vifs),
            "volumes": tuple(each.model_copy(update={"address": None}) for each in info.volumes),
        }
    )


def expect_boots(trial: Trial, uuid: UUID, count: int, when: str) -> None:
    """The guest has started so often, or does so soon."""
    trial.eventually(
        lambda: trial.target.boots(trial.driver, uuid) >= count,
        f"the guest has not started {when}",
        timeout=60.0,
    )
    trial.equal(trial.target.boots(trial.driver, uuid), count, f"starts of the guest {when}")


def booted(trial: Trial, uuid: UUID) -> int:
    """Wait for the guest; how often it has started."""
    trial.target.wait_booted(trial.driver, uuid)
    return trial.target.boots(trial.driver, uuid)


def expect_no_boot(trial: Trial, uuid: UUID, starts: int, when: str) -> None:
    """The guest has gone on. One that had not would answer when it has started, and be counted."""
    trial.target.wait_booted(trial.driver, uuid)
    trial.equal(trial.target.boots(trial.driver, uuid), starts, f"starts of the guest {when}")


def larger(flavor: Flavor, **changes: int) -> Flavor:
    """Another flavor, validated."""
    return Flavor.model_validate(flavor.model_dump() | changes)


def free_slice(trial: Trial) -> VgpuRequest | None:
    """A slice of a GPU that nobody has."""
    for device in trial.driver.get_available_resource().devices:
        for kind in device.mediated_types:
            if kind.available > 0:
                return VgpuRequest(type=kind.name, parent=device.address)
    return None


def some_slice(trial: Trial) -> VgpuRequest:
    """A slice of any GPU that has one left."""
    found = free_slice(trial)
    if found is None:
        raise PreconditionMissing("the host has no GPU with a slice left")
    return VgpuRequest(type=found.type)


def all_that_can_be_had(trial: Trial) -> dict[str, Any]:
    """The changes to a spec of Trial.everything(); a target without a network has no NICs."""
    changes = trial.everything()
    if "vifs" in changes:
        changes["vifs"] = (*changes["vifs"], trial.target.vif("hvct-nic-2"))
    return changes


def absent_network(trial: Trial) -> dict[str, Any]:
    """The same, with one NIC on a network that does not exist."""
    changes = all_that_can_be_had(trial)
    changes["vifs"] = (*changes.get("vifs", ()), trial.target.vif_to_nowhere("hvct-nowhere"))
    return changes


def remembered(trial: Trial, *, memory: bool = False) -> UUID:
    """An instance with a snapshot, which `revert()` goes back to; with its memory: a stopped one
    that a revert powers on."""
    uuid = trial.spawn().uuid
    trial.notes["snapshot"] = trial.driver.create_snapshot(uuid, "hvct", memory=memory).id
    if memory:
        trial.driver.power_off(uuid)
    return uuid


def revert(trial: Trial, uuid: UUID) -> None:
    """Go back to the snapshot of `remembered()`."""
    trial.driver.revert_snapshot(uuid, trial.notes["snapshot"])
