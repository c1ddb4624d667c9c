"""The run keeps a second connection for its checks, and finds a driver that breaks on it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.report import BAD, Status
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.fake.conformance import FakeTarget
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.guard import unguarded
from hvdrivers.models.instance import InstanceInfo

_SEEN = ["STOR-001", "LIFE-001", "NET-003", "POWER-002"]
"""Clauses that look by another connection."""


class Counting(FakeTarget):
    """Counts connections, and those that are open."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.made: list[ComputeDriver] = []

    def connect(self) -> ComputeDriver:
        driver = super().connect()
        self.made.append(driver)
        return driver


def _checks(*clauses: str) -> list[Check]:
    return list(selected(clauses=list(clauses)))


def test_one_second_connection_serves_many_checks() -> None:
    checks = _checks("POWER-002", "NET-003", "LIFE-001", "LIFE-004", "HOSTILE-001")
    target = Counting()
    with Session(target, seed=1) as session:
        results = session.run(checks)
        assert len(target.made) == 2
    assert {each.status for each in results} == {Status.PASSED}
    for driver in target.made:
        with pytest.raises(errors.ConnectionFailed):
            driver.ping()


def test_a_clause_about_connecting_gets_a_new_one() -> None:
    target = Counting()
    with Session(target, seed=1) as session:
        session.run(_checks("LIFE-001"))
        before = len(target.made)
        session.run(_checks("CONN-001", "LAW-001"))
    assert len(target.made) > before


def test_a_check_that_fails_spoils_it_for_no_other() -> None:
    class Spoilt(FakeDriver):
        def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
            super().power_on(uuid, timeout=timeout)
            if self is target.unwrapped[-1] and len(target.unwrapped) == 2:
                self.close()  # what it is asked next fails, as this call does
                raise errors.ConnectionFailed("the second connection is lost")

    class Target(Counting):
        def __init__(self) -> None:
            super().__init__(Spoilt)
            self.unwrapped: list[object] = []

        def connect(self) -> ComputeDriver:
            driver = super().connect()
            self.unwrapped.append(unguarded(driver, FakeDriver))
            return driver

    target = Target()
    with Session(target, seed=1) as session:
        (broken, *_) = session.run(_checks("POWER-002/running_is_not_disturbed"))
        (later, *_) = session.run(_checks("LIFE-001/is_running_and_seen"))
    assert broken.status is Status.FAILED
    assert later.status is Status.PASSED
    assert len(target.made) == 3


def test_a_driver_that_breaks_on_the_second_connection_is_found() -> None:
    class Forgets(FakeDriver):
        """Only the connection that spawned an instance shows its NICs and volumes."""

        first: FakeDriver | None = None

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            type(self).first = type(self).first or self

        def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
            info = super().get_instance(uuid, timeout=timeout)
            if self is type(self).first:
                return info
            return info.model_copy(update={"volumes": (), "vifs": (), "name": "other"})

    with Session(Counting(Forgets), seed=1) as session:
        results = session.run(_checks(*_SEEN))
    assert {each.clause for each in results if each.status in BAD} >= {"STOR-001", "LIFE-001"}


def test_a_driver_whose_second_connection_cannot_be_made_is_found() -> None:
    class Alone(FakeTarget):
        count = 0

        def connect(self) -> ComputeDriver:
            self.count += 1
            if self.count > 1:
                raise errors.ConnectionFailed("one connection is all there is")
            return super().connect()

    with Session(Alone(), seed=1) as session:
        results = session.run(_checks("LIFE-001", "POWER-002"))
    assert {each.check for each in results if each.status is Status.FAILED} >= {
        "LIFE-001/is_running_and_seen",
        "POWER-002/running_is_not_disturbed",
    }
