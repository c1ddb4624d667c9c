"""Instances: what to spawn (``InstanceSpec``) and what is there (``InstanceInfo``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Self
from uuid import UUID, uuid4

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from hvdrivers.models._once import named_twice
from hvdrivers.models.base import Model, Name, PrintableText, is_name, of_known
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.disk import DiskRole, OwnDisk, check_disks
from hvdrivers.models.flavor import CpuPolicy as CpuPolicy  # noqa: PLC0414 - their old home
from hvdrivers.models.flavor import Flavor as Flavor  # noqa: PLC0414
from hvdrivers.models.group import ServerGroup
from hvdrivers.models.hardware import Hardware
from hvdrivers.models.image import ImageRef
from hvdrivers.models.migration import MovePhase
from hvdrivers.models.numa import NumaNode, check_nodes
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState, StartAs
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
    """The image to make the root disk from. None: boot from one of ``volumes``, or from a kept root
    disk in ``disks``."""
    volumes: tuple[VolumeAttachment, ...] = ()
    """Volumes attached from the start. The one with ``boot_index=0`` boots if there is no image."""
    vifs: tuple[Vif, ...] = ()
    """NICs, in the order in which the guest sees them."""
    cloud_init: CloudInit | None = None
    """What cloud-init in the guest finds on its seed disk."""
    seed: SeedDisc | None = None
    """A seed disc of the caller's own, instead of ``cloud_init``."""
    metadata: Metadata = Field(default_factory=dict)
    firmware: Firmware | None = None
    """None: what the hypervisor prefers for a new machine."""
    secure_boot: bool = False
    vtpm: bool = False
    """A TPM 2.0."""
    sev: bool = False
    """Encrypt the guest's memory (AMD SEV)."""
    disks: tuple[OwnDisk, ...] = ()
    """Wishes for the instance's own disks. Those that are not named are made as the flavor says.
    Several ephemeral ones share its ``ephemeral_gib``, in this order."""
    hardware: Hardware = Hardware.model_construct()  # validates nothing, so no validator is made
    """What the machine is made of, where that is not left to the driver."""
    numa: tuple[NumaNode, ...] = ()
    """Virtual NUMA nodes, each on a cell of the host. Empty: as ``Flavor.numa_nodes`` says, where
    the hypervisor likes."""
    pci_devices: tuple[PciRequest, ...] = ()
    vgpus: tuple[VgpuRequest, ...] = ()
    server_group: ServerGroup | None = None
    """Machines with which it wants to be on one host, or not to be, where the hypervisor chooses
    the host."""
    start: bool = True
    """False: define it, leave it stopped."""
    start_as: StartAs = StartAs.RUNNING
    """PAUSED: start it, and let its virtual CPUs wait for unpause(), as start_paused() does."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            name: str,
            flavor: Flavor,
            uuid: UUID = ...,
            image: ImageRef | None = None,
            volumes: Sequence[VolumeAttachment] = (),
            vifs: Sequence[Vif] = (),
            cloud_init: CloudInit | None = None,
            seed: SeedDisc | None = None,
            metadata: Mapping[str, str] = ...,
            firmware: Firmware | None = None,
            secure_boot: bool = False,
            vtpm: bool = False,
            sev: bool = False,
            disks: Sequence[OwnDisk] = (),
            hardware: Hardware = ...,
            numa: Sequence[NumaNode] = (),
            pci_devices: Sequence[PciRequest] = (),
            vgpus: Sequence[VgpuRequest] = (),
            server_group: ServerGroup | None = None,
            start: bool = True,
            start_as: StartAs = StartAs.RUNNING,
        ) -> None: ...

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.numa:
            check_nodes(self.numa, vcpus=self.flavor.vcpus, memory_mib=self.flavor.memory_mib)
            if self.flavor.numa_nodes not in {None, len(self.numa)}:
                raise ValueError(f"the flavor has {self.flavor.numa_nodes} NUMA nodes")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        boots = [volume for volume in self.volumes if volume.boot_index == 0]
        kept = any(each.role is DiskRole.ROOT and each.kept is not None for each in self.disks)
        if kept and (self.image is not None or boots):
            raise ValueError("a kept root disk takes the place of an image, or of a boot volume")
        if self.image is None and not kept and len(boots) != 1:
            raise ValueError("without an image exactly one volume must have boot_index=0")
        if boots and any(each.role is DiskRole.ROOT for each in self.disks):
            raise ValueError("an instance that boots from a volume has no root disk of its own")
        check_disks(
            self.disks, ephemeral_gib=self.flavor.ephemeral_gib, swap_mib=self.flavor.swap_mib
        )
        if self.image is not None and boots:
            raise ValueError("give an image or a volume with boot_index=0, not both")
        if self.seed is not None and self.cloud_init is not None:
            raise ValueError("give cloud_init or seed, not both")
        if self.start_as is StartAs.PAUSED and not self.start:
            raise ValueError("start_as=paused starts the machine: leave start=False out")
        topology, size = self.hardware.cpu_topology, self.flavor.max_vcpus or self.flavor.vcpus
        if topology is not None and topology.cpus != size:
            raise ValueError(f"cpu_topology has {topology.cpus} CPUs, and the flavor {size}")
        if self.hardware.tpm_model is not None and not self.vtpm:
            raise ValueError("tpm_model needs vtpm")
        if self.secure_boot and self.firmware is not Firmware.UEFI:
            raise ValueError("secure_boot needs firmware=uefi")
        twice = named_twice(self.volumes, self.vifs)
        if twice is not None:
            raise ValueError(twice)
        return self


class InstanceSummary(Model):
    """One line of a list: what every hypervisor gives for all machines in one bulk call."""

    uuid: UUID
    name: Name
    state: InstanceState
    vcpus: int
    memory_mib: int
    server_group: ServerGroup | None = None

    @classmethod
    def of(
        cls, uuid: UUID, name: str, state: InstanceState, vcpus: int, memory_mib: int
    ) -> InstanceSummary:
        """The same as by its name, in a third of the time: a list makes hundreds. The instance is
        in no server group.

        Raises:
            ValidationError: a value is not what its field says.
        """
        values = {
            "uuid": uuid,
            "name": name,
            "state": state,
            "vcpus": vcpus,
            "memory_mib": memory_mib,
            "server_group": None,
        }
        right = (
            type(uuid) is UUID
            and type(name) is str
            and is_name(name)
            and type(state) is InstanceState
            and type(vcpus) is int
            and type(memory_mib) is int
        )
        return of_known(InstanceSummary, values) if right else InstanceSummary(**values)


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
    server_group: ServerGroup | None = None
    """As spawn() was given it."""
    move: MovePhase | None = None
    """It is the source of a move in steps that is neither confirmed nor reverted."""

    def summary(self) -> InstanceSummary:
        """The line that list_instances() shows for it."""
        return InstanceSummary(
            uuid=self.uuid,
            name=self.name,
            state=self.state,
            vcpus=self.flavor.vcpus,
            memory_mib=self.flavor.memory_mib,
            server_group=self.server_group,
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
    EPHEMERAL_DISKS = "ephemeral-disks"
    """So do the ephemeral disks, in their order: ``<uuid>-ephemeral``, ``<uuid>-ephemeral-1``."""
    SWAP_DISK = "swap-disk"
    """So does the swap disk, as ``<uuid>-swap``."""
