"""Storage on Hyper-V: VHDX files on the SCSI controller, which takes and gives them while a guest
runs. A volume is found by its path, and where a checkpoint lies over it, by the file below."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from hvdrivers.addresses import address_of
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.storage import DiskQosControl, ExtendVolume, HostVolumes, Storage
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hyperv.base import Topic, volumes_of
from hvdrivers.hyperv.library import Json
from hvdrivers.hyperv.naming import (
    belongs_to_host,
    plain_path,
    volume_file,
    volume_name,
    word,
)
from hvdrivers.hyperv.record import VolumeRecord, packed, parse
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.volume import (
    AttachedVolume,
    DeviceType,
    DiskBus,
    DiskQos,
    HostVolume,
    PoolVolume,
    SmbfsVolume,
    Volume,
    VolumeAttachment,
    VolumeConnector,
    VolumeSpec,
)

_BLOCK = 4096


class VolumeSources(Topic):
    """An attachment as the scripts want it."""

    def _pool_path(self, pool: str | None) -> str:
        if pool in (None, "default"):
            return f"{self.session.facts().root}\\volumes"
        path = self.config.pools.get(pool)
        if path is None:
            raise errors.VolumeNotFound(f"there is no pool {pool}")
        return path

    @provides(Capability.VOLUME_POOL, Capability.VOLUME_SMBFS, Capability.MULTI_ATTACH)
    def _path(self, volume: Volume) -> str:
        if isinstance(volume, PoolVolume):
            if volume.data.format not in (None, ImageFormat.VHDX):
                raise errors.NotSupported("the volumes of a Hyper-V host are VHDX")
            pool = volume.data.pool or "default"
            return f"{self._pool_path(pool)}\\{_file(volume.data.name)}"
        if isinstance(volume, SmbfsVolume):
            if volume.data.format not in (ImageFormat.VHDX, ImageFormat.VHD):
                raise errors.NotSupported("Hyper-V attaches VHDX and VHD files only")
            path = volume.unc_path
            if not plain_path(path) or belongs_to_host(path, self.session.facts().root):
                raise errors.VolumeNotFound("the path leads to no volume on a share")
            return path
        raise errors.NotSupported(f"this driver has no volumes of type {volume.driver_volume_type}")

    @provides(Capability.BOOT_FROM_VOLUME)
    def _attachment(self, attachment: VolumeAttachment) -> dict[str, Json]:
        path = self._path(attachment.volume)
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
            "iops": _iops(attachment.qos),
            "refused": _refusal(attachment),
            "json": packed(record),
        }


class HypervStorage(VolumeSources, Storage, ExtendVolume, DiskQosControl, HostVolumes):
    """Budget of each operation: 1 call."""

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        """Budget: 1 call."""
        arguments = {"volume": self._attachment(attachment)}
        found: Any = self._change("attach_volume", "Attach", uuid, arguments, timeout)
        attached = {each.volume_id: each for each in volumes_of(found, parse(found["record"]))}
        return attached[attachment.volume_id]

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 1 call. The guest is not asked: the disk is gone at once."""
        self._change("detach_volume", "Detach", uuid, {"id": word(volume_id)}, timeout)

    def get_volume_connector(
        self, uuid: UUID | None = None, *, timeout: float | None = None
    ) -> VolumeConnector:
        """Budget: 1 call."""
        del uuid
        found = self.session.call("Connector", {}, Deadline(timeout))
        return VolumeConnector(
            host=found["host"] or self.session.facts().computer,
            ip=address_of(self.config.host),
            initiator=found["initiator"] or None,
            wwpns=tuple(found["wwpns"]),
            wwnns=tuple(found["wwnns"]),
            platform="x86_64",
            os_type="win32",
        )

    def extend_volume(
        self, uuid: UUID, volume_id: str, size_bytes: int, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 call."""
        arguments = {"id": word(volume_id), "size": -(-size_bytes // _BLOCK) * _BLOCK}
        self._change("extend_volume", "Extend", uuid, arguments, timeout)

    def set_disk_qos(
        self, uuid: UUID, volume_id: str, qos: DiskQos | None, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 call. Hyper-V counts operations of 8 KiB: a larger one counts as several."""
        arguments = {"id": word(volume_id), "iops": _iops(qos)}
        self._change("set_disk_qos", "DiskQos", uuid, arguments, timeout)

    # ---- the host's own -------------------------------------------------------------------------

    def _pools(self) -> list[str]:
        return ["default", *self.config.pools]

    def create_volume(self, spec: VolumeSpec, *, timeout: float | None = None) -> Volume:
        """Budget: 1 call."""
        if spec.format not in (None, ImageFormat.VHDX):
            raise errors.NotSupported("the volumes of a Hyper-V host are VHDX")
        name = spec.name or f"volume-{secrets.token_hex(8)}"
        pool = spec.pool or "default"
        self._pool_path(pool)
        # the smallest VHDX has 3 MiB
        size = max(3 << 20, -(-spec.capacity_bytes // _BLOCK) * _BLOCK)
        arguments = {"pool": pool, "file": volume_file(name), "size": size}
        path = self.session.call("CreateVolume", arguments, Deadline(timeout))
        return HostVolume(
            volume_id=f"{pool}/{name}",
            name=name,
            pool=pool,
            capacity_bytes=size,
            format=ImageFormat.VHDX,
            path=path,
        ).to_volume()

    def list_volumes(self, *, timeout: float | None = None) -> Sequence[HostVolume]:
        """Budget: 1 call."""
        return self._listed(self._pools(), timeout)

    def get_volume(self, volume_id: str, *, timeout: float | None = None) -> HostVolume:
        """Budget: 1 call."""
        pool = volume_id.partition("/")[0]
        if pool in self._pools():
            for volume in self._listed([pool], timeout):
                if volume.volume_id == volume_id:
                    return volume
        raise errors.VolumeNotFound(f"the host has no volume {volume_id!r}")

    def _listed(self, pools: list[str], timeout: float | None) -> list[HostVolume]:
        found = self.session.call("ListVolumes", {"pools": pools}, Deadline(timeout))
        return [
            HostVolume(
                volume_id=f"{pool}/{name}",
                name=name,
                pool=pool,
                capacity_bytes=size,
                allocation_bytes=taken,
                format=ImageFormat.VHDX,
                path=f"{self._pool_path(pool)}\\{file}",
            )
            for pool, file, size, taken in found
            if (name := volume_name(file)) is not None
        ]

    def delete_volume(self, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        pool, _, name = volume_id.partition("/")
        if not name or pool not in self._pools():
            return
        arguments = {"pool": pool, "file": _file(name)}
        self.session.call("DeleteVolume", arguments, Deadline(timeout))


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


def _iops(qos: DiskQos | None) -> int:
    return (qos.total_iops_sec or 0) if qos is not None else 0


def _file(name: str) -> str:
    try:
        return volume_file(name)
    except errors.InvalidRequest as error:
        # there cannot be one
        raise errors.VolumeNotFound("there is no volume of so long a name") from error
