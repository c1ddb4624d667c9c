"""Clauses about many callers at once: on one instance and on many, through one driver and through
several."""

from __future__ import annotations

import random
import threading
import time
from functools import partial
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.assertions import all_that_can_be_had, expect_state
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.concurrency_tools import History, explain, together
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.instance import InstanceInfo, InstanceSpec
from hvdrivers.models.state import InstanceState

BUILDING, RUNNING, STOPPED = InstanceState.BUILDING, InstanceState.RUNNING, InstanceState.STOPPED

CONC_001 = clause(
    "CONC-001",
    "what many callers do to the power of one instance, and what they see of it, can be put into"
    " one order in which each call does what its row of the table says",
)
CONC_002 = clause("CONC-002", "an operation on one instance does not wait for one on another")
CONC_003 = clause("CONC-003", "spawns of different UUIDs run in parallel", operation="spawn")
CONC_004 = clause(
    "CONC-004",
    "of several that spawn the same UUID at the same moment exactly one gets it, and the others"
    " InstanceExists",
    operation="spawn",
)
CONC_005 = clause(
    "CONC-005",
    "several that destroy the same instance at the same moment all succeed, and nothing is left",
    operation="destroy",
)
CONC_008 = clause(
    "CONC-008", "what each of many callers does to an instance of its own stays its own"
)
CONC_011 = clause(
    "CONC-011",
    "list_instances() is right while others come and go: it neither fails nor misses one that is"
    " there throughout",
    operation="list_instances",
)

_CALLERS = 3
_ROUNDS = 5
_MOST_ROUNDS = 200


