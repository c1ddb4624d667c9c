"""Resources on Hyper-V: the whole inventory in one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hvdrivers.contract.resources import Resources
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.host_info import host_info
from hvdrivers.hyperv.instances import GIB, MIB
from hvdrivers.messages import shown_text
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import (
    CpuResources,
    HostResources,
    MediatedType,
    MemoryResources,
    NumaCell,
    PciDevice,
    StorageResources,
)


class HypervResources(Topic, Resources):
    """The inventory."""

    def get_available_resource(self, *, timeout: float | None = None) -> HostResources:
        """Budget: 1 call."""
        deadline = Deadline(timeout)
        pools = ["default", *self.config.pools]
        found = self.session.call("Host", {"pools": pools}, deadline)
        sockets = max(1, found["sockets"])
        cores = max(1, found["cores"] // sockets)
        cells, first = [], 0
        for cell in found["cells"]:
            last = first + cell["processors"]
            cells.append(
                NumaCell(
                    id=cell["id"],
                    cpus=frozenset(range(first, last)),
                    # Hyper-V counts the memory of a node in MiB
                    memory_mib=cell["memory"],
                )
            )
            first = last
        return HostResources(
            host=host_info(self.session.facts(deadline)),
            cpu=CpuResources(
                total=found["processors"],
                used=found["used"],
                sockets=sockets,
                cores_per_socket=cores,
                threads_per_core=max(1, found["processors"] // (sockets * cores)),
                model=found["model"] or "unknown",
            ),
            memory=MemoryResources(
                total_mib=found["memory"] // MIB,
                used_mib=found["assigned"] // MIB,
                free_mib=found["free"] // MIB,
            ),
            storage=tuple(
                StorageResources(
                    name=pool["name"],
                    total_gib=pool["total"] / GIB,
                    used_gib=(pool["total"] - pool["free"]) / GIB,
                    shared=pool["shared"],
                )
                for pool in found["pools"]
                if pool["total"] is not None  # unknown is not zero
            ),
            numa_cells=tuple(cells),
            devices=tuple(_devices(found)),
            instances=found["instances"],
        )


def _devices(found: Mapping[str, Any]) -> Iterator[PciDevice]:
    """PCI devices. The partitions of a GPU are named as Hyper-V names the GPU."""
    for each in found["devices"]:
        yield PciDevice(
            address=PciAddress(each["address"]),
            vendor_id=each["vendor"],
            product_id=each["product"],
            class_code=each["class"] or "000000",
            label=shown_text(each["label"]) or "",
            for_guests=each["aside"],
            mediated_types=tuple(
                MediatedType(name=gpu["name"], available=gpu["free"], total=gpu["total"])
                for gpu in found["gpus"]
                if gpu["instance"] == each["instance"]
            ),
        )
