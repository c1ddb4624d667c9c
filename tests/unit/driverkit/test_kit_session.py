"""A connection that comes back: over a host of this test, which can be away, hang and forget."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit import (
    Backoff,
    Deadline,
    Reconnecting,
    ReplyLost,
    Seam,
    cut_after,
    cut_before,
    exchange,
    expire_session,
)

LONG = 60.0
"""Seconds that no test waits for, unless it fails."""


@dataclass(eq=False)
class Session:
    """What the host knows of one login."""

    alive: bool = True
    closed: int = 0
    interrupted: threading.Event = field(default_factory=threading.Event)


class Host:
    """Opens sessions, or does not."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.tries = 0
        self.away: errors.HypervisorError | None = None
        self.hang: threading.Event | None = None
        self.hangs = threading.Semaphore(0)

    def open(self, limit: float) -> Session:
        assert limit > 0
        self.tries += 1
        if self.hang is not None:
            self.hangs.release()
            self.hang.wait(LONG)
        if self.away is not None:
            raise self.away
        session = Session()
        self.sessions.append(session)
        return session

    @staticmethod
    def close(session: Session) -> None:
        session.closed += 1

    def link(self, **options: Any) -> Reconnecting[Session]:
        options.setdefault("backoff", Backoff(first=0.0))
        return Reconnecting(
            self.open,
            close=self.close,
            alive=lambda session: session.alive,
            interrupt=lambda session: session.interrupted.set(),
            **options,
        )


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    if host.hang is not None:
        host.hang.set()


def used(link: Reconnecting[Session], deadline: Deadline | None = None) -> Session:
    with link.use(deadline) as session:
        return session


# ---- the session ---------------------------------------------------------------------------------


def test_it_is_opened_at_the_first_use_and_kept(host: Host) -> None:
    link = host.link()
    assert host.tries == 0
    assert used(link) is used(link)
    assert host.tries == 1


def test_a_dead_session_is_replaced_and_closed(host: Host) -> None:
    link = host.link()
    first = used(link)
    first.alive = False
    assert used(link) is not first
    assert first.closed == 1


def test_a_lost_session_is_replaced_and_told_once(host: Host) -> None:
    link, told = host.link(), []
    link.on_lost.append(lambda: told.append(1))
    first = used(link)
    link.lost(first)
    link.lost(first)
    second = used(link)
    link.lost(first)  # of a session that was replaced long ago
    assert used(link) is second
    assert (told, first.closed, second.closed) == ([1], 1, 0)


def test_a_lost_session_is_closed_by_the_last_call_that_leaves_it(host: Host) -> None:
    """A client library may crash when a connection is closed below a call in another thread."""
    link = host.link()
    with link.use() as first:
        with link.use() as same:
            assert same is first
            link.lost(first)
            assert first.interrupted.is_set()
            with link.use() as second:
                assert second is not first
        assert first.closed == 0
    assert (first.closed, second.closed) == (1, 0)


def test_a_new_session_is_prepared_before_anybody_uses_it(host: Host) -> None:
    link, prepared = host.link(), []
    link.on_open.append(prepared.append)
    assert prepared == [used(link)]


def test_a_session_that_cannot_be_prepared_is_closed(host: Host) -> None:
    def refuse(session: Session) -> None:
        raise errors.PermissionDenied("no events for you")

    link = host.link()
    link.on_open.append(refuse)
    with pytest.raises(errors.PermissionDenied, match="no events"):
        used(link)
    assert [each.closed for each in host.sessions] == [1]


def test_facts_are_read_once_for_each_session(host: Host) -> None:
    link, reads = host.link(), []

    def read(session: Session) -> int:
        reads.append(session)
        return len(reads)

    assert [link.fact("version", read), link.fact("version", read)] == [1, 1]
    link.forget_facts()
    assert link.fact("version", read) == 2
    link.lost(used(link))
    assert link.fact("version", read) == 3


# ---- a host that is away -------------------------------------------------------------------------


def test_a_refused_connection_is_the_error_of_every_caller(host: Host) -> None:
    host.away = errors.AuthenticationFailed("wrong password", vendor_code="CODE")
    link = host.link()
    with pytest.raises(errors.AuthenticationFailed, match="wrong password") as first:
        used(link)
    with pytest.raises(errors.AuthenticationFailed) as second:
        used(link)
    assert first.value is not second.value
    assert first.value.vendor_code == "CODE"


