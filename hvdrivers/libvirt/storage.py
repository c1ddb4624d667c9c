"""Storage on libvirt: volumes of the host's pools, and devices or files that are on the host."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.storage import HostVolumes, Storage
from hvdrivers.libvirt.base import Deadline, affecting
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.devices import attached_volume, target_prefix, volumes_of
from hvdrivers.libvirt.domain import next_target
from hvdrivers.libvirt.host import HostFacts
from hvdrivers.libvirt.naming import VOLUME_PREFIX, alias
from hvdrivers.libvirt.plugging import Plugging
from hvdrivers.libvirt.pools import delete, volume_xml
from hvdrivers.libvirt.volumes import FORMATS, VOLUME_NAME, VolumeSources
from hvdrivers.libvirt.xml import attribute, parse, text
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import (
    AttachedVolume,
    HostVolume,
    PoolData,
    PoolVolume,
    Volume,
    VolumeAttachment,
    VolumeConnector,
    VolumeSpec,
)


class LibvirtStorage(VolumeSources, Plugging, HostFacts, Storage, HostVolumes):
    """Core storage, and volumes in libvirt's own pools."""

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        """Budget: 6 calls, 8 for a volume of a pool."""
        del timeout
        domain, state = self._checked("attach_volume", uuid)
        xml = self._xml(domain, inactive=state is InstanceState.STOPPED)
        present = volumes_of(xml).get(attachment.volume_id)
        if present is not None:
            return attached_volume(attachment.volume_id, present)
        disk = self._volume_element(attachment, next_target(xml, target_prefix(attachment)))
        domain.attachDeviceFlags(text(disk), affecting(state))
        xml = self._xml(domain, inactive=state is InstanceState.STOPPED)
        present = volumes_of(xml).get(attachment.volume_id)
        if present is None:
            raise errors.OutcomeUnknown("the volume was attached and is not there any more")
        return attached_volume(attachment.volume_id, present)

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 5 calls and one for each repetition of the request; 4 for a stopped machine, 3
        if it is not attached."""
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
            self._unplug(uuid, domain, live, alias("volume", volume_id), deadline)
        if stored is not None:
            domain.detachDeviceFlags(text(stored), libvirt.VIR_DOMAIN_AFFECT_CONFIG)

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
        """Budget: 1 call (2 in another pool than the driver's own)."""
        del timeout
        format_ = FORMATS.get(spec.format or ImageFormat.QCOW2)
        if format_ is None:
            raise errors.NotSupported(f"volumes of format {spec.format}", hint="use qcow2 or raw")
        volume_id = spec.name or str(uuid4())
        name = f"{VOLUME_PREFIX}{volume_id}.{format_}"
        pool = self.pools.named(spec.pool)
        try:
            pool.createXML(volume_xml(name, spec.capacity_bytes, format_), 0)
        except errors.DeviceBusy:
            raise errors.InvalidRequest(f"there is a volume named {volume_id}") from None
        return PoolVolume(
            serial=volume_id,
            data=PoolData(pool=pool.name(), name=name, format=ImageFormat(format_)),
        )

    def list_volumes(self, *, timeout: float | None = None) -> Sequence[HostVolume]:
        """Budget: 1 call and 1 for each of our volumes in the driver's own pool."""
        del timeout
        pool = self.pools.disks()
        return [
            self._host_volume(pool.name(), volume, named["id"], named["format"])
            for volume in pool.listAllVolumes(0)
            if (named := VOLUME_NAME.fullmatch(volume.name()))
        ]

    @staticmethod
    def _host_volume(pool: str, volume: Remote, volume_id: str, format_: str) -> HostVolume:
        description = parse(volume.XMLDesc(0))
        return HostVolume(
            volume_id=volume_id,
            name=volume.name(),
            pool=pool,
            capacity_bytes=int(description.findtext("capacity") or 0),
            allocation_bytes=int(description.findtext("allocation") or 0),
            format=ImageFormat(format_),
            path=description.findtext("target/path"),
        )

    def delete_volume(self, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 3 calls and 1 for each machine on the host: libvirt does not tell for stopped
        machines in bulk what they have."""
        del timeout
        for volume in self.pools.disks().listAllVolumes(0):
            named = VOLUME_NAME.fullmatch(volume.name())
            if named and named["id"] == volume_id:
                path = self.pools.disk_path(volume.name())
                for domain in self.connection.remote.listAllDomains(0):
                    users = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
                    sources = parse(users).iterfind("devices/disk/source")
                    if any(source.get("file") == path for source in sources):
                        raise errors.DeviceBusy(
                            f"the volume is attached to machine {domain.UUIDString()}",
                            hint="detach_volume() it first",
                            retryable=False,
                        )
                self._refuse_shared(path)
                delete(volume)
