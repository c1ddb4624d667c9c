"""Metrics on Hyper-V: one bulk call. The cmdlets give rates and not counters; what is not counted
is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hvdrivers.contract.metrics import Metrics
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.instances import MIB
from hvdrivers.models.metrics import DiskMetrics, InstanceMetrics, VifMetrics
from hvdrivers.models.state import InstanceState


class HypervMetrics(Topic, Metrics):
    """Counters."""

    def get_metrics(
        self, uuids: AbstractSet[UUID] | None = None, *, timeout: float | None = None
    ) -> Sequence[InstanceMetrics]:
        """Budget: 1 call for any number of instances."""
        if uuids is not None and not uuids:
            return []
        wanted = [str(uuid) for uuid in uuids] if uuids is not None else []
        found = self.session.call("Metrics", {"uuids": wanted}, Deadline(timeout))
        return [_metrics(each) for each in found]


def _metrics(found: Mapping[str, Any]) -> InstanceMetrics:
    assigned = found["assigned"] // MIB
    demand = found["demand"] // MIB
    return InstanceMetrics(
        uuid=UUID(found["uuid"]),
        at=datetime.now(UTC),
        state=InstanceState(found["state"]),
        vcpus=found["cpus"],
        memory_mib=assigned or found["memory"] // MIB,
        memory_rss_mib=assigned or None,
        memory_unused_mib=max(0, assigned - demand) if assigned and demand else None,
        disks=tuple(
            DiskMetrics(device=f"{bus.lower()}:{number}:{place}")
            for bus, number, place in found["drives"]
        ),
        vifs=tuple(VifMetrics(id=name, device=switch or name) for name, switch in found["nics"]),
    )
