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

import functools
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared, provides
from hvdrivers.contract.lifecycle import Lifecycle
from hvdrivers.driverkit.checks import root_disk_bytes
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.undo import Undo, changed
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.claim import is_made
from hvdrivers.libvirt.dedicated import Dedicated
from hvdrivers.libvirt.definition import complete, define
from hvdrivers.libvirt.domain import domain_xml
from hvdrivers.libvirt.domains import affecting, require_off
from hvdrivers.libvirt.encrypted_memory import refuse_unencrypted
from hvdrivers.libvirt.halves import WRITABLE, WRITABLE_THEN, is_unwritten
from hvdrivers.libvirt.hardware import refuse_hardware, wished
from hvdrivers.libvirt.huge_pages import HugePageStock
from hvdrivers.libvirt.image_store import ImageStore
from hvdrivers.libvirt.metadata import METADATA_NAMESPACE, Record, keep, metadata_text, put
from hvdrivers.libvirt.move_source import leave_destination
from hvdrivers.libvirt.naming import (
    NVRAM,
    console_name,
    disk_name,
    domain_name,
    is_helper,
    is_rescued,
    label_of,
)
from hvdrivers.libvirt.overlays import Base
from hvdrivers.libvirt.own_disks import OwnDisks
from hvdrivers.libvirt.passthrough import Passthrough
from hvdrivers.libvirt.placement import host_cells, placement_elements
from hvdrivers.libvirt.redefining import redefine_saved
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.shown import shown
from hvdrivers.libvirt.slots import refuse_too_many
from hvdrivers.libvirt.start import start_new
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.instance import (
    Firmware,
    ForeignInstance,
    InstanceInfo,
    InstanceSpec,
    InstanceSummary,
    Keep,
)
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState, StartAs
from hvdrivers.models.vif import MacvtapVif

_FORGOTTEN = (
    f"{WRITABLE}. libvirt could not write the definition and has lost sight of the machine's"
    " process, which runs on without its disks: restart libvirtd on the host, and destroy() the"
    " machine then"
)
"""libvirt 9.0 takes a machine that runs without a definition off its list when it cannot write
one. Its daemon finds the process again when it starts."""


