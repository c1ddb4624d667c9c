"""Faults on request: the seam where a call to the fake host is cut, delayed or refused.

::

    with host.faults.add(FaultRule(operation="spawn", when="after")) as fault:
        with pytest.raises(OutcomeUnknown):
            driver.spawn(spec)                   # it is there, only the reply was lost
    assert fault.hits == 1

An *operation* of the contract (``spawn``) is one or more *calls* to the host (``create-disk``); a
rule names either. ``host.transcript()`` shows the calls that an operation makes.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.models.base import Model


class FaultKind(StrEnum):
    """What goes wrong, and when."""

    BEFORE = "before"
    """The connection breaks before the request is sent: ConnectionFailed, nothing happened."""
    AFTER = "after"
    """The request takes effect and the reply is lost: OutcomeUnknown (ConnectionFailed for a
    read, which can have changed nothing)."""
    MID = "mid"
    """The connection breaks between call ``step`` and the next: ConnectionFailed, and the driver
    undoes what it knows to have happened."""
    TIMEOUT = "timeout"
    """The deadline passes while the request waits to be taken: OperationTimeout, nothing
    happened. At once, unless ``delay`` says how long to hang."""
    AUTH_EXPIRED = "auth-expired"
    """The host ends the session and refuses the request: AuthenticationFailed, nothing happened.
    The next call logs in again."""
    CRASH = "crash"
    """The calling process dies before the request is sent: what the operation has begun stays, as
    nobody is left to undo it."""
    DELAY = "delay"
    """Nothing goes wrong, it only takes ``delay`` seconds longer."""


FaultWord = Literal["before", "after", "mid", "timeout", "auth-expired", "crash", "delay"]
"""The same as a word."""

ErrorFactory = Callable[[], errors.HypervisorError]


class FaultRule(Model):
    """When to do what to which call. Conditions that are given must all hold."""

    operation: str = "*"
    """An operation of the contract (``spawn``), a call to the host (``create-disk``), or ``*``
    for every call of every operation."""
    when: FaultKind = FaultKind.BEFORE
    step: Annotated[int, Field(ge=1)] | None = None
    """For an operation: at its call number ``step``, counted from 1. None: at its beginning
    (``before``, ``timeout``, ...) or after its end (``after``)."""
    instance: UUID | None = None
    """Only what concerns this instance."""
    nth: Annotated[int, Field(ge=1)] | None = None
    """Only the nth occasion, counted from 1, after which the rule is spent."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Every so many occasions: 3 is the third, the sixth, ..."""
    probability: Annotated[float, Field(ge=0, le=1)] | None = None
    """By chance, from a generator that begins with ``seed``."""
    seed: int = 0
    times: Annotated[int, Field(ge=1)] | None = None
    """At most so often. None: as long as it is installed."""
    delay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Seconds that pass first."""
    error: ErrorFactory | None = None
    """Makes the error to raise instead of the usual one: what the host itself refuses with
    (``before``), or reports although it did it (``after``)."""
    undo: bool = False
    """Also hit the calls with which a driver undoes. Without it a driver that reconnects can
    clear up; with it what was begun stays behind."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            operation: str = "*",
            when: FaultKind | FaultWord = FaultKind.BEFORE,
            step: int | None = None,
            instance: UUID | None = None,
            nth: int | None = None,
            every: int | None = None,
            probability: float | None = None,
            seed: int = 0,
            times: int | None = None,
            delay: float = 0.0,
            error: ErrorFactory | None = None,
            undo: bool = False,
        ) -> None: ...

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        is_operation = self.operation in OPERATIONS
        if self.step is not None and not is_operation:
            raise ValueError("step counts the calls of an operation: name one")
        if self.when is FaultKind.MID and self.step is None:
            raise ValueError("mid needs the step after which the connection breaks")
        if not is_operation and self.operation != "*" and "-" not in self.operation:
            # calls have a hyphen in their names, so that a typing error cannot pass for one
            raise ValueError(f"{self.operation!r} is neither an operation nor a call")
        return self


