"""Clauses about an instance that is BUILDING: what others see of it, and what they may do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID

from hvdrivers.conformance.checks.concurrency import BUILDING, RUNNING
from hvdrivers.conformance.checks.states import CALLS
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.refusals import REQUESTS
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver, state_table
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState

CONC_009 = clause(
    "CONC-009",
    "while spawn() is at work the instance is BUILDING or not there, and never seen otherwise",
    operation="spawn",
)
CONC_010 = clause(
    "CONC-010",
    "an instance that is BUILDING can be destroyed; what is refused then raises InvalidState and"
    " does not disturb the spawn",
    operation="spawn",
)


_LONGER = (0.6, 2.4, 9.6, 38.4)
"""Seconds that a spawn is slowed by, until it lasts as long as what is to be done meanwhile."""
_ENOUGH_LOOKS = 20
"""Of one spawn. A driver that has shown no BUILDING in as many shows none in a longer spawn."""


def _building(
    trial: Trial,
    meanwhile: Callable[[UUID, ComputeDriver, threading.Thread], None],
    seconds: float = _LONGER[0],
) -> list[object]:
    """Spawn slowly, and do something meanwhile, on another connection."""
    spec = trial.spec()
    trial.will_destroy(spec.uuid)
    other = trial.connect()
    result: list[object] = []

    def spawn() -> None:
        try:
            result.append(trial.driver.spawn(spec))
        except errors.HypervisorError as error:
            result.append(error)

    thread = threading.Thread(target=spawn, daemon=True)
    with trial.target.slowed("spawn", seconds * trial.target.time_scale):
        thread.start()
        meanwhile(spec.uuid, other, thread)
        thread.join(120.0 * trial.target.time_scale)
    trial.check(not thread.is_alive(), "spawn() is stuck")
    return [spec.uuid, *result]


def _seen(driver: ComputeDriver, uuid: UUID) -> InstanceState | None:
    try:
        return driver.get_instance(uuid).state
    except errors.InstanceNotFound:
        return None


class _Looks:
    """What one caller sees of an instance while a spawn makes it."""

    def __init__(self) -> None:
        self._vain = 0
        self._seen = False

    def until_building(self, driver: ComputeDriver, uuid: UUID, thread: threading.Thread) -> bool:
        """Wait for BUILDING; False if the spawn has ended before."""
        while thread.is_alive():
            if _seen(driver, uuid) is BUILDING:
                self._seen = True
                return True
            self._vain += 1
            thread.join(0.005)
        return False

    @property
    def never(self) -> bool:
        """Whether the driver shows an instance only when it is whole, which CONC-009 allows."""
        return not self._seen and self._vain >= _ENOUGH_LOOKS


@check(CONC_009)
def is_building_meanwhile(trial: Trial) -> None:
    seen: list[InstanceState | None] = []

    def look(uuid: UUID, other: ComputeDriver, thread: threading.Thread) -> None:
        while thread.is_alive():
            # the list is the earlier look of the two, and comes first
            listed = {each.uuid: each.state for each in other.list_instances()}
            for state in (listed.get(uuid), _seen(other, uuid)):
                if not seen or seen[-1] is not state:
                    seen.append(state)
            thread.join(0.01)

    uuid, *result = _building(trial, look)
    trial.check(isinstance(result[0], InstanceInfo), f"spawn() got {result[0]!r}")
    shown = [None if each is None else each.value for each in seen]
    stages = [None, BUILDING, RUNNING]
    trial.check(all(each in stages for each in seen), f"it was seen as {shown}")
    order = [stages.index(each) for each in seen if each in stages]
    trial.check(order == sorted(order), f"it was seen as {shown}")
    trial.check(isinstance(uuid, UUID) and trial.state(uuid) is RUNNING, "it does not run")


@check(CONC_010)
def refuses_while_building(trial: Trial) -> None:
    if trial.has(Capability.HOST_VOLUMES):
        trial.attachment()
    wrong: list[str] = []
    late: list[str] = []
    left: dict[str, Callable[[Trial, UUID], object]] = {}
    looks = _Looks()
    for name, row in state_table().items():
        rules = OPERATIONS.get(name)
        if rules is None or row[BUILDING].legal:
            continue
        if rules.capability is not None and not trial.has(rules.capability):
            continue
        call = CALLS.get(name) or REQUESTS.get(rules.capability or Capability.PAUSE)
        if call is not None:
            left[name] = call

    def disturb(uuid: UUID, other: ComputeDriver, thread: threading.Thread) -> None:
        nonlocal looks
        looks = _Looks()
        theirs = Trial(trial.target, other, trial.journal)
        theirs._attachment = trial._attachment
        for name, call in list(left.items()):
            if not looks.until_building(other, uuid, thread):
                return
            did = "succeeded"
            try:
                call(theirs, uuid)
            except (errors.InvalidState, errors.NotSupported):
                del left[name]  # NotSupported: for an argument, which is looked at first
                continue
            except errors.HypervisorError as error:
                did = f"raised {type(error).__name__}"
            if _seen(other, uuid) is BUILDING:
                del left[name]
                wrong.append(f"{name} {did}")
            else:  # on a busy machine the spawn may have come to its end before the call
                late.append(name)

    for seconds in _LONGER:
        late.clear()
        uuid, *result = _building(trial, disturb, seconds)
        trial.check(not wrong, f"while it was BUILDING {'; '.join(wrong)}")
        trial.check(isinstance(result[0], InstanceInfo), f"spawn() got {result[0]!r}")
        if not late:
            trial.check(isinstance(uuid, UUID) and trial.state(uuid) is RUNNING, "it does not run")
        if not left or looks.never:
            break


@check(CONC_010)
def is_destroyed_while_building(trial: Trial) -> None:
    before = trial.picture()
    ends: list[object] = []
    looks = _Looks()
    seen = False

    def destroy(uuid: UUID, other: ComputeDriver, thread: threading.Thread) -> None:
        nonlocal looks, seen
        looks = _Looks()
        seen = looks.until_building(other, uuid, thread)
        other.destroy(uuid)

    for seconds in _LONGER[:3]:
        uuid, *result = _building(trial, destroy, seconds)
        with trial.raises(errors.InstanceNotFound):
            trial.driver.get_instance(uuid)  # type: ignore[arg-type]
        trial.equal(trial.picture(), before, "the host after that")
        if isinstance(result[0], errors.HypervisorError):
            return
        # on a busy machine the spawn may have come to its end between the look and destroy()
        if seen:
            ends.append(result[0])
        if looks.never:
            break
    trial.check(not ends, f"spawn() got {ends!r}, each time, while the instance was destroyed")
