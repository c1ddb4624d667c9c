"""Counters of all machines in one call.

vSphere keeps rates over 20 seconds, and no counters of CPU time, disks and networks. The rates are
not turned into counters here: a sum of samples would forget what happened between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.metrics import Metrics
from hvdrivers.models.metrics import DiskMetrics, InstanceMetrics, VifMetrics
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.machines import STATE, state_of, uuid_in
from hvdrivers.vmware.moved import LOST, Devices
from hvdrivers.vmware.reader import Row
from hvdrivers.vmware.record import DEVICES, devices_in, mark_in, path_of

_PATHS = (
    *STATE,
    path_of(DEVICES),
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "summary.quickStats.hostMemoryUsage",
)


class VmwareMetrics(Topic, Metrics):
    """Metrics."""

    @timed
    def get_metrics(
        self, uuids: AbstractSet[UUID] | None = None, *, timeout: float | None = None
    ) -> Sequence[InstanceMetrics]:
        """Budget: 1 call, and 1 for each 1,000 machines beyond the first."""
        del timeout
        at = datetime.now(UTC)
        found = []
        for row in self.machines.rows(*_PATHS):
            uuid = uuid_in(row)
            mark = mark_in(row, uuid)
            if uuid is None or mark is None or (uuids is not None and uuid not in uuids):
                continue
            state = state_of(row.get("runtime.powerState"), mark)
            devices = Devices()
            with suppress(errors.HypervisorFault):  # damaged by somebody: the rest is true
                devices = devices_in(row)
            found.append(
                InstanceMetrics(
                    uuid=uuid,
                    at=at,
                    state=state,
                    vcpus=row.get("config.hardware.numCPU", 1),
                    memory_mib=row.get("config.hardware.memoryMB", 0),
                    memory_rss_mib=_number(row, "summary.quickStats.hostMemoryUsage", state),
                    disks=(
                        *(DiskMetrics(device=a) for a in devices.own if not a.startswith(LOST)),
                        *(
                            DiskMetrics(volume_id=v.id, device=a)
                            for a, v in devices.volumes.items()
                            if not a.startswith(LOST)
                        ),
                    ),
                    vifs=tuple(VifMetrics(id=v.id, device=m) for m, v in devices.vifs.items()),
                )
            )
        return found


def _number(row: Row, path: str, state: InstanceState) -> int | None:
    if state not in (InstanceState.RUNNING, InstanceState.RESCUED):
        return None
    value: Any = row.get(path)
    return int(value) if value is not None else None
