"""Where a volume is: the ``<disk>`` element for each kind of volume that this driver attaches."""

from __future__ import annotations

import re

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import disk_element, target_prefix
from hvdrivers.libvirt.domain import next_target, used_sources
from hvdrivers.libvirt.naming import IMAGE_PREFIX, VOLUME_PREFIX
from hvdrivers.libvirt.xml import Element, el
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.volume import LocalVolume, PoolVolume, VolumeAttachment

FORMATS = {ImageFormat.RAW: "raw", ImageFormat.QCOW2: "qcow2"}
"""Formats of volumes, and QEMU's names for them."""

VOLUME_NAME = re.compile(rf"{VOLUME_PREFIX}(?P<id>.+)\.(?P<format>raw|qcow2)")
"""Name of a volume that create_volume() made."""

_ALL = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE


class VolumeSources(Topic):
    """Turn an attachment into a ``<disk>``."""

    def _volume_elements(self, spec: InstanceSpec) -> list[Element]:
        """The disks of the volumes that a new instance begins with."""
        own = 1 if spec.image is not None else 0
        own += bool(spec.flavor.ephemeral_gib) + bool(spec.flavor.swap_mib)
        taken = el("domain", el("devices"))
        devices = taken.find("devices")
        assert devices is not None  # noqa: S101 - made one line above
        for index in range(own):
            devices.append(el("disk", el("target", dev=f"vd{chr(ord('a') + index)}")))
        if spec.cloud_init is not None:
            devices.append(el("disk", el("target", dev="sda")))
        elements = []
        for attachment in spec.volumes:
            disk = self._volume_element(attachment, next_target(taken, target_prefix(attachment)))
            devices.append(disk)
            elements.append(disk)
        return elements

    @provides(Capability.MULTI_ATTACH)
    def _volume_element(self, attachment: VolumeAttachment, target: str) -> Element:
        volume = attachment.volume
        if isinstance(volume, PoolVolume):
            path, format_ = self._pool_source(volume)
            kind = "file"
        elif isinstance(volume, LocalVolume):
            path, format_, kind = self._local_source(volume)
        else:
            raise errors.NotSupported(f"volumes of type {volume.driver_volume_type}")
        if not volume.multiattach:
            self._refuse_shared(path)
        source = el("source", file=path) if kind == "file" else el("source", dev=path)
        return disk_element(attachment, source, kind, format_, target)

    @provides(Capability.VOLUME_POOL)
    def _pool_source(self, volume: PoolVolume) -> tuple[str, str]:
        if volume.data.name.startswith(IMAGE_PREFIX):
            raise errors.InvalidRequest(
                "a cached image is the base of other machines' disks, and no volume",
                hint="spawn() from it; or create_volume() and write to that",
            )
        stored = self.pools.named(volume.data.pool).storageVolLookupByName(volume.data.name)
        named = VOLUME_NAME.fullmatch(volume.data.name)
        format_ = volume.data.format
        if format_ is not None and format_ not in FORMATS:
            raise errors.NotSupported(f"volumes of format {format_}")
        if named and format_ is not None and named["format"] != FORMATS[format_]:
            raise errors.InvalidRequest(
                f"the volume was made as {named['format']}, not as {FORMATS[format_]}",
                hint="take the Volume that create_volume() or list_volumes() gives",
            )
        # Never the pool's own idea: it reads that from the first bytes of the volume, and those
        # are the guest's to write (a raw disk could become "a qcow2 over /etc/shadow").
        chosen = FORMATS[format_] if format_ is not None else (named and named["format"])
        return str(stored.path()), chosen or "raw"

    @provides(Capability.VOLUME_LOCAL)
    def _local_source(self, volume: LocalVolume) -> tuple[str, str, str]:
        if volume.data.format not in FORMATS:
            raise errors.NotSupported(f"volumes of format {volume.data.format}")
        kind = "block" if volume.path.startswith("/dev/") else "file"
        return volume.path, FORMATS[volume.data.format], kind

    def _refuse_shared(self, path: str) -> None:
        """QEMU's lock would refuse it too, but with no code to tell it by. One bulk call."""
        for domain, stats in self.connection.remote.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_BLOCK, _ALL
        ):
            if path in used_sources(stats):
                raise errors.DeviceBusy(
                    f"{path} is in use by machine {domain.UUIDString()}",
                    hint="detach it there, or make it multiattach",
                )
