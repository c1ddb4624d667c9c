"""Times of the same work, done in two ways."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


def seconds(act: Callable[[], object]) -> float:
    """How long it takes once."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def best(act: Callable[[], object], runs: int = 10) -> float:
    """Seconds of the fastest run: the machine is noisy."""
    return min(seconds(act) for _ in range(runs))


@dataclass(frozen=True)
class Row:
    """One line of a comparison."""

    what: str
    ours: float
    theirs: float
    """Seconds, in the middle of all turns."""
    ratio: float
    """In the middle of the turns' ratios."""

    def __str__(self) -> str:
        times = f"{self.ours * 1000:9.1f} ms {self.theirs * 1000:9.1f} ms"
        return f"{self.what:48} {times} {self.ratio:7.2f} x"


def pairs(
    what: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    turns: int,
    *,
    before: Callable[[], object] = lambda: None,
) -> Row:
    """Let the driver and the other take turns, so that what slows the machine down slows both. Each
    is the first of a pair as often: the second one finds caches warm that both use.

    Args:
        before: what comes before each turn, and is not counted.
    """
    times = []
    for turn in range(turns):
        before()
        if turn % 2:
            other, mine = seconds(theirs), seconds(ours)
        else:
            mine, other = seconds(ours), seconds(theirs)
        times.append((mine, other))
    return Row(
        what,
        median(mine for mine, _ in times),
        median(other for _, other in times),
        median(mine / other for mine, other in times),
    )
