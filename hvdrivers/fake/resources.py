"""What a fake host has, and what of it is taken."""

from __future__ import annotations

from collections import Counter

from hvdrivers.contract.resources import Resources
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.capacity import taken
from hvdrivers.models.hardware import TpmModel, VideoModel
from hvdrivers.models.instance import Firmware
from hvdrivers.models.resources import (
    CpuResources,
    HostResources,
    HugePages,
    LargestMachine,
    MachineChoices,
    MemoryResources,
    NumaCell,
    PciDevice,
    StorageResources,
)
from hvdrivers.models.vif.common import NicModel
from hvdrivers.models.volume.attachment import DiskBus

_LOCAL, _REMOTE = 10, 21
_NOT_ON_ARM = {Firmware.BIOS}
_GIB = float(1 << 30)


class FakeResources(FakeBase, Resources):
    """The resources topic of Core."""

    def get_available_resource(self, *, timeout: float | None = None) -> HostResources:
        """1 call."""
        with self.link.task("get_available_resource", None, timeout) as task:
            return task.call("read-resources", self._resources, changes=False)

    def _resources(self) -> HostResources:
        host, size = self.fake_host, self.fake_host.size
        sums = taken([*host.machines.values(), *host.incoming.values()])
        pages = tuple(
            HugePages(size_kib=kib, total=total, free=total - sums.pages[kib])
            for kib, total in sorted(size.hugepages.items())
        )
        return HostResources(
            host=host.info,
            cpu=CpuResources(
                total=size.threads,
                dedicated=size.dedicated_cpus,
                used=sums.shared_cpus + sums.dedicated_cpus,
                sockets=size.sockets,
                cores_per_socket=size.cores_per_socket,
                threads_per_core=size.threads_per_core,
                model=size.cpu_model,
                features=size.cpu_features,
                allocation_ratio=size.cpu_allocation_ratio,
            ),
            memory=MemoryResources(
                total_mib=size.memory_mib,
                used_mib=sums.memory_mib,
                free_mib=size.memory_mib - size.hugepages_mib - sums.ordinary_mib,
                hugepages=pages,
            ),
            encrypted_guests=size.sev_guests or None,
            storage=tuple(
                StorageResources(
                    name=pool.name,
                    total_gib=pool.total_bytes / _GIB,
                    used_gib=pool.used_bytes / _GIB,
                    shared=pool.shared,
                )
                for pool in host.pools.values()
            ),
            numa_cells=self._cells(),
            devices=tuple(self._left(device) for device in size.devices),
            largest_machine=LargestMachine(vcpus=size.threads, memory_mib=size.memory_mib),
            choices=MachineChoices(
                # there is no BIOS on ARM
                firmwares=frozenset(Firmware)
                - (_NOT_ON_ARM if size.architecture != "x86_64" else set()),
                disk_buses=frozenset(DiskBus),
                nic_models=frozenset(NicModel),
                videos=frozenset(VideoModel),
                tpm_models=frozenset(TpmModel),
            ),
            instances=len(host.ours()),
        )

    def _cells(self) -> tuple[NumaCell, ...]:
        size = self.fake_host.size
        per_cell = size.threads // size.sockets
        return tuple(
            NumaCell(
                id=cell,
                cpus=frozenset(range(cell * per_cell, (cell + 1) * per_cell)),
                memory_mib=size.memory_mib // size.sockets,
                siblings=tuple(
                    frozenset(range(first, first + size.threads_per_core))
                    for first in range(
                        cell * per_cell, (cell + 1) * per_cell, size.threads_per_core
                    )
                ),
                distances={
                    other: _LOCAL if other == cell else _REMOTE for other in range(size.sockets)
                },
            )
            for cell in range(size.sockets)
        )

    def _left(self, device: PciDevice) -> PciDevice:
        """A device with as many slices as are left of it."""
        claims = [claim for claim in self.fake_host.claims if claim.address == device.address]
        used = Counter(claim.slice for claim in claims)
        whole = None in used
        types = tuple(
            kind.model_copy(update={"available": 0 if whole else kind.available - used[kind.name]})
            for kind in device.mediated_types
        )
        return device.model_copy(update={"mediated_types": types})
