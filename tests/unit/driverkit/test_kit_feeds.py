"""Feeds: a thread that asks a host for events while somebody listens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit import Back, Backoff, Feed, Hub, Journal, Lost, Missed

LONG = 60.0
"""Seconds that no test waits for, unless it fails."""


class Host:
    """Answers each question with what the test puts in: events, or an error."""

    def __init__(self) -> None:
        self.answers: SimpleQueue[list[str] | Exception] = SimpleQueue()
        self.asked = threading.Semaphore(0)
        self.begun = 0
        self.refused: Exception | None = None
        self.hub: Hub[str] = Hub()
        self.feed = Feed(
            self.hub,
            begin=self.begin,
            ask=self.ask,
            interrupt=lambda: self.answers.put([]),
            backoff=Backoff(first=0.0),
        )

    def begin(self) -> None:
        if self.refused is not None:
            raise self.refused
        self.begun += 1

    def ask(self) -> list[str]:
        self.asked.release()
        answer = self.answers.get(timeout=LONG)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def hears(self, *answers: list[str] | Exception, count: int) -> list[object]:
        """What a listener hears while the feed runs, until so many events have come."""
        with self.hub.listening() as listener, self.feed.running():
            for answer in answers:
                self.answers.put(answer)
            return [listener.wait(lambda _: True, LONG) for _ in range(count)]


def test_events_come_in_their_order() -> None:
    host = Host()
    assert host.hears(["a", "b"], [], ["c"], count=4) == [Back(1), "a", "b", "c"]
    assert host.begun == 1


def test_a_cut_loses_nothing() -> None:
    """The place where it stands survives: the next question has what was missed."""
    host = Host()
    cut = errors.ConnectionFailed("cut")
    assert host.hears(["a"], cut, cut, ["b"], count=3) == [Back(1), "a", "b"]
    assert host.begun == 1


def test_a_lost_place_is_a_gap() -> None:
    host = Host()
    heard = host.hears(["a"], Missed("the session expired"), ["b"], count=5)
    assert heard == [Back(1), "a", Lost(), Back(2), "b"]
    assert host.begun == 2


def test_a_fault_of_the_driver_is_a_gap_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    with caplog.at_level(logging.ERROR):
        heard = host.hears(KeyError("unknown"), ["b"], count=4)
    assert heard == [Back(1), Lost(), Back(2), "b"]
    assert "events" in caplog.text


def test_a_place_that_is_not_found_again_at_once() -> None:
    host = Host()
    host.refused = None
    refusals = iter([None, errors.ConnectionFailed("away"), errors.ConnectionFailed("away"), None])
    begin = host.begin

    def sometimes() -> None:
        host.refused = next(refusals)
        begin()

    host.feed._begin = sometimes
    heard = host.hears(Missed("expired"), ["b"], count=4)
    assert heard == [Back(1), Lost(), Back(2), "b"]


def test_a_feed_that_cannot_begin_says_so_to_who_wanted_it() -> None:
    host = Host()
    host.refused = errors.PermissionDenied("no events for you")
    with pytest.raises(errors.PermissionDenied):
        host.feed.acquire()
    host.refused = None
    assert host.hears(["a"], count=2) == [Back(1), "a"]


def test_who_goes_does_not_end_the_pauses_of_who_stays() -> None:
    """Else the host is asked without a pause from then on."""
    asked = threading.Semaphore(0)

    def ask() -> list[str]:
        asked.release()
        return []

    hub: Hub[str] = Hub()
    feed = Feed(hub, begin=lambda: None, ask=ask, pause=LONG)
    with feed.running():
        assert asked.acquire(timeout=LONG)
        with feed.running():
            pass
        assert not asked.acquire(timeout=0.2)


def test_one_thread_asks_for_all_and_ends_with_the_last() -> None:
    host = Host()
    threads = _threads()
    with host.feed.running():
        with host.feed.running():
            assert host.begun == 1
        assert len(_threads() - threads) == 1
    for thread in _threads() - threads:
        thread.join(LONG)
    assert not _threads() - threads
    assert host.hears(["again"], count=2)[1:] == ["again"]
    assert host.begun == 2


def test_a_question_under_way_serves_who_comes_next() -> None:
    """Two threads at one place would take each other's events."""
    host = Host()
    host.feed._interrupt = None
    with host.feed.running():
        assert host.asked.acquire(timeout=LONG)
    with host.hub.listening() as listener, host.feed.running():
        host.answers.put(["a"])
        assert listener.wait(lambda _: True, LONG) == "a"
    assert host.begun == 1
    host.answers.put([])


def _threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "hvdrivers-events"}


# ---- a numbered log ------------------------------------------------------------------------------


class Log:
    """A log that a host keeps, with room for few records."""

    def __init__(self, first: int = 1) -> None:
        self.records: list[tuple[int, str]] = []
        self.next = first

    def write(self, *texts: str) -> None:
        for text in texts:
            self.records.append((self.next, text))
            self.next += 1

    def newest(self) -> int:
        return self.records[-1][0] if self.records else 0

    def after(self, number: int) -> list[tuple[int, str]]:
        return [each for each in self.records if each[0] > number]


@pytest.fixture
def log() -> Log:
    log = Log()
    log.write("old", "older")
    return log


def journal(log: Log, read: Callable[[int], list[tuple[int, str]]] | None = None) -> Journal[str]:
    made: Journal[str] = Journal(newest=log.newest, read=read or log.after)
    made.begin()
    return made


def test_a_journal_goes_on_where_it_stopped(log: Log) -> None:
    reader = journal(log)
    assert reader.ask() == []
    log.write("a", "b")
    assert reader.ask() == ["a", "b"]
    assert reader.ask() == []
    log.write("c")
    assert reader.ask() == ["c"]


def test_a_journal_is_read_in_parts(log: Log) -> None:
    reader = journal(log, read=lambda number: log.after(number)[:2])
    log.write("a", "b", "c")
    assert [reader.ask(), reader.ask(), reader.ask()] == [["a", "b"], ["c"], []]


def test_records_that_were_dropped_are_missed(log: Log) -> None:
    reader = journal(log)
    log.write("a", "b", "c")
    del log.records[:4]
    with pytest.raises(Missed, match="3 to 4"):
        reader.ask()
    reader.begin()
    log.write("d")
    assert reader.ask() == ["d"]


def test_a_log_that_was_cleared_is_missed(log: Log) -> None:
    reader = journal(log)
    log.records.clear()
    log.next = 1
    log.write("a")
    with pytest.raises(Missed, match="cleared"):
        reader.ask()


def test_numbers_that_are_shared_with_other_logs_may_be_left_out(log: Log) -> None:
    reader: Journal[str] = Journal(newest=log.newest, read=log.after, consecutive=False)
    reader.begin()
    log.next += 5
    log.write("a")
    assert reader.ask() == ["a"]
