"""Volumes in libvirt's own pools: made, listed and deleted by their id."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from uuid import uuid4

from hvdrivers.contract import errors
from hvdrivers.contract.storage import HostVolumes
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.naming import VOLUME_PREFIX
from hvdrivers.libvirt.pools import delete, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import needing_room
from hvdrivers.libvirt.stored_volumes import no_such_volume
from hvdrivers.libvirt.volumes import FORMATS
from hvdrivers.libvirt.xml import parse, readable
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.volume import HostVolume, PoolData, PoolVolume, Volume, VolumeSpec

_LONGEST_NAME = 255
"""Bytes of a file name, on every file system that a pool may be on."""
_BLOCK = 4096
"""Bytes: QEMU opens a raw file past the host's cache (cache=none) only if its size is a multiple of
the sectors of the disk below, 512 or 4096."""


class LibvirtHostVolumes(Topic, HostVolumes):
    """Volumes in all file pools of the host."""

    def create_volume(self, spec: VolumeSpec, *, timeout: float | None = None) -> Volume:
        """Budget: 1 call (4 in another pool than the driver's own); for a name that the caller
        chose 1 more, and 1 for each file pool of the host that is active; twice that and 1 for each
        pool that has it if the name is taken. The size of a raw volume
        is rounded up to 4096 bytes."""
        del timeout
        format_ = FORMATS.get(spec.format or ImageFormat.QCOW2)
        if format_ is None:
            raise errors.NotSupported(f"volumes of format {spec.format}", hint="use qcow2 or raw")
        volume_id = spec.name or str(uuid4())
        name = f"{VOLUME_PREFIX}{volume_id}.{format_}"
        if len(name.encode()) > _LONGEST_NAME:
            raise errors.InvalidRequest(
                f"the name of the volume is longer than {_LONGEST_NAME - 16} bytes in UTF-8",
                hint="choose a shorter one",
            )
        size = spec.capacity_bytes
        if format_ == "raw":
            size = -(-size // _BLOCK) * _BLOCK
        pool = self.pools.named(spec.pool)
        try:
            # the id is its name in attach and delete, whatever pool and format it has
            if spec.name is not None and self.stored.is_there(volume_id):
                raise errors.VolumeExists(f"there is a volume named {volume_id}")
            with undoing() as undo:
                self.stored.note(pool, volume_id, undo)
                if spec.name is None:
                    # nobody could name it if the reply were lost; under the caller's name there
                    # may be an older volume
                    undo.callback(self.delete_volume, volume_id)
                with needing_room(pool, capacity=size):
                    pool.createXML(volume_xml(name, size, format_), 0)
        except errors.DeviceBusy as error:
            if not error.retryable:
                raise
            raise errors.VolumeExists(
                f"there is a volume named {volume_id}", vendor_code=error.vendor_code
            ) from error
        return PoolVolume(
            serial=volume_id,
            data=PoolData(pool=pool.name(), name=name, format=ImageFormat(format_)),
        )

    def list_volumes(self, *, timeout: float | None = None) -> Sequence[HostVolume]:
        """Budget: 1 call, 1 for each file pool of the host that is active, and 1 for each of our
        volumes."""
        del timeout
        found = []
        for each in self.stored.find():
            with suppress(errors.VolumeNotFound):  # deleted meanwhile
                found.append(readable(f"the volume {each[2]!r}", partial(self._host_volume, *each)))
        return [volume for volume in found if volume is not None]

    def get_volume(self, volume_id: str, *, timeout: float | None = None) -> HostVolume:
        """Budget: 1 call, 1 for each file pool of the host that is active, and 1 for the volume."""
        del timeout
        try:
            found = self.stored.find(volume_id)
        except errors.DeviceBusy as error:
            raise errors.VolumeNotFound(error.message, hint=error.hint) from error
        for each in found:
            return self._host_volume(*each)
        raise no_such_volume(volume_id)

    @staticmethod
    def _host_volume(pool: Remote, volume: Remote, volume_id: str, format_: str) -> HostVolume:
        description = parse(volume.XMLDesc(0))
        if description.get("type") == "dir":
            raise errors.VolumeNotFound(
                f"{volume.name()} is a folder, and no volume",
                hint="rename the folder on the host: its name is that of a volume of the driver's",
            )
        # The capacity that libvirt tells of a raw volume may be read from what a guest wrote to
        # it (see ``volumes.py``): the length of the file is the truth.
        size = description.findtext("physical") if format_ == "raw" else None
        return HostVolume(
            volume_id=volume_id,
            name=volume.name(),
            pool=pool.name(),
            capacity_bytes=int(size or description.findtext("capacity") or 0),
            allocation_bytes=int(description.findtext("allocation") or 0),
            format=ImageFormat(format_),
            path=description.findtext("target/path"),
        )

    def delete_volume(self, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 1 call, 1 for each file pool of the host that is active; if it is there 12 more,
        2 for each such pool, 1 for each volume in them, 1 or 2 for each machine, up to 5 for each
        disk of a machine that is in no pool: libvirt has no question "who uses this".

        DeviceBusy is retryable while another client makes or copies a volume in one of the pools,
        which then cannot be looked at."""
        del timeout
        found = self.stored.find(volume_id)
        pools = sorted({pool.name() for pool, _, _, _ in found})
        if len(pools) > 1:
            raise errors.InvalidRequest(
                f"there are volumes with this id in the pools {', '.join(pools)}",
                hint="a pool that was away has come back with an older one: remove one by hand",
            )
        if not found:
            self.deletions.ended(volume_id)
            return
        pool = found[0][0]
        with self.deletions.deleting(pool, volume_id) as mark:
            for _, volume, _, _ in found:
                self.stored.refuse_used(volume)
            self.deletions.require_mark(pool, mark)
            for _, volume, _, _ in found:
                delete(volume)
        with changed():
            self.stored.forget(pool, volume_id)
