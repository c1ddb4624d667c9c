"""Clauses of ``contract/events.py``: devices that come and go, and what causes no event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from hvdrivers.conformance.engine.clauses import Level, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.conformance.engine.watching import CLOCK_SLACK, watching
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.events import DeviceEvent, DeviceKind, LifecycleEvent
from hvdrivers.models.volume import VolumeAttachment

EVENT_012 = clause(
    "EVENT-012",
    "volumes and NICs that come and go at a running machine are delivered by their ids",
    operation="watch",
    level=Level.SHOULD,
)
EVENT_013 = clause("EVENT-013", "reads and refused calls cause no event", operation="watch")

EVENT_018 = clause(
    "EVENT-018",
    "the time of an event lies between the change that it tells and its delivery, by the caller's"
    " clock",
    operation="watch",
)


def _volume(trial: Trial, uuid: UUID) -> tuple[str, Callable[[], object]]:
    volume = trial.volume()
    trial.driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    return volume.volume_id, lambda: trial.driver.detach_volume(uuid, volume.volume_id)


def _nic(trial: Trial, uuid: UUID) -> tuple[str, Callable[[], object]]:
    trial.driver.plug_vif(uuid, trial.target.vif("hvct-nic"))
    return "hvct-nic", lambda: trial.driver.unplug_vif(uuid, "hvct-nic")


@check(EVENT_012)
def devices_come_and_go(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    trial.target.wait_booted(trial.driver, uuid)
    watcher = watching(trial)
    watcher.resync()

    def told(name: str, kind: DeviceKind) -> None:
        watcher.until(
            f"{name} was {kind}",
            lambda event: (
                isinstance(event, DeviceEvent)
                and (event.uuid, event.kind, event.device) == (uuid, kind, name)
            ),
        )

    for plug in (_nic, _volume) if trial.has(Capability.HOST_VOLUMES) else (_nic,):
        name, unplug = plug(trial, uuid)
        told(name, DeviceKind.ADDED)
        unplug()
        told(name, DeviceKind.REMOVED)


@check(EVENT_013)
def reads_are_silent(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    watcher = watching(trial)
    watcher.resync()
    trial.picture()
    trial.driver.power_off(uuid)  # the state that it has
    watcher.quiet("only reads and a call without effect were made")


@check(EVENT_018)
def time_is_that_of_the_change(trial: Trial) -> None:
    subscribed = datetime.now(UTC)
    watcher = watching(trial)
    first = watcher.next()
    began = datetime.now(UTC)
    uuid = trial.spawn(start=False).uuid
    told = watcher.made(uuid)
    ended = datetime.now(UTC)
    trial.check(first is not None, "no resync came")
    mine = [each for each in told if isinstance(each, LifecycleEvent) and each.uuid == uuid]
    for event, since in [(first, subscribed), *((each, began) for each in mine)]:
        if event is not None:
            right = since - CLOCK_SLACK <= event.at <= ended + CLOCK_SLACK
            trial.check(right, f"told as of {event.at}: what is between {since} and {ended}")
