"""The suite's faults in the seam of a driver that stands on the kit."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from hvdrivers.conformance.engine.observer import FaultSeam
from hvdrivers.driverkit.seam import (
    Cut,
    Fault,
    Seam,
    cut_after,
    cut_before,
    expire_session,
    hang_for,
)


class SeamFaults(FaultSeam):
    """What ``Target.faults()`` returns for a driver with a :class:`~hvdrivers.driverkit.Seam`.

    Args:
        seam: the seam of the driver's connection.
        faults: what replaces a fault of the kit, by its kind: one that really breaks the transport.
        sendings: how often the driver sends at once what never reached the host. All of them are
            cut, so that the caller sees the fault.
    """

    deadline = 0.3

    def __init__(
        self, seam: Seam, faults: Mapping[str, Fault] | None = None, *, sendings: int = 3
    ) -> None:
        self._seam = seam
        self._sendings = sendings
        self._faults: dict[str, Fault] = {
            "before": cut_before,
            "after": cut_after,
            "timeout": hang_for(self.deadline + 0.1),
            "expired": expire_session,
            **(faults or {}),
        }

    def counting(self) -> AbstractContextManager[list[str]]:
        """See :meth:`FaultSeam.counting`."""
        return self._seam.counting()

    def cut(self, name: str, occurrence: int, kind: str) -> AbstractContextManager[Cut]:
        """See :meth:`FaultSeam.cut`."""
        repeats = self._sendings if kind == "before" else 1
        fault = self._faults[kind]
        return self._seam.cut(fault, name=name, occurrence=occurrence, repeats=repeats)

    @contextmanager
    def cut_twice(self, name: str, occurrence: int, then: int) -> Iterator[Sequence[Cut]]:
        """See :meth:`FaultSeam.cut_twice`."""
        first, before = Cut(), self._faults["before"]
        lost = self._seam.cut(self._faults["after"], name=name, occurrence=occurrence, told=first)
        # outside of the first cut, so that the call which that strikes is not counted
        with (
            self._seam.cut(before, occurrence=then, repeats=self._sendings, after=first) as second,
            lost,
        ):
            yield first, second

    @contextmanager
    def host_dies(self, name: str, occurrence: int) -> Iterator[Cut]:
        """See :meth:`FaultSeam.host_dies`."""
        first, before = Cut(), self._faults["before"]
        dies = self._seam.cut(before, name=name, occurrence=occurrence, told=first)
        # outside of the first cut: each call after that is struck, also the same one sent again
        with self._seam.cut(before, repeats=sys.maxsize, after=first), dies:
            yield first
