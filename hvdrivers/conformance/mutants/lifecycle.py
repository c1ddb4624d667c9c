"""Mutants of the lifecycle."""

from __future__ import annotations

from collections.abc import Sequence

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.instance import InstanceSummary


@mutant("LIFE-001")
class ListDropsOne(FakeDriver):
    """list_instances() leaves out the newest instance."""

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        return list(super().list_instances(timeout=timeout))[:-1]
