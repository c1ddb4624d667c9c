"""Counters of fake machines. They grow with the host's clock, so a test can foretell them."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from uuid import UUID

from hvdrivers.contract.metrics import Metrics
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.own_disks import role_of
from hvdrivers.fake.records import Machine
from hvdrivers.models.metrics import DiskMetrics, InstanceMetrics, VifMetrics
from hvdrivers.models.state import POWERED_ON

_DEVICES = {"root": "vda", "seed": "sr0"}
"""Names of an instance's own disks by role, where they are not the role."""
_BLOCK = 65536


class FakeMetrics(FakeBase, Metrics):
    """The metrics topic of Core."""

    def get_metrics(
        self, uuids: AbstractSet[UUID] | None = None, *, timeout: float | None = None
    ) -> Sequence[InstanceMetrics]:
        """1 call."""
        with self.link.task("get_metrics", None, timeout) as task:
            return task.call("read-counters", lambda: self._read(uuids), changes=False)

    def _read(self, uuids: AbstractSet[UUID] | None) -> list[InstanceMetrics]:
        machines = self.fake_host.ours()
        return [self._of(machine) for machine in machines if uuids is None or machine.uuid in uuids]

    def _of(self, machine: Machine) -> InstanceMetrics:
        on = machine.state in POWERED_ON
        seconds = self.fake_host.clock.now() - machine.started_at if on else 0.0
        memory = machine.flavor.memory_mib
        return InstanceMetrics(
            uuid=machine.uuid,
            at=self.fake_host.clock.wall(),
            state=machine.state,
            vcpus=machine.flavor.vcpus,
            # every CPU is half busy
            cpu_time_ns=int(seconds * 1e9) * machine.flavor.vcpus // 2 if on else None,
            memory_mib=memory,
            memory_rss_mib=memory if on else None,
            memory_unused_mib=memory // 2 if on and self.fake_host.agent_answers(machine) else None,
            disks=tuple(self._disks(machine)),
            vifs=tuple(self._vifs(machine, seconds)) if on else (),
        )

    def _disks(self, machine: Machine) -> list[DiskMetrics]:
        sizes: list[tuple[str, str | None, int, int]] = [
            (_DEVICES.get(disk.role, disk.role), None, disk.size_bytes, len(disk.content))
            for _, disk in self.fake_host.disks_of(machine.uuid)
            if disk.role in _DEVICES or role_of(disk.role) is not None
        ]
        sizes += [
            (disk.device, volume_id, disk.seen_bytes, len(disk.record.content))
            for volume_id, disk in machine.volumes.items()
        ]
        return [
            DiskMetrics(
                device=name,
                volume_id=volume_id,
                read_bytes=_BLOCK,
                read_requests=1,
                write_bytes=max(0, writes - 1) * _BLOCK,
                write_requests=max(0, writes - 1),
                capacity_bytes=size,
                allocation_bytes=size,
            )
            for name, volume_id, size, writes in sizes
        ]

    def _vifs(self, machine: Machine, seconds: float) -> list[VifMetrics]:
        packets = int(seconds)
        return [
            VifMetrics(
                id=port.vif.id,
                device=port.vif.tap,
                rx_bytes=packets * 64,
                rx_packets=packets,
                rx_dropped=0,
                tx_bytes=packets * 64,
                tx_packets=packets,
                tx_dropped=0,
            )
            for port in self.fake_host.ports.values()
            if port.owner == machine.uuid and port.plugged
        ]
