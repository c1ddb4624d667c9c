"""The seam between the fake driver and its host: every call goes through here.

An operation is a :class:`Task`; each request to the host is one ``task.call(name, effect)``. That
is how a real driver works too, and so what happens to a real driver can happen here: a call is
counted, delayed, cut before it is sent or after it took effect, and what an operation has begun is
undone when a later call fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.fake.clock import Wake
from hvdrivers.fake.faults import FaultKind, FaultRule, Occasion, error_of
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

if TYPE_CHECKING:
    from hvdrivers.fake.link import Link

_T = TypeVar("_T")
_TOKENS = itertools.count(1)
_SLICES = 4
_FOREVER = float("inf")
_BY_HOST = frozenset({"stop-migration", "cancel-incoming", "drop-upload"})
"""What the host does by itself when whoever asked for it has died."""


@dataclass(frozen=True)
class Call:
    """One line of ``FakeHost.transcript()``."""

    operation: str
    name: str
    instance: UUID | None
    undoing: bool


class Task:
    """One operation under way.

    Args:
        slow: name of the call in which the operation's own latency is spent; None: the first.
    """

    def __init__(
        self,
        link: Link,
        operation: str,
        uuid: UUID | None,
        timeout: float | None,
        *,
        progress: ProgressCallback | None = None,
        slow: str | None = None,
    ) -> None:
        self.operation = operation
        self.uuid = uuid
        self.token = next(_TOKENS)
        self.wake = Wake()
        self._link = link
        self._clock = link.host.clock
        self._deadline = _FOREVER if timeout is None else self._clock.now() + timeout
        self._progress = progress
        self._slow = slow
        self._undo = ExitStack()
        self._step = 0
        self._committed = False
        self._dead = False
        self._not_undone = False
        self._whole: FaultRule | None = None

    # ---- the life of an operation --------------------------------------------------------------

    def __enter__(self) -> Self:
        self._link.check_open()
        self._whole = self._link.strike(Occasion(self.operation, self.uuid))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self._undo.pop_all()
            self._lose_reply()
            return
        self._undo.close()
        if self._dead or not OPERATIONS[self.operation].changes:
            return
        if not isinstance(exc, errors.HypervisorError):
            return  # what a progress callback raised goes to the caller as it is
        if self._not_undone:
            raise errors.OutcomeUnknown(
                "it failed, and not all that was begun could be undone",
                hint="repeat the call, or destroy() the instance, once the host answers again",
            ) from exc
        unfinished = isinstance(exc, errors.ConnectionFailed | errors.OperationTimeout)
        if self._committed and unfinished:
            raise errors.OutcomeUnknown("it took effect, and then failed to finish") from exc

    def _lose_reply(self) -> None:
        rule = self._whole
        if rule is not None and rule.when is FaultKind.AFTER:
            self.wait(rule.delay)
            raise error_of(rule, changes=OPERATIONS[self.operation].changes)

    # ---- calls ---------------------------------------------------------------------------------

    def call(
        self,
        name: str,
        effect: Callable[[], _T],
        *,
        undo: tuple[str, Callable[[], object]] | None = None,
        covered: bool = False,
        changes: bool = True,
    ) -> _T:
        """Send one request.

        A change that nothing reverts is the point of no return: from then on the operation goes
        forward only, and what fails later is OutcomeUnknown.

        Args:
            effect: what the host does, all of it or nothing; it runs under the world's lock.
            undo: the request that reverts it, sent also if this one's reply was lost.
            covered: the undo of an earlier call reverts this one too, or it needs none.
            changes: False for a read.
        """
        self._step += 1
        rules = [
            self._link.strike(Occasion(self.operation, self.uuid, self._step)),
            self._link.strike(Occasion(self.operation, self.uuid, call=name)),
        ]
        if self._step == 1 and self._whole is not None:
            rules.insert(0, self._whole if self._whole.when is not FaultKind.AFTER else None)
        strikes = [rule for rule in rules if rule is not None]
        for rule in strikes:
            self._before(rule)
        self._take_time(name)
        result = self._link.send(Call(self.operation, name, self.uuid, False), effect)
        if undo is not None:
            self._undo.callback(self._send_undo, *undo)
        if changes and undo is None and not covered:
            self._committed = True
            self._undo.pop_all()
        for rule in strikes:
            if rule.when in {FaultKind.AFTER, FaultKind.MID}:
                raise error_of(rule, changes=changes)
        return result

    def _before(self, rule: FaultRule) -> None:
        self.wait(rule.delay)
        if rule.when is FaultKind.CRASH:
            self._dead = True
        if rule.when in {
            FaultKind.BEFORE,
            FaultKind.CRASH,
            FaultKind.TIMEOUT,
            FaultKind.AUTH_EXPIRED,
        }:
            raise error_of(rule, changes=False)

    def _send_undo(self, name: str, effect: Callable[[], object]) -> None:
        """Undo one step. An undo has no deadline: it is short, and the guard grants it time."""
        if self._dead and name not in _BY_HOST:
            return
        rule = self._link.strike(Occasion(self.operation, self.uuid, call=name, undoing=True))
        if rule is not None and rule.when is not FaultKind.DELAY:
            self._not_undone = True
            return
        try:
            self._link.send(Call(self.operation, name, self.uuid, True), effect)
        except errors.ConnectionFailed:
            self._not_undone = True

    # ---- time ----------------------------------------------------------------------------------

    @property
    def remaining(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - self._clock.now())

    def check_deadline(self) -> None:
        """Raise OperationTimeout once the deadline has passed."""
        if self._clock.now() > self._deadline:
            raise errors.OperationTimeout("the deadline passed")

    def wait(self, seconds: float) -> None:
        """Let time pass, at most until the deadline.

        Raises:
            OperationTimeout: the deadline came first.
        """
        if seconds <= 0:
            return
        within = seconds <= self.remaining
        self._clock.wait(min(seconds, self.remaining), self.wake)
        if not within and not self.wake.is_set():
            raise errors.OperationTimeout("the deadline passed while the host was at work")

    def wait_for(self, seconds: float) -> bool:
        """Wait for something that takes ``seconds``, at most until the deadline.

        Returns:
            Whether it came to its end in time.
        """
        within = seconds <= self.remaining
        self._clock.wait(min(seconds, self.remaining), self.wake)
        return within

    def _take_time(self, name: str) -> None:
        self.check_deadline()
        epoch = self._link.host.epoch
        self.wait(self._link.latency(name))
        whole = self._link.latency(self.operation)
        if name == self._slow or (self._slow is None and self._step == 1):
            for part in range(_SLICES if whole > 0 else 0):
                self.wait(whole / _SLICES)
                self.report(Phase.COPY, (part + 1) * 100 // _SLICES, 100, "percent")
        if epoch != self._link.host.epoch:
            # disconnect() during the wait: the request had not been taken
            raise errors.ConnectionFailed("the connection was lost")

    def report(self, phase: Phase, done: int, total: int, unit: str = "bytes") -> None:
        """Tell the caller's progress callback, if there is one."""
        if self._progress is not None:
            report = {"phase": phase, "done": done, "total": total, "unit": unit}
            self._progress(Progress.model_validate(report))

    @property
    def progress(self) -> ProgressCallback | None:
        """The caller's callback."""
        return self._progress
