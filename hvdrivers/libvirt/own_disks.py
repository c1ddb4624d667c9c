"""An instance's own disks: made by spawn() from an image, from nothing, or from a kept one.

Libvirt renames no volume. So a kept disk is copied, and its volume is deleted when the machine is
there: whoever deletes it has taken it over, and a spawn() that fails before leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import UUID

from hvdrivers import hints
from hvdrivers.cloudinit import build_seed
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.own_disks import disc_of
from hvdrivers.driverkit.undo import Undo, changed
from hvdrivers.libvirt.deletions import Deletions
from hvdrivers.libvirt.disk_plan import Planned, named, planned, seed_drive
from hvdrivers.libvirt.domain import OwnDisk, next_target
from hvdrivers.libvirt.image_store import ImageStore
from hvdrivers.libvirt.naming import SEED, disk_name
from hvdrivers.libvirt.overlays import Base, Overlays
from hvdrivers.libvirt.pools import Pools, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import needing_room
from hvdrivers.libvirt.stored_volumes import StoredVolumes, no_such_volume
from hvdrivers.libvirt.xml import el, parse
from hvdrivers.models.disk import DiskRole
from hvdrivers.models.instance import InstanceSpec


@dataclass(frozen=True)
class Taken:
    """A host volume whose content is an instance's own disk now."""

    volume_id: str
    pool: Remote
    volume: Remote


