"""Lifecycle on libvirt: spawn, destroy, look, rename, metadata.

The order of spawn makes its last step but one, the definition of the domain, the moment from
which the instance exists. Before it there are only volumes named by the UUID; creating the first
of them is atomic, so of two spawns of one UUID, in whatever processes, one gets it. destroy()
removes domain and volumes whether or not the other is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from uuid import UUID

import libvirt

from hvdrivers.cloudinit import build_seed
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.lifecycle import Lifecycle
from hvdrivers.libvirt.base import Deadline, affecting, undoing
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.devices import attached_vif, attached_volume, vifs_of, volumes_of
from hvdrivers.libvirt.domain import OwnDisk, domain_xml
from hvdrivers.libvirt.host import HostFacts
from hvdrivers.libvirt.images import Base, ImageStore
from hvdrivers.libvirt.listing import Listing
from hvdrivers.libvirt.naming import (
    EPHEMERAL,
    ROOT,
    SEED,
    SWAP,
    VOLUME_PREFIX,
    console_name,
    disk_name,
    domain_name,
    label_of,
)
from hvdrivers.libvirt.pools import delete, volume_xml
from hvdrivers.libvirt.power import start
from hvdrivers.libvirt.record import NAMESPACE, PREFIX, Record, record_in
from hvdrivers.libvirt.volumes import VolumeSources
from hvdrivers.libvirt.wiring import Wiring
from hvdrivers.libvirt.xml import Element, parse, text
from hvdrivers.models.instance import (
    ForeignInstance,
    InstanceInfo,
    InstanceSpec,
    InstanceSummary,
    Keep,
)
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState

_GIB = 1 << 30
_MIB = 1 << 20


class LibvirtLifecycle(ImageStore, VolumeSources, Wiring, HostFacts, Listing, Lifecycle):
    """Core lifecycle."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        """Budget from a cached image: 9 calls; 3 more for a seed, 1 for each ephemeral or swap
        disk and each bridge, 2 for each network of libvirt's own, 1 for each local volume, 3 for
        one of a pool."""
        deadline = Deadline(timeout)
        self._refuse_existing(spec.uuid)
        self._require_networks(spec.vifs)
        # before anything of the instance is made: what is missing is found out for nothing
        volumes = self._volume_elements(spec)
        base = self._base(spec.image, deadline, progress) if spec.image is not None else None
        capacity = _root_capacity(spec, base)
        with undoing() as undo:
            disks = self._make_disks(spec, base, capacity, undo)
            deadline.check("disks were made")
            self._make_console(spec.uuid, undo)
            record = Record.of(spec, base.key if base else None, self._default_firmware())
            xml = domain_xml(
                spec,
                record,
                self._choice(),
                disks=disks,
                volumes=volumes,
                console_path=self.pools.console_path(console_name(spec.uuid)),
            )
            undo.callback(self._remove_domain, spec.uuid)
            domain = self._define(xml)
            if spec.start:
                deadline.check("the machine was defined")
                start(domain)
            return self._info(spec.uuid, domain)

    def _refuse_existing(self, uuid: UUID) -> None:
        try:
            self.connection.remote.lookupByUUIDString(str(uuid))
        except errors.InstanceNotFound:
            return
        raise errors.InstanceExists("a machine with this UUID exists", instance=uuid)

    @provides(Capability.EPHEMERAL_DISK, Capability.SWAP_DISK)
    def _make_disks(
        self, spec: InstanceSpec, base: Base | None, capacity: int, undo: ExitStack
    ) -> list[OwnDisk]:
        disks = []
        if base is not None:
            xml = volume_xml(
                disk_name(spec.uuid, ROOT), capacity, "qcow2", backing=(base.path, base.format)
            )
            self._create_first(spec.uuid, ROOT, xml, undo)
            disks.append(self._own(spec.uuid, ROOT, "qcow2"))
        for role, size in (
            (EPHEMERAL, spec.flavor.ephemeral_gib * _GIB),
            (SWAP, spec.flavor.swap_mib * _MIB),
        ):
            if size:
                xml = volume_xml(disk_name(spec.uuid, role), size, "qcow2")
                self._create(spec.uuid, role, xml, undo)
                disks.append(self._own(spec.uuid, role, "qcow2"))
        if spec.cloud_init is not None:
            self._make_seed(spec, undo)
            disks.append(self._own(spec.uuid, SEED, "raw"))
        return disks

    def _create_first(self, uuid: UUID, role: str, xml: str, undo: ExitStack) -> None:
        """Create the volume that stands for the instance's name on the host."""
        try:
            self._create(uuid, role, xml, undo)
        except errors.InstanceExists:
            raise errors.InstanceExists(
                "a disk of an instance with this UUID exists",
                instance=uuid,
                hint="another spawn of it is under way, or one was interrupted: destroy() it first",
            ) from None

    def _create(self, uuid: UUID, role: str, xml: str, undo: ExitStack) -> Remote:
        pool = self.pools.disks()
        # pushed before the call: if its reply is lost, the volume may be there
        mark = ExitStack()
        mark.callback(self._delete_named, pool, disk_name(uuid, role))
        try:
            volume: Remote = pool.createXML(xml, 0)
        except errors.DeviceBusy as error:
            mark.pop_all()  # the volume is somebody else's
            raise errors.InstanceExists(error.message, vendor_code=error.vendor_code) from error
        except errors.HypervisorFault as error:
            # A fault may have left a volume, and libvirt has no code for "the base is missing"
            undo.push(mark.pop_all())
            raise errors.HypervisorFault(
                f"the disk could not be made: {error.message}", vendor_code=error.vendor_code
            ) from error
        except BaseException:
            undo.push(mark.pop_all())
            raise
        undo.push(mark.pop_all())
        return volume

    def _own(self, uuid: UUID, role: str, format_: str) -> OwnDisk:
        path = self.pools.disk_path(disk_name(uuid, role))
        return OwnDisk(role, path, format_, boots=role == ROOT, cdrom=role == SEED)

    @provides(Capability.CONFIG_DRIVE, Capability.USER_DATA)
    def _make_seed(self, spec: InstanceSpec, undo: ExitStack) -> None:
        assert spec.cloud_init is not None  # noqa: S101 - the caller has looked
        seed = build_seed(spec.cloud_init, uuid=spec.uuid, name=spec.name)
        xml = volume_xml(disk_name(spec.uuid, SEED), len(seed), "raw")
        volume = self._create(spec.uuid, SEED, xml, undo)
        self.upload_bytes(volume, seed)

    def _make_console(self, uuid: UUID, undo: ExitStack) -> None:
        # The daemon makes the file itself when the machine starts. Made as a volume it is known to
        # the pool, so that it can be read and deleted through the pool without a refresh.
        pool = self.pools.consoles()
        undo.callback(self._delete_console, uuid)
        try:
            pool.createXML(volume_xml(console_name(uuid), 0, "raw"), 0)
        except errors.DeviceBusy:
            return  # left by an earlier instance with this UUID: go on with it

    @provides(Capability.BOOT_FROM_VOLUME, Capability.UEFI, Capability.SECURE_BOOT, Capability.VTPM)
    def _define(self, xml: str) -> Remote:
        domain: Remote = self.connection.remote.defineXMLFlags(
            xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE
        )
        return domain

    def destroy(
        self,
        uuid: UUID,
        *,
        keep: frozenset[Keep] = frozenset(),
        timeout: float | None = None,
    ) -> None:
        """Budget: 3 calls for the domain, 1 for each of its disks and logs, 4 for the pools."""
        del timeout
        self._remove_domain(uuid)
        pool = self.pools.disks()
        for volume in pool.listAllVolumes(0):
            if not volume.name().startswith(f"{uuid}."):
                continue
            if volume.name() == disk_name(uuid, ROOT) and Keep.ROOT_DISK in keep:
                self._keep_root(pool, volume, uuid)
            delete(volume)
        self._delete_console(uuid)

    def _keep_root(self, pool: Remote, root: Remote, uuid: UUID) -> None:
        # libvirt cannot rename a volume; a copy also stands alone, without the cached image
        name = f"{VOLUME_PREFIX}{uuid}-root.qcow2"
        capacity = int(root.info()[1])
        try:
            pool.createXMLFrom(volume_xml(name, capacity, "qcow2"), root, 0)
        except errors.DeviceBusy:
            return  # kept by an earlier destroy that was interrupted

    def _remove_domain(self, uuid: UUID) -> None:
        try:
            domain = self._domain(uuid)
        except errors.InstanceNotFound as error:
            if error.vendor_code is None:
                raise  # a foreign machine
            return
        with suppress(errors.InvalidState, errors.InstanceNotFound):  # it is off, or has gone
            domain.destroyFlags(0)
        flags = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
            | libvirt.VIR_DOMAIN_UNDEFINE_TPM
        )
        try:
            domain.undefineFlags(flags)
        except errors.InstanceNotFound:
            return

    def _delete_console(self, uuid: UUID) -> None:
        pool = self.pools.consoles()
        # the daemon's log rotation makes files (".0", ".1") that the pool has not seen
        pool.refresh(0)
        for volume in pool.listAllVolumes(0):
            if volume.name().startswith(console_name(uuid)):
                delete(volume)

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        """Budget: 3 calls, 4 for a machine that is off after the daemon was restarted."""
        del timeout
        return self._info(uuid, self._domain(uuid))

    def _info(self, uuid: UUID, domain: Remote) -> InstanceInfo:
        xml = self._xml(domain)
        record = record_in(xml)
        return InstanceInfo(
            uuid=uuid,
            name=label_of(domain.name(), uuid) or record.name,
            state=self._state(domain),
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
        """Budget: 4 calls. The label is in the domain's name (see ``naming.py``)."""
        del timeout
        domain, state = self._checked("rename", uuid)
        if label_of(domain.name(), uuid) == name:
            return
        if state is not InstanceState.STOPPED:
            raise errors.NotSupported(
                "libvirt renames a machine only while it is stopped",
                hint="power_off() first, or keep the label in metadata",
            )
        record = record_in(self._xml(domain)).model_copy(update={"name": name})
        domain.rename(domain_name(name, uuid), 0)
        self._write_record(self._domain(uuid), state, record)

    def set_metadata(
        self, uuid: UUID, metadata: Mapping[str, str], *, timeout: float | None = None
    ) -> None:
        """Budget: 4 calls, 6 for a suspended machine."""
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
            affecting(state),
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