class LibvirtLifecycle(Topic, Lifecycle):
    """Core lifecycle."""

    @provides(
        *declared(ImageStore),
        *declared(OwnDisks),
        *declared(Dedicated),
        *declared(HugePageStock),
        *declared(Passthrough),
    )
    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        """Budget from a cached image: 9 calls, 8 without starting it; 3 more for a seed, 1 for
        each ephemeral or swap disk and each bridge, 2 for each network of libvirt's own, 1 for
        each local volume, 4 for one of a pool; for a kept disk those of three delete_volume(), for
        a file that the driver has not made those that attach_volume() names, for such an image once
        for each connection; with PCI devices of the host, NICs among them, 3, 2 for each device
        and 1 for each machine of the host, 2 if it is on; for macvtap 1, over a PCI device 2 and 1
        for each network device of the host; for a vDPA device 1 and 1 for each of the host's; 3 for
        a vhost-user port whose socket QEMU makes. 7 of the 9 are made in sequence, the others
        beside them."""
        del timeout
        deadline = current_deadline()
        refuse_hardware(spec, self.facts.domain_capabilities())
        spec = wished(spec)
        disc = self.own_disks.seed_of(spec)
        refuse_too_many(spec, discs=disc is not None)
        choice = self.facts.choice(spec.hardware.machine_type)
        self.networks.refuse_emulated(spec.vifs, choice.virt_type)
        refuse_unencrypted(spec, virt_type=choice.virt_type, machine=choice.machine)
        placement = self._placement(spec)
        spec = spec.model_copy(update={"vifs": self.networks.found(spec.vifs)})
        self.huge_pages.require(spec.flavor, spec.numa, starts=spec.start)
        found, volumes = self._looked_up(spec)
        base = found
        if spec.image is not None and base is None:
            base = self.images.bring(spec.image, deadline, progress)
        capacity = _root_capacity(spec, base)
        with self.claims.take(spec.uuid, deadline) as undo:
            disks, taken = self.own_disks.make(spec, base, capacity, disc, undo)
            for attachment in spec.volumes:
                self.secrets.make(spec.uuid, attachment, undo)
            deadline.check("disks were made")
            record = Record.of(spec, base.key if base else None, self.facts.default_firmware())
            with (
                self.passthrough.new(spec, undo) as hostdevs,
                self.dedicated.new(spec.flavor, spec.numa, starts=spec.start) as pins,
            ):
                xml = domain_xml(
                    spec,
                    record,
                    choice,
                    disks=disks,
                    volumes=volumes,
                    console_path=self.pools.console_path(console_name(spec.uuid)),
                    nvram_path=self.pools.disk_path(disk_name(spec.uuid, NVRAM)),
                    placement=[each for each in (pins.element(), *placement) if each is not None],
                    hostdevs=hostdevs,
                )
                domain = self._make_domain(spec, base, record.firmware, xml, undo)
            for attachment in spec.volumes:
                self.deletions.require_kept(attachment.volume, deadline)
            self.own_disks.take_over(taken, undo)
            return shown(spec.uuid, domain, _state_after(spec))

    def _looked_up(self, spec: InstanceSpec) -> tuple[Base | None, list[Element]]:
        """Check what can be checked before anything of the instance is made: its UUID, networks,
        volumes and image. None of these looks depends on another."""

        def places() -> list[Element]:
            self.networks.require(spec.vifs, starts=spec.start)
            taps = (each.tap for each in spec.vifs if isinstance(each, MacvtapVif))
            self.networks.refuse_taken(spec.uuid, *taps)
            return self.volumes.elements(spec)

        bases: list[Base | None] = []
        volumes: list[Element] = []
        looks: list[Callable[[], object]] = [partial(self._refuse_existing, spec.uuid)]
        if spec.vifs or spec.volumes:
            looks.append(lambda: volumes.extend(places()))
        if spec.disks:
            looks.append(partial(self.own_disks.refuse_kept, spec))
        if (image := spec.image) is not None:
            looks.append(lambda: bases.append(self.images.base_if_there(image)))
        self.connection.together(*looks)
        return (bases[0] if bases else None), volumes

    @provides(Capability.NUMA)
    def _placement(self, spec: InstanceSpec) -> list[Element]:
        cells = host_cells(self.facts.capabilities()) if spec.numa else []
        return placement_elements(spec.numa, cells)

    def _refuse_existing(self, uuid: UUID) -> None:
        try:
            domain = self.connection.remote.lookupByUUIDString(str(uuid))
        except errors.InstanceNotFound:
            return
        # To a caller who tries again after a lost reply InstanceExists says that it is done. While
        # the machine is being started, that is not sure yet: claims.take() waits for the outcome.
        if label_of(domain.name(), uuid) is not None and not is_made(domain):
            return
        raise errors.InstanceExists("a machine with this UUID exists", instance=uuid)

    @provides(
        *(Capability.BOOT_FROM_VOLUME, Capability.UEFI, Capability.SECURE_BOOT),
        *(Capability.VTPM, Capability.SEV),
    )
    def _make_domain(
        self, spec: InstanceSpec, base: Base | None, firmware: Firmware, xml: str, undo: Undo
    ) -> Remote:
        def make() -> Remote:
            return self._made_domain(spec, firmware, xml, undo)

        if base is None:
            return make()
        # whether the image is still there may come out beside it: a machine is removed again
        made: list[Remote] = []
        try:
            with self.overlays.over(base):
                self.connection.together(
                    lambda: made.append(make()), partial(self.overlays.require_still_cached, base)
                )
        except (errors.HypervisorFault, errors.VolumeNotFound):
            self.overlays.require_still_cached(base)  # that is why it could not be started
            raise
        return made[0]

    def _made_domain(self, spec: InstanceSpec, firmware: Firmware, xml: str, undo: Undo) -> Remote:
        remote = self.connection.remote
        if spec.start and firmware is not Firmware.BIOS:
            undo.callback(self.removal.delete_nvram, spec.uuid)
        # of a machine that may be there, and run, nothing is deleted
        needed = undo.steps
        undo.callback(self.removal.remove_domain, spec.uuid, guards=needed)
        try:
            if spec.start:
                start_new(remote, xml, paused=spec.start_as is StartAs.PAUSED)
            domain = self._defined(spec, xml)
        except errors.OutcomeUnknown:
            undo.forget()
            undo.callback(
                partial(self.removal.remove_domain, spec.uuid, is_coming=True), guards=needed
            )
            raise
        if spec.start and domain.ID() < 0:
            raise errors.HypervisorFault(
                "the machine ended before it was complete",
                hint="somebody has destroyed it, or it has died: the daemon's log tells",
            )
        return domain

    def _defined(self, spec: InstanceSpec, xml: str) -> Remote:
        try:
            return define(self.connection.remote, xml, validated=spec.start)
        except errors.HypervisorError as error:
            if is_unwritten(error) and self._is_forgotten(spec):
                error.hint = _FORGOTTEN
            raise

    def _is_forgotten(self, spec: InstanceSpec) -> bool:
        """Whether libvirt does not know the machine any more that it has just started. One call."""
        with suppress(errors.HypervisorError):
            return spec.start and self.domains.if_there(spec.uuid) is None
        return False

    def complete_spawns(self) -> None:
        """Define what runs because its spawn was interrupted, and was not defined any more. One
        call, and four for each such machine."""
        for domain in self.connection.remote.listAllDomains(
            libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT
        ):
            # an adopted machine has a definition
            if label_of(domain.name(), UUID(domain.UUIDString())) is not None:
                # of no importance to whoever connects; the next one will try as well
                with suppress(errors.HypervisorError):
                    complete(domain)

    def destroy(
        self,
        uuid: UUID,
        *,
        keep: AbstractSet[Keep] = frozenset(),
        timeout: float | None = None,
    ) -> None:
        """Budget: 5 calls for the domain, 1 for each of its disks and logs, 3 for the pools, 1 for
        secrets; 2 more if it did not run, 5 more for each disk that is kept. 1 more for each disk
        that migrate_storage() has moved to another pool; on a host with slices of GPUs 1 more, and
        2 for each that it has. Of an adopted machine 2 more, and for each of its disks 1 and those
        of delete_volume(); with ``keep`` 5 more for each, and those of delete_volume() again. 8 of
        the 11 for a machine with one disk are made in sequence, the others beside them."""
        del timeout
        again = self.removal.destroy(uuid, keep, partial(leave_destination, self, uuid))
        with changed():
            if Capability.VGPU not in self.facts.narrowed():
                self.passthrough.vgpus.remove(uuid)
            for _ in range(2):
                if not again or not self.removal.anything_of(uuid):
                    return
                again = self.removal.destroy(uuid, keep, partial(leave_destination, self, uuid))

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        """Budget: 3 calls, 4 for a machine that has not run since the daemon was started; 1 more
        for an adopted one."""
        del timeout

        def look() -> InstanceInfo:
            domain, label, state = self.domains.seen(uuid)
            return shown(uuid, domain, state, label)

        return self.connection.straight(look)

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        """Budget: 2 calls for any number of instances; 1 more where the host has machines that
        spawn() has not made."""
        del timeout
        return [
            _line(
                uuid,
                known.label,
                state,
                int(stats.get("vcpu.current", 1)),
                int(stats.get("balloon.maximum", 0)) // 1024,
            )
            for uuid, known, state, stats in self.listing.ours()
        ]

    def list_foreign(self, *, timeout: float | None = None) -> Sequence[ForeignInstance]:
        """Budget: 2 calls for any number of machines; 1 more where there are any that spawn() has
        not made."""
        del timeout
        machines = self.listing.machines()
        labels = self.identity.labels((uuid, name) for uuid, name, _, _ in machines)
        return [
            ForeignInstance(uuid=uuid, name=name, state=state)
            for uuid, name, state, _ in machines
            if uuid not in labels and not is_helper(name)
        ]

    def rename(self, uuid: UUID, name: str, *, timeout: float | None = None) -> None:
        """Budget: 4 calls. The label is in the domain's name (see ``naming.py``). 4 more for an
        adopted machine: its label is in its mark, and its domain keeps its name."""
        del timeout

        def act(domain: Remote, state: InstanceState) -> None:
            now = label_of(domain.name(), uuid)
            if now is None:
                self.identity.rename(uuid, name)
                return
            if now == name:
                return
            if state is not InstanceState.STOPPED:
                raise errors.NotSupported(
                    "libvirt renames a machine only while it is stopped",
                    hint="power_off() first, or keep the label in metadata",
                )
            rescued = is_rescued(domain.name(), uuid)  # it went off, and the disk is there still
            domain.rename(domain_name(name, uuid, rescued=rescued), 0)

        self.domains.change("rename", uuid, current_deadline(), act)

    def set_metadata(
        self, uuid: UUID, metadata: Mapping[str, str], *, timeout: float | None = None
    ) -> None:
        """Budget: 3 calls for a machine that is on, 5 for one that is off, 7 for a suspended
        one."""
        del timeout
        content = metadata_text(metadata)

        def act(domain: Remote, state: InstanceState) -> None:
            if state is InstanceState.SUSPENDED:
                redefine_saved(domain, lambda saved: put(saved, METADATA_NAMESPACE, content))
            flags = affecting(domain, state)
            try:
                keep(domain, METADATA_NAMESPACE, content, flags)
            except errors.HypervisorError as error:
                if not is_unwritten(error):
                    raise
                # libvirt 9.0 changes the definition that it has in memory, and then writes it
                raise errors.OutcomeUnknown(
                    "libvirt could not write the definition, and shows the new metadata until it is"
                    f" restarted: {error.message}",
                    vendor_code=error.vendor_code,
                    hint=WRITABLE_THEN,
                ) from error
            if not flags & libvirt.VIR_DOMAIN_AFFECT_LIVE:
                require_off(domain)

        self.domains.change("set_metadata", uuid, current_deadline(), act)


_line = functools.lru_cache(16384)(InstanceSummary.of)
"""A line of a list. One that says the same as in an earlier list is that line."""


def _state_after(spec: InstanceSpec) -> InstanceState:
    if not spec.start:
        return InstanceState.STOPPED
    return InstanceState.PAUSED if spec.start_as is StartAs.PAUSED else InstanceState.RUNNING


def _root_capacity(spec: InstanceSpec, base: Base | None) -> int:
    if base is None:
        return 0
    return root_disk_bytes(base.virtual_size, spec.flavor.disk_gib)
