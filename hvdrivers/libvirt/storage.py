"""Storage on libvirt: volumes of the host's pools, and devices or files that are on the host."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import declared, provides
from hvdrivers.contract.storage import DiskQosControl, Storage
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import (
    as_defined,
    attached_volume,
    bus_of,
    has_free_port,
    limits_in,
    limits_of,
    no_free_port,
    source_of,
    target_prefix,
    volumes_of,
)
from hvdrivers.libvirt.domain import next_target
from hvdrivers.libvirt.domains import Moved, affecting, require_off, xml_of
from hvdrivers.libvirt.encrypted_memory import fitted
from hvdrivers.libvirt.halves import put_back, second_half, taking_out, unwritten, whole
from hvdrivers.libvirt.hardware import with_bus
from hvdrivers.libvirt.held_volumes import free_alias, not_attached, slot_of, write_slot
from hvdrivers.libvirt.metadata import hardware_in
from hvdrivers.libvirt.naming import alias
from hvdrivers.libvirt.odd_files import SECTOR, empty_device, is_no_disk, no_disk, refusal
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.remote_volumes import initiator_name
from hvdrivers.libvirt.secrets import has_secrets
from hvdrivers.libvirt.slots import refuse_one_more
from hvdrivers.libvirt.unplug import taking_back
from hvdrivers.libvirt.volumes import VolumeSources
from hvdrivers.libvirt.xml import Element, attribute, text
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import (
    AttachedVolume,
    DiskBus,
    DiskQos,
    LocalVolume,
    VolumeAttachment,
    VolumeConnector,
)

_REFUSALS = (
    errors.InvalidState,  # the name of the device is taken, or the machine went off
    errors.NotSupported,  # the alias is taken
    errors.InvalidRequest,
    errors.HypervisorFault,
    errors.DeviceBusy,
)
"""What libvirt and the driver answer if the volume has been attached meanwhile."""


class LibvirtStorage(Topic, Storage, DiskQosControl):
    """Core storage, limits, and volumes in libvirt's own pools."""

    @provides(*declared(VolumeSources))
    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        """Budget for a machine that is on: 6 calls, 9 for a volume of a pool, 5 if it is there
        already, 7 if the machine has it and its definition has not; for a stopped one 8, 10 and 5.
        2 more for each secret of a volume. A file by its path costs 1 more, and 4 more if it is in
        no pool. If create_volume() has not made it, it is compared with the instances' disks: 4
        more, 1 for each disk and image in the driver's pool, and 1 or 2 for each instance."""
        del timeout
        deadline = current_deadline()
        return self.domains.change(
            "attach_volume",
            uuid,
            deadline,
            lambda domain, state: self._attach_kept(uuid, attachment, domain, state, deadline),
        )

    def _attach_kept(
        self,
        uuid: UUID,
        attachment: VolumeAttachment,
        domain: Remote,
        state: InstanceState,
        deadline: Deadline,
    ) -> AttachedVolume:
        """Attach, and take it back if another client has deleted the volume meanwhile, or if the
        host does not tell."""
        attached = self._attach(uuid, attachment, domain, state)
        try:
            with changed():
                self.deletions.require_kept(attachment.volume, deadline)
        except errors.OutcomeUnknown:
            raise
        except errors.HypervisorError as error:
            with changed(), taking_out(error):
                self._take_back(uuid, attachment.volume_id, domain, deadline)
            raise
        return attached

    def _take_back(self, uuid: UUID, volume_id: str, domain: Remote, deadline: Deadline) -> None:
        """Detach a volume: at once for later starts, and from the guest when it lets go."""
        stored = volumes_of(xml_of(domain, inactive=True)).get(volume_id)
        live = volumes_of(xml_of(domain)).get(volume_id) if domain.isActive() else None
        name = _alias_of(volume_id, live, stored)
        if stored is not None:
            self.plugging.forget(domain, name, stored)
        with suppress(errors.DeviceBusy):
            self.plugging.take_out(domain, name, live, None, taking_back(deadline))
        self.secrets.delete_of(uuid, volume_id)

    def _attach(
        self, uuid: UUID, attachment: VolumeAttachment, domain: Remote, state: InstanceState
    ) -> AttachedVolume:
        volume_id = attachment.volume_id
        stopped = state is InstanceState.STOPPED
        xml = xml_of(domain, inactive=stopped)
        attachment = with_bus(attachment, hardware_in(xml))
        stored: Element | None = None  # what a running machine's definition has, once it matters
        while True:
            present = volumes_of(xml).get(volume_id)
            if present is not None:
                self.plugging.late.recall(uuid, _alias_of(volume_id, present))
                if has_secrets(present):  # those of an attempt whose reply was lost may be gone
                    self.secrets.make(uuid, attachment)
                if not stopped:
                    self._define_volume(domain, volume_id, present)
                return attached_volume(volume_id, present)
            refuse_one_more(xml, bus_of(attachment))
            if not stopped and bus_of(attachment) is DiskBus.VIRTIO and not has_free_port(xml):
                raise no_free_port()
            if not stopped and bus_of(attachment) is DiskBus.SATA:
                raise errors.NotSupported(
                    "QEMU plugs no SATA disk into a running machine",
                    hint="power_off() it first, or use virtio, scsi or usb",
                )
            flags, target = self._where(attachment, xml, stored, affecting(domain, state))
            disk: Element | None = None
            try:
                disk = self.volumes.element(uuid, attachment, target)
                name = _name_for(disk, volume_id, xml, stored)
                self.plugging.late.forget(uuid, name)
                with undoing() as undo:
                    self.secrets.make(
                        uuid,
                        attachment,
                        undo,
                        needed=partial(self._is_attached, uuid, volume_id, target),
                    )
                    with whole(partial(self._take_volume_back, domain, volume_id)):
                        domain.attachDeviceFlags(text(fitted(disk, xml)), flags)
                break
            except _REFUSALS as error:
                # another client may have attached this volume, or one under this name
                now = xml_of(domain, inactive=stopped)
                stored_now = None if stopped else xml_of(domain, inactive=True)
                if not _has_news(volume_id, target, now, stored_now, flags):
                    if disk is not None and isinstance(error, errors.HypervisorFault):
                        self.volumes.explain_unopened(disk, error)
                    raise
                xml, stored = now, stored_now
        with changed():
            if stopped and isinstance(attachment.volume, LocalVolume):
                self._require_readable(domain, disk)
            xml = xml_of(domain)
        present = volumes_of(xml).get(volume_id)
        if present is None:
            raise Moved  # started meanwhile, without it; or another client has detached it
        return attached_volume(volume_id, present)

    def _take_volume_back(self, domain: Remote, volume_id: str) -> bool:
        """Detach a volume that the definition has not; False: the machine has it not either."""
        return self.plugging.take_back(domain, lambda xml: volumes_of(xml).get(volume_id))

    def _define_volume(self, domain: Remote, volume_id: str, disk: Element) -> None:
        """Let the definition have a volume that the running machine has. One call, three if it had
        it not."""
        if volume_id not in volumes_of(xml_of(domain, inactive=True)):
            with second_half(domain):
                domain.attachDeviceFlags(text(as_defined(disk)), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
            self.plugging.require_kept(domain, lambda xml: volumes_of(xml).get(volume_id))

    def _is_attached(self, uuid: UUID, volume_id: str, target: str) -> bool:
        """Whether an attachment that has failed has taken effect after all: the reply to it may
        have been lost. Two calls, four for a machine that is on.

        Args:
            target: the name that the device was to have.
        """
        # the machine is looked up now: this is how things are undone after a connection was lost
        domain = self.domains.if_there(uuid)
        if domain is None:
            return False
        found = [xml_of(domain, inactive=True)]
        if domain.isActive():
            # the call changes nothing; the host makes it after an attachment that is under way
            with suppress(errors.HypervisorFault, errors.InvalidRequest, errors.InvalidState):
                domain.blockInfo(target, 0)
            found.append(xml_of(domain))
        return any(volume_id in volumes_of(xml) for xml in found)

    @staticmethod
    def _where(
        attachment: VolumeAttachment, xml: Element, stored: Element | None, flags: int
    ) -> tuple[int, str]:
        """What to change, and the name of the device: that of the definition, if that has the
        volume already."""
        parts = [xml] if stored is None else [xml, stored]
        there = volumes_of(stored).get(attachment.volume_id) if stored is not None else None
        if there is None:
            return flags, next_target(target_prefix(attachment), *parts)
        return libvirt.VIR_DOMAIN_AFFECT_LIVE, attribute(there, "target", "dev") or ""

    @staticmethod
    def _require_readable(domain: Remote, disk: Element) -> None:
        """Take a volume away again that the host cannot open: for a stopped machine libvirt looks
        only when it starts. There is no way to ask before the disk is in the definition."""
        try:
            size = int(domain.blockInfo(attribute(disk, "target", "dev"), 0)[2])
            writes = attribute(disk, "driver", "cache") in {"none", "directsync"}
            raw = attribute(disk, "driver", "type") == "raw"
            if size % SECTOR and raw and writes and disk.find("readonly") is None:
                raise refusal(source_of(disk), size)
            if not size and disk.get("type") == "block":
                raise empty_device(source_of(disk))
        except errors.HypervisorError as error:
            with taking_out(error):
                domain.detachDeviceFlags(text(disk), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
            if is_no_disk(error):
                raise no_disk(source_of(disk)) from error
            raise

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        """Budget: 7 calls and one for each repetition of the request; 7 for a stopped machine, 5
        if it is not attached; 1 more for each secret of the volume, and 1, or 2 for a stopped
        machine, after a swap_volume()."""
        del timeout
        deadline = current_deadline()

        def act(domain: Remote, state: InstanceState) -> None:
            definition = xml_of(domain, inactive=True)
            stored = volumes_of(definition).get(volume_id)
            held = [(definition, stored)]
            live = None
            if state is InstanceState.RUNNING:
                running = xml_of(domain)
                live = volumes_of(running).get(volume_id)
                held.append((running, live))
            for _, disk in held:
                if disk is not None and attribute(disk, "boot", "order") == "1":
                    raise errors.InvalidRequest(
                        "the instance boots from this volume",
                        hint=hints.BOOTS,
                    )
            name = _alias_of(volume_id, live, stored)
            self.plugging.take_out(domain, name, live, stored, deadline)
            # by their name: the reply to a detach was lost, or others have changed the definition
            with changed() if stored is not None or live is not None else nullcontext():
                self.secrets.delete_of(uuid, volume_id)
                if any(each is not None and slot_of(xml, each) for xml, each in held):
                    with unwritten():  # it says nothing without the disk
                        write_slot(domain, name, None)

        self.domains.change("detach_volume", uuid, deadline, act)

    def set_disk_qos(
        self, uuid: UUID, volume_id: str, qos: DiskQos | None, *, timeout: float | None = None
    ) -> None:
        """Budget: 4 calls, 6 for a stopped machine."""
        del timeout

        def act(domain: Remote, state: InstanceState) -> None:
            stopped = state is InstanceState.STOPPED

            def found() -> Element | None:
                return volumes_of(xml_of(domain, inactive=stopped)).get(volume_id)

            wanted = limits_of(qos)

            def ours() -> bool:
                now = found()
                return now is not None and limits_in(now) == wanted

            disk = found()
            if disk is not None:
                limit = partial(domain.setBlockIoTune, attribute(disk, "target", "dev"))
                flags = affecting(domain, state)
                before = partial(limit, limits_in(disk), flags)
                try:
                    with whole(partial(put_back, before, ours=ours)):
                        limit(wanted, flags)
                except (errors.InvalidRequest, errors.HypervisorFault):
                    disk = found()  # another client may have detached it
                    if disk is not None:
                        raise
            if disk is None:
                raise not_attached(volume_id)
            if stopped:
                require_off(domain)

        self.domains.change("set_disk_qos", uuid, current_deadline(), act)

    def get_volume_connector(
        self, uuid: UUID | None = None, *, timeout: float | None = None
    ) -> VolumeConnector:
        """Budget: 1 call, 2 on a local URI.

        The initiator is QEMU's own, which needs nothing installed or configured on the host; its
        name is made from the host's UUID and given to QEMU with each volume.
        """
        del uuid, timeout
        host_uuid = self.facts.host_uuid()
        return VolumeConnector(
            ip=self.facts.address(),
            host=str(self.connection.remote.getHostname()),
            initiator=initiator_name(host_uuid),
            platform=self.facts.architecture(),
            os_type="linux",
            multipath=False,
            do_local_attach=False,
            system_uuid=host_uuid,
        )


def _alias_of(volume_id: str, *disks: Element | None) -> str:
    """The alias of a volume's disk; that which it usually has, where it is not attached."""
    names = (attribute(disk, "alias", "name") for disk in disks if disk is not None)
    return next((name for name in names if name), alias("volume", volume_id))


def _name_for(disk: Element, volume_id: str, xml: Element, stored: Element | None) -> str:
    """Name a new disk: as the definition does, if that has the volume already."""
    there = volumes_of(stored).get(volume_id) if stored is not None else None
    if there is not None:
        name = _alias_of(volume_id, there)
    else:
        name = free_alias(volume_id, xml, *(() if stored is None else (stored,)))
    next(disk.iter("alias")).set("name", name)
    return name


def _has_news(
    volume_id: str, target: str, xml: Element, stored: Element | None, flags: int
) -> bool:
    """Whether another client has changed what was refused: the volume is there now, or the name
    of its device has been taken."""
    if volume_id in volumes_of(xml):
        return True
    if stored is not None and volume_id in volumes_of(stored):
        return bool(flags & libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    return any(
        attribute(disk, "target", "dev") == target
        for part in (xml, stored)
        if part is not None
        for disk in part.iterfind("devices/disk")
    )
