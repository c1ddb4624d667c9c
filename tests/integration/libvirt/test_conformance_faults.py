"""The faults of the conformance suite against real guests."""

from __future__ import annotations

import pytest

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.runner import Session, selected
from tests.integration.libvirt.conformance_run import moves, passes
from tests.integration.part_of_suite import WHOLE, ends_well, part

_MANY = ("FAULT-READ", "FAULT-TWICE", "FAULT-DEAD")
_FAULTS = [each for each in selected() if each.id.startswith("FAULT-") and not moves(each)]
_LOST = ("before]", "after]")
"""Calls that were not sent, and lost replies; the others end as one of these."""


_CUT = [each for each in _FAULTS if each.clause.id not in _MANY]
_PAIRS = [each for each in _CUT if each.id.endswith(_LOST)]
CHECKS = [
    # of each two ways to fail the one, in turns, and of each clause the first of these;
    # test_faults.py tries each call in each way
    *(_CUT if WHOLE else part((each for at, each in enumerate(_PAIRS) if at % 4 in {0, 3}), 0)),
    *part([each for each in _FAULTS if each.clause.id in _MANY], every=10),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_check(session: Session, check: Check) -> None:
    passes(session, check)


@pytest.mark.each_time
def test_verdict(session: Session) -> None:
    """Runs last."""
    ends_well(session)
