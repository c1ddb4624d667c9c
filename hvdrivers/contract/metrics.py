"""Metrics: counters of all machines in one bulk call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from uuid import UUID

from hvdrivers.contract.operation import Interface, Scope, operation
from hvdrivers.models.metrics import InstanceMetrics


class Metrics(Interface):
    """Core: counters."""

    @operation(scope=Scope.HOST, changes=False, timeout=60)
    @abstractmethod
    def get_metrics(
        self, uuids: AbstractSet[UUID] | None = None, *, timeout: float | None = None
    ) -> Sequence[InstanceMetrics]:
        """CPU time, memory, disk and network counters.

        The number of round trips does not depend on the number of instances.

        Args:
            uuids: only these; None means all of ours. One that is not there is left out: it may
                have gone a moment ago.
        """
