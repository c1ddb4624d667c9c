"""Lifecycle on vSphere: spawn, look, rename, metadata.

Spawn takes the instance's folder on the datastore first: making a folder is atomic, so of two
spawns of one UUID, in whatever processes, one gets it. On vCenter one request then clones the
machine from the image's template, with all its devices, and starts it. On ESXi the root disk is
copied from the cached image, one request makes the machine, and another starts it. A machine that
shall run is marked as being built until it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared, provides
from hvdrivers.contract.lifecycle import Lifecycle
from hvdrivers.driverkit import undoing
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.own_disks import seed_of
from hvdrivers.models.disk import DiskRole
from hvdrivers.models.instance import (
    ForeignInstance,
    InstanceInfo,
    InstanceSpec,
    InstanceSummary,
    Keep,
)
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.cloning import cloned_root, evicted
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.images import ImageStore
from hvdrivers.vmware.listing import FULL, info_of
from hvdrivers.vmware.luns import letting_go
from hvdrivers.vmware.machines import VERSION, Machine
from hvdrivers.vmware.moved import SEED
from hvdrivers.vmware.names import machine_name
from hvdrivers.vmware.own_disks import Planned, planned
from hvdrivers.vmware.record import (
    DEVICES,
    MARK,
    RECORD,
    Mark,
    Record,
    news_of_disks,
    option,
    path_of,
    record_in,
)
from hvdrivers.vmware.seen_images import Base, Template, root_capacity
from hvdrivers.vmware.specs import (
    Plan,
    Source,
    cdrom,
    check_flavor,
    machine,
    nic,
    own_disk,
    serial_port,
    volume_disk,
)
from hvdrivers.vmware.virtual_numa import fit_nodes
from hvdrivers.vmware.volumes import exclusive
from hvdrivers.vmware.wiring import backings_of

APPEND = vim.option.OptionValue(key="answer.msg.serial.file.open", value="Append")
"""A machine whose console log is there already would ask what to do, and wait for an answer."""


class VmwareLifecycle(Topic, Lifecycle):
    """Core lifecycle."""

    @provides(*declared(ImageStore), Capability.PCI_PASSTHROUGH, Capability.VGPU, Capability.NUMA)
    @provides(Capability.SERVER_GROUP)
    @timed
    @letting_go
    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        """Budget from a cached image on vCenter: 7 calls, of which the clone is 1 and 1 reads what
        came of it; 2 more to start it. Elsewhere, and for a disk that no template has: 13 calls, 9
        without starting it; 2 more where the disk is larger than the image. On both 1 more for a
        seed and for each volume, 1 if there are volumes or NICs, 4 if there are PCI devices or
        slices of GPUs, 3 for NICs with virtual functions; 8 for each kept disk. 2 for a member
        of a server group, 3 more where the rule changes, and 2 to start it, which the clone does
        not."""
        del timeout
        self.claims.refuse_existing(spec.uuid)
        check_flavor(spec.flavor)
        disks = planned(spec)
        disc = seed_of(spec)
        surroundings = self.groups.checked(spec, self.places.surroundings())
        able = self.encrypted_memory.hosts(spec, surroundings)
        host = self.room.host_of(spec, able)
        if host is None and able is not surroundings and not surroundings.drs:
            host = able.hosts[0].obj
        passed = self.passthrough.find(spec)
        wired = self.functions.of_spec(spec, backings_of(spec.vifs, surroundings))
        sources = [self.volumes.source(spec.uuid, each, surroundings) for each in spec.volumes]
        alone, shared = exclusive(spec.volumes, sources)
        luns = [each.lun.uuid for each in sources if each.lun is not None and spec.start]
        self.usage.require_free(
            spec.uuid,
            volumes=alone,
            shared=shared,
            vifs=[vif.id for vif in spec.vifs] if spec.start else (),
            macs=[vif.mac.lower() for vif in spec.vifs] if spec.start else (),
            luns=luns,
        )
        base = None
        if spec.image is not None:
            base = self.images.bring(spec.image, progress, disk_gib=spec.flavor.disk_gib)
        kept = self.kept_disks.sources(disks, surroundings)
        capacity = root_capacity(spec.flavor, base)
        self.room.require(spec.flavor, capacity or sum(s.size for s in kept.values()), surroundings)
        self.folders.ensure()
        template = self.cloning.template_for(spec, disks, base, surroundings)
        with undoing() as undo:
            self.claims.take(spec.uuid, undo)
            if base is not None and template is None:
                self._copy_root(spec.uuid, base, capacity, progress)
            self.kept_disks.copy(spec.uuid, kept, disks)
            sizes = {role: each.size for role, each in kept.items()}
            if base is not None:
                sizes["root"] = capacity
            plan = self._plan(spec, disks, sizes, wired, sources, disc=disc, template=template)
            record = Record.of(spec, base.key if base else None)
            config = self._config_of(spec, record, plan)
            fit_nodes(config, spec.flavor, self.session.content.about.apiVersion)
            self.passthrough.fit(config, plan, spec, passed)
            # while the machine may be there its folder stays
            undo.callback(self.removal.remove_machine, spec.uuid, record, guards=undo.steps)
            if template is not None and base is not None:
                store = surroundings.datastore(self.places.get().datastore).obj
                obj = self.cloning.clone(
                    spec, base, template, config, store=store, host=host, progress=progress
                )
            else:
                obj = self._make_machine(spec, config, host)
                self.passthrough.require_alone(spec, passed)
            found = self._started(spec, obj, cloned=template is not None)
            self.luns.require_free(spec.uuid, luns)  # nothing locks them
            current_deadline().check("the machine was made")
            self.kept_disks.take_over(kept, undo)
            return info_of(found or self.machines.get(spec.uuid, *FULL))

    def _started(self, spec: InstanceSpec, obj: Any, *, cloned: bool) -> Machine | None:
        """Make it a member of its group, and start it if it shall run and does not."""
        self.machines.known.put(spec.uuid, obj)
        self.groups.settle(spec.server_group, joins=spec.uuid)
        found = self.machines.get(spec.uuid, *FULL, VERSION) if cloned else None
        if spec.start:
            if found is None or found.state is not InstanceState.RUNNING:
                self.power.on(obj)
                found = self.machines.get(spec.uuid, *FULL, VERSION)
            self._finish(found)
        return found

    def _copy_root(
        self, uuid: UUID, base: Base, capacity: int, progress: ProgressCallback | None
    ) -> None:
        target = f"{self.folders.instance(uuid)}/root.vmdk"
        try:
            self.files.copy_disk(base.path, target, progress=progress)
        except errors.VolumeNotFound as error:
            self.seen.forget(base)
            raise evicted(error) from error
        if capacity > base.virtual_size:
            self.files.extend_disk(target, capacity)

    @provides(
        Capability.EPHEMERAL_DISK,
        Capability.SWAP_DISK,
        Capability.CONFIG_DRIVE,
        Capability.USER_DATA,
        Capability.SEED_DISC,
        Capability.BOOT_FROM_VOLUME,
    )
    def _plan(
        self,
        spec: InstanceSpec,
        disks: Sequence[Planned],
        made: Mapping[str, int],
        wired: Mapping[str, tuple[Any, Any]],
        sources: list[Source],
        *,
        disc: bytes | None,
        template: Template | None,
    ) -> Plan:
        """What a new machine is made of.

        Args:
            made: sizes in bytes of the disks that are there, by role. The others are made with the
                machine.
            template: what the machine is cloned from, with its root disk.
        """
        folder = self.folders.instance(spec.uuid)
        plan = Plan(self.room.slots(template.devices if template is not None else ()))
        if template is not None:
            cloned_root(plan, template, made[DiskRole.ROOT])

        def add(disk: Planned) -> None:
            size = made.get(disk.role, disk.size)
            create = disk.role not in made
            path = f"{folder}/{disk.role}.vmdk"
            own_disk(plan, disk.role, path, size, create=create, bus=disk.bus)

        for disk in disks:
            if disk.role == DiskRole.ROOT and template is None:
                add(disk)
        for attachment, source in zip(spec.volumes, sources, strict=True):
            volume_disk(plan, attachment, source)
        for disk in disks:
            if disk.role != DiskRole.ROOT:
                add(disk)
        if disc is not None:
            self.files.upload(f"{folder}/{SEED}.iso", disc, len(disc))
            cdrom(plan, SEED, f"{folder}/{SEED}.iso")
        for vif in spec.vifs:
            backing, function = wired[vif.id]
            nic(plan, vif, backing, function=function)
        serial_port(plan, f"{folder}/console.log")
        return plan

    @provides(Capability.UEFI, Capability.SECURE_BOOT, Capability.VTPM, Capability.SEV)
    def _config_of(self, spec: InstanceSpec, record: Record, plan: Plan) -> Any:
        mark = Mark(
            uuid=spec.uuid,
            name=spec.name,
            building=spec.start,
            sev=spec.sev,
            server_group=spec.server_group,
        )
        return machine(
            spec,
            plan,
            [
                option(MARK, mark),
                option(RECORD, record),
                option(DEVICES, plan.devices()),
                APPEND,
            ],
            guest_id=self.config.guest_id,
        )

    def _make_machine(self, spec: InstanceSpec, config: Any, host: Any) -> Any:
        place = self.places.get()
        config.name = machine_name(spec.name, spec.uuid)
        path = f"{self.folders.instance(spec.uuid)}/{spec.uuid}.vmx"
        config.files = vim.vm.FileInfo(vmPathName=path)
        return self.tasks.run(
            lambda: place.vm_folder.CreateVM_Task(config, place.pool, host),
            entity=place.vm_folder,
        )

    def _finish(self, found: Machine) -> None:
        """Say that the machine is built, and which disks it has got."""
        built = option(MARK, found.mark.model_copy(update={"building": False}))
        values = vim.vm.ConfigSpec(extraConfig=[built])
        disks = news_of_disks(found.row)
        if disks is not None:
            values.changeVersion = found.row.get(VERSION)
            values.extraConfig.append(option(DEVICES, disks))
        try:
            self.changes.reconfigure(found.obj, values)
        except errors.DeviceBusy as error:
            if error.vendor_code != "ConcurrentAccess":
                raise
            # another client has changed the machine meanwhile: the next change tells the disks
            self.changes.reconfigure(found.obj, vim.vm.ConfigSpec(extraConfig=[built]))

    # ---- the end --------------------------------------------------------------------------------

    @timed
    def destroy(
        self,
        uuid: UUID,
        *,
        keep: AbstractSet[Keep] = frozenset(),
        timeout: float | None = None,
    ) -> None:
        """Budget: 5 calls, 2 more for each of: a running machine, attached volumes. To keep disks 2
        more, 3 for each, and 2 for each that is a child of an image; the first time 3 for folders.
        If it has snapshots 1 more; if those are merged (of a clone, and to keep disks) 3 more, and
        1 for each kept disk. For LUNs as detach_volume(). For a
        machine that is not there 2 more; 4 if somebody has detached one of its disks, and 2 for
        each; 1 for an adopted machine; 2 for a member of a server group, 3 more where the rule
        changes.

        Raises:
            DeviceBusy: another machine has one of its disks, which somebody has detached here or
                which it shares as an adopted machine, or is a linked clone of it.
        """
        del timeout
        self.removal.destroy(uuid, keep)

    # ---- looking --------------------------------------------------------------------------------

    @timed
    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        """Budget: 2 calls, 1 for a machine that this driver has seen before."""
        del timeout
        return self.listing.instance(uuid)

    @timed
    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        """Budget: 1 call, and 1 for each 1,000 machines beyond the first."""
        del timeout
        return self.listing.instances()

    @timed
    def list_foreign(self, *, timeout: float | None = None) -> Sequence[ForeignInstance]:
        """Budget: as list_instances()."""
        del timeout
        return self.listing.foreign()

    # ---- label and metadata ---------------------------------------------------------------------

    @provides(Capability.HOT_RENAME)
    @timed
    @rereading
    def rename(self, uuid: UUID, name: str, *, timeout: float | None = None) -> None:
        """Budget: 1 read and 1 reconfiguration."""
        del timeout
        found = self.machines.checked("rename", uuid, VERSION)
        if found.mark.name == name:
            return
        mark = found.mark.model_copy(update={"name": name})
        self.changes.reconfigure(
            found.obj,
            vim.vm.ConfigSpec(
                changeVersion=found.row.get(VERSION),
                name=machine_name(name, uuid),
                extraConfig=[option(MARK, mark)],
            ),
        )

    @timed
    @rereading
    def set_metadata(
        self, uuid: UUID, metadata: Mapping[str, str], *, timeout: float | None = None
    ) -> None:
        """Budget: 1 read and 1 reconfiguration."""
        del timeout
        found = self.machines.checked("set_metadata", uuid, path_of(RECORD), VERSION)
        record = record_in(found.row).model_copy(update={"metadata": dict(metadata)})
        self._write_record(found, record)

    def _write_record(self, found: Machine, record: Record) -> None:
        config = vim.vm.ConfigSpec(
            changeVersion=found.row.get(VERSION), extraConfig=[option(RECORD, record)]
        )
        self.changes.reconfigure(found.obj, config)
