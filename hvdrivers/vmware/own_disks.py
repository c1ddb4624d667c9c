"""An instance's own disks: made by spawn() from an image, from nothing, or from a kept one.

A kept disk is copied, and its volume is deleted when the machine is there. So a spawn() that fails,
or a process that dies, leaves the volume as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.driverkit.own_disks import wanted_disks
from hvdrivers.driverkit.undo import Undo, changed
from hvdrivers.hints import VOLUMES
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.volume import DiskBus
from hvdrivers.vmware.devices import bus_of
from hvdrivers.vmware.files import Files
from hvdrivers.vmware.folders import Folders
from hvdrivers.vmware.names import is_part
from hvdrivers.vmware.place import Surroundings
from hvdrivers.vmware.specs import Source
from hvdrivers.vmware.usage import Usage


@dataclass(frozen=True)
class Planned:
    """One of the disks that a machine shall have."""

    role: str
    """``root``, ``ephemeral``, ``ephemeral-1``, ``swap``."""
    size: int
    """Bytes; 0 for the root disk: as large as what it is made from."""
    bus: DiskBus
    kept: str | None = None
    """The host volume that becomes this disk."""


def planned(spec: InstanceSpec) -> list[Planned]:
    """The disks, in the order of the guest.

    Raises:
        NotSupported: one of them on a bus that vSphere does not have.
    """
    return [
        Planned(disk.name, disk.size, bus_of(disk.wish.bus), disk.wish.kept)
        for disk in wanted_disks(spec)
    ]


class KeptDisks:
    """Host volumes that become disks of an instance."""

    def __init__(self, files: Files, folders: Folders, usage: Usage) -> None:
        self._files = files
        self._folders = folders
        self._usage = usage

    def sources(self, disks: Sequence[Planned], surroundings: Surroundings) -> dict[str, Source]:
        """The kept disks by role. Two calls for each, none without one.

        Raises:
            VolumeNotFound: the host has no such volume.
            DeviceBusy: a machine has it.
            InvalidRequest: it is larger than the disk of the spec.
        """
        found = {}
        for disk in disks:
            if disk.kept is None:
                continue
            pool, _, name = disk.kept.rpartition("/")
            path = self._folders.path("volumes", f"{name}.vmdk", datastore=pool)
            there = pool in surroundings.datastores and not is_part(name)
            size = self._files.disk_size(path) if there else None
            if size is None:
                raise errors.VolumeNotFound(f"the host has no volume {disk.kept!r}", hint=VOLUMES)
            if disk.size and size > disk.size:
                raise errors.InvalidRequest(
                    f"the volume {disk.kept!r} has {size} bytes, and the disk of the spec"
                    f" {disk.size}",
                    hint=hints.LARGER_DISK,
                )
            self._usage.require_unattached(None, path)
            found[disk.role] = Source(path, max(size, disk.size))
        return found

    def copy(self, uuid: UUID, kept: dict[str, Source], disks: Sequence[Planned]) -> None:
        """Copy them into the instance's folder. Two tasks for each."""
        for disk in disks:
            source = kept.get(disk.role)
            if source is not None:
                target = f"{self._folders.instance(uuid)}/{disk.role}.vmdk"
                self._files.copy_disk(source.path, target)
                self._files.extend_disk(target, source.size)

    def take_over(self, kept: dict[str, Source], undo: Undo) -> None:
        """Delete the volumes that are the machine's own disks now. From the first one on nothing is
        undone: the machine's disk is the only one with that content."""
        for number, source in enumerate(kept.values()):
            try:
                if not number:
                    self._usage.require_unattached(None, source.path)
                self._files.delete_disk(source.path)
            except errors.OutcomeUnknown:
                undo.forget_all()
                raise
            except errors.HypervisorError as error:
                if not number:
                    raise
                with changed():
                    raise errors.OutcomeUnknown(
                        f"the machine is there, and the volume {source.path}, which it has a copy"
                        f" of, is there too: {error.message}",
                        hint="delete_volume() it",
                    ) from error
            undo.forget_all()
