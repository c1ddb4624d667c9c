"""Disks of an instance that destroy() leaves as host volumes.

Libvirt cannot rename a volume; a copy also stands alone, without the cached image. Two marks for
each disk tell the next destroy(), if this one is interrupted, how far it has come: only a copy that
is complete may cost the original, and only a half one of ours may be replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import PurePosixPath
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.driverkit.own_disks import keeps
from hvdrivers.driverkit.undo import undoing
from hvdrivers.libvirt.chains import described
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import own_disks_in
from hvdrivers.libvirt.files import written_at
from hvdrivers.libvirt.naming import ROOT, VOLUME_PREFIX, disk_name, is_copy, is_root
from hvdrivers.libvirt.pools import Pools, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import needing_room_alone
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.instance import Keep

_BEGUN, _DONE = "keeping", "kept"


@dataclass(frozen=True)
class KeptDisk:
    """One disk that is kept."""

    uuid: UUID
    role: str
    name: str
    """Of its file in the disk pool."""

    @property
    def volume(self) -> str:
        """Name of the volume that it becomes."""
        return f"{VOLUME_PREFIX}{self.uuid}-{self.role}.qcow2"

    @property
    def begun(self) -> str:
        """Name of the mark "a copy has been begun"."""
        return self._mark(_BEGUN)

    @property
    def done(self) -> str:
        """Name of the mark "the copy is complete"."""
        return self._mark(_DONE)

    def _mark(self, word: str) -> str:
        return disk_name(self.uuid, word if self.role == ROOT else f"{word}-{self.role}")


def own_names(domain: Element | None, own: Mapping[str, Remote]) -> dict[str, str]:
    """Names of the own disks that a machine has, by role."""
    found = {}
    for role, disk in own_disks_in(domain).items() if domain is not None else ():
        name = PurePosixPath(source_of(disk)).name
        if name in own:
            found[role] = name
    return found


def kept_disks(
    uuid: UUID, keep: AbstractSet[Keep], own: Mapping[str, Remote], in_use: Mapping[str, str]
) -> list[KeptDisk]:
    """The disks to keep.

    Args:
        own: the instance's volumes by name.
        in_use: names of its disks by role, as its definition tells.
    """
    prefix = disk_name(uuid, "")
    by_role = {
        name.removeprefix(prefix): name for name in own if not is_copy(name.removeprefix(prefix))
    }
    root = next((name for name in own if is_root(name, uuid)), None)
    if root is not None:
        by_role[ROOT] = root
    by_role |= in_use
    return [
        KeptDisk(uuid, role, name)
        for each in sorted(keep)
        for role, name in sorted(by_role.items())
        if keeps(each, role)
    ]


def kept_of_adopted(
    uuid: UUID, keep: AbstractSet[Keep], files: Mapping[str, str]
) -> list[KeptDisk]:
    """The disks of an adopted machine to keep. Those beside the root disk count as ephemeral disks:
    with all that ``keep`` can say, nothing is lost.

    Args:
        files: names of its disks by role.
    """
    return [
        KeptDisk(uuid, role, name)
        for role, name in files.items()
        if (Keep.ROOT_DISK if role == ROOT else Keep.EPHEMERAL_DISKS) in keep
    ]


def is_mark(name: str, uuid: UUID) -> bool:
    """Whether a volume of an instance is one of the marks."""
    role = name.removeprefix(disk_name(uuid, ""))
    return role.partition("-")[0] in {_BEGUN, _DONE}


class Keeping:
    """Copy what is kept."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def keep(self, disk: KeptDisk, own: dict[str, Remote]) -> bool:
        """Copy a disk; whether that had not been done yet. Five calls; two where it has been done,
        and eight more where the machine has run since."""
        pool = self._pools.disks()
        volume = own.get(disk.name)
        if volume is None:
            return False
        done = own.get(disk.done)
        if done is not None:
            if not _is_newer(volume, done):
                return False
            # an earlier destroy() was interrupted, and somebody has let the machine run since
            self._pools.delete_disk(disk.done)
            del own[disk.done]
        if done is not None or disk.begun in own:
            self._pools.delete_disk(disk.volume)
        with undoing() as undo:
            mark = undo.callback(self._pools.delete_disk, disk.begun)
            if disk.begun not in own:
                own[disk.begun] = pool.createXML(volume_xml(disk.begun, 0, "raw"), 0)
            # without the mark, a half copy would pass for a disk that was kept
            copy = undo.callback(self._pools.delete_disk, disk.volume, guards=[mark])
            capacity = int(volume.info()[1])
            with needing_room_alone(pool, volume):
                pool.createXMLFrom(volume_xml(disk.volume, capacity, "qcow2"), volume, 0)
            # nor may the mark "complete" stay without its copy
            undo.callback(self._pools.delete_disk, disk.done, guards=[copy, mark])
            own[disk.done] = pool.createXML(volume_xml(disk.done, 0, "raw"), 0)
        return True

    def take_back(self, disk: KeptDisk) -> None:
        """Remove a copy that keep() has made, as another disk cannot be kept. Up to six calls."""
        for name in (disk.done, disk.volume, disk.begun):
            self._pools.delete_disk(name)

    def refuse_taken(self, disk: KeptDisk, own: Mapping[str, Remote]) -> None:
        """Before anything is done. With one of the marks what is there is of this instance."""
        if disk.name not in own or {disk.begun, disk.done} & own.keys():
            return
        try:
            self._pools.disks().storageVolLookupByName(disk.volume)
        except errors.VolumeNotFound:
            return
        raise errors.VolumeExists(
            f"the {disk.role} disk of an earlier instance with this UUID has been kept",
            hint="delete_volume() that one first, or destroy() without keep=",
        )


def _is_newer(volume: Remote, mark: Remote) -> bool:
    """Whether a disk was written to after a mark was made. Two calls."""
    written, made = written_at(described(volume)), written_at(described(mark))
    return written is not None and made is not None and written > made
