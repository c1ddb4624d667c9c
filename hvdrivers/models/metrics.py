"""Counters of instances. Counters only grow while the machine runs and begin again at each start.
None: the hypervisor keeps no such counter (vSphere has rates over 20 seconds instead)."""

from __future__ import annotations

from uuid import UUID

from pydantic import AwareDatetime

from hvdrivers.models.base import Identifier, Model
from hvdrivers.models.state import InstanceState


class DiskMetrics(Model):
    """One disk."""

    device: str
    """The hypervisor's name of the device: for a volume what AttachedVolume.device says."""
    volume_id: Identifier | None = None
    """The volume that it is; None for a disk of the instance's own, and where the hypervisor does
    not let it be known in the bulk call."""
    read_bytes: int | None = None
    read_requests: int | None = None
    write_bytes: int | None = None
    write_requests: int | None = None
    capacity_bytes: int | None = None
    allocation_bytes: int | None = None
    """What the disk takes on the host."""


class VifMetrics(Model):
    """One NIC, seen from the guest: received is what the guest received."""

    id: str | None
    """The VIF id, where the hypervisor lets it be known in the bulk call."""
    device: str
    """The host's device, or the port."""
    rx_bytes: int | None = None
    rx_packets: int | None = None
    rx_dropped: int | None = None
    tx_bytes: int | None = None
    tx_packets: int | None = None
    tx_dropped: int | None = None


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