@check(CONC_001)
def history_has_an_order(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    other = trial.connect()
    names = ["power_on", "power_off"]
    if trial.has(Capability.PAUSE):
        names += ["pause", "unpause"]
    history = History()

    def work(seed: int) -> None:
        choice = random.Random(seed)  # noqa: S311 - reproducible, no secret
        for _ in range(_ROUNDS):
            name = choice.choice(names)
            history.record(name, partial(getattr(trial.driver, name), uuid))
            history.record("get_instance", lambda: trial.driver.get_instance(uuid).state)

    def look() -> None:
        for _ in range(3 * _ROUNDS):
            history.record("get_instance", lambda: other.get_instance(uuid).state)

    seeds = [random.randrange(2**31) for _ in range(_CALLERS)]  # noqa: S311
    results = together(trial, [*(partial(work, seed) for seed in seeds), look])
    for result in results:
        trial.check(not isinstance(result, Exception), f"a caller got {result!r}")
    # and one after the other, at last: a call whose effect comes later shows here at the latest
    for name in ("power_on", "power_off") * 2:
        history.record(name, partial(getattr(trial.driver, name), uuid))
        history.record("get_instance", lambda: other.get_instance(uuid).state)
    reason = explain(history.entries, STOPPED)
    trial.check(reason is None, f"no order explains what was seen: {reason}")


@check(CONC_002)
def others_go_on(trial: Trial) -> None:
    slow, quick = trial.spawn().uuid, trial.spawn().uuid
    # a guest without its tools yet is not asked, where a hypervisor asks by them
    trial.target.wait_booted(trial.driver, slow)
    with trial.target.deaf_guest(trial.driver, slow):
        # on a busy machine the slow call may begin after the quick ones, or they may take as long:
        # it gets a longer start, and more time
        for start, seconds in ((0.2, 1.0), (2.0, 6.0)):
            grace = seconds * trial.target.time_scale
            still, surely = _goes_on(trial, slow, quick, start, grace)
            if still and surely:
                break
            trial.driver.power_on(slow)
            trial.driver.power_on(quick)
    trial.check(still, f"it took as long as the other, which waits {grace:.2f} s for its guest")


def _goes_on(
    trial: Trial, slow: UUID, quick: UUID, start: float, grace: float
) -> tuple[bool, bool]:
    """Whether the slow call was still under way after the quick ones, and surely before them."""
    waiting = threading.Thread(
        target=trial.driver.power_off, args=(slow,), kwargs={"graceful": grace}, daemon=True
    )
    waiting.start()
    waiting.join(start * trial.target.time_scale)  # if it is over, it was not slow
    began = time.monotonic()
    trial.driver.set_metadata(quick, {"hvct.a": "b"})
    trial.driver.power_off(quick)
    trial.state(quick)
    # not whether the thread lives: that of a call which has just ended does for a moment
    still = trial.state(slow) is not STOPPED
    waiting.join(60.0 * trial.target.time_scale)
    ended = time.monotonic()
    expect_state(trial, slow, STOPPED, "after its grace")
    expect_state(trial, quick, STOPPED, "meanwhile")
    return still, ended - began < grace


@check(CONC_003)
def spawns_overlap(trial: Trial) -> None:
    count, least = 4, 0.4 * trial.target.time_scale
    slow = least
    if trial.target.immediate:
        # long beside what the driver itself takes, on whatever machine this runs
        began = time.monotonic()
        trial.driver.destroy(trial.spawn().uuid)
        slow = max(least, 10 * (time.monotonic() - began))
    specs = [trial.spec() for _ in range(count)]
    for spec in specs:
        trial.will_destroy(spec.uuid)
    ends: list[float] = []

    def spawn(spec: InstanceSpec) -> InstanceInfo:
        info = trial.driver.spawn(spec)
        ends.append(time.monotonic() - began)
        return info

    began = time.monotonic()
    with trial.target.slowed("spawn", slow):
        results = together(trial, [partial(spawn, spec) for spec in specs])
    for spec, result in zip(specs, results, strict=True):
        trial.check(isinstance(result, InstanceInfo), f"a spawn got {result!r}")
        trial.equal(getattr(result, "uuid", None), spec.uuid, "UUID that spawn() returned")
        trial.equal(trial.driver.get_instance(spec.uuid), result, "the instance")
    first, last = min(ends), max(ends)
    words = f"{count} spawns of {slow:.2f} s took {last:.2f} s together, the first {first:.2f} s"
    # one after the other they end at first, 2 first, ...; a host with little to spare is slow
    trial.check(last < 0.8 * count * least or last / first < 0.6 * count, words)


_WAYS = [Case("one connection", (False,)), Case("several connections", (True,))]


def _drivers(trial: Trial, count: int, several: bool) -> list[ComputeDriver]:
    return [trial.connect() if several else trial.driver for _ in range(count)]


@check(CONC_004, cases=_WAYS)
def one_of_them_gets_it(trial: Trial, several: bool) -> None:
    changes = all_that_can_be_had(trial)
    changes.pop("volumes", None)  # a volume would be what they quarrel about
    before = trial.picture()
    uuid = uuid4()
    trial.will_destroy(uuid)
    specs = [
        trial.spec(uuid=uuid, metadata={"hvct.who": str(number)}, **changes)
        for number in range(_CALLERS)
    ]
    drivers = _drivers(trial, _CALLERS, several)
    results = together(
        trial,
        [partial(driver.spawn, spec) for driver, spec in zip(drivers, specs, strict=True)],
    )
    won = [each for each in results if isinstance(each, InstanceInfo)]
    lost = [each for each in results if isinstance(each, errors.InstanceExists)]
    others = [
        f"{each!r}" for each in results if not isinstance(each, InstanceInfo) and each not in lost
    ]
    what = "who won and who lost" + "".join(f"; one got {each}" for each in others)
    trial.equal((len(won), len(lost)), (1, _CALLERS - 1), what)
    trial.equal(trial.driver.get_instance(uuid), won[0], "what the winner got")
    trial.driver.destroy(uuid)
    trial.equal(trial.picture(), before, "the host after it was destroyed")


@check(CONC_005, cases=_WAYS)
def all_succeed(trial: Trial, several: bool) -> None:
    changes = all_that_can_be_had(trial)
    before = trial.picture()
    uuid = trial.spawn(**changes).uuid
    drivers = _drivers(trial, _CALLERS, several)
    results = together(trial, [partial(driver.destroy, uuid) for driver in drivers])
    trial.equal(results, [None] * _CALLERS, "what the callers got")
    trial.equal(trial.picture(), before, "the host after that")


@check(CONC_008)
def each_has_its_own(trial: Trial) -> None:
    uuids = [trial.spawn(start=False).uuid for _ in range(_CALLERS)]

    def work(uuid: UUID) -> list[str]:
        problems = []
        for number in range(_ROUNDS):
            metadata = {"hvct.mine": f"{uuid} {number}"}
            trial.driver.set_metadata(uuid, metadata)
            info = trial.driver.get_instance(uuid)
            if (info.uuid, dict(info.metadata)) != (uuid, metadata):
                problems.append(f"{uuid} has {info!r}")
            trial.driver.power_on(uuid)
            if trial.state(uuid) is not RUNNING:
                problems.append(f"{uuid} does not run")
            trial.driver.power_off(uuid)
            if trial.state(uuid) is not STOPPED:
                problems.append(f"{uuid} runs on")
        return problems

    results = together(trial, [partial(work, uuid) for uuid in uuids])
    trial.equal(results, [[] for _ in uuids], "what the callers found")


@check(CONC_011)
def list_is_right_meanwhile(trial: Trial) -> None:
    staying = {trial.spawn(start=False).uuid, trial.spawn(start=False).uuid}
    looks: list[int] = []
    done = threading.Event()
    other = trial.connect()

    def come_and_go() -> None:
        try:
            for number in range(_MOST_ROUNDS):
                spec = trial.spec(start=False)
                trial.will_destroy(spec.uuid)
                trial.driver.spawn(spec)
                trial.driver.destroy(spec.uuid)
                if number >= _ROUNDS and len(looks) >= 4 * _ROUNDS:
                    return
        finally:
            done.set()

    def look() -> list[str]:
        problems = []
        while not done.is_set():
            listed = [each.uuid for each in other.list_instances()]
            looks.append(len(listed))
            if len(set(listed)) != len(listed):
                problems.append("an instance was listed twice")
            if not staying <= set(listed):
                problems.append("an instance was missing that was there throughout")
        return problems

    results = together(trial, [come_and_go, look])
    trial.equal(results, [None, []], "what the callers found")


CONC_020 = clause(
    "CONC-020",
    "destroy() ends a long operation of the same instance, which raises InstanceNotFound, and"
    " leaves nothing of either",
    operation="destroy",
    level=Level.SHOULD,
    needs=[Capability.STORAGE_MIGRATION],
)


@check(CONC_020)
def destroy_does_not_wait(trial: Trial) -> None:
    pools = [pool.name for pool in trial.driver.get_available_resource().storage]
    if len(pools) < 2:
        raise PreconditionMissing("the host has one storage pool: there is nowhere to move to")
    before = trial.picture()
    uuid = trial.spawn(start=False).uuid
    trial.driver.migrate_storage(uuid, pools[0])
    begun = threading.Event()

    def move() -> object:
        return trial.driver.migrate_storage(uuid, pools[1], progress=lambda _: begun.set())

    def destroy() -> object:
        begun.wait(60 * trial.target.time_scale)
        return trial.driver.destroy(uuid)

    with trial.target.slowed("migrate_storage", 2.0 * trial.target.time_scale):
        moved, destroyed = together(trial, [move, destroy])
    trial.check(isinstance(moved, errors.InstanceNotFound), f"the move ended with {moved!r}")
    trial.equal(destroyed, None, "what destroy() did")
    trial.equal(trial.picture(), before, "the host after destroy()")
