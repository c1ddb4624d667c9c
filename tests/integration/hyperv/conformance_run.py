"""The conformance suite on the simulated host, with played guests: one run for each file that
tries a part of it, so that they run beside each other.

``hvdrivers conformance run hyperv`` tries everything, and so does ``HVDRIVERS_CONFORMANCE=whole``
for pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hvdrivers.conformance.engine.clauses import Check, Level
from hvdrivers.conformance.engine.report import GOOD, Status
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.hyperv.conformance.choice import hyperv_target
from hvdrivers.hyperv.simulator.wsman_shell import NoEngine
from tests.integration.part_of_suite import SEED, ends_well
from tests.peers.precondition import missing

UNTRIED: Final = (
    "a volume takes no room before it is written to",
    "the target's second host does not die (dead_host)",
)
"""What the simulator cannot be brought to show, in the words of the suite: its drive is never full,
and no host dies. Only SHOULD clauses need it."""


class Run:
    """One run of the suite, check by check."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def passes(self, check: Check) -> None:
        """Try one check."""
        result = self._session.run_check(check)
        untried = {Status.PRECONDITION_MISSING, Status.NOT_SHOWN}
        if result.status in untried and result.message in UNTRIED:
            assert check.clause.level is Level.SHOULD
        else:
            good = {*GOOD, Status.DECLINED}
            assert result.status in good, f"{result.status}: {result.message}\n{result.detail}"

    def leaves_nothing(self) -> None:
        """The host is as it was before. For a run of which many checks cannot be tried."""
        assert self._session.report(complete=False).leftovers == ()

    def ends_well(self) -> None:
        """What all the checks together come to."""
        ends_well(self._session)


@contextmanager
def running(folder: Path, *, guests: str = "played") -> Iterator[Run]:
    """A simulated host and a run against it."""
    try:
        target = hyperv_target(guests=guests)
    except NoEngine as error:
        missing(str(error))
    target.time_scale = 3.0  # other tests run beside it
    with Session(target, journal=folder / "journal", seed=SEED) as session:
        yield Run(session)


def first_of_each_clause() -> dict[str, Check]:
    """The first check of every clause, by the clause's id."""
    found: dict[str, Check] = {}
    for check in selected():
        found.setdefault(check.clause.id, check)
    return found
