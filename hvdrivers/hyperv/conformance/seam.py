"""Where a call of the Hyper-V driver is cut: in the WinRM service, by the message that carries it.

The driver names each of its calls; the seam knows from that which message comes next, and gives the
service a rule for it. What breaks is a TCP connection, a shell, a process, never a function of the
driver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from hvdrivers.conformance.engine.observer import Cut, FaultSeam
from hvdrivers.driverkit.seam import Seam
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, FaultRules, Strike

_T = TypeVar("_T")


class HypervSeam(FaultSeam):
    """The seam of one driver, whose service is the simulator's."""

    deadline = 0.8

    def __init__(self, seam: Seam, faults: FaultRules) -> None:
        self._seam = seam
        self._faults = faults

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        with self._seam.counting() as calls:
            yield calls

    @contextmanager
    def cut(self, name: str, occurrence: int, kind: str) -> Iterator[Cut]:
        cut = Cut()
        lock = threading.Lock()
        made = 0
        with ExitStack() as stack:

            def strike(this: str, send: Callable[[], _T]) -> _T:
                nonlocal made
                if this == name:
                    with lock:
                        made += 1
                        struck = made == occurrence
                    if struck:
                        stack.enter_context(self._faults.add(self._rule(name, kind)))
                        cut.struck = True
                return send()

            with self._seam.through(strike):
                yield cut

    @contextmanager
    def cut_twice(self, name: str, occurrence: int, then: int) -> Iterator[Sequence[Cut]]:
        first: list[Cut] = []
        second = Cut()
        lock = threading.Lock()
        later = 0

        def strike(this: str, send: Callable[[], _T]) -> _T:
            nonlocal later
            if first and first[0].struck:
                with lock:
                    later += 1
                    struck = later == then
                if struck:
                    rules.enter_context(self._faults.add(self._rule(this, "before")))
                    second.struck = True
            return send()

        # outside of the first cut, so that the call which that strikes is not counted
        with (
            ExitStack() as rules,
            self._seam.through(strike),
            self.cut(name, occurrence, "after") as lost,
        ):
            first.append(lost)
            yield lost, second

    @contextmanager
    def host_dies(self, name: str, occurrence: int) -> Iterator[Cut]:
        cut = Cut()
        lock = threading.Lock()
        made = 0
        with ExitStack() as stack:

            def strike(this: str, send: Callable[[], _T]) -> _T:
                nonlocal made
                with lock:
                    made += this == name
                    if made == occurrence and not cut.struck:
                        # each message from now on
                        stack.enter_context(
                            self._faults.add(FaultRule(Strike.CUT_BEFORE, nth=None))
                        )
                        cut.struck = True
                return send()

            with self._seam.through(strike):
                yield cut

    def _rule(self, name: str, kind: str) -> FaultRule:
        # a request's line has its operation as a word
        carries = f" {name.removeprefix('hyperv.')} ".encode()
        if kind == "before":
            return FaultRule(Strike.CUT_BEFORE, action="Send", contains=carries)
        if kind == "timeout":
            seconds = self.deadline + 0.1
            return FaultRule(Strike.STALL, action="Send", contains=carries, seconds=seconds)
        if kind == "expired":
            return FaultRule(Strike.UNAUTHORISED, action="Send", contains=carries)
        return FaultRule(Strike.NOTHING, action="Send", contains=carries, then=_lose_reply)


def _lose_reply(sent: bytes) -> FaultRule:
    """The shell dies with the reply to this line in it."""
    line = next(each for each in sent.splitlines() if b" run " in each)
    number = line.split(b" ")[0]
    reply = b" " + number + b" reply "
    return FaultRule(Strike.SHELL_LOST_AFTER, action="Receive", contains=reply)
