"""Faults of the wire, on request: which message is hit, and what happens to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from hvdrivers.hyperv.simulator.wsman_soap import Message


class Strike(Enum):
    """What happens to a message that a rule hits."""

    CUT_BEFORE = "cut-before"
    """The connection closes; the service does nothing."""
    CUT_AFTER = "cut-after"
    """The service does it, and the connection closes instead of the reply."""
    HANG = "hang"
    """The service does it, and holds the reply back for ``seconds``."""
    STALL = "stall"
    """The service does nothing for ``seconds``, and then does it."""
    UNAUTHORISED = "unauthorised"
    """HTTP 401: the credentials, or the sealed session, are not valid any more."""
    SHELL_LOST = "shell-lost"
    """The shell and its processes die; the answer is the fault of a shell that is not there."""
    SHELL_LOST_AFTER = "shell-lost-after"
    """The service does it, then the shell dies and the connection closes."""
    QUOTA = "quota"
    """The fault of MaxConcurrentOperationsPerUser (0x803381A6)."""
    SERVER_ERROR = "server-error"
    """HTTP 500 without a body, as an overloaded service answers."""
    NOTHING = "nothing"
    """Nothing: for a rule that only makes another."""
    GARBAGE = "garbage"
    """HTTP 200 and a body that is no XML."""


@dataclass
class FaultRule:
    """Strikes the ``nth`` message that it matches (from 1), or all of them."""

    strike: Strike
    action: str | None = None
    """The action of the message; None: any."""
    contains: bytes | None = None
    """Bytes that a Send must carry to standard input, or that a Receive must bring."""
    nth: int | None = 1
    seconds: float = 0.0
    then: Callable[[bytes], FaultRule] | None = None
    """Makes a further rule from the bytes of the message that was struck: to lose the reply to a
    certain request, the rule for its Send makes the one for its Receive."""
    over: threading.Event = field(default_factory=threading.Event, init=False)
    """Set it to end a HANG or a STALL before its ``seconds`` have passed."""
    hits: int = field(default=0, init=False)
    seen: int = field(default=0, init=False)


class FaultRules:
    """The rules of one server, and its counters of messages. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[FaultRule] = []
        self._followers: dict[int, list[FaultRule]] = {}
        self._counts: dict[str, int] = {}
        self._held: list[FaultRule] = []
        self._released = False

    @contextmanager
    def add(self, rule: FaultRule) -> Iterator[FaultRule]:
        """Have the rule during the block."""
        with self._lock:
            self._rules.append(rule)
        try:
            yield rule
        finally:
            with self._lock:
                gone = [rule, *self._followers.pop(id(rule), [])]
                self._rules = [
                    each for each in self._rules if not any(each is other for other in gone)
                ]

    def hold(self, rule: FaultRule) -> None:
        """Wait as long as the rule says, or until the server closes."""
        with self._lock:
            if self._released:
                return
            self._held.append(rule)
        rule.over.wait(rule.seconds)

    def release(self) -> None:
        """The server closes: whatever is held goes on."""
        with self._lock:
            self._released = True
            for rule in self._held:
                rule.over.set()

    def count(self, action: str) -> None:
        """Note one message."""
        with self._lock:
            self._counts[action] = self._counts.get(action, 0) + 1

    def counts(self) -> dict[str, int]:
        """Messages so far, by action, and ``http`` for all requests."""
        with self._lock:
            return dict(self._counts)

    def on(self, message: Message, carried: bytes = b"") -> FaultRule | None:
        """The rule that strikes this message.

        Args:
            carried: what a Send brings to standard input; for a Receive what it took from
                standard output (asked again once that is known).
        """
        with self._lock:
            for rule in self._rules:
                if rule.action not in (None, message.action):
                    continue
                if rule.contains is not None and rule.contains not in carried:
                    continue
                rule.seen += 1
                if rule.nth in (None, rule.seen):
                    rule.hits += 1
                    if rule.then is not None:
                        follower = rule.then(carried)
                        self._followers.setdefault(id(rule), []).append(follower)
                        self._rules.append(follower)
                    return rule
        return None
