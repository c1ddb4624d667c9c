"""The model of instances that move, and what a short soak does of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.instance import Firmware, Flavor, InstanceInfo
from hvdrivers.models.migration import MovePhase
from hvdrivers.models.state import InstanceState
from tests.soak.errors import Violation
from tests.soak.whereabouts import Here, Step, Whereabouts, World

HERE = World((Here.PLAIN, None), (1, 0))
SOURCE = HERE.put(0, Here.AWAY)
BOTH = SOURCE.put(1, Here.PLAIN, 2)
THERE = BOTH.put(0, None)


def model(*possible: World) -> Whereabouts:
    made = Whereabouts(2, known=True)
    made.possible = frozenset(possible)
    return made


def becomes(**worlds: Any) -> Step:
    pairs = list(worlds.values())
    return lambda world: [after for before, after in pairs if before == world]


def shown(vcpus: int, move: MovePhase | None = None) -> InstanceInfo:
    return InstanceInfo(
        uuid=uuid4(),
        name="x",
        state=InstanceState.STOPPED,
        flavor=Flavor(vcpus=vcpus, memory_mib=64),
        firmware=Firmware.BIOS,
        metadata={},
        volumes=(),
        vifs=(),
        move=move,
    )


CONFIRM = becomes(a=(BOTH, THERE), b=(HERE, HERE))
FINISH = becomes(a=(SOURCE, BOTH), b=(BOTH, BOTH))


def test_a_success_that_nothing_allows() -> None:
    with pytest.raises(Violation, match="confirm_move"):
        model(SOURCE).succeeded("confirm_move", 0, CONFIRM)
    confirmed = model(SOURCE, BOTH)
    confirmed.succeeded("confirm_move", 0, CONFIRM)
    assert confirmed.possible == {THERE}


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (errors.OutcomeUnknown, {SOURCE, BOTH}),
        (errors.HypervisorFault, {SOURCE, BOTH}),
        (errors.ConnectionFailed, {SOURCE}),
        (errors.InsufficientResources, {SOURCE}),
    ],
)
def test_what_an_error_leaves(error: type[errors.HypervisorError], left: set[World]) -> None:
    made = model(SOURCE)
    made.failed("finish_move", 1, error("x"), FINISH)
    assert made.possible == left
    assert bool(made.late) is (len(left) > 1)


def test_a_refusal_tells_where_it_is() -> None:
    made = model(SOURCE, BOTH)
    made.failed("confirm_move", 0, errors.InvalidState("unfinished"), CONFIRM)
    assert made.possible == {SOURCE}
    with pytest.raises(Violation, match="finish_move"):
        made.failed("finish_move", 1, errors.InstanceNotFound("none"), FINISH)
    made.failed("finish_move", 1, errors.InstanceNotFound("none"), FINISH, maybe=lambda _: True)
    made.failed("finish_move", 1, errors.InvalidState("it runs"), FINISH, refusable=True)


SEEN: list[tuple[int, InstanceInfo | None, set[World]]] = [
    (1, None, {SOURCE}),
    (1, shown(2), {BOTH}),
    (0, shown(1, MovePhase.PREPARED), {SOURCE, BOTH}),
]


@pytest.mark.parametrize(("host", "info", "left"), SEEN)
def test_a_read_narrows(host: int, info: InstanceInfo | None, left: set[World]) -> None:
    made = model(SOURCE, BOTH)
    made.seen(host, info)
    assert made.possible == left
    late = model(SOURCE, BOTH)
    late.late = {0}
    late.seen(host, info)
    assert late.possible == {SOURCE, BOTH}, "what is late may still come"


WRONG: list[Callable[[Whereabouts], None]] = [
    lambda made: made.seen(0, None),
    lambda made: made.seen(0, shown(1)),
    lambda made: made.seen(0, shown(2, MovePhase.PREPARED)),
    lambda made: made.seen(1, shown(1)),
]


@pytest.mark.parametrize("look", WRONG)
def test_a_read_that_nothing_allows(look: Callable[[Whereabouts], None]) -> None:
    with pytest.raises(Violation, match="possible is"):
        look(model(SOURCE, BOTH))
