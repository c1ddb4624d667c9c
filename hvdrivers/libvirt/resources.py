"""Resources on libvirt: the host's inventory, in a number of calls that machines do not raise."""

from __future__ import annotations

from collections.abc import Sequence

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.resources import Resources
from hvdrivers.libvirt.host import HostFacts
from hvdrivers.libvirt.listing import Listing
from hvdrivers.libvirt.naming import label_of
from hvdrivers.libvirt.xml import Element, attribute, parse
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import (
    CpuResources,
    HostResources,
    HugePages,
    MediatedType,
    MemoryResources,
    NumaCell,
    PciDevice,
    PlacementProvider,
    StorageResources,
)
from hvdrivers.models.state import InstanceState

_GIB = 1 << 30
_POWERED_ON = {InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.BUILDING}
_BASE_PAGE_KIB = 4


class LibvirtResources(HostFacts, Listing, Resources):
    """The inventory."""

    def get_available_resource(self, *, timeout: float | None = None) -> HostResources:
        """Budget: 12 calls, and 1 for each PCI device of the host."""
        del timeout
        machines = self._all()
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
            host=self._host_info(),
            cpu=CpuResources(
                total=int(info[2]),
                used=used_cpus,
                sockets=int(info[4]) * int(info[5]),
                cores_per_socket=int(info[6]),
                threads_per_core=int(info[7]),
                model=str(self._host_capabilities().findtext("host/cpu/model") or info[0]),
                features=frozenset(
                    name
                    for each in self._host_capabilities().iterfind("host/cpu/feature")
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
            storage=(self._storage(),),
            numa_cells=tuple(cells),
            devices=tuple(self._devices()),
            instances=sum(label_of(name, uuid) is not None for uuid, name, _, _ in machines),
        )

    def placement_inventories(self, *, timeout: float | None = None) -> Sequence[PlacementProvider]:
        """Budget: as get_available_resource()."""
        from hvdrivers.openstack.placement import providers

        return providers(
            self.get_available_resource(timeout=timeout), self._effective_capabilities()
        )

    def _storage(self) -> StorageResources:
        pool = self.pools.disks()
        _, capacity, allocation, _ = pool.info()
        return StorageResources(
            name=pool.name(),
            total_gib=capacity / _GIB,
            used_gib=allocation / _GIB,
            shared=self.connection.fact(
                "pool-shared", lambda _: parse(pool.XMLDesc(0)).get("type") == "netfs"
            ),
        )

    def _cells(self) -> list[NumaCell]:
        found = []
        cells = self._host_capabilities().findall("host/topology/cells/cell")
        sizes = sorted(
            {
                int(size)
                for cell in cells
                for page in cell.iterfind("pages")
                if (size := page.get("size")) and int(size) > _BASE_PAGE_KIB
            }
        )
        free = self._free_pages(sizes, len(cells)) if sizes and cells else {}
        for index, cell in enumerate(cells):
            totals = {
                int(page.get("size", 0)): int(page.text or 0) for page in cell.iterfind("pages")
            }
            found.append(
                NumaCell(
                    id=int(cell.get("id", index)),
                    cpus=frozenset(int(cpu.get("id", 0)) for cpu in cell.iterfind("cpus/cpu")),
                    memory_mib=int(cell.findtext("memory") or 0) // 1024,
                    hugepages=tuple(
                        HugePages(
                            size_kib=size, total=totals[size], free=free.get((index, size), 0)
                        )
                        for size in sizes
                        if totals.get(size)
                    ),
                    distances={
                        int(each.get("id", 0)): int(each.get("value", 10))
                        for each in cell.iterfind("distances/sibling")
                    },
                )
            )
        return found

    def _free_pages(self, sizes: list[int], cells: int) -> dict[tuple[int, int], int]:
        try:
            free = self.connection.remote.getFreePages(sizes, 0, cells, 0)
        except (errors.NotSupported, errors.HypervisorFault):
            return {}
        return {
            (int(cell), int(size)): int(n) for cell, by in free.items() for size, n in by.items()
        }

    def _devices(self) -> list[PciDevice]:
        remote = self.connection.remote
        try:
            nodes = remote.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV)
        except errors.NotSupported:
            return []  # a daemon without the node device driver knows of no devices
        return [_device(parse(node.XMLDesc(0))) for node in nodes]


def _number(stats: object, key: str, default: int) -> int:
    value = stats.get(key, default) if isinstance(stats, dict) else default
    return int(value)


def _sum_pages(cells: list[NumaCell]) -> tuple[HugePages, ...]:
    sizes = sorted({pages.size_kib for cell in cells for pages in cell.hugepages})
    return tuple(
        HugePages(
            size_kib=size,
            total=sum(p.total for cell in cells for p in cell.hugepages if p.size_kib == size),
            free=sum(p.free for cell in cells for p in cell.hugepages if p.size_kib == size),
        )
        for size in sizes
    )


def _address(element: Element) -> PciAddress:
    def part(name: str) -> int:
        # the <capability> has decimal child elements, <address> hexadecimal attributes
        child = element.findtext(name)
        return int(child) if child is not None else int(element.get(name, "0"), 16)

    return PciAddress.of(part("domain"), part("bus"), part("slot"), part("function"))


def _device(node: Element) -> PciDevice:
    pci = node.find("capability[@type='pci']")
    assert pci is not None  # noqa: S101 - listed by that very capability
    physical = pci.find("capability[@type='phys_function']/address")
    functions = pci.find("capability[@type='virt_functions']")
    group = attribute(pci, "iommuGroup", "number")
    numa = attribute(pci, "numa", "node")
    return PciDevice(
        address=_address(pci),
        vendor_id=(attribute(pci, "vendor", "id") or "0x0000").removeprefix("0x"),
        product_id=(attribute(pci, "product", "id") or "0x0000").removeprefix("0x"),
        class_code=(pci.findtext("class") or "0x000000").removeprefix("0x"),
        label=" ".join(filter(None, (pci.findtext("vendor"), pci.findtext("product")))),
        driver=node.findtext("driver/name"),
        numa_cell=int(numa) if numa is not None else None,
        iommu_group=int(group) if group is not None else None,
        physical_function=_address(physical) if physical is not None else None,
        virtual_functions=tuple(
            _address(each)
            for each in (functions.iterfind("address") if functions is not None else ())
        ),
        max_virtual_functions=int(functions.get("maxCount", 0)) if functions is not None else 0,
        mediated_types=tuple(
            MediatedType(
                name=kind.get("id", ""),
                available=int(kind.findtext("availableInstances") or 0),
                label=kind.findtext("name"),
            )
            for kind in pci.iterfind("capability[@type='mdev_types']/type")
        ),
    )
