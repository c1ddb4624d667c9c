"""What a fake host has left, and what does not fit any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract.errors import InsufficientResources, InvalidRequest
from hvdrivers.driverkit.checks import Stock, require_room, require_stock
from hvdrivers.fake.groups import check_hosts_left
from hvdrivers.hints import DEVICES, OTHER_DEVICE, OTHER_SLICE, SMALLER_FLAVOR
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
        Stock("shared virtual CPUs", sums.shared_cpus, size.shared_capacity),
        Stock("dedicated CPUs", sums.dedicated_cpus, size.dedicated_cpus),
        Stock("MiB of memory", sums.ordinary_mib, size.memory_mib - size.hugepages_mib),
        Stock("guests with encrypted memory", sums.sev_guests, size.sev_guests),
    ]
    wanted += [
        Stock(f"huge pages of {kib} KiB", pages, size.hugepages.get(kib, 0))
        for kib, pages in sums.pages.items()
    ]
    require_stock(wanted)


def check_power(host: FakeHost, machine: Machine, flavor: Flavor | None = None) -> None:
    """Raise InsufficientResources unless ``machine`` can be powered on (with ``flavor``) beside
    those that are."""
    flavor = flavor or machine.flavor
    if flavor.vcpus > host.size.threads:
        raise InsufficientResources(
            f"the host has {host.size.threads} hardware threads: no machine gets more CPUs",
            vendor_code="FAKE_FULL",
            hint=SMALLER_FLAVOR,
        )
    others = [m for m in host.machines.values() if m.uuid != machine.uuid]
    sums = taken([*others, *host.incoming.values()])
    sums.add(flavor, sev=machine.sev)
    check_fits(host.size, sums)
    check_nodes(host, machine, others)
    check_hosts_left(host, machine)


def check_placement(machine: Machine, flavor: Flavor) -> None:
    """Raise InvalidRequest if the machine's CPUs and memory were placed for another size."""
    size = (machine.flavor.vcpus, machine.flavor.memory_mib)
    if machine.numa and size != (flavor.vcpus, flavor.memory_mib):
        raise InvalidRequest(
            "the instance has a NUMA placement for the size that it has",
            hint="spawn() another one, placed anew",
        )


def check_nodes(host: FakeHost, machine: Machine, others: Iterable[Machine]) -> None:
    """Raise InsufficientResources unless the machine's NUMA nodes have room on their cells."""
    size = host.size
    per_cell = size.threads // size.sockets
    placed = [node for each in others if each.takes_memory for node in each.numa]
    pinned = {cpu for node in placed for cpu in node.cpus.values()}
    for node in machine.numa:
        if node.cell >= size.sockets:
            raise InsufficientResources(
                f"the host has no NUMA cell {node.cell}",
                hint=f"its cells are 0 to {size.sockets - 1}",
            )
        own = range(node.cell * per_cell, (node.cell + 1) * per_cell)
        for cpu in node.cpus.values():
            if cpu not in own or cpu in pinned:
                raise InsufficientResources(
                    f"CPU {cpu} of cell {node.cell} is not to be had",
                    hint="name another CPU of that cell, or power_off() the machine that has it",
                )
        memory = sum(each.memory_mib for each in [*placed, *machine.numa] if each.cell == node.cell)
        if memory > size.memory_mib // size.sockets:
            raise InsufficientResources(
                f"NUMA cell {node.cell} has not that much memory",
                hint="spread its nodes over other cells, or choose another host",
            )


def check_room(pool: Pool, size_bytes: int) -> None:
    """Raise InsufficientResources unless so many bytes more fit into the pool."""
    require_room(f"pool {pool.name}", pool.total_bytes - pool.used_bytes, size_bytes)


def device_at(host: FakeHost, address: PciAddress) -> PciDevice:
    """The device at an address.

    Raises:
        InsufficientResources: there is none.
    """
    for device in host.size.devices:
        if device.address == address:
            return device
    raise InsufficientResources(
        f"the host has no device {address}", vendor_code="FAKE_NO_DEVICE", hint=DEVICES
    )


def check_device_free(host: FakeHost, address: PciAddress) -> None:
    """Raise InsufficientResources unless a whole device is there for the taking."""
    device = device_at(host, address)
    # of a device that is given away whole nobody gets a part, nor the whole of one in parts
    related = {address, device.physical_function, *device.virtual_functions}
    for claim in host.claims:
        if claim.address in related:
            raise InsufficientResources(
                f"device {claim.address} belongs to another machine",
                vendor_code="FAKE_CLAIMED",
                hint=OTHER_DEVICE,
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
    raise InsufficientResources(f"no {kind} is left", vendor_code="FAKE_CLAIMED", hint=OTHER_SLICE)


def claimed_by(host: FakeHost, owner: UUID) -> bool:
    """Whether a machine has any device of the host."""
    return any(claim.owner == owner for claim in host.claims)
