"""Cutting one call of an operation: which, and whether the cut has struck."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hvdrivers.conformance.engine.observer import FaultSeam


class CutStruckNothing(Exception):
    """The seam has cut nothing, so the check has shown nothing: an error of the target."""


def chosen_calls(calls: Sequence[str], most: int) -> list[int]:
    """At most so many of these calls, by their numbers. The engine has seeded the choice, so the
    same seed cuts the same calls."""
    return sorted(random.sample(range(len(calls)), min(most, len(calls))))


def named(calls: Sequence[str], number: int) -> tuple[str, int]:
    """The name of a call, and the how-manieth of that name it is, from 1."""
    name = calls[number]
    return name, calls[: number + 1].count(name)


@contextmanager
def striking(seam: FaultSeam, name: str, occurrence: int, kind: str) -> Iterator[None]:
    """Cut a call, and insist that it came.

    Only of the first call of a name is that certain: an operation that polls makes the later ones
    now more and now less often.

    Raises:
        CutStruckNothing: the call did not come.
    """
    with seam.cut(name, occurrence, kind) as cut:
        yield
    if not cut.struck and occurrence == 1:
        raise CutStruckNothing(f"the seam was to cut {name} ({kind}), and that call never came")