def test_it_comes_back(host: Host) -> None:
    host.away = errors.ConnectionFailed("refused")
    link = host.link()
    with pytest.raises(errors.ConnectionFailed):
        used(link)
    host.away = None
    assert used(link).alive


def test_threads_that_wait_share_one_attempt(host: Host) -> None:
    host.hang = threading.Event()
    host.away = errors.ConnectionFailed("refused")
    link = host.link(limit=LONG)

    def outcome() -> type[BaseException]:
        with pytest.raises(errors.ConnectionFailed) as caught:
            used(link)
        return caught.type

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(outcome) for _ in range(16)]
        assert host.hangs.acquire(timeout=LONG)
        host.hang.set()
        assert {each.result(LONG) for each in futures} == {errors.ConnectionFailed}
    # a thread that comes after the end of an attempt begins another
    assert host.tries <= 16


def test_a_hanging_attempt_keeps_nobody_beyond_its_limit(host: Host) -> None:
    host.hang = threading.Event()
    with pytest.raises(errors.ConnectionFailed, match=r"within 0\.01 seconds"):
        used(host.link(limit=0.01))


def test_a_hanging_attempt_keeps_nobody_beyond_his_own_deadline(host: Host) -> None:
    host.hang = threading.Event()
    with pytest.raises(errors.OperationTimeout):
        used(host.link(limit=LONG), Deadline(0.01))


def test_an_attempt_within_its_limit_is_waited_for_by_those_who_come_later(host: Host) -> None:
    host.hang = threading.Event()
    link = host.link(limit=LONG)
    for _ in range(3):
        with pytest.raises(errors.OperationTimeout):
            used(link, Deadline(0.01))
    assert host.hangs.acquire(timeout=LONG)
    host.hang.set()
    assert used(link).alive
    assert host.tries == 1


def test_few_attempts_hang_at_the_same_time(host: Host) -> None:
    host.hang = threading.Event()
    link = host.link(limit=0.001)
    for _ in range(10):
        with pytest.raises(errors.ConnectionFailed):
            used(link)
    assert host.tries <= 4


def test_an_attempt_that_succeeds_late_is_used(host: Host) -> None:
    host.hang = threading.Event()
    link = host.link(limit=0.001)
    with pytest.raises(errors.ConnectionFailed):
        used(link)
    (attempt,) = link._attempts
    host.hang.set()
    attempt.future.result(LONG)  # a new attempt would have only its 0.001 seconds
    assert used(link).closed == 0
    assert host.tries == 1


def test_attempts_slow_down_while_the_host_is_away() -> None:
    backoff = Backoff(first=0.1, longest=2.0)
    delays = []
    for _ in range(7):
        delays.append(backoff.delay)
        backoff.failed()
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    backoff.succeeded()
    assert backoff.delay == 0.0


def test_a_caller_in_a_hurry_learns_why_the_host_was_away(host: Host) -> None:
    host.away = errors.ConnectionFailed("connection refused")
    link = host.link(backoff=Backoff(first=LONG, longest=LONG))
    with pytest.raises(errors.ConnectionFailed):
        used(link)
    with pytest.raises(errors.ConnectionFailed, match="connection refused"):
        used(link, Deadline(0.01))
    assert host.tries == 1
    link.close()


# ---- the end -------------------------------------------------------------------------------------


def test_after_close_nothing_is_opened(host: Host) -> None:
    link = host.link()
    session = used(link)
    link.close()
    link.close()
    with pytest.raises(errors.ConnectionFailed) as caught:
        used(link)
    assert not caught.value.retryable
    assert (session.closed, host.tries, link.closed) == (1, 1, True)


def test_close_does_not_close_below_a_call(host: Host) -> None:
    link = host.link()
    with link.use() as session:
        link.close()
        assert (session.closed, session.interrupted.is_set()) == (0, True)
    assert session.closed == 1


