"""Volumes of the hypervisor itself: a device of the host, its own pools, a vSphere disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hvdrivers.models.base import Identifier, Model, PrintableText
from hvdrivers.models.image import FormatWord, ImageFormat
from hvdrivers.models.volume._base import VolumeBase, VolumeData
from hvdrivers.models.volume._text import AbsolutePath, FileName, Host, Port, Secret


def _check_label(value: str) -> str:
    if value != value.strip():
        raise ValueError("begins or ends with white space")
    return value


PoolName = Annotated[FileName, AfterValidator(_check_label)]
"""A libvirt storage pool, a vSphere datastore, a volume folder of a Hyper-V host."""

VolumeName = Annotated[FileName, AfterValidator(_check_label)]
"""Name of a volume inside a pool; no directory part."""


class LocalData(VolumeData):
    """``data`` of a local volume (os-brick ``connectors/local.py``, cinder ``linstordrv.py``)."""

    device_path: AbsolutePath
    """Block device or file on the hypervisor host."""
    format: ImageFormat = ImageFormat.RAW
    """Our own addition, for files. Never guessed."""


class LocalVolume(VolumeBase):
    """A block device or file that is already on the hypervisor host.

    It has no identity of its own: give ``serial``. (A path is not one: ``/dev/sdb`` is another
    disk after the next boot.)
    """

    driver_volume_type: Literal["local"] = "local"
    data: LocalData

    @property
    def path(self) -> str:
        """Where it is on the host."""
        return self.data.device_path


class PoolData(VolumeData):
    """``data`` of a volume in the hypervisor's own storage."""

    pool: PoolName | None = None
    """None: the driver's default pool."""
    name: VolumeName
    format: ImageFormat | None = None
    """None: as the hypervisor's own record of the volume says."""


class PoolVolume(VolumeBase):
    """A volume in the hypervisor's own storage: a libvirt storage volume, a VMDK in a datastore,
    a VHDX in the volume folder of a Hyper-V host. Our own kind; ``create_volume()`` returns it.

    Its identity is ``serial``, else ``pool/name``, else ``name``. Drivers set ``serial`` to what
    ``list_volumes()`` shows as ``volume_id``.
    """

    driver_volume_type: Literal["pool"] = "pool"
    data: PoolData

    def _own_id(self) -> str | None:
        return f"{self.data.pool}/{self.data.name}" if self.data.pool else self.data.name


class VmdkConfig(Model):
    """How to reach vCenter: for consumers without one, as backup or a non-VMware compute host."""

    vmware_host_ip: Host
    vmware_host_port: Port = 443
    vmware_host_username: PrintableText
    vmware_host_password: Secret
    vmware_api_retry_count: int | None = None
    vmware_task_poll_interval: float | None = None
    """Seconds."""
    vmware_ca_file: PrintableText | None = None
    vmware_insecure: bool = False
    vmware_tmp_dir: PrintableText | None = None
    vmware_image_transfer_timeout_secs: int | None = None
    """Seconds."""


class VmdkData(VolumeData):
    """``data`` of a VMDK volume (cinder ``vmware/vmdk.py`` ``_get_connection_info``)."""

    volume: Identifier
    """Managed object reference of the shadow VM that holds the disk: ``vm-123``."""
    name: PrintableText | None = None
    """``volume-<id>``: also the shadow VM's name."""
    profile_id: Identifier | None = None
    """Storage policy."""
    vmdk_size: Annotated[int, Field(ge=0)] | None = None
    """Bytes."""
    vmdk_path: PrintableText | None = None
    """``[datastore] folder/name.vmdk``."""
    datastore: Identifier | None = None
    """Managed object reference."""
    datacenter: Identifier | None = None
    """Managed object reference."""
    config: VmdkConfig | None = None


class VmdkVolume(VolumeBase):
    """A disk of a vSphere shadow VM, as Cinder's VMDK driver keeps volumes."""

    driver_volume_type: Literal["vmdk"] = "vmdk"
    data: VmdkData

    @property
    def shadow_vm(self) -> str:
        """Managed object reference of the VM that holds the disk."""
        return self.data.volume

    def _own_id(self) -> str | None:
        return self.data.name


class FcdData(VolumeData):
    """``data`` of a first-class disk (cinder ``vmware/fcd.py``)."""

    id: Identifier
    """The disk's id in vCenter."""
    ds_ref_val: Identifier
    """Managed object reference of its datastore."""
    adapter_type: Literal["lsiLogic", "busLogic", "lsiLogicsas", "paraVirtual", "ide"] | None = None
    """Controller; drivers that choose by ``bus`` may pass over it."""


class FcdVolume(VolumeBase):
    """A vSphere first-class disk (improved virtual disk, ``vstorageobject``)."""

    driver_volume_type: Literal["vstorageobject"] = "vstorageobject"
    data: FcdData

    def _own_id(self) -> str | None:
        return self.data.id


class VolumeSpec(Model):
    """What ``create_volume()`` shall make. Give exactly one of the two sizes."""

    name: VolumeName | None = None
    """None: the driver makes one up."""
    size_gib: Annotated[int, Field(ge=1, le=1 << 24)] | None = None
    """GiB."""
    size_bytes: Annotated[int, Field(ge=512, lt=1 << 63)] | None = None
    """Bytes; the hypervisor may round up."""
    pool: PoolName | None = None
    """None: the driver's default pool."""
    format: ImageFormat | None = None
    """None: what suits the hypervisor (qcow2, VMDK, VHDX)."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            name: str | None = None,
            size_gib: int | None = None,
            size_bytes: int | None = None,
            pool: str | None = None,
            format: ImageFormat | FormatWord | None = None,
        ) -> None: ...

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.size_gib is None) == (self.size_bytes is None):
            raise ValueError("give size_gib or size_bytes, one of them")
        return self

    @property
    def capacity_bytes(self) -> int:
        """The size in bytes, however it was given."""
        return self.size_bytes or (self.size_gib or 0) << 30


class HostVolume(Model):
    """A volume in the hypervisor's own storage, as ``list_volumes()`` shows it."""

    volume_id: Identifier
    """What ``detach_volume()`` and ``delete_volume()`` take."""
    name: PrintableText
    """The hypervisor's own; ``VolumeSpec.name`` is contained in it."""
    pool: PrintableText
    capacity_bytes: Annotated[int, Field(ge=0)]
    """Size that a guest sees."""
    allocation_bytes: Annotated[int, Field(ge=0)] | None = None
    """What it takes in the pool now. None: the hypervisor does not say."""
    format: ImageFormat
    path: PrintableText | None = None
    """Where the host keeps it: a path, ``[datastore] folder/name.vmdk``."""

    def to_volume(self) -> PoolVolume:
        """The volume for a ``VolumeAttachment``, with the same ``volume_id``."""
        return PoolVolume(
            serial=self.volume_id,
            data=PoolData(pool=self.pool, name=self.name, format=self.format),
        )
