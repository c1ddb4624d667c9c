"""Where a volume is: the ``<disk>`` element for each kind of volume that this driver attaches."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import PurePosixPath
from typing import cast
from uuid import UUID

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.libvirt.chains import Chains
from hvdrivers.libvirt.device_names import is_device, is_no_disk
from hvdrivers.libvirt.devices import disk_element, source_of, target_prefix
from hvdrivers.libvirt.disk_plan import names_of
from hvdrivers.libvirt.domain import next_target, used_sources
from hvdrivers.libvirt.files import clean
from hvdrivers.libvirt.host_facts import HostFacts
from hvdrivers.libvirt.naming import VOLUME_PREFIX
from hvdrivers.libvirt.odd_files import no_disk, odd_file, require_file
from hvdrivers.libvirt.pools import Pools, find
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.remote_volumes import (
    WRONG_KEY,
    encryption_element,
    initiator_name,
    is_encrypted_disk,
    iscsi_source,
    nfs_source,
    rbd_source,
)
from hvdrivers.libvirt.reserved import refuse_contradiction, refuse_folder, refuse_reserved
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import Element, attribute, el, parse
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.volume import (
    CacheMode,
    IscsiVolume,
    LocalVolume,
    NfsVolume,
    PoolVolume,
    RbdVolume,
    Volume,
    VolumeAttachment,
)

FORMATS = {ImageFormat.RAW: "raw", ImageFormat.QCOW2: "qcow2"}
"""Formats of volumes, and QEMU's names for them."""

VOLUME_NAME = re.compile(rf"{VOLUME_PREFIX}(?P<id>.+)\.(?P<format>raw|qcow2)")
"""Name of a volume that create_volume() made."""

_ALL = (
    libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    # a machine that is being started, or hangs, is not asked: libvirt knows its disks itself
    | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
)


