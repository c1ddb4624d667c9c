"""What an observer needs to tell residue that can be compared as a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

__all__ = ["numbered"]


def numbered(names: Iterable[str]) -> Iterator[str]:
    """Names that may be alike, each with its number among those that are.

    For names of which an observer leaves out what chance chose. One more of a kind adds an element,
    and takes none away, as a count in the text would: then what is there would seem to be gone.
    """
    met: Counter[str] = Counter()
    for name in names:
        met[name] += 1
        yield f"{name}, number {met[name]}"
