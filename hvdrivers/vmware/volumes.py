"""Volumes: which file a volume is."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.hints import VOLUME_KINDS, VOLUMES
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.volume import (
    FcdVolume,
    FibreChannelVolume,
    IscsiVolume,
    PoolVolume,
    VmdkVolume,
    Volume,
    VolumeAttachment,
)
from hvdrivers.vmware.devices import bus_of, file_of
from hvdrivers.vmware.files import Files
from hvdrivers.vmware.folders import Folders
from hvdrivers.vmware.luns import Luns
from hvdrivers.vmware.machines import uuid_in
from hvdrivers.vmware.names import is_part
from hvdrivers.vmware.place import Places, Surroundings
from hvdrivers.vmware.reader import Reader
from hvdrivers.vmware.record import IMAGE, MARK, image_in, mark_in, path_of
from hvdrivers.vmware.session import Session
from hvdrivers.vmware.specs import Source


class VolumeSources:
    """Finds the file of a volume."""

    def __init__(
        self,
        session: Session,
        reader: Reader,
        places: Places,
        files: Files,
        *,
        folders: Folders,
        luns: Luns,
    ) -> None:
        self._session = session
        self._reader = reader
        self._places = places
        self._files = files
        self._folders = folders
        self._luns = luns

    @provides(Capability.MULTI_ATTACH)
    def source(
        self, uuid: UUID, attachment: VolumeAttachment, surroundings: Surroundings
    ) -> Source:
        """The file; it is there, or made with the disk if it maps a LUN. One request for each
        volume, one call for a first class disk; for a LUN see ``Luns.find()``.

        Args:
            uuid: the instance that gets it.

        Raises:
            VolumeNotFound: it is not there.
            InsufficientResources: the server cannot reach its datastore now.
            NotSupported: another type or format of volume, sectors of a size, or a bus that vSphere
                does not have.
        """
        bus_of(attachment.bus)  # refuses a bus that vSphere has not
        volume = attachment.volume
        sectors = volume.data.logical_block_size or volume.data.physical_block_size
        if sectors and not isinstance(volume, IscsiVolume | FibreChannelVolume):
            raise errors.NotSupported(
                "a virtual disk of vSphere has sectors of 512 bytes",
                hint="leave logical_block_size and physical_block_size out",
            )
        if isinstance(volume, PoolVolume):
            path = self._pool_path(volume, surroundings)
        elif isinstance(volume, VmdkVolume):
            path = self._shadow_path(volume)
        elif isinstance(volume, FcdVolume):
            return self._first_class(volume, surroundings)
        elif isinstance(volume, IscsiVolume | FibreChannelVolume):
            lun = self._luns.find(attachment, volume, surroundings)
            file = f"{self._folders.instance(uuid)}/lun-{secrets.token_hex(6)}.vmdk"
            return Source(file, lun.size, lun.uuid, lun=lun)
        else:
            raise errors.NotSupported(
                f"this driver has no volumes of type {volume.driver_volume_type}", hint=VOLUME_KINDS
            )
        size = self._files.disk_size(path)
        if size is None:
            raise errors.VolumeNotFound(f"there is no disk {path}", hint=VOLUMES)
        native = self._native_id(volume)
        return Source(path, size, native, named=native is not None)

    def _native_id(self, volume: Volume) -> str | None:
        """What list_volumes() calls it; a machine may have it under another id."""
        if not isinstance(volume, PoolVolume):
            return None
        return f"{volume.data.pool or self._places.get().datastore}/{volume.data.name}"

    @provides(Capability.VOLUME_POOL)
    def _pool_path(self, volume: PoolVolume, surroundings: Surroundings) -> str:
        pool = volume.data.pool
        if volume.data.format not in {None, ImageFormat.VMDK}:
            raise errors.NotSupported(
                "the volumes of a vSphere host are VMDK", hint="leave format out, or say vmdk"
            )
        surroundings.datastore(pool or self._places.get().datastore)
        if is_part(volume.data.name):
            raise errors.VolumeNotFound(
                f"{volume.data.name!r} is a part of a volume, and none", hint=VOLUMES
            )
        return self._folders.path("volumes", f"{volume.data.name}.vmdk", datastore=pool)

    @provides(Capability.VOLUME_VMDK)
    def _shadow_path(self, volume: VmdkVolume) -> str:
        """The first disk of the machine in which Cinder keeps the volume. An instance, or the
        template of an image, is no such machine."""
        shadow = self._session.object("VirtualMachine", volume.shadow_vm)
        paths = ("config.instanceUuid", path_of(MARK), path_of(IMAGE), "config.hardware.device")
        for row in self._reader.many([shadow], *paths):
            if mark_in(row, uuid_in(row)) is not None or image_in(row) is not None:
                break
            for device in row.get("config.hardware.device") or ():
                if isinstance(device, vim.vm.device.VirtualDisk) and file_of(device):
                    return self._not_ours(str(file_of(device)))
        raise errors.VolumeNotFound(
            f"there is no machine {volume.shadow_vm} that holds the volume, or it has no disk",
            hint="volume is vCenter's reference of the machine that holds the disk, as in vm-123",
        )

    @provides(Capability.VOLUME_FCD)
    def _first_class(self, volume: FcdVolume, surroundings: Surroundings) -> Source:
        """The file of a first class disk, as vCenter's catalog has it. Its descriptor is not read:
        while another machine has the disk, the server gives it to nobody."""
        data = volume.data
        name = _datastore_of(data.ds_ref_val, surroundings)
        store = surroundings.datastore(name).obj
        manager = self._session.content.vStorageObjectManager
        try:
            found = manager.RetrieveVStorageObject(vim.vslm.ID(id=data.id), store)
        except errors.HypervisorError as error:
            if error.vendor_code != "NotFound":
                raise
            raise errors.VolumeNotFound(
                f"the datastore {name!r} has no first class disk {data.id}",
                vendor_code=error.vendor_code,
                hint="where somebody has moved it, ds_ref_val names another datastore now",
            ) from error
        return Source(
            self._not_ours(_file_in(found.config.backing)),
            int(found.config.capacityInMB) << 20,
            data.id,
            named=False,
        )

    def _not_ours(self, path: str) -> str:
        if self._folders.holds(path, "instances", "images"):
            raise errors.VolumeNotFound(
                "the disk of an instance or of an image is no volume",
                hint="destroy(keep={Keep.ROOT_DISK}) makes a volume of an instance's root disk",
            )
        return path


def _datastore_of(reference: str, surroundings: Surroundings) -> str:
    """The name of a datastore by vCenter's reference (``datastore-12``)."""
    for name, row in surroundings.datastores.items():
        if row.moid == reference:
            return name
    raise errors.VolumeNotFound(
        f"there is no datastore {reference} on this cluster or host",
        hint="ds_ref_val of a first class disk is vCenter's reference of its datastore",
    )


def _file_in(backing: Any) -> str:
    """The VMDK of a first class disk."""
    if isinstance(backing, vim.vslm.BaseConfigInfo.RawDiskMappingBackingInfo):
        raise errors.NotSupported(
            "the first class disk is a mapping of a LUN, and no file",
            hint="attach the LUN itself, as an iSCSI or Fibre Channel volume",
        )
    return str(backing.filePath)


def exclusive(
    attachments: Sequence[VolumeAttachment], sources: Sequence[Source]
) -> tuple[list[str], list[str]]:
    """Ids of volumes that one powered-on machine may have, and of those that several may.

    Raises:
        InvalidRequest: two of them are one file, or one LUN.
    """
    named = [each.lun.uuid if each.lun is not None else each.path for each in sources]
    if len(set(named)) != len(named):
        raise errors.InvalidRequest(
            "two volumes of the instance are one disk", hint="name each disk once"
        )
    alone: list[str] = []
    shared: list[str] = []
    for each, source in zip(attachments, sources, strict=True):
        ids = shared if each.volume.multiattach else alone
        ids.append(source.native_id or each.volume_id)
    return alone, shared
