"""Lifecycle on libvirt: spawn, destroy, look, rename, metadata.

Spawn makes volumes named by the UUID, and the domain last: until then there is no instance. The
first volume, the console log, is the claim: creating a volume is atomic, so of two spawns of one
UUID, in whatever processes, one gets it, and only who has it makes a domain. destroy() removes
domain and volumes whether or not the others are there, the claim last.

An instance that shall run is started first and defined then: the other way round it would be seen
as STOPPED for a moment. Libvirt shows a machine that it starts as such (BUILDING). A process that
dies between the two leaves a running machine that would end with its power; whoever connects next
defines it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers.cloudinit import build_seed
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.lifecycle import Lifecycle
from hvdrivers.libvirt.base import Deadline, Undo, affecting, undoing
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.devices import attached_vif, attached_volume, vifs_of, volumes_of
from hvdrivers.libvirt.domain import OwnDisk, definable, domain_xml
from hvdrivers.libvirt.host import HostFacts
from hvdrivers.libvirt.images import Base
from hvdrivers.libvirt.listing import Listing
from hvdrivers.libvirt.naming import (
    EPHEMERAL,
    NVRAM,
    ROOT,
    SEED,
    SWAP,
    console_name,
    disk_name,
    domain_name,
    label_of,
)
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.libvirt.record import NAMESPACE, PREFIX, Record, record_in
from hvdrivers.libvirt.removal import Removal
from hvdrivers.libvirt.starting import start_new
from hvdrivers.libvirt.volumes import VolumeSources
from hvdrivers.libvirt.wiring import Wiring
from hvdrivers.libvirt.xml import Element, parse, text
from hvdrivers.models.instance import (
    Firmware,
    ForeignInstance,
    InstanceInfo,
    InstanceSpec,
    InstanceSummary,
)
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState

_GIB = 1 << 30
_MIB = 1 << 20


class LibvirtLifecycle(Removal, VolumeSources, Wiring, HostFacts, Listing, Lifecycle):
    """Core lifecycle."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        """Budget from a cached image: 9 calls, 8 without starting it; 3 more for a seed, 1 for
        each ephemeral or swap disk and each bridge, 2 for each network of libvirt's own, 1 for
        each local volume, 3 for one of a pool."""
        deadline = Deadline(timeout)
        self._refuse_existing(spec.uuid)
        self._require_networks(spec.vifs)
        # before anything of the instance is made: what is missing is found out for nothing
        volumes = self._volume_elements(spec)
        base = self._base(spec.image, deadline, progress) if spec.image is not None else None
        capacity = _root_capacity(spec, base)
        with undoing() as undo:
            self._claim(spec.uuid, undo)
            disks = self._make_disks(spec, base, capacity, undo)
            deadline.check("disks were made")
            record = Record.of(spec, base.key if base else None, self._default_firmware())
            xml = domain_xml(
                spec,
                record,
                self._choice(),
                disks=disks,
                volumes=volumes,
                console_path=self.pools.console_path(console_name(spec.uuid)),
                nvram_path=self.pools.disk_path(disk_name(spec.uuid, NVRAM)),
            )
            domain = self._make_domain(spec, record.firmware, xml, undo)
            state = InstanceState.RUNNING if spec.start else InstanceState.STOPPED
            return self._info(spec.uuid, domain, state)

    def _refuse_existing(self, uuid: UUID) -> None:
        try:
            domain = self.connection.remote.lookupByUUIDString(str(uuid))
        except errors.InstanceNotFound:
            return
        # to a caller who tries again after a lost reply this says that it is done
        if label_of(domain.name(), uuid) is not None and not domain.isPersistent():
            self._complete(domain)
        raise errors.InstanceExists("a machine with this UUID exists", instance=uuid)

    @provides(Capability.EPHEMERAL_DISK, Capability.SWAP_DISK)
    def _make_disks(
        self, spec: InstanceSpec, base: Base | None, capacity: int, undo: Undo
    ) -> list[OwnDisk]:
        disks = []
        if base is not None:
            backing = base.path, base.format
            self._create(spec.uuid, ROOT, capacity, undo, backing=backing)
            self._require_still_cached(base)
            disks.append(self._own(spec.uuid, ROOT, "qcow2"))
        for role, size in (
            (EPHEMERAL, spec.flavor.ephemeral_gib * _GIB),
            (SWAP, spec.flavor.swap_mib * _MIB),
        ):
            if size:
                self._create(spec.uuid, role, size, undo)
                disks.append(self._own(spec.uuid, role, "qcow2"))
        if spec.cloud_init is not None:
            self._make_seed(spec, undo)
            disks.append(self._own(spec.uuid, SEED, "raw"))
        return disks

    def _claim(self, uuid: UUID, undo: Undo) -> None:
        """Create the volume that stands for the instance's name on the host.

        It is the console log. The daemon would make that file itself; made as a volume it is
        known to the pool, so that it can be read through the pool without a refresh.
        """
        xml = volume_xml(console_name(uuid), 0, "raw")
        undo.callback(self._delete_console, uuid)
        self._create_or_refuse(uuid, self.pools.consoles(), xml, undo)

    def _create(
        self,
        uuid: UUID,
        role: str,
        capacity: int,
        undo: Undo,
        *,
        format_: str = "qcow2",
        backing: tuple[str, str] | None = None,
    ) -> Remote:
        undo.callback(self._delete_disk, disk_name(uuid, role))
        xml = volume_xml(disk_name(uuid, role), capacity, format_, backing=backing)
        try:
            return self._create_or_refuse(uuid, self.pools.disks(), xml, undo)
        except errors.HypervisorFault as error:
            # libvirt has no code for "the base is missing", nor for "too large for qcow2"
            room = int(self.pools.disks().info()[1])
            if capacity > room:
                raise errors.InsufficientResources(
                    f"the disk of {capacity / _GIB:.0f} GiB is larger than its storage pool, which"
                    f" has {room / _GIB:.0f} GiB",
                    vendor_code=error.vendor_code,
                    hint="choose a flavor with smaller disks, or another pool",
                ) from error
            raise errors.HypervisorFault(
                f"the disk could not be made: {error.message}", vendor_code=error.vendor_code
            ) from error

    @staticmethod
    def _create_or_refuse(uuid: UUID, pool: Remote, xml: str, undo: Undo) -> Remote:
        try:
            volume: Remote = pool.createXML(xml, 0)
        except errors.DeviceBusy as error:
            undo.forget()  # it is somebody else's
            raise errors.InstanceExists(
                "a volume of an instance with this UUID exists",
                instance=uuid,
                vendor_code=error.vendor_code,
                hint="another spawn of it is under way, or one was interrupted: destroy() it first",
            ) from error
        return volume

    def _own(self, uuid: UUID, role: str, format_: str) -> OwnDisk:
        path = self.pools.disk_path(disk_name(uuid, role))
        return OwnDisk(role, path, format_, boots=role == ROOT, cdrom=role == SEED)

    @provides(Capability.CONFIG_DRIVE, Capability.USER_DATA)
    def _make_seed(self, spec: InstanceSpec, undo: Undo) -> None:
        assert spec.cloud_init is not None  # noqa: S101 - the caller has looked
        seed = build_seed(spec.cloud_init, uuid=spec.uuid, name=spec.name)
        volume = self._create(spec.uuid, SEED, len(seed), undo, format_="raw")
        self.upload_bytes(volume, seed)

    @provides(Capability.BOOT_FROM_VOLUME, Capability.UEFI, Capability.SECURE_BOOT, Capability.VTPM)
    def _make_domain(self, spec: InstanceSpec, firmware: Firmware, xml: str, undo: Undo) -> Remote:
        remote = self.connection.remote
        if spec.start and firmware is not Firmware.BIOS:
            undo.callback(self._delete_nvram, spec.uuid)
        undo.callback(self._remove_domain, spec.uuid)
        try:
            if spec.start:
                start_new(remote, xml)
            domain = self._define(remote, xml)
        except errors.OutcomeUnknown:
            undo.forget()
            undo.callback(partial(self._remove_domain, spec.uuid, is_coming=True))
            raise
        if spec.start and domain.ID() < 0:
            raise errors.HypervisorFault(
                "the machine ended before it was complete",
                hint="somebody has destroyed it, or it has died: the daemon's log tells",
            )
        return domain

    @staticmethod
    def _define(remote: Remote, xml: str) -> Remote:
        domain: Remote = remote.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        return domain

    def complete_spawns(self) -> None:
        """Define what runs because its spawn was interrupted, and was not defined any more. One
        call, and four for each such machine."""
        for domain in self.connection.remote.listAllDomains(
            libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT
        ):
            if label_of(domain.name(), UUID(domain.UUIDString())) is not None:
                # of no importance to whoever connects; the next one will try as well
                with suppress(errors.HypervisorError):
                    self._complete(domain)

    def _complete(self, domain: Remote) -> None:
        if self._state(domain) is InstanceState.BUILDING:
            return  # somebody is at it
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        xml = definable(parse(domain.XMLDesc(flags)))
        defined = self._define(self.connection.remote, text(xml))
        if not defined.isActive():  # it has been removed meanwhile, and this is its shell
            self._undefine(defined)

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        """Budget: 3 calls, 4 for a machine that has not run since the daemon was started."""
        del timeout
        domain = self._domain(uuid)
        return self._info(uuid, domain, self._state(domain))

    def _info(self, uuid: UUID, domain: Remote, state: InstanceState) -> InstanceInfo:
        xml = self._xml(domain)
        record = record_in(xml)
        return InstanceInfo(
            uuid=uuid,
            name=label_of(domain.name(), uuid) or record.name,
            state=state,
            flavor=record.flavor,
            metadata=record.metadata,
            volumes=tuple(attached_volume(key, disk) for key, disk in volumes_of(xml).items()),
            vifs=tuple(attached_vif(key, *found) for key, found in vifs_of(xml).items()),
            firmware=record.firmware,
            created_at=record.created_at,
            image=record.image,
        )

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        """Budget: 2 calls for any number of instances."""
        del timeout
        return [
            InstanceSummary(
                uuid=uuid,
                name=label,
                state=state,
                vcpus=int(stats.get("vcpu.maximum", 1)),
                memory_mib=int(stats.get("balloon.maximum", 0)) // 1024,
            )
            for uuid, name, state, stats in self._all()
            if (label := label_of(name, uuid)) is not None
        ]

    def list_foreign(self, *, timeout: float | None = None) -> Sequence[ForeignInstance]:
        """Budget: 2 calls for any number of machines."""
        del timeout
        return [
            ForeignInstance(uuid=uuid, name=name, state=state)
            for uuid, name, state, _ in self._all()
            if label_of(name, uuid) is None
        ]

    def rename(self, uuid: UUID, name: str, *, timeout: float | None = None) -> None:
        """Budget: 3 calls. The label is in the domain's name (see ``naming.py``)."""
        del timeout
        domain, state = self._checked("rename", uuid)
        if label_of(domain.name(), uuid) == name:
            return
        if state is not InstanceState.STOPPED:
            raise errors.NotSupported(
                "libvirt renames a machine only while it is stopped",
                hint="power_off() first, or keep the label in metadata",
            )
        domain.rename(domain_name(name, uuid), 0)

    def set_metadata(
        self, uuid: UUID, metadata: Mapping[str, str], *, timeout: float | None = None
    ) -> None:
        """Budget: 4 calls, 7 for a suspended machine."""
        del timeout
        domain, state = self._checked("set_metadata", uuid)
        record = record_in(self._xml(domain)).model_copy(update={"metadata": dict(metadata)})
        if state is InstanceState.SUSPENDED:
            self._write_saved(domain, record)
        self._write_record(domain, state, record)

    @staticmethod
    def _write_record(domain: Remote, state: InstanceState, record: Record) -> None:
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            text(record.element()),
            PREFIX,
            NAMESPACE,
            affecting(domain, state),
        )

    @staticmethod
    def _write_saved(domain: Remote, record: Record) -> None:
        # the image of a suspended machine has a definition of its own, which comes back with it
        saved = parse(domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE))
        element: Element | None = saved.find(f"metadata/{{{NAMESPACE}}}instance")
        if element is not None:
            element.text = record.element().text
            domain.managedSaveDefineXML(text(saved), 0)


def _root_capacity(spec: InstanceSpec, base: Base | None) -> int:
    if base is None:
        return 0
    wanted = spec.flavor.disk_gib * _GIB
    if wanted and wanted < base.virtual_size:
        raise errors.ImageRejected(
            f"the image needs {base.virtual_size / _GIB:.1f} GiB, the flavor's disk has"
            f" {spec.flavor.disk_gib} GiB",
            hint="choose a flavor with a larger disk, or disk_gib=0 for the image's own size",
        )
    return max(wanted, base.virtual_size)
