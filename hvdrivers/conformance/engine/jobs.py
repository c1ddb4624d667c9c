"""Several sessions at once, each in a process of its own with a host of its own, and one report.

Processes, not threads: checks count the threads and descriptors of theirs. Each takes one check
after the other, so that no long ones meet in one process. What a process cannot tell any more,
because it was killed or hangs, is told here.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from hvdrivers.conformance.engine import worker as messages
from hvdrivers.conformance.engine.clauses import Check, Tier
from hvdrivers.conformance.engine.latencies import Latencies
from hvdrivers.conformance.engine.processes import GRACE_SECONDS, Lost, Worker, answers, end_all
from hvdrivers.conformance.engine.report import CheckResult, Report, Status, judge, overall
from hvdrivers.conformance.engine.runner import KnownIssue
from hvdrivers.conformance.engine.target import Target
from hvdrivers.contract import errors

STUCK_SECONDS = 450.0
"""By the time scale of the target: a process that answers nothing for so long hangs, and is ended.
It is far more than any check takes."""

_LONG = frozenset({"MODEL-001", "HOSTP-002", "EVENT-008", "CONC-006", "CONC-007", "MIGR-006"})
"""Clauses whose checks take long with most drivers."""
_LONG_SECONDS, _USUAL_SECONDS = 60.0, 0.5

_SAME = "this is a bug in the target: tell the author of the driver's package"


def longest_first(checks: Iterable[Check], seconds: Mapping[str, float]) -> list[Check]:
    """The order in which several jobs end at nearly the same time.

    Args:
        checks: those to be run.
        seconds: how long some of them took once, by their id.
    """

    def expected(check: Check) -> float:
        usual = _LONG_SECONDS if check.clause.id in _LONG else _USUAL_SECONDS
        return seconds.get(check.id, usual)

    return sorted(checks, key=expected, reverse=True)


class Jobs:
    """A run like ``Session``, in several processes.

    Args:
        make: makes a target, each with a host of its own (``makes_host``). It is called in the
            processes, so it must be the function or class of a module, or a ``partial`` of one.
        jobs: how many at once.
        journal: one for all of them.
        known_issues: as in ``Session``.
        seed: as in ``Session``.
        seconds: how long some checks took once, by their id. The longest are tried first.
        on_trouble: gets a sentence when a process cannot go on.
        patience: seconds without an answer, by the time scale, after which a process is ended.
    """

    def __init__(
        self,
        make: Callable[[], Target],
        jobs: int,
        *,
        journal: Path | None = None,
        known_issues: Iterable[KnownIssue] = (),
        seed: int | None = None,
        seconds: Mapping[str, float] | None = None,
        on_trouble: Callable[[str], None] | None = None,
        patience: float = STUCK_SECONDS,
    ) -> None:
        self.seed = random.SystemRandom().randrange(2**31) if seed is None else seed
        self.results: list[CheckResult] = []
        self._make = make
        self._jobs = jobs
        self._journal = journal
        self._known = tuple(known_issues)
        self._seconds = seconds or {}
        self._tell = on_trouble or _silent
        self._patience = patience
        self._reach = False
        self._workers: list[Worker] = []
        self._head: Report | None = None
        self._refusals: list[BaseException] = []
        self._lost: list[str] = []
        self._latencies = Latencies()
        self._began = datetime.now(UTC)
        self._clock = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        raised: list[BaseException] = []
        try:
            if exc_type is None:
                raised = self._close()
        finally:
            workers, self._workers = self._workers, []
            end_all(workers)
        if raised:
            raise raised[0]

    def _close(self) -> list[BaseException]:
        """End the session of each process; what was raised by that."""
        raised: list[BaseException] = []
        # one whose host is not there yet has no session to end
        closing = [each for each in self._workers if each.idle and each.order(messages.Close())]
        while closing:
            for each, answer in answers(closing):
                closing.remove(each)
                self._workers.remove(each)
                match answer:
                    case messages.Closed(why):
                        each.end(GRACE_SECONDS)
                        raised += [messages.arrived(why)] if why else []
                    case Lost(how):
                        raised.append(
                            errors.PluginError(f"a process was {how} when it had to end its host")
                        )
        return raised

    # ---- the run --------------------------------------------------------------------------------

    def run(
        self,
        checks: Iterable[Check],
        *,
        on_result: Callable[[CheckResult], None] | None = None,
    ) -> list[CheckResult]:
        """Run several checks. Each result is told as soon as it is there; the list is in the order
        of ``checks``.

        Raises:
            LeftoversFound: as in ``Session``.
            HypervisorError: no process has got a host.
        """
        wanted = list(checks)
        self._reach = any(each.tier is Tier.HOST for each in wanted)
        waiting = deque(longest_first(wanted, self._seconds))
        found: dict[str, CheckResult] = {}

        def came(result: CheckResult) -> None:
            found[result.check] = result
            if on_result is not None:
                on_result(result)

        while len(self._workers) < min(self._jobs, len(waiting)):
            self._start()
        while len(found) < len(wanted):
            self._hand_out(waiting)
            if not self._workers:
                if self._head is None:
                    raise self._refusals[0]
                for check in waiting:
                    came(_error(check, "no process is left that could try it"))
                break
            for each, answer in answers(self._workers):
                match answer:
                    case messages.Tried(result, latencies):
                        each.check = None
                        self._latencies.add(latencies)
                        came(result)
                    case messages.Begun():
                        self._begun(each, answer)
                    case messages.Refused(why):
                        self._workers.remove(each)
                        each.end(GRACE_SECONDS)
                        self._refused(messages.arrived(why))
                    case Lost(how):
                        self._workers.remove(each)
                        if (last := self._mourn(each, how)) is not None:
                            came(last)
                            if waiting:
                                self._start()
        in_order = [found[each.id] for each in wanted]
        self.results += in_order
        return in_order

    def _start(self) -> None:
        def job(folder: Path) -> messages.Job:
            return messages.Job(
                make=self._make,
                folder=folder,
                seed=self.seed,
                journal=self._journal,
                known_issues=self._known,
                reach=self._reach,
            )

        self._workers.append(Worker(job, self._patience))

    def _hand_out(self, waiting: deque[Check]) -> None:
        for each in self._workers:
            if each.idle and waiting:
                check = waiting.popleft()
                if each.order(messages.TryCheck(check.id)):
                    each.check = check
                else:
                    waiting.appendleft(check)

    def _begun(self, each: Worker, answer: messages.Begun) -> None:
        each.begun, each.time_scale = True, answer.time_scale
        if self._head is None:
            self._head = answer.head
            if answer.trouble:
                self._tell(f"the driver does not connect: {answer.trouble}")
            return
        differs = _kind(answer.head) ^ _kind(self._head)
        if differs:
            raise errors.PluginError(
                f"the hosts that the conformance target {self._head.driver!r} makes are not the"
                f" same: not each has {', '.join(sorted(differs))}",
                hint=_SAME,
            )

    def _refused(self, error: BaseException) -> None:
        self._refusals.append(error)
        if self._head is not None:
            self._tell(f"one process has no host: {error}")

    def _mourn(self, each: Worker, how: str) -> CheckResult | None:
        """What there is to say of a process that has ended: the result of what it tried."""
        if not each.begun:
            self._refused(errors.PluginError(f"the process was {how} before it had a host"))
            return None
        at = "" if each.check is None else f" at {each.check.id}"
        self._tell(f"a process was {how}{at}")
        self._lost.append(f"nobody knows: a process was {how}{at}, and its host ended with it")
        if each.check is None:
            return None
        return _error(each.check, f"the process that tried it was {how}", each.busy_for)

    # ---- the report -----------------------------------------------------------------------------

    def report(self, *, complete: bool) -> Report:
        """What was found so far, by all of them."""
        heads: list[Report] = []
        asked = [each for each in self._workers if each.idle and each.order(messages.Tell())]
        while asked:
            for each, answer in answers(asked):
                asked.remove(each)
                match answer:
                    case messages.Told(head):
                        heads.append(head)
                    case Lost(how):
                        self._workers.remove(each)
                        self._mourn(each, how)
        heads += [self._head] if self._head is not None else []
        if not heads:
            raise RuntimeError("nothing was run")
        head = next((each for each in heads if each.host is not None), heads[0])
        leftovers = [what for each in heads for what in each.leftovers]
        leftovers = list(dict.fromkeys([*leftovers, *self._lost]))
        profiles = judge(self.results)
        return head.model_copy(
            update={
                "started_at": self._began,
                "seconds": round(time.monotonic() - self._clock, 2),
                "complete": complete,
                "results": tuple(self.results),
                "profiles": tuple(profiles),
                "verdict": overall(profiles, leftovers=bool(leftovers)),
                "leftovers": tuple(leftovers),
                "latencies": self._latencies.table(),
            }
        )


def _silent(text: str, /) -> None:
    pass


def _error(check: Check, message: str, seconds: float = 0.0) -> CheckResult:
    return CheckResult(
        check=check.id,
        clause=check.clause.id,
        level=check.clause.level,
        profile=check.clause.profile,
        status=Status.ERROR,
        message=message,
        seconds=round(seconds, 4),
    )


def _kind(head: Report) -> frozenset[str]:
    return frozenset([*head.capabilities, *head.limits, *head.takes])
