"""Resources on libvirt: the host's inventory, in a number of calls that machines do not raise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.resources import Resources
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.encrypted_memory import encrypted_guests
from hvdrivers.libvirt.hardware import choices
from hvdrivers.libvirt.node_devices import device_in
from hvdrivers.libvirt.placement import host_cells
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import parse, readable
from hvdrivers.models.resources import (
    CpuResources,
    HostResources,
    HugePages,
    MemoryResources,
    NumaCell,
    PciDevice,
    StorageResources,
)
from hvdrivers.models.state import InstanceState

_GIB = 1 << 30
_POWERED_ON = {
    InstanceState.RUNNING,
    InstanceState.PAUSED,
    InstanceState.BUILDING,
    InstanceState.RESCUED,
}
_BASE_PAGE_KIB = 4


class LibvirtResources(Topic, Resources):
    """The inventory."""

    def get_available_resource(self, *, timeout: float | None = None) -> HostResources:
        """Budget: 13 calls, and 1 for each PCI device of the host, and for each further storage
        pool; with NUMA cells whose numbers have gaps 1 more for each gap."""
        del timeout
        machines = self.listing.machines()
        used_cpus = used_mib = 0
        for _, _, state, stats in machines:
            if state in _POWERED_ON:
                used_cpus += _number(stats, "vcpu.current", 1)
                used_mib += _number(stats, "balloon.current", 0) // 1024
        remote = self.connection.remote
        info = remote.getInfo()
        memory = remote.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS, 0)
        cells = self._cells()
        return HostResources(
            host=self.facts.about(),
            cpu=CpuResources(
                total=int(info[2]),
                dedicated=len(self.config.aside),
                used=used_cpus,
                sockets=int(info[4]) * int(info[5]),
                cores_per_socket=int(info[6]),
                threads_per_core=int(info[7]),
                model=str(self.facts.capabilities().findtext("host/cpu/model") or info[0]),
                features=frozenset(
                    name
                    for each in self.facts.capabilities().iterfind("host/cpu/feature")
                    if (name := each.get("name")) is not None
                ),
            ),
            memory=MemoryResources(
                # getInfo() and getFreeMemory() leave out NUMA cells without CPUs of their own
                total_mib=int(memory["total"]) // 1024,
                used_mib=used_mib,
                free_mib=int(memory["free"]) // 1024,
                hugepages=_sum_pages(cells),
            ),
            storage=tuple(self._storage()),
            numa_cells=tuple(cells),
            devices=tuple(self._devices()),
            choices=choices(self.facts.domain_capabilities()),
            encrypted_guests=encrypted_guests(self.facts.domain_capabilities()),
            instances=len(self.identity.labels((uuid, name) for uuid, name, _, _ in machines)),
        )

    def _storage(self) -> Iterator[StorageResources]:
        """The disk pool first."""
        disks = self.config.pool
        for pool in self.pools.for_disks():
            try:
                _, capacity, allocation, _ = pool.info()
                shared = self.connection.fact(
                    f"pool-shared:{pool.name()}", partial(_is_shared, pool)
                )
            except (errors.VolumeNotFound, errors.HypervisorFault):
                if pool.name() == disks:
                    raise
                continue  # it has been stopped meanwhile
            yield StorageResources(
                name=pool.name(),
                total_gib=capacity / _GIB,
                used_gib=allocation / _GIB,
                shared=shared,
                for_new=pool.name() == disks,
            )

    def _cells(self) -> list[NumaCell]:
        found = []
        cells = self.facts.capabilities().findall("host/topology/cells/cell")
        sizes = sorted(
            {
                int(size)
                for cell in cells
                for page in cell.iterfind("pages")
                if (size := page.get("size")) and int(size) > _BASE_PAGE_KIB
            }
        )
        known = host_cells(self.facts.capabilities())
        aside = self.config.aside
        free = self.huge_pages.free(sizes, [each.id for each in known]) if sizes else {}
        for each, cell in zip(known, cells, strict=True):
            totals = {
                int(page.get("size", 0)): int(page.text or 0) for page in cell.iterfind("pages")
            }
            pages = tuple(
                HugePages(size_kib=size, total=totals[size], free=free.get((each.id, size)))
                for size in sizes
                if totals.get(size)
            )
            more = {"hugepages": pages, "dedicated": each.cpus & aside}
            found.append(each.model_copy(update=more))
        return found

    def _devices(self) -> list[PciDevice]:
        remote = self.connection.remote
        try:
            nodes = remote.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV)
        except errors.NotSupported:
            return []  # a daemon without the node device driver knows of no devices
        found = [
            readable(f"the device {node.name()}", partial(_read_device, node)) for node in nodes
        ]
        return [device for device in found if device is not None]


def _is_shared(pool: Remote, _: Remote) -> bool:
    return parse(pool.XMLDesc(0)).get("type") == "netfs"


def _number(stats: object, key: str, default: int) -> int:
    value = stats.get(key, default) if isinstance(stats, dict) else default
    return int(value)


def _sum_pages(cells: list[NumaCell]) -> tuple[HugePages, ...]:
    sizes = sorted({pages.size_kib for cell in cells for pages in cell.hugepages})
    return tuple(
        HugePages(
            size_kib=size,
            total=sum(p.total for cell in cells for p in cell.hugepages if p.size_kib == size),
            free=_sum(p.free for cell in cells for p in cell.hugepages if p.size_kib == size),
        )
        for size in sizes
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum; None if a part is not known."""
    known = list(counts)
    return None if None in known else sum(each for each in known if each is not None)


def _read_device(node: Remote) -> PciDevice:
    return device_in(parse(node.XMLDesc(0)))