class VolumeSources:
    """Turn an attachment into a ``<disk>``."""

    def __init__(
        self, connection: Connection, pools: Pools, chains: Chains, facts: HostFacts
    ) -> None:
        self._connection = connection
        self._pools = pools
        self._chains = chains
        self._facts = facts

    def elements(self, spec: InstanceSpec) -> list[Element]:
        """The disks of the volumes that a new instance begins with."""
        taken = names_of(spec)
        elements = []
        for attachment in spec.volumes:
            target = next_target(target_prefix(attachment), taken)
            disk = self.element(spec.uuid, attachment, target)
            taken[0].append(disk)
            elements.append(disk)
        return elements

    @provides(Capability.MULTI_ATTACH)
    def element(self, uuid: UUID, attachment: VolumeAttachment, target: str) -> Element:
        """The disk of a volume; what the host has not, or others use, is refused."""
        volume = attachment.volume
        remote = self._remote_source(uuid, volume)
        if remote is not None:
            source, format_ = remote
            path, kind = str(source.get("name")), "network"
        elif isinstance(volume, PoolVolume):
            path, format_ = self._pool_source(volume)
            kind = "file"
        elif isinstance(volume, LocalVolume):
            path, format_, kind = self._local_source(volume)
        else:
            raise errors.NotSupported(
                f"volumes of type {volume.driver_volume_type}",
                hint=hints.VOLUME_KINDS,
            )
        if not volume.multiattach and kind == "network":
            self._refuse_shared_remote(path)
        elif not volume.multiattach:
            self._refuse_shared(path)
        if attachment.cache is None and not volume.multiattach:  # shared ones are never cached
            cache = CacheMode(self._connection.config.disk_cache)
            attachment = attachment.model_copy(update={"cache": cache})
        if kind != "network":
            source = el("source", file=path) if kind == "file" else el("source", dev=path)
        encryption = self._encryption(uuid, attachment)
        if encryption is not None:
            source.append(encryption)
        return disk_element(attachment, source, kind, format_, target)

    @provides(Capability.ENCRYPTED_VOLUME)
    def _encryption(self, uuid: UUID, attachment: VolumeAttachment) -> Element | None:
        return encryption_element(uuid, attachment)

    @provides(Capability.VOLUME_ISCSI, Capability.VOLUME_RBD, Capability.VOLUME_NFS)
    def _remote_source(self, uuid: UUID, volume: Volume) -> tuple[Element, str] | None:
        """Source and format of a volume that QEMU reaches over the network."""
        if isinstance(volume, IscsiVolume):
            return iscsi_source(uuid, volume, initiator_name(self._facts.host_uuid())), "raw"
        if isinstance(volume, RbdVolume):
            return rbd_source(uuid, volume), "raw"
        if isinstance(volume, NfsVolume):
            return nfs_source(volume)
        return None

    @provides(Capability.VOLUME_POOL)
    def _pool_source(self, volume: PoolVolume) -> tuple[str, str]:
        refuse_reserved(volume.data.name)
        stored = find(self._pools.named(volume.data.pool), volume.data.name)
        named = VOLUME_NAME.fullmatch(volume.data.name)
        format_ = volume.data.format
        if format_ is not None and format_ not in FORMATS:
            raise errors.NotSupported(f"volumes of format {format_}", hint="use qcow2 or raw")
        declared = FORMATS[format_] if format_ is not None else None
        description = None
        if named:
            refuse_contradiction(named["format"], declared)
        else:
            description = parse(stored.XMLDesc(0))
            refuse_folder(description, volume.data.name)
            self._chains.refuse_not_free(str(description.findtext("target/path")), stored)
        if description is not None and declared not in {None, "raw"}:
            # a volume of others: to read it as raw is safe whatever it is
            refuse_contradiction(attribute(description, "target/format", "type"), declared)
            return str(description.findtext("target/path")), str(declared)
        # Never the pool's own idea: it reads that from the first bytes of the volume, and those
        # are the guest's to write (a raw disk could become "a qcow2 over /etc/shadow").
        return str(stored.path()), (named["format"] if named else declared) or "raw"

    @provides(Capability.VOLUME_LOCAL)
    def _local_source(self, volume: LocalVolume) -> tuple[str, str, str]:
        if volume.data.format not in FORMATS:
            raise errors.NotSupported(
                f"volumes of format {volume.data.format}", hint="use qcow2 or raw"
            )
        refuse_reserved(volume.path)
        format_ = FORMATS[volume.data.format]
        named = VOLUME_NAME.fullmatch(PurePosixPath(volume.path).name)
        if named:
            refuse_contradiction(named["format"], format_)
        kind = "block" if is_device(volume.path) else "file"
        if is_no_disk(volume.path):
            raise no_disk(volume.path)
        if kind == "file":
            stored, seen = self.in_a_pool(volume.path), None
            if stored is None:
                seen = require_file(self._connection.remote, volume.path)
            if not named:
                self._chains.refuse_not_free(volume.path, stored, seen)
        return volume.path, format_, kind

    def in_a_pool(self, path: str) -> Remote | None:
        """The volume of this path, if a pool has it. One call."""
        try:
            return cast(Remote, self._connection.remote.storageVolLookupByPath(clean(path)))
        except errors.VolumeNotFound:
            return None

    def explain_unopened(self, disk: Element, error: errors.HypervisorFault) -> None:
        """After a failure, for which QEMU has no code: a machine has the volume that does not share
        it, so that QEMU could not lock it; its path names no disk; or the size of its file is
        odd."""
        self._refuse_shared(source_of(disk))
        self._refuse_shared_link(source_of(disk))
        odd = odd_file(self._connection.remote, [disk])
        if odd is not None:
            raise odd from error
        if is_encrypted_disk(disk):
            error.hint = f"{WRONG_KEY}; {error.hint}"
        if disk.get("type") == "block":
            error.hint = f"is {source_of(disk)} a block device of the host (lsblk)? {error.hint}"

    def _refuse_shared_remote(self, name: str) -> None:
        """A server locks nothing, and libvirt's statistics do not name what is behind a network.
        One call, and one for each machine that runs."""
        running = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        for domain in self._connection.remote.listAllDomains(running):
            with suppress(errors.InstanceNotFound):
                if name in map(source_of, parse(domain.XMLDesc(0)).iterfind("devices/disk")):
                    raise _in_use(name, domain)

    def _refuse_shared(self, path: str) -> None:
        """QEMU's lock would refuse it too, but with no code to tell it by. One bulk call."""
        for domain, stats in self._connection.remote.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_BLOCK, _ALL
        ):
            if clean(path) in map(clean, used_sources(stats)):
                raise _in_use(path, domain)

    def _refuse_shared_link(self, path: str) -> None:
        """The same for a file that a running machine has under another name, such as a symlink, as
        far as the pools tell. Calls as for delete_volume()."""
        volume = self.in_a_pool(path)
        if volume is not None:
            with self._chains.looking(volume) as look:
                domain = self._chains.machine_with(look, running=True)
            if domain is not None:
                raise _in_use(path, domain)


def _in_use(name: str, domain: Remote) -> errors.DeviceBusy:
    return errors.DeviceBusy(
        f"{name} is in use by machine {domain.UUIDString()}",
        hint="detach it there, or make it multiattach",
    )
