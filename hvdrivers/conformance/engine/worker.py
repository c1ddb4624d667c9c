"""One process of a run with several jobs: a session with a host of its own, which takes orders.

``jobs`` starts these and says what each does next. What goes between the two is below: an order is
answered by one message.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

from hvdrivers import raised
from hvdrivers.conformance.engine.clauses import catalogue
from hvdrivers.conformance.engine.finding import close_target
from hvdrivers.conformance.engine.report import CheckResult, Report
from hvdrivers.conformance.engine.runner import KnownIssue, LeftoversFound, Session
from hvdrivers.conformance.engine.target import Target
from hvdrivers.contract import errors

NO_HOST = (
    LeftoversFound,
    errors.ConnectionFailed,
    errors.PermissionDenied,
    errors.InvalidRequest,
    errors.PluginError,
)
"""What connect() raises where no check can say anything: it ends the run."""


BESIDE = 2.0
"""What the deadlines of the suite are multiplied by, because others compute beside it."""
_CAUSES = 8
"""A chain of errors that is longer tells nothing new."""


@dataclass(frozen=True)
class Job:
    """What a process needs to begin."""

    make: Callable[[], Target]
    folder: Path
    """For everything temporary. Who started the process removes it."""
    seed: int
    journal: Path | None
    known_issues: tuple[KnownIssue, ...]
    reach: bool
    """Whether some check needs a host."""


@dataclass(frozen=True)
class TryCheck:
    """An order: try this one. Answered by :class:`Tried`."""

    check: str


@dataclass(frozen=True)
class Tell:
    """An order: say what was found. Answered by :class:`Told`."""


@dataclass(frozen=True)
class Close:
    """An order: end the session and its host. Answered by :class:`Closed`."""


@dataclass(frozen=True)
class Begun:
    """The host is there."""

    head: Report
    """With no result yet."""
    time_scale: float
    trouble: str = ""
    """Why the driver does not connect; then each check says so."""


@dataclass(frozen=True)
class Refused:
    """There is no host, and the process ends."""

    why: list[BaseException]


@dataclass(frozen=True)
class Tried:
    """A result, and how long its calls took."""

    result: CheckResult
    latencies: Mapping[str, list[float]]


@dataclass(frozen=True)
class Told:
    """The report of this process: its host, and what is left there."""

    head: Report


@dataclass(frozen=True)
class Closed:
    """The session has ended."""

    why: list[BaseException] = field(default_factory=list)
    """What was raised by that; none: nothing."""


def needs_own_host(target: Target) -> None:
    """Refuse a target whose host would be shared.

    Raises:
        InvalidRequest: it makes no host of its own.
    """
    if not target.makes_host:
        raise errors.InvalidRequest(
            f"the conformance target {target.name!r} makes no host of its own, and the"
            " suite takes a host for itself: several jobs cannot share one",
            hint="leave --jobs out; a target that makes its own host says so by makes_host",
        )


def work(orders: Connection, job: Job) -> None:
    """What the process does: take orders until it is told to close, or nobody is there any more."""
    # a process that has not come so far has nothing to remove, and ends at once
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.setsid()  # Ctrl-C goes to who gives the orders, and what is started here ends with this
    os.environ["TMPDIR"] = tempfile.tempdir = str(job.folder)
    # without any handler Python writes warnings to standard error by itself
    logging.getLogger("hvdrivers").addHandler(logging.NullHandler())
    try:
        _work(orders, job)
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        return  # nobody waits for an answer


def _work(orders: Connection, job: Job) -> None:
    closed = Closed()
    try:
        target = job.make()
        try:
            needs_own_host(target)
            target.time_scale *= BESIDE
        except Exception:
            close_target(target)
            raise
        session = Session(target, journal=job.journal, known_issues=job.known_issues, seed=job.seed)
    except Exception as error:  # noqa: BLE001 - told where the orders come from
        orders.send(Refused(carried(error)))
        return
    try:
        with session:
            if _begin(orders, session, reach=job.reach):
                _obey(orders, session)
    except EOFError:
        raise
    except Exception as error:  # noqa: BLE001 - told where the orders come from
        closed = Closed(carried(error))
    orders.send(closed)


def _begin(orders: Connection, session: Session, *, reach: bool) -> bool:
    trouble = ""
    if reach:
        try:
            _ = session.driver
        except NO_HOST as error:
            orders.send(Refused(carried(error)))
            return False
        except Exception as error:  # noqa: BLE001 - the driver is broken: each check will say so
            trouble = raised.in_words(error)
    head = session.report(complete=False)
    orders.send(Begun(head, session.target.time_scale, trouble))
    return True


def _obey(orders: Connection, session: Session) -> None:
    checks = catalogue().checks
    while True:
        match orders.recv():
            case TryCheck(name):
                result = session.run_check(checks[name])
                orders.send(Tried(result, session.latencies.taken()))
            case Tell():
                orders.send(Told(session.report(complete=False)))
            case Close():
                return


def carried(error: BaseException) -> list[BaseException]:
    """An error and its causes, each as it is if another process can make it again."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(found) < _CAUSES:
        try:
            pickle.loads(pickle.dumps(cause))  # noqa: S301 - our own
            found.append(cause)
        except Exception:  # noqa: BLE001 - an error of any class
            found.append(errors.PluginError(raised.in_words(cause)))
        cause = cause.__cause__
    return found


def arrived(why: list[BaseException]) -> BaseException:
    """The error of :func:`carried`, with its causes."""
    for error, cause in pairwise(why):
        error.__cause__ = cause
    return why[0]
