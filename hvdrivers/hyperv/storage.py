"""Storage on Hyper-V: VHDX files on the SCSI controller, which takes and gives them while a guest
runs. A volume is found by its path, and where a checkpoint lies over it, by the file below."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from hvdrivers.addresses import address_of
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import declared, provides
from hvdrivers.contract.storage import DiskQosControl, ExtendVolume, HostVolumes, Storage
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hints import VOLUMES
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.instances import volumes_of
from hvdrivers.hyperv.naming import (
    volume_file,
    volume_name,
    word,
)
from hvdrivers.hyperv.record import parse
from hvdrivers.hyperv.volume_sources import VolumeSources, file_of, iops_of
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.volume import (
    AttachedVolume,
    DiskQos,
    HostVolume,
    Volume,
    VolumeAttachment,
    VolumeConnector,
    VolumeSpec,
)

_BLOCK = 4096


class HypervStorage(Topic, Storage, ExtendVolume, DiskQosControl, HostVolumes):
    """Budget of each operation: 1 call."""

    @provides(*declared(VolumeSources))
    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        """Budget: 1 call."""
        arguments = {"volume": self.sources.attachment(attachment)}
        found: Any = self.session.change("attach_volume", "Attach", uuid, arguments, timeout)
        attached = {each.volume_id: each for each in volumes_of(found, parse(found["record"]))}
        return attached[attachment.volume_id]

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 1 call. The guest is not asked: the disk is gone at once."""
        self.session.change("detach_volume", "Detach", uuid, {"id": word(volume_id)}, timeout)

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
            multipath=found["multipath"],
            platform="x86_64",
            os_type="win32",
        )

    def extend_volume(
        self, uuid: UUID, volume_id: str, size_bytes: int, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 call."""
        arguments = {"id": word(volume_id), "size": -(-size_bytes // _BLOCK) * _BLOCK}
        self.session.change("extend_volume", "Extend", uuid, arguments, timeout)

    def set_disk_qos(
        self, uuid: UUID, volume_id: str, qos: DiskQos | None, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 call. Hyper-V counts operations of 8 KiB: a larger one counts as several."""
        arguments = {"id": word(volume_id), "iops": iops_of(qos)}
        self.session.change("set_disk_qos", "DiskQos", uuid, arguments, timeout)

    # ---- the host's own -------------------------------------------------------------------------

    def _pools(self) -> list[str]:
        return ["default", *self.config.pools]

    def create_volume(self, spec: VolumeSpec, *, timeout: float | None = None) -> Volume:
        """Budget: 1 call."""
        if spec.format not in (None, ImageFormat.VHDX):
            raise errors.NotSupported(
                "the volumes of a Hyper-V host are VHDX", hint="leave format out, or say vhdx"
            )
        name = spec.name or f"volume-{secrets.token_hex(8)}"
        pool = spec.pool or "default"
        self.sources.pool_path(pool)
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
        pool, _, name = volume_id.partition("/")
        if name and pool in self._pools():
            for volume in self._listed([pool], timeout, file_of(name)):
                if volume.volume_id == volume_id:
                    return volume
        raise errors.VolumeNotFound(f"the host has no volume {volume_id!r}", hint=VOLUMES)

    def _listed(self, pools: list[str], timeout: float | None, only: str = "") -> list[HostVolume]:
        arguments = {"pools": pools, "file": only}
        found = self.session.call("ListVolumes", arguments, Deadline(timeout))
        return [
            HostVolume(
                volume_id=f"{pool}/{name}",
                name=name,
                pool=pool,
                capacity_bytes=size,
                allocation_bytes=taken,
                format=ImageFormat.VHDX,
                path=f"{self.sources.pool_path(pool)}\\{file}",
            )
            for pool, file, size, taken in found
            if (name := volume_name(file)) is not None
        ]

    def delete_volume(self, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        pool, _, name = volume_id.partition("/")
        if not name or pool not in self._pools():
            return
        arguments = {"pool": pool, "file": file_of(name)}
        self.session.call("DeleteVolume", arguments, Deadline(timeout))
