"""Clauses of ``contract/events.py``: what the optional operations tell. The rest is in
``events.py``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

from hvdrivers.conformance.engine.assertions import remembered, revert
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.conformance.engine.watching import QUIET, Watcher, watching
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.limits import Limit
from hvdrivers.models.events import DeviceEvent, DeviceKind, LifecycleEvent, LifecycleKind
from hvdrivers.models.state import InstanceState

EVENT_014 = clause(
    "EVENT-014",
    "the last state that a stream delivers of an instance is the state that it has, whichever"
    " operation led to it: also rescue(), unrescue(), a revert, an adoption, a migration",
    operation="watch",
)

EVENT_015 = clause(
    "EVENT-015",
    "a guest that refuses to let go of a volume or a NIC makes the call raise DeviceBusy, and is"
    " told as REMOVAL_FAILED of that device, which stays",
    operation="watch",
    level=Level.SHOULD,
)

REBUILD_007 = clause(
    "REBUILD-007",
    "watch() tells that rebuild() of a running machine has started it anew",
    operation="rebuild",
)

_K, _S = LifecycleKind, InstanceState


def _state(watcher: Watcher, uuid: UUID, state: InstanceState | None, when: str) -> None:
    """Wait for this state, on whatever way and under whatever name of the change."""
    watcher.until(
        f"the instance is {state or 'gone'} {when}",
        lambda event: (
            isinstance(event, LifecycleEvent) and (event.uuid, event.state) == (uuid, state)
        ),
    )


def _unrescue(trial: Trial, uuid: UUID) -> None:
    trial.driver.unrescue(uuid)


def _rescue(trial: Trial, uuid: UUID) -> None:
    trial.driver.rescue(uuid, trial.target.image())


def _in(state: InstanceState) -> Callable[[Trial], UUID]:
    return lambda trial: trial.in_state(state)


_RESCUE = frozenset({Capability.RESCUE})
_SNAPSHOTS = frozenset({Capability.SNAPSHOTS})


@check(
    EVENT_014,
    cases=[
        Case("rescue", (_in(_S.RUNNING), _rescue, _S.RESCUED), needs=_RESCUE),
        Case("unrescue", (_in(_S.RESCUED), _unrescue, _S.RUNNING), needs=_RESCUE),
        Case("revert", (remembered, revert, _S.STOPPED), needs=_SNAPSHOTS),
        Case(
            "revert,memory",
            (partial(remembered, memory=True), revert, _S.RUNNING),
            needs=_SNAPSHOTS | {Capability.SNAPSHOT_MEMORY},
        ),
    ],
)
def tells_where_it_ends(
    trial: Trial,
    make: Callable[[Trial], UUID],
    call: Callable[[Trial, UUID], None],
    end: InstanceState,
) -> None:
    uuid = make(trial)
    watcher = watching(trial)
    watcher.resync()
    call(trial, uuid)
    _state(watcher, uuid, end, "after that")
    while (event := watcher.next(QUIET)) is not None:
        if isinstance(event, LifecycleEvent) and event.uuid == uuid:
            trial.equal(event.state, end, "state that is told at last")


@check(EVENT_014, needs=[Capability.ADOPT])
def tells_of_an_adoption(trial: Trial) -> None:
    with trial.target.foreign_machine() as uuid:
        watcher = watching(trial)
        watcher.resync()
        trial.will_destroy(uuid)
        state = trial.driver.adopt(uuid, name=f"{trial.journal.prefix}adopted").state
        _state(watcher, uuid, state, "and ours")


@check(REBUILD_007)
def tells_of_a_new_start(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    watcher = watching(trial)
    watcher.resync()
    trial.driver.rebuild(uuid, trial.target.image())
    watcher.until(
        "the instance has started anew",
        lambda event: (
            isinstance(event, LifecycleEvent)
            and (event.uuid, event.state) == (uuid, _S.RUNNING)
            and event.kind in {_K.STARTED, _K.REBOOTED}
        ),
    )


@check(EVENT_014, needs=[Capability.LIVE_MIGRATION])
def tells_of_a_migration(trial: Trial) -> None:
    destination, other = trial.target.other_host()
    trial.after(other.close)
    uuid = trial.spawn().uuid
    trial.after(lambda: other.destroy(uuid))
    here, there = watching(trial), Watcher(trial, other.watch())
    trial.after(there.stream.close)
    here.resync()
    there.resync()
    trial.driver.live_migrate(uuid, destination)
    _state(here, uuid, None, "at the source")
    _state(there, uuid, _S.RUNNING, "at the destination")


@check(EVENT_015)
def tells_of_a_refusal(trial: Trial) -> None:
    trial.unless(Limit.DETACH_UNASKED)
    vif = trial.target.vif("hvct-nic")
    volumes = (trial.attachment(),) if trial.has(Capability.HOST_VOLUMES) else ()
    uuid = trial.spawn(vifs=(vif,), volumes=volumes).uuid
    asked: dict[str, Callable[[], object]] = {
        vif.id: lambda: trial.driver.unplug_vif(uuid, vif.id),
    }
    for each in volumes:
        asked[each.volume_id] = partial(trial.driver.detach_volume, uuid, each.volume_id)
    with trial.target.refusing_guest(trial.driver, uuid):
        trial.target.wait_booted(trial.driver, uuid)
        watcher = watching(trial)
        watcher.resync()
        for device, call in asked.items():
            with trial.unchanged(), trial.raises(errors.DeviceBusy):
                call()
            watcher.until(
                f"the guest has kept {device}",
                lambda event, device=device: (  # type: ignore[misc]
                    isinstance(event, DeviceEvent)
                    and (event.uuid, event.kind, event.device)
                    == (uuid, DeviceKind.REMOVAL_FAILED, device)
                ),
            )
