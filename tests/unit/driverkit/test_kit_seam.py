"""The seam: calls are counted, cut by name and occurrence, and otherwise left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit import (
    Cut,
    NotSent,
    ReplyLost,
    Seam,
    SessionExpired,
    cut_after,
    cut_before,
    expire_session,
    hang_for,
)

_T = TypeVar("_T")


def test_a_call_is_sent_and_its_result_comes_back() -> None:
    assert Seam().call("Host.version", lambda: 7) == 7


def test_calls_are_counted_in_their_order() -> None:
    seam = Seam()
    seam.call("before", int)
    with seam.counting() as calls:
        for name in ("b", "a", "b"):
            seam.call(name, int)
    seam.call("behind", int)
    assert calls == ["b", "a", "b"]
    assert calls.by_name == {"b": 2, "a": 1}


def test_a_failed_call_counts() -> None:
    seam = Seam()
    with seam.counting() as calls, pytest.raises(ZeroDivisionError):
        seam.call("a", lambda: 1 // 0)
    assert calls == ["a"]


def test_what_is_not_counted_is_not_cut_either() -> None:
    seam = Seam()
    with seam.counting() as calls, seam.cut(cut_before) as cut:
        assert seam.call("part", lambda: 7, counted=False) == 7
    assert (calls, cut.struck) == ([], False)


@pytest.mark.parametrize(
    ("fault", "error", "sent"),
    [
        (cut_before, NotSent, False),
        (cut_after, ReplyLost, True),
        (expire_session, SessionExpired, False),
    ],
)
def test_a_fault_says_what_became_of_the_request(
    fault: Callable[..., object], error: type[Exception], sent: bool
) -> None:
    seam, sends = Seam(), []
    with seam.cut(fault) as cut, pytest.raises(error):
        seam.call("a", lambda: sends.append("a"))
    assert (cut.struck, bool(sends)) == (True, sent)


def test_what_a_transport_says_is_an_error_of_the_contract() -> None:
    """A driver that lets them through to its caller tells the truth."""
    assert issubclass(NotSent, errors.ConnectionFailed)
    assert issubclass(SessionExpired, errors.ConnectionFailed)
    assert issubclass(ReplyLost, errors.OutcomeUnknown)


def test_a_lost_reply_may_have_been_an_error() -> None:
    seam = Seam()
    with seam.cut(cut_after), pytest.raises(ReplyLost):
        seam.call("a", lambda: 1 // 0)


def test_a_call_that_hangs_is_sent_in_the_end() -> None:
    seam = Seam()
    with seam.cut(hang_for(0.001)) as cut:
        assert seam.call("a", lambda: 7) == 7
    assert cut.struck


@pytest.mark.parametrize(("occurrence", "survivors"), [(1, [2, 3]), (2, [1, 3]), (3, [1, 2])])
def test_one_occurrence_of_one_name_is_cut(occurrence: int, survivors: list[int]) -> None:
    seam, sent = Seam(), []
    with seam.cut(cut_before, name="a", occurrence=occurrence) as cut:
        for number in (1, 2, 3):
            seam.call("other", int)
            try:
                seam.call("a", lambda number=number: sent.append(number))
            except NotSent:
                assert number == occurrence
    assert (cut.struck, sent) == (True, survivors)


def test_without_a_name_any_call_is_numbered() -> None:
    seam = Seam()
    with seam.cut(cut_before, occurrence=2):
        seam.call("a", int)
        with pytest.raises(NotSent):
            seam.call("b", int)


def test_a_cut_that_struck_nothing_is_known() -> None:
    seam = Seam()
    with seam.cut(cut_before, name="never made") as cut:
        seam.call("a", int)
    assert not cut.struck


def test_two_cuts_in_one_operation() -> None:
    seam = Seam()
    with seam.cut(cut_after, name="change") as first, seam.cut(cut_before, name="undo") as second:
        with pytest.raises(ReplyLost):
            seam.call("change", int)
        with pytest.raises(NotSent):
            seam.call("undo", int)
    assert first.struck
    assert second.struck


def test_blocks_that_overlap_end_each_for_itself() -> None:
    seam = Seam()
    outer, inner = seam.counting(), seam.counting()
    first = outer.__enter__()
    second = inner.__enter__()
    seam.call("both", int)
    outer.__exit__(None, None, None)
    seam.call("second", int)
    inner.__exit__(None, None, None)
    assert (first, second) == (["both"], ["both", "second"])


def test_a_target_may_stand_in_the_way_of_every_call() -> None:
    seam, seen = Seam(), []

    def slowly(name: str, send: Callable[[], _T]) -> _T:
        seen.append(name)
        return send()

    with seam.through(slowly):
        assert seam.call("a", lambda: 7) == 7
    seam.call("b", int)
    assert seen == ["a"]


def test_calls_of_all_threads_are_counted() -> None:
    seam = Seam()
    with seam.counting() as calls:
        threads = [threading.Thread(target=seam.call, args=(str(n), int)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(calls) == [str(n) for n in range(8)]


def test_what_is_sent_again_at_once_is_cut_again() -> None:
    seam, sent = Seam(), []
    with seam.cut(cut_before, name="a", occurrence=2, repeats=2):
        for number in range(1, 6):
            try:
                seam.call("a", lambda number=number: sent.append(number))
            except NotSent:
                assert number in {2, 3}
    assert sent == [1, 4, 5]


def test_a_cut_may_wait_for_another() -> None:
    seam, first, sent = Seam(), Cut(), []
    with (
        seam.cut(cut_before, occurrence=2, after=first) as second,
        seam.cut(cut_after, name="change", told=first),
    ):
        for name in ("read", "read", "change", "undo", "undo", "undo"):
            try:
                seam.call(name, lambda name=name: sent.append(name))
            except (ReplyLost, NotSent) as error:
                sent.append(type(error).__name__)
    assert sent == ["read", "read", "change", "ReplyLost", "undo", "NotSent", "undo"]
    assert second.struck
