"""Where the conformance suite cuts the calls of the vSphere driver."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

from pyVmomi import vmodl

from hvdrivers.conformance.engine.observer import Cut, FaultSeam
from hvdrivers.driverkit import Seam, cut_after, cut_before
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver

_T = TypeVar("_T")


_SENDINGS = 3
"""How often the driver sends a request that never reached the server."""


class VmwareSeam(FaultSeam):
    """The driver's own seam: sockets are really shut, and sessions really ended."""

    deadline = 60.0
    """Nobody waits for it: the cut lets it pass."""

    def __init__(self, driver: VmwareDriver, server: RawServer) -> None:
        self._driver = driver
        self._server = server

    @property
    def _seam(self) -> Seam:
        return self._driver.session.seam

    def counting(self) -> AbstractContextManager[list[str]]:
        return self._seam.counting()

    @contextmanager
    def cut(self, name: str, occurrence: int, kind: str) -> Iterator[Cut]:
        strike = _Strike(name, occurrence, kind, self)
        with self._seam.through(strike):
            yield strike.cut

    @contextmanager
    def cut_twice(self, name: str, occurrence: int, then: int) -> Iterator[Sequence[Cut]]:
        first = _Strike(name, occurrence, "after", self)
        second = _Strike(None, then, "before", self, after=first.cut)
        with self._seam.through(second), self._seam.through(first):
            yield [first.cut, second.cut]

    @contextmanager
    def host_dies(self, name: str, occurrence: int) -> Iterator[Cut]:
        first = _Strike(name, occurrence, "before", self)
        later = _Strike(None, 1, "before", self, after=first.cut, times=sys.maxsize)
        with self._seam.through(later), self._seam.through(first):
            yield first.cut

    def fault(self, kind: str, send: Callable[[], _T]) -> _T:
        """What a cut of this kind does with a call."""
        if kind == "timeout":
            current_deadline().pass_now()
            return send()
        if kind == "expired":
            end_sessions(self._server)
            return send()
        try:
            return cut_before(send) if kind == "before" else cut_after(send)
        finally:
            self._driver.session.transport.cut()


class _Strike:
    """Cuts one call. One that is cut before it is sent is cut as often as the driver sends it
    again at once."""

    def __init__(
        self,
        name: str | None,
        occurrence: int,
        kind: str,
        seam: VmwareSeam,
        *,
        after: Cut | None = None,
        times: int | None = None,
    ) -> None:
        self.cut = Cut()
        self._name, self._occurrence, self._kind = name, occurrence, kind
        self._seam = seam
        self._after = after
        self._times = times or (_SENDINGS if kind == "before" else 1)
        self._lock = threading.Lock()
        self._made = 0

    def __call__(self, name: str, send: Callable[[], _T], /) -> _T:
        waits = self._after is not None and not self._after.struck
        if waits or self._name not in (None, name):
            return send()
        with self._lock:
            self._made += 1
            number = self._made
        if self._occurrence <= number < self._occurrence + self._times:
            self.cut.struck = True
            return self._seam.fault(self._kind, send)
        return send()


def end_sessions(server: RawServer) -> None:
    """End every session but the one that does it."""
    manager = server.content.sessionManager
    found = server.of(manager, "sessionList", "currentSession")
    for each in found["sessionList"]:
        if each.key != found["currentSession"].key:
            with suppress(vmodl.MethodFault):  # it has ended already
                manager.TerminateSession([each.key])
