"""Storage on vSphere: volumes come and go; volumes of the host's own datastores."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import declared, provides
from hvdrivers.contract.storage import DiskQosControl, ExtendVolume, HostVolumes, Storage
from hvdrivers.driverkit import undoing
from hvdrivers.hints import (
    ANOTHER_DISK,
    ANOTHER_NAME,
    AT_STORAGE,
    ATTACHED,
    BOOTS,
    NO_SHRINKING,
    ROOM_IN_POOL,
    VOLUMES,
)
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import (
    AttachedVolume,
    DiskQos,
    HostVolume,
    PoolData,
    PoolVolume,
    Volume,
    VolumeAttachment,
    VolumeConnector,
    VolumeSpec,
)
from hvdrivers.models.volume.host import VolumeName
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.devices import (
    by_address,
    capacity_of,
    editing,
    lun_of,
    size_of,
    taking_away,
)
from hvdrivers.vmware.host_devices import refuse_hot_plug
from hvdrivers.vmware.listing import attached_volume
from hvdrivers.vmware.lun_paths import Fibre, Iscsi, adapters_of, wwn_of
from hvdrivers.vmware.luns import Luns, letting_go
from hvdrivers.vmware.machines import HARDWARE, VERSION, Machine
from hvdrivers.vmware.moved import Devices
from hvdrivers.vmware.names import is_part
from hvdrivers.vmware.place import Datastores
from hvdrivers.vmware.reader import step
from hvdrivers.vmware.record import devices_in, require_sure
from hvdrivers.vmware.specs import Plan, disk_limits, is_on, volume_disk
from hvdrivers.vmware.volumes import VolumeSources, exclusive

_DELETING = "hv-deleting-"
"""How the names of disks begin that are about to be deleted."""
_NAME: TypeAdapter[str] = TypeAdapter(VolumeName)


class VmwareStorage(Topic, Storage, ExtendVolume, DiskQosControl, HostVolumes):
    """Volumes."""

    @provides(*declared(VolumeSources), *declared(Luns))
    @timed
    @letting_go
    @rereading
    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        """Budget: 3 reads, 1 request for the volume, and 1 reconfiguration. For a LUN no request, 3
        calls more, 1 more of a running instance, 1 for each new iSCSI target, 2 for each host."""
        del timeout
        found = self.machines.checked("attach_volume", uuid, *HARDWARE)
        devices, disks = _has(found)
        for address, volume in devices.volumes.items():
            if volume.id == attachment.volume_id and address in disks:
                require_sure(devices, address, "the volume")
                return attached_volume(address, devices, size_of(disks[address]))
        refuse_hot_plug(found.row.get("config.hardware.device"), found.state)
        source = self.volumes.source(uuid, attachment, self.places.surroundings())
        running = found.state is InstanceState.RUNNING
        alone, shared = exclusive((attachment,), (source,))
        luns = [source.lun.uuid] if source.lun is not None and running else []
        self.usage.require_free(uuid, volumes=alone, shared=shared, luns=luns)
        if any(is_on(disk, source) for disk in disks.values()):
            raise errors.InvalidRequest(
                "the instance has this disk already, as another volume", hint=ANOTHER_DISK
            )
        plan = Plan(self.room.slots(found.row.get("config.hardware.device") or ()))
        address = volume_disk(plan, attachment, source, hot=running)
        changed = devices.model_copy(
            update={"volumes": {**_there(devices.volumes, disks), **plan.volumes}}
        )
        with undoing() as undo:
            if source.lun is not None:  # the file of the mapping
                self.claims.home(uuid, undo)
            self.changes.change_devices(found, plan.device_changes(), changed)
            if luns:  # nothing locks one: another client may have started a machine with it
                undo.callback(self._detach, uuid, attachment.volume_id)
                self.luns.require_free(uuid, luns)
        return attached_volume(address, changed, source.shown)

    @timed
    @rereading
    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 1 read and 1 reconfiguration. For a LUN 3 reads more. If hosts are logged in
        to a target that nothing needs any more 3 calls, 2 for each host, and 2 for each target."""
        del timeout
        self._detach(uuid, volume_id)

    def _detach(self, uuid: UUID, volume_id: str) -> None:
        found = self.machines.checked("detach_volume", uuid, *HARDWARE, "snapshot")
        devices, disks = _has(found)
        address = _address(devices, volume_id)
        if address is None:
            return
        if devices.volumes[address].boot_index == 0:
            raise errors.InvalidRequest("the instance boots from this volume", hint=BOOTS)
        require_sure(devices, address, "the volume")
        gone = [disks[address]] if address in disks else []
        if gone:
            refuse_hot_plug(found.row.get("config.hardware.device"), found.state)
        volumes = {key: each for key, each in devices.volumes.items() if key != address}
        after = devices.model_copy(update={"volumes": volumes})
        snapshots = found.row.get("snapshot") is not None
        changes = [taking_away(each, snapshots=snapshots) for each in gone]
        with self.luns.releasing(gone, [devices.volumes[address]]):
            self.changes.change_devices(found, changes, after)

    @timed
    def get_volume_connector(
        self, uuid: UUID | None = None, *, timeout: float | None = None
    ) -> VolumeConnector:
        """Budget: 1 call; 2 for an instance. A cluster without an instance names its first host. Of
        Fibre Channel the ports of all its hosts are named, as each must see a LUN."""
        del timeout
        wanted = None
        if uuid is not None:
            found = self.machines.get(uuid, "runtime.host")
            wanted = found.row["runtime.host"]
        paths = ("name", "config.storageDevice.hostBusAdapter", "summary.hardware.uuid")
        rows = self.reader.below(
            self.places.get().compute,
            [step(vim.ComputeResource, "host")],
            vim.HostSystem,
            *paths,
        )
        rows.sort(key=lambda each: each.obj != wanted)
        row = rows[0]
        names = [each.iScsiName for each in adapters_of(row, Iscsi) if each.iScsiName]
        fibre = [each for host in rows for each in adapters_of(host, Fibre)]
        return VolumeConnector(
            host=row["name"],
            ip=None,
            initiator=names[0] if names else None,
            wwpns=tuple(wwn_of(each.portWorldWideName) for each in fibre),
            wwnns=tuple(wwn_of(each.nodeWorldWideName) for each in fibre),
            multipath=bool(names or fibre),  # ESXi uses all paths that it sees
            platform="x86_64",
            os_type="esx",
            system_uuid=row.get("summary.hardware.uuid"),
            instance=found.row.moid if uuid is not None else None,
        )

    @timed
    @rereading
    def extend_volume(
        self, uuid: UUID, volume_id: str, size_bytes: int, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 read and 1 reconfiguration. For a LUN 4 reads, and 1 call for each host, which
        looks at it again."""
        del timeout
        found = self.machines.checked("extend_volume", uuid, *HARDWARE)
        devices, disks = _has(found)
        address = _address(devices, volume_id)
        if address is None or address not in disks:
            raise errors.VolumeNotFound(
                "the volume is not attached to this instance", hint=ATTACHED
            )
        require_sure(devices, address, "the volume")
        disk = disks[address]
        if lun_of(disk) is not None:
            self.luns.grown(disk, size_bytes)
            return
        if size_bytes < capacity_of(disk):
            raise errors.InvalidRequest(
                f"the machine sees {capacity_of(disk)} bytes already: a disk does not shrink",
                hint=NO_SHRINKING,
            )
        disk.capacityInBytes, disk.capacityInKB = size_bytes, size_bytes // 1024
        config = vim.vm.ConfigSpec(
            changeVersion=found.row.get(VERSION), deviceChange=[editing(disk)]
        )
        self.changes.reconfigure(found.obj, config)

    @timed
    @rereading
    def set_disk_qos(
        self, uuid: UUID, volume_id: str, qos: DiskQos | None, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 read and 1 reconfiguration."""
        del timeout
        found = self.machines.checked("set_disk_qos", uuid, *HARDWARE)
        devices, disks = _has(found)
        address = _address(devices, volume_id)
        if address is None or address not in disks:
            raise errors.VolumeNotFound(
                "the volume is not attached to this instance", hint=ATTACHED
            )
        require_sure(devices, address, "the volume")
        disk = disks[address]
        if lun_of(disk) is not None:
            raise errors.NotSupported(
                "vSphere does not limit a LUN: the guest has it whole", hint=AT_STORAGE
            )
        disk.storageIOAllocation = disk_limits(qos)
        self.changes.change_devices(found, [editing(disk)], devices)

    # ---- the host's own volumes -----------------------------------------------------------------

    @timed
    def create_volume(self, spec: VolumeSpec, *, timeout: float | None = None) -> Volume:
        """Budget: 3 calls."""
        del timeout
        if spec.format not in (None, ImageFormat.VMDK):
            raise errors.NotSupported(
                "volumes of vSphere are VMDKs", hint="leave format out, or say vmdk"
            )
        pool = spec.pool or self.places.get().datastore
        store = self.places.datastores().datastore(pool)
        room = int(store.get("summary.freeSpace") or 0)
        if spec.capacity_bytes > room:
            raise errors.InsufficientResources(
                f"the datastore has {room} bytes free", hint=ROOM_IN_POOL
            )
        name = spec.name or f"volume-{secrets.token_hex(8)}"
        if name.startswith(_DELETING):
            raise errors.InvalidRequest(
                f"names that begin with {_DELETING!r} are the driver's own", hint=ANOTHER_NAME
            )
        if is_part(name):
            raise errors.InvalidRequest(
                f"a disk of the name {name!r} would be a part of another one",
                hint="choose a name with another ending",
            )
        path = self.folders.path("volumes", f"{name}.vmdk", datastore=pool)
        self.folders.ensure()
        if pool != self.places.get().datastore:
            self.files.make_folder(self.folders.path("volumes", datastore=pool), parents=True)
        with undoing() as undo:
            if spec.name is None:
                # nobody could name it if the reply were lost; under the caller's name there may be
                # an older volume
                undo.callback(self.files.delete_disk, path)
            try:
                self.files.create_disk(path, spec.capacity_bytes)
            except errors.InvalidRequest as error:
                if error.vendor_code != "FileAlreadyExists":
                    raise
                raise errors.VolumeExists(
                    f"there is a volume {name!r} already", vendor_code=error.vendor_code
                ) from error
        data = PoolData(pool=pool, name=name, format=ImageFormat.VMDK)
        return PoolVolume(serial=f"{pool}/{name}", data=data)

    @timed
    def list_volumes(self, *, timeout: float | None = None) -> Sequence[HostVolume]:
        """Budget: 1 call, 2 for each datastore, 1 for each volume."""
        del timeout
        return self._volumes(self.places.datastores())

    @timed
    def get_volume(self, volume_id: str, *, timeout: float | None = None) -> HostVolume:
        """Budget: 1 call, 2 for the datastore that the id names, and 1 for the volume."""
        del timeout
        for volume in self._volumes(self.places.datastores(), only=volume_id):
            return volume
        raise errors.VolumeNotFound(
            f"there is no volume {volume_id!r} on this cluster or host", hint=VOLUMES
        )

    def _volumes(self, stores: Datastores, only: str | None = None) -> list[HostVolume]:
        found = []
        for pool, store in stores.datastores.items():
            if only is not None and not only.startswith(f"{pool}/"):
                continue
            if only is None and not store.get("summary.accessible"):
                continue
            stores.datastore(pool)
            folder = self.folders.path("volumes", datastore=pool)
            files = {each.name: each for each in self.files.search(store["browser"], folder)}
            for name, file in files.items():
                flat = files.get(f"{name.removesuffix('.vmdk')}-flat.vmdk")
                if not name.endswith(".vmdk") or file.is_folder:
                    continue
                stem = name.removesuffix(".vmdk")
                if name.startswith(_DELETING) or is_part(stem) or not _is_name(stem):
                    continue
                if only not in {None, f"{pool}/{stem}"}:
                    continue
                path = f"{folder}/{name}"
                size = None
                with suppress(errors.VolumeNotFound):  # put there by hand, and no disk
                    size = self.files.disk_size(path)
                if size is None:
                    continue  # deleted meanwhile
                found.append(
                    HostVolume(
                        volume_id=f"{pool}/{stem}",
                        name=stem,
                        pool=pool,
                        capacity_bytes=size,
                        allocation_bytes=flat.size if flat is not None else None,
                        format=ImageFormat.VMDK,
                        path=path,
                    )
                )
        return found

    @timed
    def delete_volume(self, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 3 reads and 2 tasks.

        The disk is renamed before the last look for its users: who attaches it later finds nothing.
        What a process that died has left under the other name goes when the deletion is repeated,
        or with the next volume of that name.
        """
        del timeout
        stores = self.places.datastores()
        pools = [p for p in stores.datastores if volume_id.startswith(f"{p}/")]
        for pool in pools:
            name = volume_id.removeprefix(f"{pool}/")
            if not _is_name(name) or name.startswith(_DELETING) or is_part(name):
                continue
            stores.datastore(pool)
            path = self.folders.path("volumes", f"{name}.vmdk", datastore=pool)
            word = f"{_DELETING}{sha256(name.encode()).hexdigest()[:32]}"
            aside = self.folders.path("volumes", f"{word}.vmdk", datastore=pool)
            self.usage.require_unattached(None, path)
            with undoing() as undo:
                undo.callback(self._put_disk_back, aside, path)
                self._put_aside(path, aside)
                self.usage.require_unattached(None, path)
                self.files.delete_disk(aside)

    def _put_aside(self, path: str, aside: str) -> None:
        with suppress(errors.VolumeNotFound):  # it has gone
            try:
                self.files.move_disk(path, aside)
            except errors.InvalidRequest as error:
                if error.vendor_code != "FileAlreadyExists":
                    raise
                self.files.delete_disk(aside)  # what an earlier deletion has left
                self.files.move_disk(path, aside)

    def _put_disk_back(self, aside: str, path: str) -> None:
        with suppress(errors.VolumeNotFound):
            self.files.move_disk(aside, path)


def _has(found: Machine) -> tuple[Devices, dict[str, Any]]:
    return devices_in(found.row), by_address(found.row.get("config.hardware.device") or ())


def _there(volumes: Any, disks: dict[str, Any]) -> dict[str, Any]:
    """Without those that somebody has taken away: their address may be used again."""
    return {address: each for address, each in volumes.items() if address in disks}


def _is_name(text: str) -> bool:
    """Whether a volume can have this name; a file that was put there by hand may have any."""
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True


def _address(devices: Devices, volume_id: str) -> str | None:
    found = (a for a, each in devices.volumes.items() if each.id == volume_id)
    return next(found, None)