class OwnDisks:
    """What spawn() does about disks."""

    def __init__(
        self,
        pools: Pools,
        overlays: Overlays,
        images: ImageStore,
        stored: StoredVolumes,
        deletions: Deletions,
    ) -> None:
        self._pools = pools
        self._overlays = overlays
        self._images = images
        self._stored = stored
        self._deletions = deletions

    @provides(Capability.EPHEMERAL_DISK, Capability.SWAP_DISK)
    def make(
        self, spec: InstanceSpec, base: Base | None, capacity: int, disc: bytes | None, undo: Undo
    ) -> tuple[list[OwnDisk], list[Taken]]:
        """Make the disks; those of kept volumes are copies until ``take_over()``.

        Args:
            disc: the content of the seed disc.
        """
        disks, taken = [], []
        for each in planned(spec):
            if each.kept is not None:
                taken.append(self._copy_kept(spec.uuid, each, undo))
            elif base is not None and each.role == DiskRole.ROOT:
                backing = base.path, base.format
                with self._overlays.over(base):
                    self._create(spec.uuid, each.role, capacity, undo, backing=backing)
            else:
                self._create(spec.uuid, each.role, each.size, undo)
            path = self._pools.disk_path(disk_name(spec.uuid, each.role))
            disks.append(OwnDisk(each.role, path, "qcow2", each.target, each.bus))
        if disc is not None:
            volume = self._create(spec.uuid, SEED, len(disc), undo, format_="raw")
            self._images.upload_bytes(volume, disc)
            path = self._pools.disk_path(disk_name(spec.uuid, SEED))
            own = el("domain", el("devices", *(named(disk.target) for disk in disks)))
            drive = seed_drive(spec.seed, spec.hardware)
            target = next_target(drive.prefix, own)
            disks.append(
                OwnDisk(SEED, path, "raw", target, drive.bus, cdrom=drive.cdrom, read_only=True)
            )
        return disks, taken

    def _create(
        self,
        uuid: UUID,
        role: str,
        capacity: int,
        undo: Undo,
        *,
        format_: str = "qcow2",
        backing: tuple[str, str] | None = None,
        content: Remote | None = None,
    ) -> Remote:
        current_deadline().check("disks were made")
        undo.callback(self._pools.delete_disk, disk_name(uuid, role))
        # what is filled by an upload has all of its room from the beginning (see ``sent.py``)
        whole = capacity if format_ == "raw" else 0
        xml = volume_xml(
            disk_name(uuid, role), capacity, format_, backing=backing, allocation=whole
        )
        allocation = int(content.info()[2]) if content is not None else whole
        try:
            pool = self._pools.disks()
            with needing_room(pool, allocation, capacity=capacity):
                made: Remote = (
                    pool.createXML(xml, 0)
                    if content is None
                    else pool.createXMLFrom(xml, content, 0)
                )
        except errors.DeviceBusy as error:
            undo.forget()  # it is no disk of this spawn
            raise errors.DeviceBusy(
                "a disk of an instance with this UUID exists, and no machine",
                instance=uuid,
                vendor_code=error.vendor_code,
                hint="it is the rest of an earlier one: destroy() removes it",
                retryable=False,
            ) from error
        except errors.HypervisorFault as error:
            # libvirt has no code for "the base is missing"
            raise errors.HypervisorFault(
                f"the disk could not be made: {error.message}",
                vendor_code=error.vendor_code,
                hint=error.hint,
            ) from error
        return made

    @provides(Capability.CONFIG_DRIVE, Capability.USER_DATA, Capability.SEED_DISC)
    def seed_of(self, spec: InstanceSpec) -> bytes | None:
        """The content of the seed disc. No call.

        Raises:
            InvalidRequest: the caller's file cannot be read.
            NotSupported: QEMU has no drive for it.
        """
        if spec.seed is not None:
            seed_drive(spec.seed, spec.hardware)
            return disc_of(spec.seed)
        if spec.cloud_init is not None:
            return build_seed(spec.cloud_init, uuid=spec.uuid, name=spec.name)
        return None

    # ---- kept disks ------------------------------------------------------------------------------

    def refuse_kept(self, spec: InstanceSpec) -> None:
        """Raise what a kept disk of the spec is refused for. No call without one."""
        for each in planned(spec):
            if each.kept is not None:
                self._kept_volume(each.kept, each.size)

    def _kept_volume(self, volume_id: str, most: int) -> tuple[Remote, Remote]:
        """Pool and volume of what becomes a disk of at most so many bytes (0: of any size). Calls
        as for delete_volume()."""
        found = self._stored.find(volume_id)
        if not found:
            raise no_such_volume(volume_id)
        pool, volume, _, format_ = found[0]
        if format_ != "qcow2":
            # libvirt would copy it in the format that its first bytes say, and these are a guest's
            raise errors.NotSupported(
                f"the volume {volume_id!r} is {format_}, and a kept disk is qcow2",
                hint="attach_volume() it; destroy(keep=...) makes qcow2",
            )
        size = int(parse(volume.XMLDesc(0)).findtext("capacity") or 0)
        if most and size > most:
            raise errors.InvalidRequest(
                f"the volume {volume_id!r} has {size} bytes, and the disk of the spec {most}",
                hint=hints.LARGER_DISK,
            )
        self._stored.refuse_used(volume)
        return pool, volume

    def _copy_kept(self, uuid: UUID, disk: Planned, undo: Undo) -> Taken:
        assert disk.kept is not None  # noqa: S101 - the caller has looked
        pool, volume = self._kept_volume(disk.kept, disk.size)
        size = int(parse(volume.XMLDesc(0)).findtext("capacity") or 0)
        made = self._create(uuid, disk.role, size, undo, content=volume)
        if disk.size > size:
            made.resize(disk.size, 0)
        return Taken(disk.kept, pool, volume)

    def take_over(self, taken: Sequence[Taken], undo: Undo) -> None:
        """Delete the volumes that are the machine's own disks now. From the first one on nothing is
        undone: the machine's disk is the only one with that content."""
        with ExitStack() as deletions:
            marks = [
                (
                    each.pool,
                    deletions.enter_context(self._deletions.deleting(each.pool, each.volume_id)),
                )
                for each in taken
            ]
            if taken:
                self._stored.refuse_used(taken[0].volume)
            for pool, mark in marks:
                self._deletions.require_mark(pool, mark)
            self._delete_taken(taken, undo)

    @staticmethod
    def _delete_taken(taken: Sequence[Taken], undo: Undo) -> None:
        for number, each in enumerate(taken):
            try:
                each.volume.delete(0)
            except errors.OutcomeUnknown:
                undo.forget_all()
                raise
            except errors.HypervisorError as error:
                if not number:
                    raise  # VolumeNotFound: another spawn() has taken it
                with changed():
                    raise errors.OutcomeUnknown(
                        f"the machine is there, and the volume {each.volume_id!r}, which it has a"
                        f" copy of, is there too: {error.message}",
                        hint="delete_volume() it",
                    ) from error
            undo.forget_all()
