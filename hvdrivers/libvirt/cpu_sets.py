"""Sets of CPUs as libvirt writes them."""

from __future__ import annotations

from collections.abc import Iterable


def cpus_in(numbers: str) -> frozenset[int]:
    """``0-2,7`` as numbers.

    Raises:
        ValueError: it is no such list.
    """
    found: set[int] = set()
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise ValueError(f"{part} begins after its end")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def numbers_of(cpus: Iterable[int]) -> str:
    """Numbers as libvirt reads them."""
    return ",".join(map(str, sorted(cpus)))
