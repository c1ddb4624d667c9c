"""The inventory of a host: its CPUs, memory, storage and devices, and how much of them is in use.

:func:`hvdrivers.openstack.placement.providers` turns it into the tree that OpenStack Placement
wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from hvdrivers.models.base import Model
from hvdrivers.models.hardware import TpmModel, VideoModel
from hvdrivers.models.host import HostInfo
from hvdrivers.models.instance import Firmware
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.vif.common import NicModel
from hvdrivers.models.volume.attachment import DiskBus


class CpuResources(Model):
    """The host's processors."""

    total: int
    """Hardware threads that may run guests."""
    dedicated: int = 0
    """Of them, set aside for pinned virtual CPUs (Placement's PCPU); the rest is shared."""
    used: int
    """Virtual CPUs of our and foreign machines that are powered on."""
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    model: str
    """The vendor's or the hypervisor's name of the CPU model."""
    features: frozenset[str] = frozenset()
    """CPU flags in the hypervisor's spelling (``avx2``, ``vmx``)."""
    allocation_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Virtual CPUs of machines that the host allows for each shared hardware thread; None: the
    host has no limit of its own."""


class HugePages(Model):
    """One pool of huge pages."""

    size_kib: int
    total: int
    """Pages."""
    free: int | None = None
    """None: the host does not say."""


class MemoryResources(Model):
    """The host's memory, MiB."""

    total_mib: int
    used_mib: int
    """Assigned to powered-on machines, ours and foreign."""
    free_mib: int | None = None
    """What the host itself says is free."""
    hugepages: tuple[HugePages, ...] = ()


class StorageResources(Model):
    """One pool, datastore or volume folder."""

    name: str
    """What ``VolumeSpec.pool`` and ``migrate_storage()`` take."""
    total_gib: float
    used_gib: float
    shared: bool
    """True where other hosts see the same space: it must not be counted once for each."""
    for_new: bool = True
    """Whether spawn() makes disks here. Where it does not, only what is asked for there, or moved
    there, takes room: Placement does not count it."""


class NumaCell(Model):
    """One NUMA cell of the host."""

    id: int
    cpus: frozenset[int]
    memory_mib: int
    hugepages: tuple[HugePages, ...] = ()
    dedicated: frozenset[int] = frozenset()
    """Those of ``cpus`` that are set aside for pinned virtual CPUs; empty also where the host does
    not say which they are."""
    siblings: tuple[frozenset[int], ...] = ()
    """Which of ``cpus`` are threads of one core; empty where the host does not say."""
    distances: Mapping[int, int] = {}
    """Distance to each cell, in the firmware's units (10 is local)."""


class MediatedType(Model):
    """A kind of slice that a device can be cut into (vGPU)."""

    name: str
    available: int
    total: int | None = None
    label: str | None = None


class PciDevice(Model):
    """A PCI device of the host."""

    address: PciAddress
    vendor_id: str
    """Four hex digits."""
    product_id: str
    class_code: str
    """Six hex digits: ``030000`` is a VGA controller, ``020000`` an Ethernet controller."""
    label: str = ""
    driver: str | None = None
    for_guests: bool = False
    """The host does not use it: its administrator has set it aside for machines. See ``is_aside``
    for hosts that tell it by the name of a driver."""
    numa_cell: int | None = None
    iommu_group: int | None = None
    physical_function: PciAddress | None = None
    """For a virtual function: its physical function."""
    virtual_functions: tuple[PciAddress, ...] = ()
    max_virtual_functions: int = 0
    mediated_types: tuple[MediatedType, ...] = ()

    @property
    def is_aside(self) -> bool:
        """For machines: the host says so, or its driver of the device does (``vfio-pci``)."""
        return self.for_guests or self.driver == "vfio-pci"

    @property
    def is_gpu(self) -> bool:
        """Display or processing accelerator, by PCI base class 03 or 12."""
        return self.class_code[:2] in {"03", "12"}


_MOST = (1 << 31) - 1
"""Placement's largest number (``placement/db/constants.py`` MAX_INT)."""


class Inventory(Model):
    """One resource class of one provider, in Placement's own words and bounds
    (``placement/schemas/inventory.py``)."""

    total: Annotated[int, Field(ge=1, le=_MOST)]
    reserved: Annotated[int, Field(ge=0, le=_MOST)] = 0
    min_unit: Annotated[int, Field(ge=1, le=_MOST)] = 1
    max_unit: Annotated[int, Field(ge=1, le=_MOST)]
    step_size: Annotated[int, Field(ge=1, le=_MOST)] = 1
    allocation_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class PlacementProvider(Model):
    """One resource provider of the Placement tree."""

    name: str
    parent: str | None
    """Name of the parent provider; None for the root."""
    inventories: Mapping[str, Inventory]
    """By resource class: the names of os-resource-classes, or CUSTOM_*."""
    traits: frozenset[str]
    """The names of os-traits, or CUSTOM_*."""


class LargestMachine(Model):
    """The largest machine that can be powered on here, on a host with nothing else on it."""

    vcpus: Annotated[int, Field(ge=1)]
    memory_mib: Annotated[int, Field(ge=1)]


class MachineChoices(Model):
    """What machines on this host may be made of: the values of ``Hardware`` and ``firmware`` that
    the driver and the host take. Empty: the driver does not say."""

    firmwares: frozenset[Firmware] = frozenset()
    disk_buses: frozenset[DiskBus] = frozenset()
    nic_models: frozenset[NicModel] = frozenset()
    videos: frozenset[VideoModel] = frozenset()
    tpm_models: frozenset[TpmModel] = frozenset()


class HostResources(Model):
    """The whole inventory of a host, read at one moment."""

    host: HostInfo
    cpu: CpuResources
    memory: MemoryResources
    storage: tuple[StorageResources, ...]
    numa_cells: tuple[NumaCell, ...] = ()
    devices: tuple[PciDevice, ...] = ()
    largest_machine: LargestMachine | None = None
    """For a cluster: its largest host, as no machine is on two. None: as large as the whole."""
    choices: MachineChoices = MachineChoices.model_construct()
    encrypted_guests: int | None = None
    """Machines with encrypted memory (``InstanceSpec.sev``) that run at once: Placement's
    MEM_ENCRYPTION_CONTEXT. None: there are none, or the host does not say how many."""
    instances: int
    """Instances of ours, in any state."""
