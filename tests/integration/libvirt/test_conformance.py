"""The conformance suite against real guests, without its faults: those have a file of their own."""

from __future__ import annotations

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.journal import PREFIX
from hvdrivers.conformance.engine.reaping import leftovers_on, reap
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.models.volume import VolumeSpec
from tests.integration.libvirt.conformance_run import moves, passes
from tests.integration.part_of_suite import ends_well, part

STOPPED = {
    "NET-011/frees_its_port[stopped]",
    "NET-013/not_plugged_is_a_success[stopped]",
    "STOR-011/leaves_no_trace[stopped]",
    "STOR-013/not_attached_is_a_success[stopped]",
}
"""Chosen in place of the same checks of a running machine, each of which boots a guest.
NET-010 and STOR-010 take the NIC and the volume away from a running one."""
CHECKS = part(
    [each for each in selected() if not each.id.startswith("FAULT-") and not moves(each)],
    every=0,
    instead=STOPPED,
)


def test_what_is_chosen_is_there() -> None:
    assert {each.id for each in CHECKS} >= STOPPED


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_check(session: Session, check: Check) -> None:
    passes(session, check)


def test_what_a_killed_run_has_left_is_found(session: Session) -> None:
    driver = session.driver
    name = f"{PREFIX}killed"
    driver.create_volume(VolumeSpec(name=name, size_bytes=1 << 20))
    found = leftovers_on(driver)
    assert [(each.kind, each.id) for each in found] == [("volume", name)]
    assert [each.outcome for each in reap(driver, found)] == ["removed"]
    assert leftovers_on(driver) == []


@pytest.mark.each_time
def test_verdict(session: Session) -> None:
    """Runs last."""
    ends_well(session)
