"""What a fake host has left, and what does not fit any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract.errors import InsufficientResources
from hvdrivers.models.instance import CpuPolicy, Flavor
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import PciDevice

if TYPE_CHECKING:
    from hvdrivers.fake.config import HostSize
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.records import Machine, Pool


@dataclass
class Taken:
    """What the machines that are powered on have."""

    shared_cpus: int = 0
    dedicated_cpus: int = 0
    memory_mib: int = 0
    ordinary_mib: int = 0
    """Of it, not in huge pages."""
    pages: Counter[int] = field(default_factory=Counter)
    """Huge pages, by their size in KiB."""
    sev_guests: int = 0

    def add(self, flavor: Flavor, *, sev: bool = False) -> None:
        """Count one machine more."""
        if flavor.cpu_policy is CpuPolicy.DEDICATED:
            self.dedicated_cpus += flavor.vcpus
        else:
            self.shared_cpus += flavor.vcpus
        self.memory_mib += flavor.memory_mib
        if flavor.page_size_kib in {None, 4}:
            self.ordinary_mib += flavor.memory_mib
        elif flavor.page_size_kib is not None:
            self.pages[flavor.page_size_kib] += -(-flavor.memory_mib * 1024 // flavor.page_size_kib)
        self.sev_guests += sev


def taken(machines: Iterable[Machine]) -> Taken:
    """What these machines take, those that are powered off nothing."""
    sums = Taken()
    for machine in machines:
        if machine.takes_memory:
            sums.add(machine.flavor, sev=machine.sev)
    return sums


def check_fits(size: HostSize, sums: Taken) -> None:
    """Raise InsufficientResources if this is more than the host has."""
    wanted = [
        ("shared virtual CPUs", sums.shared_cpus, size.shared_capacity),
        ("dedicated CPUs", sums.dedicated_cpus, size.dedicated_cpus),
        ("MiB of memory", sums.ordinary_mib, size.memory_mib - size.hugepages_mib),
        ("guests with encrypted memory", sums.sev_guests, size.sev_guests),
    ]
    wanted += [
        (f"huge pages of {kib} KiB", pages, size.hugepages.get(kib, 0))
        for kib, pages in sums.pages.items()
    ]
    for what, need, there in wanted:
        if need > there:
            raise InsufficientResources(
                f"the host has {there} {what}, and {need} would be needed",
                vendor_code="FAKE_FULL",
            )


def check_power(host: FakeHost, machine: Machine, flavor: Flavor | None = None) -> None:
    """Raise InsufficientResources unless ``machine`` can be powered on (with ``flavor``) beside
    those that are."""
    flavor = flavor or machine.flavor
    if flavor.vcpus > host.size.threads:
        raise InsufficientResources(
            f"the host has {host.size.threads} hardware threads: no machine gets more CPUs",
            vendor_code="FAKE_FULL",
        )
    others = [m for m in host.machines.values() if m.uuid != machine.uuid]
    sums = taken([*others, *host.incoming.values()])
    sums.add(flavor, sev=machine.sev)
    check_fits(host.size, sums)


def check_room(pool: Pool, size_bytes: int) -> None:
    """Raise InsufficientResources unless so many bytes more fit into the pool."""
    if pool.used_bytes + size_bytes > pool.total_bytes:
        free = max(0, pool.total_bytes - pool.used_bytes)
        raise InsufficientResources(
            f"pool {pool.name} has {free} bytes left, and {size_bytes} would be needed",
            vendor_code="FAKE_FULL",
        )


def device_at(host: FakeHost, address: PciAddress) -> PciDevice:
    """The device at an address.

    Raises:
        InsufficientResources: there is none.
    """
    for device in host.size.devices:
        if device.address == address:
            return device
    raise InsufficientResources(f"the host has no device {address}", vendor_code="FAKE_NO_DEVICE")


def check_device_free(host: FakeHost, address: PciAddress) -> None:
    """Raise InsufficientResources unless a whole device is there for the taking."""
    device = device_at(host, address)
    # of a device that is given away whole nobody gets a part, nor the whole of one in parts
    related = {address, device.physical_function, *device.virtual_functions}
    for claim in host.claims:
        if claim.address in related:
            raise InsufficientResources(
                f"device {claim.address} belongs to another machine", vendor_code="FAKE_CLAIMED"
            )


def find_slice(host: FakeHost, kind: str, parent: PciAddress | None) -> PciAddress:
    """A GPU with a slice of this type left.

    Raises:
        InsufficientResources: there is none.
    """
    whole = {claim.address for claim in host.claims if claim.slice is None}
    used = Counter(claim.address for claim in host.claims if claim.slice is not None)
    for device in host.size.devices:
        if device.address in whole or parent not in {None, device.address}:
            continue
        for each in device.mediated_types:
            if each.name == kind and used[device.address] < each.available:
                return device.address
    raise InsufficientResources(f"no {kind} is left", vendor_code="FAKE_CLAIMED")


def claimed_by(host: FakeHost, owner: UUID) -> bool:
    """Whether a machine has any device of the host."""
    return any(claim.owner == owner for claim in host.claims)