def test_a_session_that_comes_after_close_is_closed(host: Host) -> None:
    host.hang = threading.Event()
    link = host.link(limit=0.001)
    with pytest.raises(errors.ConnectionFailed):
        used(link)
    assert host.hangs.acquire(timeout=LONG)  # close() before it would keep it from opening one
    closed = threading.Event()
    link._close = lambda _session: closed.set()
    link.close()
    host.hang.set()
    assert closed.wait(LONG)


def test_an_error_while_closing_is_nobody_s_business(host: Host) -> None:
    closed = []

    def fail(session: Session) -> None:
        closed.append(session)
        raise errors.ConnectionFailed("already gone")

    link = Reconnecting(host.open, close=fail)
    used(link)
    link.close()
    assert len(closed) == 1


def test_a_forked_child_is_told_to_connect_again(host: Host) -> None:
    link = host.link()
    used(link)
    link._process = os.getpid() + 1  # as if this were the child
    with pytest.raises(errors.ConnectionFailed, match="forked") as caught:
        used(link)
    assert not caught.value.retryable


# ---- calls ---------------------------------------------------------------------------------------


@dataclass
class Wire:
    """One call, as often as it is sent."""

    link: Reconnecting[Session]
    seam: Seam = field(default_factory=Seam)
    sent: list[Session] = field(default_factory=list)

    def call(self, *, changes: bool, deadline: Deadline | None = None) -> int:
        return exchange(
            self.link, self.seam, "Thing.do", self._send, changes=changes, deadline=deadline
        )

    def _send(self, session: Session) -> int:
        self.sent.append(session)
        return 7


@pytest.fixture
def wire(host: Host) -> Wire:
    return Wire(host.link())


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("fault", [cut_before, expire_session])
def test_what_was_not_sent_is_sent_again(
    wire: Wire, fault: Callable[..., Any], changes: bool
) -> None:
    with wire.seam.counting() as calls, wire.seam.cut(fault) as cut:
        assert wire.call(changes=changes) == 7
    assert (cut.struck, len(wire.sent), len(calls)) == (True, 1, 2)


def test_an_expired_session_is_replaced_and_a_broken_wire_is_not(wire: Wire, host: Host) -> None:
    """HTTP sessions survive the end of a TCP connection."""
    with wire.seam.cut(cut_before):
        wire.call(changes=True)
    assert host.tries == 1
    with wire.seam.cut(expire_session):
        wire.call(changes=True)
    assert host.tries == 2


def test_a_read_without_a_reply_is_sent_again(wire: Wire) -> None:
    with wire.seam.cut(cut_after):
        assert wire.call(changes=False) == 7
    assert len(wire.sent) == 2


def test_a_change_without_a_reply_is_not_sent_again(wire: Wire) -> None:
    with (
        wire.seam.cut(cut_after),
        pytest.raises(errors.OutcomeUnknown, match=r"Thing\.do") as caught,
    ):
        wire.call(changes=True)
    assert len(wire.sent) == 1
    assert type(caught.value) is errors.OutcomeUnknown
    assert isinstance(caught.value.__cause__, ReplyLost)


def test_a_host_that_breaks_every_call_is_unreachable(wire: Wire) -> None:
    seam = wire.seam
    with seam.cut(cut_before), seam.cut(cut_before), seam.cut(cut_before):
        with pytest.raises(errors.ConnectionFailed, match=r"Thing\.do") as caught:
            wire.call(changes=False)
        assert type(caught.value) is errors.ConnectionFailed
    assert not wire.sent


def test_nothing_is_sent_again_after_the_deadline(wire: Wire) -> None:
    used(wire.link)
    with wire.seam.cut(cut_before), pytest.raises(errors.OperationTimeout):
        wire.call(changes=True, deadline=Deadline(0.0))
    assert not wire.sent


def test_an_error_of_the_host_passes(wire: Wire) -> None:
    def refuse(session: Session) -> int:
        raise errors.DeviceBusy("in use")

    with pytest.raises(errors.DeviceBusy):
        exchange(wire.link, wire.seam, "Thing.do", refuse, changes=True)


def test_a_login_that_breaks_is_no_lost_reply(host: Host) -> None:
    """The transport says ReplyLost of the login request; the call was never sent."""
    host.away = ReplyLost("the login got no reply")
    wire = Wire(host.link())
    with pytest.raises(errors.ConnectionFailed, match="the login got no reply"):
        wire.call(changes=True)
    assert host.tries == 1
