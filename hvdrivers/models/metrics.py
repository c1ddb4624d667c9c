"""Counters of instances. Counters only grow while the machine runs and begin again at each start."""

from __future__ import annotations

from uuid import UUID

from pydantic import AwareDatetime

from hvdrivers.models.base import Model
from hvdrivers.models.state import InstanceState


class DiskMetrics(Model):
    """One disk."""

    device: str
    """The device name that AttachedVolume shows, or ``root``, ``seed``, ``ephemeral``, ``swap``."""
    read_bytes: int
    read_requests: int
    write_bytes: int
    write_requests: int
    capacity_bytes: int | None = None
    allocation_bytes: int | None = None
    """What the disk takes on the host."""


class VifMetrics(Model):
    """One NIC, seen from the guest: received is what the guest received."""

    id: str | None
    """The VIF id, where the hypervisor lets it be known in the bulk call."""
    device: str
    """The host's device, or the port."""
    rx_bytes: int
    rx_packets: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_dropped: int


class InstanceMetrics(Model):
    """One instance at one moment. None: the hypervisor does not say (it is not running)."""

    uuid: UUID
    at: AwareDatetime
    """When the host was asked."""
    state: InstanceState
    vcpus: int
    cpu_time_ns: int | None = None
    """CPU time used since start, nanoseconds, summed over virtual CPUs."""
    memory_mib: int
    """Memory assigned, MiB."""
    memory_rss_mib: int | None = None
    """Memory taken on the host, MiB."""
    memory_unused_mib: int | None = None
    """Memory the guest says it does not use, MiB."""
    disks: tuple[DiskMetrics, ...] = ()
    vifs: tuple[VifMetrics, ...] = ()
