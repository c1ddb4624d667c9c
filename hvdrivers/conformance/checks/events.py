"""Clauses of ``contract/events.py``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from uuid import UUID

from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.conformance.engine.watching import patience, watching
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.limits import Limit
from hvdrivers.models.events import (
    Event,
    LifecycleEvent,
    LifecycleKind,
    ResyncEvent,
)
from hvdrivers.models.state import InstanceState

EVENT_001 = clause(
    "EVENT-001",
    "the first event of a stream is a resync with the state of every instance of ours",
    operation="watch",
)
EVENT_002 = clause(
    "EVENT-002",
    "every change of an instance is delivered as what it is, with the state that follows, in the"
    " order of the changes; changes that lie close together are merged only by a driver that says"
    " so (limit events-merged)",
    operation="watch",
)
EVENT_003 = clause(
    "EVENT-003",
    "sequence counts up by one from 1, within a stream and over its resyncs",
    operation="watch",
)
EVENT_004 = clause(
    "EVENT-004",
    "a change is delivered whoever causes it: another connection, the guest, the host",
    operation="watch",
)
EVENT_005 = clause("EVENT-005", "no event tells of a foreign machine", operation="watch")
EVENT_006 = clause(
    "EVENT-006",
    "a change of an instance between watch() and the first next() is delivered as an event, and"
    " the first resync tells no less than the driver has told the same client by then; the order"
    " of changes of different instances is free",
    operation="watch",
)
EVENT_007 = clause(
    "EVENT-007",
    "after a lost connection the same stream goes on with what was missed, or with a resync that"
    " is the whole truth, and then with the changes after it",
    operation="watch",
)
EVENT_008 = clause(
    "EVENT-008",
    "a consumer that is slower than the host gets every change or a resync, and ends at the truth",
    operation="watch",
)
EVENT_009 = clause(
    "EVENT-009",
    "close() ends a stream and the wait of its consumer, and may be called twice; close() of the"
    " driver ends its streams",
    operation="watch",
)
EVENT_010 = clause(
    "EVENT-010",
    "next() with a timeout returns None after it, if nothing came, and the stream goes on",
    operation="watch",
)
EVENT_011 = clause(
    "EVENT-011",
    "several streams are independent: each gets everything, closing one ends no other",
    operation="watch",
)

_K, _S = LifecycleKind, InstanceState


@check(EVENT_001)
def begins_with_the_truth(trial: Trial) -> None:
    running, stopped = trial.spawn().uuid, trial.spawn(start=False).uuid
    found = watching(trial).resync()
    trial.equal(found.get(running), _S.RUNNING, "state of a running instance in the resync")
    trial.equal(found.get(stopped), _S.STOPPED, "state of a stopped instance in the resync")
    listed = {each.uuid: each.state for each in trial.driver.list_instances()}
    trial.equal(found, listed, "the resync, and what list_instances() shows")


@check(EVENT_002)
def tells_the_life_of_a_machine(trial: Trial) -> None:
    watcher = watching(trial)
    watcher.resync()
    uuid = trial.spawn().uuid
    if _merges(trial):
        seen = watcher.state(uuid, _S.RUNNING)
    else:
        seen = watcher.change(uuid, _K.STARTED, _S.RUNNING)
    kinds = [each.kind for each in seen if isinstance(each, LifecycleEvent) and each.uuid == uuid]
    # merged, a spawn is one event, of a machine that has been created and runs
    whole = [_K.CREATED, _K.STARTED]
    trial.check(kinds == whole or (_merges(trial) and kinds == whole[:1]), f"a spawn is {kinds}")
    steps: list[tuple[Capability | None, str, LifecycleKind, InstanceState | None]] = [
        (Capability.PAUSE, "pause", _K.PAUSED, _S.PAUSED),
        (Capability.PAUSE, "unpause", _K.RESUMED, _S.RUNNING),
        (Capability.SUSPEND, "suspend", _K.SUSPENDED, _S.SUSPENDED),
        (Capability.SUSPEND, "resume", _K.RESUMED, _S.RUNNING),
        (None, "reboot", _K.REBOOTED, _S.RUNNING),
        (None, "power_off", _K.STOPPED, _S.STOPPED),
        (None, "power_on", _K.STARTED, _S.RUNNING),
        (None, "power_off", _K.STOPPED, _S.STOPPED),
        (None, "destroy", _K.DESTROYED, None),
    ]
    for needs, name, kind, state in steps:
        if needs is None or trial.has(needs):
            getattr(trial.driver, name)(uuid)
            watcher.change(uuid, kind, state)
    watcher.quiet("nothing changed any more")


def _merges(trial: Trial) -> bool:
    return Limit.EVENTS_MERGED in trial.driver.limits


@check(EVENT_002)
def keeps_the_order(trial: Trial) -> None:
    trial.unless(Limit.EVENTS_MERGED)
    watcher = watching(trial)
    watcher.resync()
    uuid = trial.spawn(start=False).uuid
    for _ in range(3):
        trial.driver.power_on(uuid)
        trial.driver.power_off(uuid)
    trial.driver.destroy(uuid)
    first = watcher.made(uuid)
    seen = watcher.change(uuid, _K.DESTROYED, None)
    mine = [each for each in seen if isinstance(each, LifecycleEvent) and each.uuid == uuid]
    found = [(each.kind, each.state) for each in mine]
    circle = [(_K.STARTED, _S.RUNNING), (_K.STOPPED, _S.STOPPED)] * 3
    trial.equal(found, [*circle, (_K.DESTROYED, None)], "events, in their order")
    times = [each.at for each in [*first, *seen]]
    trial.equal(times, sorted(times), "times of the events")


@check(EVENT_003)
def counts_every_event(trial: Trial) -> None:
    watcher = watching(trial)
    rounds = 3
    for _ in range(rounds):  # each next() compares the number
        uuid = trial.spawn(start=False).uuid
        watcher.made(uuid)
        trial.driver.destroy(uuid)
        watcher.change(uuid, _K.DESTROYED, None)
    trial.check(watcher.sequence > 2 * rounds, "fewer events than changes")


@check(EVENT_003)
def counts_on_over_a_resync(trial: Trial) -> None:
    watcher = watching(trial)
    watcher.resync()
    with trial.target.broken_connection(trial.driver):
        pass
    trial.driver.ping()
    uuid = trial.spawn(start=False).uuid
    # each next() compares the number, whether a resync comes first or the stream has missed nothing
    watcher.until("an instance is there after the connection was lost", _shows(uuid))
    trial.check(watcher.sequence > 1, "the numbers begin again")


def _shows(uuid: UUID) -> Callable[[Event], bool]:
    """Whether an event says that an instance is there."""

    def shows(event: Event) -> bool:
        if isinstance(event, ResyncEvent):
            return uuid in event.states
        return isinstance(event, LifecycleEvent) and event.uuid == uuid

    return shows


@check(EVENT_004)
def tells_what_another_connection_does(trial: Trial) -> None:
    other = trial.connect()
    watcher = watching(trial)
    watcher.resync()
    uuid = trial.spawn(start=False).uuid
    watcher.made(uuid)
    other.power_on(uuid)
    watcher.change(uuid, _K.STARTED, _S.RUNNING)
    other.power_off(uuid)
    watcher.change(uuid, _K.STOPPED, _S.STOPPED)


@check(EVENT_004)
def tells_that_a_guest_died(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    watcher = watching(trial)
    watcher.resync()
    trial.target.crash(trial.driver, uuid)
    # hypervisors that cannot tell a crash from a stop say STOPPED
    end = trial.state(uuid)
    kind = _K.CRASHED if end is _S.CRASHED else _K.STOPPED
    watcher.change(uuid, kind, end)


@check(EVENT_004)
def tells_what_the_host_does(trial: Trial) -> None:
    if trial.observer is None:
        raise PreconditionMissing("no observer")
    uuid = trial.spawn().uuid
    watcher = watching(trial)
    watcher.resync()
    trial.observer.power_off(uuid)
    watcher.change(uuid, _K.STOPPED, _S.STOPPED)


@check(EVENT_005)
def says_nothing_of_others(trial: Trial) -> None:
    early = watching(trial)
    early.resync()
    with trial.target.foreign_machine() as foreign:
        late = watching(trial)
        trial.check(foreign not in late.resync(), "a foreign machine is in the resync")
        uuid = trial.spawn(start=False).uuid
        late.made(uuid)
    trial.driver.destroy(uuid)
    for watcher in (early, late):
        for event in watcher.change(uuid, _K.DESTROYED, None):
            about = getattr(event, "uuid", None)
            trial.check(about != foreign, f"an event tells of a foreign machine: {event!r}")


@check(EVENT_006)
def nothing_falls_between(trial: Trial) -> None:
    existing = trial.spawn(start=False).uuid
    watcher = watching(trial)
    uuid = trial.spawn(start=False).uuid
    trial.driver.power_on(existing)
    states = watcher.resync()
    trial.equal(states.get(uuid), _S.STOPPED, "state in the resync of an instance spawned before")
    trial.equal(states.get(existing), _S.RUNNING, "state in the resync after power_on()")
    awaited = {existing, uuid}

    def last(event: Event) -> bool:
        if isinstance(event, LifecycleEvent) and event.state in {_S.RUNNING, _S.STOPPED}:
            awaited.discard(event.uuid)
        return not awaited

    seen = watcher.until("both instances have changed", last)
    mine = [each for each in seen if isinstance(each, LifecycleEvent) and each.uuid == existing]
    told = [(each.kind, each.state) for each in mine]
    trial.equal(told, [(_K.STARTED, _S.RUNNING)], "events of the instance that was there")


@check(EVENT_007)
def resynchronises(trial: Trial) -> None:
    watcher = watching(trial)
    watcher.resync()
    kept = trial.spawn(start=False).uuid
    watcher.made(kept)
    with trial.target.broken_connection(trial.driver):
        pass
    trial.driver.ping()
    trial.driver.power_on(kept)
    listed = {each.uuid: each.state for each in trial.driver.list_instances()}

    def runs(event: Event) -> bool:
        if isinstance(event, ResyncEvent):
            return event.states.get(kept) is _S.RUNNING
        return isinstance(event, LifecycleEvent) and (event.uuid, event.state) == (kept, "running")

    for each in watcher.until("the instance runs", runs):
        if isinstance(each, ResyncEvent):
            # it was made before or after the instance was started
            states = {**each.states, kept: _S.RUNNING}
            trial.equal(states, listed, "the resync, and the list")
    trial.driver.power_off(kept)
    watcher.change(kept, _K.STOPPED, _S.STOPPED)
    trial.check(not watcher.stream.closed, "the stream has ended")


@check(EVENT_007)
def misses_nothing_meanwhile(trial: Trial) -> None:
    if trial.observer is None:
        raise PreconditionMissing("no observer")
    uuid = trial.spawn().uuid
    watcher = watching(trial)
    watcher.resync()
    with trial.target.broken_connection(trial.driver):
        trial.observer.power_off(uuid)
    known: InstanceState | None = _S.RUNNING
    deadline = time.monotonic() + patience(trial)
    while time.monotonic() < deadline and known is not _S.STOPPED:
        event = watcher.next(1.0)
        if isinstance(event, ResyncEvent):
            known = event.states[uuid]
        elif isinstance(event, LifecycleEvent) and event.uuid == uuid:
            known = event.state
    trial.equal(known, _S.STOPPED, "state that a consumer knows after the connection was lost")


@check(EVENT_008)
def slow_consumer_ends_at_the_truth(trial: Trial) -> None:
    rounds = 600 if trial.target.thorough and trial.has(Capability.PAUSE) else 3
    uuid = trial.spawn(start=rounds > 3).uuid
    watcher = watching(trial)
    watcher.resync()
    on, off = ("pause", "unpause") if rounds > 3 else ("power_on", "power_off")
    for _ in range(rounds):
        getattr(trial.driver, on)(uuid)
        getattr(trial.driver, off)(uuid)
    trial.driver.destroy(uuid)
    told, resyncs, known = 0, 0, True
    deadline = time.monotonic() + patience(trial)
    while known and time.monotonic() < deadline:
        event = watcher.next(1.0)
        if isinstance(event, ResyncEvent):
            resyncs += 1
            known = uuid in event.states
        elif isinstance(event, LifecycleEvent) and event.uuid == uuid:
            told += 1
            known = event.state is not None
    trial.check(not known, "a consumer that was slow never learns that the instance has gone")
    trial.check(
        resyncs > 0 or told > 2 * rounds or _merges(trial),
        f"{told} of {2 * rounds + 1} changes were delivered, and no resync",
    )


@check(EVENT_009)
def close_ends_the_wait(trial: Trial) -> None:
    stream = trial.driver.watch()
    trial.check(not stream.closed, "a new stream is closed")
    stream.next(5)
    found: list[Event | None] = []
    consumer = threading.Thread(target=lambda: found.append(stream.next()), daemon=True)
    consumer.start()
    stream.close()
    consumer.join(2 * trial.target.time_scale)
    trial.check(not consumer.is_alive(), "next() waits on, although the stream was closed")
    trial.equal(found, [None], "what the waiting next() returned")
    trial.check(stream.closed, "the stream does not say that it is closed")
    stream.close()
    trial.equal(stream.next(0.01), None, "next() of a closed stream")
    trial.equal(list(stream), [], "events of a closed stream")


@check(EVENT_009)
def driver_ends_its_streams(trial: Trial) -> None:
    driver = trial.target.connect()
    stream = driver.watch()
    driver.close()
    trial.check(stream.closed, "the stream outlives its driver")
    trial.equal(stream.next(0.01), None, "next() after the driver was closed")


@check(EVENT_010)
def waits_no_longer_than_told(trial: Trial) -> None:
    watcher = watching(trial)
    watcher.resync()
    began = time.monotonic()
    trial.equal(watcher.next(0.05), None, "next() when nothing has happened")
    waited = time.monotonic() - began
    trial.check(0.04 < waited < 5, f"next(timeout=0.05) took {waited:.2f} seconds")
    trial.check(not watcher.stream.closed, "the stream ended because nothing came")
    uuid = trial.spawn(start=False).uuid
    watcher.made(uuid)


@check(EVENT_011)
def streams_do_not_share(trial: Trial) -> None:
    first, second = watching(trial), watching(trial)
    for watcher in (first, second):
        watcher.resync()
    uuid = trial.spawn(start=False).uuid
    for watcher in (first, second):
        watcher.made(uuid)
    first.stream.close()
    trial.driver.destroy(uuid)
    second.change(uuid, _K.DESTROYED, None)
