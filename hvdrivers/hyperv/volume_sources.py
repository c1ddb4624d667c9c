"""A volume on Hyper-V, as the scripts want it: a VHDX or VHD file by its path, or a logical unit of
a storage server, which the host's initiator or its Fibre Channel adapter makes a disk of the host.
"""

from __future__ import annotations

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.hints import VOLUME_KINDS, VOLUMES
from hvdrivers.hyperv.host_disks import disk_of, disk_path
from hvdrivers.hyperv.library import Json
from hvdrivers.hyperv.naming import (
    belongs_to_host,
    plain_path,
    volume_file,
    word,
)
from hvdrivers.hyperv.record import VolumeRecord, packed
from hvdrivers.hyperv.session import Session
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.volume import (
    DeviceType,
    DiskBus,
    DiskQos,
    FibreChannelVolume,
    IscsiVolume,
    PoolVolume,
    SmbfsVolume,
    Volume,
    VolumeAttachment,
)


class VolumeSources:
    """An attachment as the scripts want it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pool_path(self, pool: str | None) -> str:
        """The folder of a pool."""
        if pool in (None, "default"):
            return f"{self._session.facts().root}\\volumes"
        path = self._session.config.pools.get(pool)
        if path is None:
            raise errors.VolumeNotFound(
                f"there is no pool {pool}",
                hint=f"there are: {', '.join(['default', *self._session.config.pools])}",
            )
        return path

    @provides(
        Capability.VOLUME_POOL,
        Capability.VOLUME_SMBFS,
        Capability.VOLUME_ISCSI,
        Capability.VOLUME_FC,
        Capability.MULTI_ATTACH,
    )
    def _path_of(self, volume: Volume) -> str:
        data = volume.data
        sectors = data.logical_block_size or data.physical_block_size
        if sectors and not isinstance(volume, IscsiVolume | FibreChannelVolume):
            raise errors.NotSupported(
                "a virtual disk has the sectors that its file says, and no others",
                hint="leave logical_block_size and physical_block_size out",
            )
        if isinstance(volume, PoolVolume):
            if volume.data.format not in (None, ImageFormat.VHDX):
                raise errors.NotSupported(
                    "the volumes of a Hyper-V host are VHDX", hint="leave format out, or say vhdx"
                )
            pool = volume.data.pool or "default"
            return f"{self.pool_path(pool)}\\{file_of(volume.data.name)}"
        if isinstance(volume, SmbfsVolume):
            if volume.data.format not in (ImageFormat.VHDX, ImageFormat.VHD):
                raise errors.NotSupported(
                    "Hyper-V attaches VHDX and VHD files only",
                    hint="convert it first (qemu-img convert -O vhdx)",
                )
            if volume.username or volume.password is not None:
                raise errors.NotSupported(
                    "Hyper-V opens a file on a share as the computer account of the host and as the"
                    " user of the session, and by no other name",
                    hint="give both of them full control of the share and of the file, and leave"
                    " username and password out of the options",
                )
            path = volume.unc_path
            if not plain_path(path) or belongs_to_host(path, self._session.facts().root):
                raise errors.VolumeNotFound(
                    "the path leads to no volume on a share",
                    hint="give export and name of a file on a share, outside the driver's folder",
                )
            return path
        if isinstance(volume, IscsiVolume | FibreChannelVolume):
            return disk_path(volume)
        raise errors.NotSupported(
            f"this driver has no volumes of type {volume.driver_volume_type}", hint=VOLUME_KINDS
        )

    @provides(Capability.BOOT_FROM_VOLUME)
    def attachment(self, attachment: VolumeAttachment) -> dict[str, Json]:
        """What the scripts attach, or say that it cannot be."""
        path = self._path_of(attachment.volume)
        disk = disk_of(attachment.volume)
        record = VolumeRecord(
            multiattach=attachment.volume.multiattach,
            boot_index=attachment.boot_index,
            bus=attachment.bus,
        )
        return {
            "id": word(attachment.volume_id),
            "word": word(path),
            "path": path,
            "shared": attachment.volume.multiattach,
            "ide": attachment.bus is DiskBus.IDE,
            "boot": attachment.boot_index == 0,
            "iops": iops_of(attachment.qos),
            "refused": _refusal(attachment) or (_disk_refusal(attachment) if disk else ""),
            "disk": disk,
            "json": packed(record),
        }


def _refusal(attachment: VolumeAttachment) -> str:
    """Why a volume that is not attached yet cannot be attached so; empty if it can."""
    if attachment.device_type is not DeviceType.DISK:
        return f"this driver attaches no volume as {attachment.device_type}"
    if attachment.bus not in (None, DiskBus.SCSI, DiskBus.IDE):
        return f"Hyper-V has no disks on {attachment.bus}"
    if attachment.read_only:
        return "Hyper-V attaches no virtual disk for reading only"
    if attachment.cache is not None:
        return "Hyper-V has no cache modes for a disk"
    return ""


def _disk_refusal(attachment: VolumeAttachment) -> str:
    """What Hyper-V does not do with a disk that it passes through."""
    if iops_of(attachment.qos):
        return "Hyper-V limits no disk that it passes through"
    return ""


def iops_of(qos: DiskQos | None) -> int:
    """The limit; 0 is none."""
    return (qos.total_iops_sec or 0) if qos is not None else 0


def file_of(name: str) -> str:
    """The file of a volume with this name."""
    try:
        return volume_file(name)
    except errors.InvalidRequest as error:
        # there cannot be one
        raise errors.VolumeNotFound("there is no volume of so long a name", hint=VOLUMES) from error
