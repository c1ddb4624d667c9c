"""Storage on libvirt: volumes of the host's pools, and devices or files that are on the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from uuid import UUID, uuid4

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.storage import DiskQosControl, HostVolumes, Storage
from hvdrivers.libvirt.base import Deadline, affecting, changed, undoing
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.devices import (
    attached_volume,
    bus_of,
    has_free_port,
    limits_of,
    no_free_port,
    source_of,
    target_prefix,
    volumes_of,
)
from hvdrivers.libvirt.domain import next_target
from hvdrivers.libvirt.host import HostFacts
from hvdrivers.libvirt.naming import VOLUME_PREFIX, alias
from hvdrivers.libvirt.plugging import Plugging
from hvdrivers.libvirt.pools import delete, volume_xml
from hvdrivers.libvirt.volumes import FORMATS, VOLUME_NAME, VolumeSources
from hvdrivers.libvirt.xml import Element, attribute, parse, text
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import (
    AttachedVolume,
    DiskBus,
    DiskQos,
    HostVolume,
    LocalVolume,
    PoolData,
    PoolVolume,
    Volume,
    VolumeAttachment,
    VolumeConnector,
    VolumeSpec,
)

_FILE_POOLS = (
    libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
    | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_DIR
    | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_FS
    | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_NETFS
)
_LONGEST_NAME = 255
"""Bytes of a file name, on every file system that a pool may be on."""


class LibvirtStorage(VolumeSources, Plugging, HostFacts, Storage, DiskQosControl, HostVolumes):
    """Core storage, limits, and volumes in libvirt's own pools."""

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        """Budget: 6 calls, 8 for a volume of a pool; 3 if it is there already; one more for a
        local volume of a stopped machine."""
        del timeout
        domain, state = self._checked("attach_volume", uuid)
        stopped = state is InstanceState.STOPPED
        xml = self._xml(domain, inactive=stopped)
        present = volumes_of(xml).get(attachment.volume_id)
        if present is not None:
            return attached_volume(attachment.volume_id, present)
        disk = self._volume_element(attachment, next_target(xml, target_prefix(attachment)))
        if not stopped and bus_of(attachment) is DiskBus.VIRTIO and not has_free_port(xml):
            raise no_free_port()
        try:
            domain.attachDeviceFlags(text(disk), affecting(domain, state))
        except errors.HypervisorFault:
            # QEMU could not lock it: a machine has it that does not share it
            self._refuse_shared(source_of(disk))
            raise
        with changed():
            if stopped and isinstance(attachment.volume, LocalVolume):
                self._require_readable(domain, disk)
            xml = self._xml(domain, inactive=stopped)
        present = volumes_of(xml).get(attachment.volume_id)
        if present is None:
            raise errors.OutcomeUnknown("the volume was attached and is not there any more")
        return attached_volume(attachment.volume_id, present)

    @staticmethod
    def _require_readable(domain: Remote, disk: Element) -> None:
        """Take a volume away again that the host cannot open: for a stopped machine libvirt looks
        only when it starts. There is no way to ask before the disk is in the definition."""
        try:
            domain.blockInfo(attribute(disk, "target", "dev"), 0)
        except errors.HypervisorError:
            domain.detachDeviceFlags(text(disk), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
            raise

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 6 calls and one for each repetition of the request; 4 for a stopped machine, 3
        if it is not attached (4 if it runs)."""
        deadline = Deadline(timeout)
        domain, state = self._checked("detach_volume", uuid)
        stored = volumes_of(self._xml(domain, inactive=True)).get(volume_id)
        live = None
        if state is InstanceState.RUNNING:
            live = volumes_of(self._xml(domain)).get(volume_id)
        for disk in (stored, live):
            if disk is not None and attribute(disk, "boot", "order") == "1":
                raise errors.InvalidRequest("the instance boots from this volume")
        if live is not None:
            self._unplug(uuid, domain, alias("volume", volume_id), deadline)
        if stored is not None:
            with changed() if live is not None else nullcontext():
                domain.detachDeviceFlags(text(stored), libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def set_disk_qos(
        self, uuid: UUID, volume_id: str, qos: DiskQos | None, *, timeout: float | None = None
    ) -> None:
        """Budget: 4 calls."""
        del timeout
        domain, state = self._checked("set_disk_qos", uuid)
        xml = self._xml(domain, inactive=state is InstanceState.STOPPED)
        disk = volumes_of(xml).get(volume_id)
        if disk is None:
            raise errors.VolumeNotFound(f"the instance has no volume {volume_id}")
        device = attribute(disk, "target", "dev")
        domain.setBlockIoTune(device, limits_of(qos), affecting(domain, state))

    def get_volume_connector(
        self, uuid: UUID | None = None, *, timeout: float | None = None
    ) -> VolumeConnector:
        """Budget: 1 call, 2 on a local URI.

        The initiator is QEMU's own, which needs nothing installed or configured on the host; its
        name is made from the host's UUID and given to QEMU with each volume.
        """
        del uuid, timeout
        host_uuid = self._host_uuid()
        return VolumeConnector(
            ip=self._address(),
            host=str(self.connection.remote.getHostname()),
            initiator=f"iqn.2026-11.org.hvdrivers:{host_uuid}",
            platform=self._architecture(),
            os_type="linux",
            multipath=False,
            do_local_attach=False,
            system_uuid=host_uuid,
        )

    def create_volume(self, spec: VolumeSpec, *, timeout: float | None = None) -> Volume:
        """Budget: 1 call (2 in another pool than the driver's own); for a name that the caller
        chose 1 more, and 1 for each file pool of the host that is active."""
        del timeout
        format_ = FORMATS.get(spec.format or ImageFormat.QCOW2)
        if format_ is None:
            raise errors.NotSupported(f"volumes of format {spec.format}", hint="use qcow2 or raw")
        volume_id = spec.name or str(uuid4())
        name = f"{VOLUME_PREFIX}{volume_id}.{format_}"
        if len(name.encode()) > _LONGEST_NAME:
            raise errors.InvalidRequest(
                f"the name of the volume is longer than {_LONGEST_NAME - 16} bytes in UTF-8"
            )
        pool = self.pools.named(spec.pool)
        try:
            # the id is its name in attach and delete, whatever pool and format it has
            if spec.name is not None and any(self._volumes(volume_id)):
                raise errors.DeviceBusy("its id is taken")
            with undoing() as undo:
                if spec.name is None:
                    # nobody could name it if the reply were lost; under the caller's name there
                    # may be an older volume
                    undo.callback(self.delete_volume, volume_id)
                pool.createXML(volume_xml(name, spec.capacity_bytes, format_), 0)
        except errors.DeviceBusy:
            raise errors.InvalidRequest(f"there is a volume named {volume_id}") from None
        return PoolVolume(
            serial=volume_id,
            data=PoolData(pool=pool.name(), name=name, format=ImageFormat(format_)),
        )

    def _volumes(self, only: str | None = None) -> Iterator[tuple[Remote, Remote, str, str]]:
        """Pool, volume, id and format of the volumes of ours, in all file pools."""
        disks = self.pools.disks()  # makes it where it is missing
        pools = self.connection.remote.listAllStoragePools(_FILE_POOLS)
        if disks.name() not in {pool.name() for pool in pools}:
            pools.append(disks)
        for pool in pools:
            for volume in pool.listAllVolumes(0):
                named = VOLUME_NAME.fullmatch(volume.name())
                if named and only in {None, named["id"]}:
                    yield pool, volume, named["id"], named["format"]

    def list_volumes(self, *, timeout: float | None = None) -> Sequence[HostVolume]:
        """Budget: 1 call, 1 for each file pool of the host that is active, and 1 for each of our
        volumes."""
        del timeout
        return [self._host_volume(*found) for found in self._volumes()]

    @staticmethod
    def _host_volume(pool: Remote, volume: Remote, volume_id: str, format_: str) -> HostVolume:
        description = parse(volume.XMLDesc(0))
        # The capacity that libvirt tells of a raw volume may be read from what a guest wrote to
        # it (see _pool_source()): the length of the file is the truth.
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
        """Budget: 1 call, 1 for each file pool of the host that is active; then 4, and 1 for each
        machine on the host: libvirt does not tell for stopped machines in bulk what they have."""
        del timeout
        found = [volume for _, volume, _, _ in self._volumes(volume_id)]
        for volume in found:
            path = str(volume.path())
            for domain in self.connection.remote.listAllDomains(0):
                try:
                    users = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
                except errors.InstanceNotFound:
                    continue  # destroyed meanwhile
                if any(source_of(disk) == path for disk in parse(users).iterfind("devices/disk")):
                    raise errors.DeviceBusy(
                        f"the volume is attached to machine {domain.UUIDString()}",
                        hint="detach_volume() it first",
                        retryable=False,
                    )
            self._refuse_shared(path)
        for volume in found:
            delete(volume)
