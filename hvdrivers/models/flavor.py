"""Flavors: the size of an instance."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from hvdrivers.limits import MOST_GIB, MOST_KIB, MOST_MIB
from hvdrivers.models.base import Model


class CpuPolicy(StrEnum):
    """How virtual CPUs get physical ones (Nova's ``hw:cpu_policy``)."""

    SHARED = "shared"
    """The machines together may have more CPUs than the host has threads. How many more is the
    orchestrator's affair (Placement's allocation ratio); the hypervisor may have a limit, above all
    for one machine."""
    DEDICATED = "dedicated"
    """Each has a thread of the host to itself, of those that are set aside
    (``CpuResources.dedicated``)."""


class Flavor(Model):
    """The size of an instance."""

    vcpus: Annotated[int, Field(ge=1, le=1024)]
    """Virtual CPUs at start."""
    memory_mib: Annotated[int, Field(ge=16, lt=MOST_MIB)]
    """Memory at start, MiB."""
    disk_gib: Annotated[int, Field(ge=0, lt=MOST_GIB)] = 0
    """Size of the root disk, GiB. 0: as large as the image. Never smaller than the image."""
    ephemeral_gib: Annotated[int, Field(ge=0, lt=MOST_GIB)] = 0
    """Size of an additional empty disk that lives and dies with the instance, GiB."""
    swap_mib: Annotated[int, Field(ge=0, lt=MOST_MIB)] = 0
    """Size of a swap disk, MiB."""
    max_vcpus: Annotated[int, Field(ge=1, le=1024)] | None = None
    """How far CPUs can be added while running. None: they cannot."""
    max_memory_mib: Annotated[int, Field(ge=16, lt=MOST_MIB)] | None = None
    """How far memory can be added while running, MiB. None: it cannot."""
    cpu_policy: CpuPolicy = CpuPolicy.SHARED
    numa_nodes: Annotated[int, Field(ge=1, le=64)] | None = None
    """Virtual NUMA nodes, CPUs and memory split evenly. None: the hypervisor's default."""
    page_size_kib: Annotated[int, Field(ge=4, lt=MOST_KIB)] | None = None
    """Back the memory by huge pages of this size, KiB (2048, 1048576). None: ordinary pages."""

    @model_validator(mode="after")
    def _headroom(self) -> Self:
        if self.max_vcpus is not None and self.max_vcpus < self.vcpus:
            raise ValueError("max_vcpus is below vcpus")
        if self.max_memory_mib is not None and self.max_memory_mib < self.memory_mib:
            raise ValueError("max_memory_mib is below memory_mib")
        if self.numa_nodes is not None and self.vcpus % self.numa_nodes:
            raise ValueError("vcpus must divide evenly over numa_nodes")
        return self