@dataclass(frozen=True)
class Occasion:
    """A moment at which a rule may apply."""

    operation: str
    instance: UUID | None
    step: int | None = None
    """Number of the call in its operation; None: the operation as a whole."""
    call: str | None = None
    undoing: bool = False


class InstalledFault:
    """A rule at work. Leaving its ``with`` block removes it."""

    def __init__(self, rule: FaultRule, faults: Faults) -> None:
        self.rule = rule
        self._faults = faults
        self._lock = threading.Lock()
        self._seen = 0
        self._hits = 0
        self._random = random.Random(rule.seed)  # noqa: S311 - reproducible chance, no secret

    @property
    def hits(self) -> int:
        """How often it struck."""
        return self._hits

    @property
    def seen(self) -> int:
        """How many occasions it has met, struck or not."""
        return self._seen

    def strikes(self, occasion: Occasion) -> bool:
        """Count an occasion, and say whether the rule strikes."""
        rule = self.rule
        if not self._concerns(occasion):
            return False
        with self._lock:
            self._seen += 1
            strikes = (
                (rule.nth is None or self._seen == rule.nth)
                and (rule.every is None or self._seen % rule.every == 0)
                and (rule.times is None or self._hits < rule.times)
                and (rule.probability is None or self._random.random() < rule.probability)
            )
            self._hits += strikes
        return strikes

    def _concerns(self, occasion: Occasion) -> bool:
        rule = self.rule
        if rule.instance is not None and rule.instance != occasion.instance:
            return False
        if occasion.undoing and not rule.undo:
            return False
        if rule.operation in OPERATIONS:
            return occasion.call is None and (rule.operation, rule.step) == (
                occasion.operation,
                occasion.step,
            )
        # calls, whatever their number
        return occasion.call is not None and rule.operation in {"*", occasion.call}

    def remove(self) -> None:
        """Take the rule away; twice is allowed."""
        self._faults.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


class Faults:
    """The rules that are installed. The first that strikes counts."""

    def __init__(self, rules: Iterable[FaultRule] = ()) -> None:
        self._lock = threading.Lock()
        self._installed: tuple[InstalledFault, ...] = ()
        for rule in rules:
            self.add(rule)

    def add(self, rule: FaultRule) -> InstalledFault:
        """Install a rule, until its ``remove()`` or the end of its ``with`` block."""
        fault = InstalledFault(rule, self)
        with self._lock:
            self._installed = (*self._installed, fault)
        return fault

    def discard(self, fault: InstalledFault) -> None:
        """Remove what :meth:`add` returned."""
        with self._lock:
            self._installed = tuple(each for each in self._installed if each is not fault)

    def clear(self) -> None:
        """Remove all rules."""
        with self._lock:
            self._installed = ()

    @property
    def installed(self) -> tuple[InstalledFault, ...]:
        """What is installed now, with its counts."""
        return self._installed

    def strike(self, occasion: Occasion) -> FaultRule | None:
        """The rule that strikes here, if one does."""
        for fault in self._installed:
            if fault.strikes(occasion):
                return fault.rule
        return None


def error_of(rule: FaultRule, *, changes: bool) -> errors.HypervisorError:
    """The error that a rule raises.

    Args:
        changes: whether the call that it hits can have changed anything.
    """
    if rule.error is not None:
        return rule.error()
    match rule.when:
        case FaultKind.AFTER if changes:
            return errors.OutcomeUnknown(
                "the connection broke before the reply came", vendor_code="FAKE_REPLY_LOST"
            )
        case FaultKind.TIMEOUT:
            return errors.OperationTimeout(
                "the deadline passed before the host took the request", vendor_code="FAKE_TIMEOUT"
            )
        case FaultKind.AUTH_EXPIRED:
            return errors.AuthenticationFailed(
                "the session has expired", vendor_code="FAKE_SESSION_EXPIRED", retryable=True
            )
        case _:
            return errors.ConnectionFailed(
                "the connection broke before the request was sent", vendor_code="FAKE_CUT"
            )
