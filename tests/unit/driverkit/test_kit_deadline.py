"""Deadlines, on a clock that the test moves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit import Deadline, waitable
from hvdrivers.driverkit.deadline import bounding
from hvdrivers.fake import FakeHost
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import Flavor, InstanceSpec


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_passes_when_its_seconds_are_over() -> None:
    clock = Clock()
    deadline = Deadline(5.0, now=clock)
    clock.now += 4.0
    assert (deadline.left, deadline.passed, deadline.bounded) == (1.0, False, True)
    deadline.check("disks were made")
    clock.now += 1.0
    assert deadline.passed
    with pytest.raises(errors.OperationTimeout, match="5 seconds passed while disks were made"):
        deadline.check("disks were made")


def test_a_test_lets_it_pass_and_no_more_than_that() -> None:
    clock = Clock()
    deadline = Deadline(5.0, now=clock)
    deadline.pass_now()
    assert (deadline.left, deadline.passed, deadline.bounded) == (0.0, True, True)
    clock.now += 1.0
    deadline.pass_now()
    assert deadline.at == 100.0
    without = Deadline(None, now=clock)
    without.pass_now()
    assert not without.passed


def test_what_is_left_is_never_negative() -> None:
    clock = Clock()
    deadline = Deadline(1.0, now=clock)
    clock.now += 50.0
    assert deadline.left == 0.0


def test_without_a_timeout_it_never_passes() -> None:
    deadline = Deadline(None)
    assert (deadline.left, deadline.passed, deadline.bounded) == (float("inf"), False, False)
    deadline.check("the caller waited")


def test_a_step_takes_its_own_limit_or_what_is_left() -> None:
    clock = Clock()
    deadline = Deadline(10.0, now=clock)
    assert deadline.within(3.0) == 3.0
    clock.now += 8.0
    assert deadline.within(3.0) == 2.0


def test_a_pause_ends_at_the_deadline() -> None:
    deadline = Deadline(0.01)
    with pytest.raises(errors.OperationTimeout):
        deadline.pause(3600.0, "the host was away")


def test_a_pause_within_the_deadline_raises_nothing() -> None:
    assert not Deadline(3600.0).pause(0.0, "the host was away")


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_a_pause_is_woken(timeout: float | None) -> None:
    wake = threading.Event()
    wake.set()
    assert Deadline(timeout).pause(float("inf"), "the host was away", wake=wake)


@pytest.mark.parametrize("seconds", [1e10, 1e12, 1e308, float("inf")])
def test_waits_without_a_sensible_end(seconds: float) -> None:
    """Python's own waits raise OverflowError, or ValueError, for these."""
    limit = waitable(seconds)
    taken = threading.Lock()
    assert taken.acquire(timeout=limit)
    ended = threading.Event()
    ended.set()
    assert ended.wait(limit)
    never: SimpleQueue[int] = SimpleQueue()
    threading.Timer(0.1, never.put, (1,)).start()
    assert never.get(timeout=limit) == 1
    assert waitable(-1) == 0
    assert waitable(0.5) == 0.5


@pytest.mark.parametrize("seconds", [1e12, 1e308])
def test_a_caller_who_waits_for_ever(seconds: float) -> None:
    """Each wait of an operation and of a stream, on the fake: a host that takes a moment, and an
    instance that another thread has."""
    host = FakeHost("patient")
    host.latency.update(power_on=0.2, power_off=0.2)
    driver = host.connect()
    spec = InstanceSpec(
        uuid=uuid4(),
        name="patient",
        flavor=Flavor(vcpus=1, memory_mib=64),
        image=HostImage(name="cirros"),
        start=False,
    )
    driver.spawn(spec, timeout=seconds)
    with driver.watch() as stream, ThreadPoolExecutor(4) as pool:
        assert stream.next(timeout=seconds) is not None
        event = pool.submit(stream.next, timeout=seconds)
        changes = [
            pool.submit(getattr(driver, name), spec.uuid, timeout=seconds)
            for name in ("power_on", "power_off")
        ]
        for each in changes:
            each.result(60)
        assert event.result(60) is not None
        waiting = pool.submit(lambda: list(iter(lambda: stream.next(timeout=seconds), None)))
        stream.close()
        waiting.result(60)
    driver.close()


def test_a_step_that_had_what_was_left_tells_the_whole() -> None:
    clock = Clock()
    with bounding(Deadline(1.992, now=clock)) as whole:
        clock.now += 0.5
        step = Deadline(whole.left, now=clock)
        shorter = Deadline(1, now=clock)
        clock.now += 1.25
        with pytest.raises(errors.OperationTimeout, match="of 1 seconds passed while it was read"):
            shorter.check("it was read")
        clock.now += 0.25
        with pytest.raises(errors.OperationTimeout, match="of 2 seconds passed while it was read"):
            step.check("it was read")
    brief = Deadline(0.004, now=clock)
    clock.now += 1
    with pytest.raises(errors.OperationTimeout, match=r"of 0\.004 seconds passed"):
        brief.check("it was read")
