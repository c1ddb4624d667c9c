"""A mutant that says nothing of what it costs."""

from __future__ import annotations

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver


@mutant("STATIC-009")
class PingCostsUnknown(FakeDriver):
    """ping() does not say how many calls it costs."""

    def ping(self, *, timeout: float | None = None) -> None:
        """Ask whether the host is there."""
        super().ping(timeout=timeout)
