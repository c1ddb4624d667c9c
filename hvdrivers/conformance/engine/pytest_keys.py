"""What the pytest plug-in and the items that it collects tell each other.

Both import this module, and it imports nothing of the suite: pytest loads it in every project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from hvdrivers.conformance.engine.report import CheckResult, Report


class Suite(Protocol):
    """The checks of one driver, as collected."""

    name: str

    @property
    def hv_report(self) -> Report | None:
        """None: it has not run."""


RESULT: pytest.StashKey[CheckResult] = pytest.StashKey()
"""Of an item: what its check found."""
COLLECTED: pytest.StashKey[list[Suite]] = pytest.StashKey()
"""Of the configuration: the suites that have run."""
