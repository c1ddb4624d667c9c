"""A connection to a host that is made when it is needed, and made again when it was lost.

:class:`Reconnecting` holds the open session of one host for any number of threads.
:func:`exchange` makes one call in it, and decides whether the call may be sent a second time. A
driver whose client library binds its objects to one connection (libvirt's does) uses the first
without the second.

A session is whatever the driver's client library needs for a call: a libvirt connection, a SOAP
stub with its login, a remote shell. The driver gives functions that open and close one::

    self.link = Reconnecting(self._open, close=lambda stub: stub.logout(), limit=10)
    ...
    def read(self, what: Query, deadline: Deadline) -> Reply:
        send = partial(self._invoke, what)                   # takes the session
        return exchange(self.link, self.seam, what.name, send, deadline=deadline)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from hvdrivers.contract import errors
from hvdrivers.driverkit.backoff import Backoff
from hvdrivers.driverkit.deadline import Deadline, current_deadline, waitable
from hvdrivers.driverkit.seam import NotSent, ReplyLost, Seam, SessionExpired
from hvdrivers.driverkit.undo import note_change
from hvdrivers.workers import Workers

__all__ = ["Reconnecting", "exchange"]

_T = TypeVar("_T")
_S = TypeVar("_S")
_MOST_ATTEMPTS = 4
"""Attempts to connect that may hang at the same time. Each keeps a thread."""
_MOST_SENDINGS = 3
"""How often one call is sent, at most, while sessions break below it."""


class _Held(Generic[_S]):
    """One open session."""

    def __init__(self, session: _S) -> None:
        self.session = session
        self.users = 0
        self.lost = False
        self.facts: dict[str, object] = {}
        self.reading = threading.RLock()
        """Held while a fact is read: threads that need the same one ask once."""


class Reconnecting(Generic[_S]):
    """The session of one host. Thread-safe.

    A session that was lost is closed when the last call has left it: a client library may crash
    when a connection is closed below a call in another thread. A new session does not wait for
    that.

    Args:
        open: opens a session. It is given the seconds that it may take, and runs in a thread of
            its own, so that an attempt that hangs keeps no caller.
        close: ends a session, once, whether or not the host still answers. Errors of the contract
            that it raises are ignored.
        alive: whether a session can still be used, without asking the host. None: a session is
            good until a call says otherwise.
        limit: seconds that an attempt to open a session may take.
        interrupt: makes the calls in a lost session return: it shuts the socket down, say. None:
            the transport's own limits end them.
        backoff: the pace of attempts while the host is away.
    """

    def __init__(
        self,
        open: Callable[[float], _S],
        *,
        close: Callable[[_S], object],
        alive: Callable[[_S], bool] | None = None,
        limit: float = 10.0,
        interrupt: Callable[[_S], object] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._open = open
        self._close = close
        self._alive = alive or (lambda _session: True)
        self._limit = limit
        self._interrupt = interrupt
        self._backoff = backoff or Backoff()
        self.on_open: list[Callable[[_S], None]] = []
        """Called with each new session before anybody uses it: to subscribe to events, say. If
        one raises, the session is closed and the attempt has failed. They must not call
        :meth:`use`."""
        self.on_lost: list[Callable[[], None]] = []
        """Called once for each session that was lost, in the thread that found out."""
        self._lock = threading.Lock()
        self._held: _Held[_S] | None = None
        self._attempts: list[_Attempt] = []
        self._failure: BaseException | None = None
        self._closed = threading.Event()
        self._process = os.getpid()
        self._workers = Workers("hvdrivers-connect", keep_idle=0)

    @contextmanager
    def use(self, deadline: Deadline | None = None) -> Iterator[_S]:
        """The open session, for one call. It is not closed during the block.

        Args:
            deadline: bounds the wait for a connection. None: the current one (see
                :func:`~hvdrivers.driverkit.deadline.bounding`).

        Raises:
            ConnectionFailed: there is no session and none can be opened; or close() was called.
            AuthenticationFailed: the host refuses the credentials.
            OperationTimeout: ``deadline`` passed first.
        """
        held = self._take(deadline or current_deadline())
        try:
            yield held.session
        finally:
            self._leave(held)

    def fact(self, key: str, read: Callable[[_S], _T], *, deadline: Deadline | None = None) -> _T:
        """What does not change while one session lasts (the host's version), read once.

        Args:
            key: its name; the same key always has the same type.
            read: reads it from the host.
            deadline: as in :meth:`use`.
        """
        held = self._take(deadline or current_deadline())
        try:
            if key not in held.facts:
                with held.reading:
                    if key not in held.facts:
                        held.facts[key] = read(held.session)
            return cast(_T, held.facts[key])
        finally:
            self._leave(held)

    def forget_facts(self) -> None:
        """Read them again when they are needed: the host was changed."""
        with self._lock:
            if self._held is not None:
                self._held.facts.clear()

    def lost(self, session: _S) -> None:
        """This session cannot be used any more. The next call opens a new one. Anybody may say
        so, several times, and of a session that was replaced long ago."""
        with self._lock:
            held = self._held
            if held is None or held.session is not session:
                return
            self._held = None
            idle = self._retire(held)
        self._tell_lost(held, idle)

    def close(self) -> None:
        """End it for good. May be called twice. A session that is in use is closed by the last
        call that leaves it."""
        with self._lock:
            self._closed.set()
            held, self._held = self._held, None
            idle = held is not None and self._retire(held)
        if held is not None:
            self._abandon(held, idle)
        self._workers.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed.is_set()

    # ---- sessions -------------------------------------------------------------------------------

    def _take(self, deadline: Deadline) -> _Held[_S]:
        while True:
            attempt, dead = self._session_or_attempt()
            if dead is not None:
                self._tell_lost(*dead)
            if isinstance(attempt, _Held):
                return attempt
            self._wait(attempt, deadline)

    def _session_or_attempt(
        self,
    ) -> tuple[_Held[_S] | _Attempt, tuple[_Held[_S], bool] | None]:
        """First the session, with the caller counted among its users; if there is none, the current
        attempt to open one. Second a session that was found dead, with True if it has no users;
        None if none was."""
        if os.getpid() != self._process:
            raise errors.ConnectionFailed(
                "the driver was connected in another process, from which this one was forked",
                hint="connect() again in this process",
                retryable=False,
            )
        dead = None
        with self._lock:
            if self._closed.is_set():
                raise _closed()
            held = self._held
            if held is not None and not self._alive(held.session):
                self._held = None
                dead = held, self._retire(held)
                held = None
            if held is not None:
                held.users += 1
                return held, None
            return self._current_attempt(), dead

    @staticmethod
    def _retire(held: _Held[_S]) -> bool:
        held.lost = True
        return held.users == 0

    def _tell_lost(self, held: _Held[_S], idle: bool) -> None:
        self._abandon(held, idle)
        for callback in self.on_lost:
            callback()

    def _abandon(self, held: _Held[_S], idle: bool) -> None:
        if idle:
            self._end(held.session)
        elif self._interrupt is not None:
            self._interrupt(held.session)

    def _leave(self, held: _Held[_S]) -> None:
        with self._lock:
            held.users -= 1
            last = held.lost and held.users == 0
        if last:
            self._end(held.session)

    def _end(self, session: _S) -> None:
        with suppress(errors.HypervisorError):
            self._close(session)

    # ---- attempts -------------------------------------------------------------------------------

    def _current_attempt(self) -> _Attempt:
        """The newest attempt, or a new one if that one hangs. The caller holds the lock."""
        self._attempts = [each for each in self._attempts if not each.future.done()]
        newest = self._attempts[-1] if self._attempts else None
        if newest is not None:
            hangs = newest.limit.passed
            if not hangs or len(self._attempts) >= _MOST_ATTEMPTS:
                return newest
        pause = self._backoff.delay
        begins = Deadline(pause)
        future = self._workers.submit(lambda: self._attempt(pause))
        attempt = _Attempt(future, begins, Deadline(pause + self._limit))
        self._attempts.append(attempt)
        return attempt

    def _attempt(self, pause: float) -> None:
        if self._closed.wait(pause):
            raise _closed()
        try:
            session = self._opened()
        except BaseException as error:
            with self._lock:
                self._backoff.failed()
                self._failure = error
            raise
        with self._lock:
            # it may come late, when another attempt has succeeded or the driver was closed
            wanted = self._held is None and not self._closed.is_set()
            if wanted:
                self._backoff.succeeded()
                self._held = _Held(session)
        if not wanted:
            self._end(session)

    def _opened(self) -> _S:
        session = self._open(self._limit)
        try:
            for callback in self.on_open:
                callback(session)
        except BaseException:
            self._end(session)
            raise
        return session

    def _wait(self, attempt: _Attempt, deadline: Deadline) -> None:
        # an attempt that hangs, and takes the last place, is waited for once more
        limit = attempt.limit.left or self._limit
        if not wait_for([attempt.future], waitable(deadline.within(limit))).done:
            if not deadline.passed:
                raise errors.ConnectionFailed(
                    f"the host did not answer within {self._limit:g} seconds"
                )
            if self._failure is not None and not attempt.begins.passed:
                raise _copy(self._failure) from self._failure
            raise errors.OperationTimeout("the deadline passed while the driver was connecting")
        failure = attempt.future.exception()
        if failure is not None:
            # each thread that waited gets an error of its own, as the guard writes into errors
            raise _copy(failure) from failure


@dataclass(frozen=True)
class _Attempt:
    """One opening, under way in a worker thread."""

    future: Future[None]
    begins: Deadline
    limit: Deadline


def _closed() -> errors.ConnectionFailed:
    return errors.ConnectionFailed("the driver has been closed", retryable=False)


def _copy(error: BaseException) -> BaseException:
    if not isinstance(error, errors.HypervisorError):
        return error
    # what the transport says of one request says nothing about a call that was not sent yet
    broken = isinstance(error, NotSent | SessionExpired | ReplyLost)
    return (errors.ConnectionFailed if broken else type(error))(
        error.message,
        vendor_code=error.vendor_code,
        hint=error.hint,
        retryable=error.retryable,
    )


def exchange(
    link: Reconnecting[_S],
    seam: Seam,
    name: str,
    send: Callable[[_S], _T],
    *,
    changes: bool,
    deadline: Deadline | None = None,
) -> _T:
    """Make one call, in a new session if the one that is there has broken.

    What never reached the host is sent again. What reached it, without a reply, is sent again if
    it changes nothing. So a lost connection is seen by the caller only if the host stays away, or
    if a change may have taken effect.

    Args:
        link: where the session comes from.
        seam: what the call passes.
        name: which request it is; see :class:`Seam`.
        send: sends the request in a session and waits for the reply. It raises
            :class:`NotSent`, :class:`ReplyLost` or :class:`SessionExpired` when the transport
            breaks, and the driver's own errors otherwise.
        changes: whether the request can change anything on the host.
        deadline: bounds the wait for a connection, and further sendings. None: the current one.

    Raises:
        ConnectionFailed: the host cannot be reached; nothing was changed.
        OutcomeUnknown: the reply to a change was lost.
        OperationTimeout: the deadline passed while the host was away; nothing was changed.
    """
    limit = deadline or current_deadline()
    sendings = 0
    while True:
        try:
            result = _once(link, seam, name, send, limit)
        except (NotSent, SessionExpired, ReplyLost) as error:
            sendings += 1
            if isinstance(error, ReplyLost) and changes:
                raise errors.OutcomeUnknown(
                    f"{name}: {error.message}", vendor_code=error.vendor_code
                ) from error
            if sendings >= _MOST_SENDINGS:
                raise errors.ConnectionFailed(
                    f"{name}: {error.message}", vendor_code=error.vendor_code
                ) from error
            limit.check(f"{name} was sent again, because {error.message}")
        else:
            if changes:
                note_change()
            return result


def _once(
    link: Reconnecting[_S], seam: Seam, name: str, send: Callable[[_S], _T], limit: Deadline
) -> _T:
    with link.use(limit) as session:
        try:
            return seam.call(name, lambda: send(session))
        except SessionExpired:
            link.lost(session)
            raise
