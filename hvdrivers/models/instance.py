"""Instances: what to spawn (``InstanceSpec``) and what is there (``InstanceInfo``)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID, uuid4

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from hvdrivers.models.base import Model, Name, PrintableText
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import ImageRef
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import AttachedVif, Vif
from hvdrivers.models.volume import AttachedVolume, VolumeAttachment

MetadataKey = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_.:/-]+$")
]
MetadataValue = Annotated[str, StringConstraints(max_length=4096)]


def _bounded(metadata: Mapping[str, str]) -> Mapping[str, str]:
    size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if size > 16384:
        raise ValueError(f"has {size} bytes of keys and values, more than 16 KiB")
    return metadata


Metadata = Annotated[
    Mapping[MetadataKey, MetadataValue], Field(max_length=128), AfterValidator(_bounded)
]
"""Labels of the orchestrator. Values are any text, line breaks and markup included, and come back
unchanged; keys are plain identifiers. At most 128 entries and 16 KiB of UTF-8 in all, which is
what a Hyper-V machine's notes and a vSphere configuration value hold."""


class Firmware(StrEnum):
    """How the machine boots."""

    BIOS = "bios"
    UEFI = "uefi"


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
    memory_mib: Annotated[int, Field(ge=16)]
    """Memory at start, MiB."""
    disk_gib: Annotated[int, Field(ge=0)] = 0
    """Size of the root disk, GiB. 0: as large as the image. Never smaller than the image."""
    ephemeral_gib: Annotated[int, Field(ge=0)] = 0
    """Size of an additional empty disk that lives and dies with the instance, GiB."""
    swap_mib: Annotated[int, Field(ge=0)] = 0
    """Size of a swap disk, MiB."""
    max_vcpus: Annotated[int, Field(ge=1, le=1024)] | None = None
    """How far CPUs can be added while running. None: they cannot."""
    max_memory_mib: Annotated[int, Field(ge=16)] | None = None
    """How far memory can be added while running, MiB. None: it cannot."""
    cpu_policy: CpuPolicy = CpuPolicy.SHARED
    numa_nodes: Annotated[int, Field(ge=1, le=64)] | None = None
    """Virtual NUMA nodes, CPUs and memory split evenly. None: the hypervisor's default."""
    page_size_kib: Annotated[int, Field(ge=4)] | None = None
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


class PciRequest(Model):
    """A host PCI device handed to the instance."""

    address: PciAddress


class VgpuRequest(Model):
    """A slice of a GPU: a mediated device, or a GPU partition."""

    type: PrintableText
    """The vendor's type name: ``nvidia-63``, a GPU-P instance path."""
    parent: PciAddress | None = None
    """The physical GPU to take it from. None: any that has one free."""


class InstanceSpec(Model):
    """Everything that spawn() needs. It names nothing of a particular hypervisor."""

    uuid: UUID = Field(default_factory=uuid4)
    """The identity, chosen by the caller."""
    name: Name
    """A label for people; not unique."""
    flavor: Flavor
    image: ImageRef | None = None
    """The image to make the root disk from. None: boot from one of ``volumes``."""
    volumes: tuple[VolumeAttachment, ...] = ()
    """Volumes attached from the start. The one with ``boot_index=0`` boots if there is no image."""
    vifs: tuple[Vif, ...] = ()
    """NICs, in the order in which the guest sees them."""
    cloud_init: CloudInit | None = None
    """What cloud-init in the guest finds on its seed disk."""
    metadata: Metadata = Field(default_factory=dict)
    firmware: Firmware | None = None
    """None: what the hypervisor prefers for a new machine."""
    secure_boot: bool = False
    vtpm: bool = False
    """A TPM 2.0."""
    sev: bool = False
    """Encrypt the guest's memory (AMD SEV)."""
    pci_devices: tuple[PciRequest, ...] = ()
    vgpus: tuple[VgpuRequest, ...] = ()
    start: bool = True
    """False: define it, leave it stopped."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        boots = [volume for volume in self.volumes if volume.boot_index == 0]
        if self.image is None and len(boots) != 1:
            raise ValueError("without an image exactly one volume must have boot_index=0")
        if self.image is not None and boots:
            raise ValueError("give an image or a volume with boot_index=0, not both")
        if self.secure_boot and self.firmware is not Firmware.UEFI:
            raise ValueError("secure_boot needs firmware=uefi")
        for what, ids in (
            ("volume", [volume.volume.volume_id for volume in self.volumes]),
            ("vif", [vif.id for vif in self.vifs]),
        ):
            if len(set(ids)) != len(ids):
                raise ValueError(f"the same {what} is named twice")
        return self


class InstanceSummary(Model):
    """One line of a list: what every hypervisor gives for all machines in one bulk call."""

    uuid: UUID
    name: Name
    state: InstanceState
    vcpus: int
    memory_mib: int


class InstanceInfo(Model):
    """One instance in full, as the hypervisor shows it at this moment."""

    uuid: UUID
    name: Name
    state: InstanceState
    flavor: Flavor
    metadata: Metadata = Field(default_factory=dict)
    volumes: tuple[AttachedVolume, ...] = ()
    """Attached volumes. The root disk made from an image, a seed disk and ephemeral disks are
    part of the instance and not listed."""
    vifs: tuple[AttachedVif, ...] = ()
    firmware: Firmware
    created_at: AwareDatetime | None = None
    image: PrintableText | None = None
    """The cache key of the image it was made from; None for boot from volume."""

    def summary(self) -> InstanceSummary:
        """The line that list_instances() shows for it."""
        return InstanceSummary(
            uuid=self.uuid,
            name=self.name,
            state=self.state,
            vcpus=self.flavor.vcpus,
            memory_mib=self.flavor.memory_mib,
        )


class ForeignInstance(Model):
    """A machine on the host that this library did not make. It is shown, and never touched."""

    uuid: UUID
    name: str
    """As the hypervisor has it: any text."""
    state: InstanceState


class Keep(StrEnum):
    """What destroy() leaves behind on request."""

    ROOT_DISK = "root-disk"
    """The root disk stays, with what is on it, as a host volume named ``<uuid>-root``
    (list_volumes() shows it)."""
