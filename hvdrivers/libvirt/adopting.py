"""The disks of a machine of others: which become the instance's own, and which go with it.

The disks of an adopted machine keep the names and the places that their owner gave them. The
instance owns a disk's top file alone: a file below it, such as a golden image, may be anybody's. So
destroy() deletes a file that was recorded at the adoption, that the machine still has, and that
nothing else on the host uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.libvirt.adopted import AdoptedDisk, Adoption, adopted_disks, adoption_in
from hvdrivers.libvirt.chains import Chains, described
from hvdrivers.libvirt.disguised import refuse_disguised
from hvdrivers.libvirt.files import base_path, clean, paths_in
from hvdrivers.libvirt.held_volumes import source_of, volumes_of
from hvdrivers.libvirt.metadata import NAMESPACE
from hvdrivers.libvirt.naming import ROOT, disk_name
from hvdrivers.libvirt.pools import Pools, refresh
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.reserved import is_of_the_driver
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import Element, attribute, parse

_FORMATS = {"raw", "qcow2"}
_OUR_NAMESPACES = NAMESPACE.removesuffix("libvirt/1")


class Adopting:
    """Look at them."""

    def __init__(self, connection: Connection, pools: Pools, chains: Chains) -> None:
        self._connection = connection
        self._pools = pools
        self._chains = chains

    def adoption(self, uuid: UUID, defined: Element, running: Element | None) -> Adoption:
        """What becomes the instance's own. For each disk 2 calls and those of delete_volume(); one
        for each machine of the host where this one has firmware variables.

        Raises:
            InvalidRequest: destroy() could not remove a disk, or would remove one of others.
            DeviceBusy: a disk is being copied.
        """
        if running is not None:
            _refuse_differences(defined, running)
        self._refuse_shared_variables(uuid, defined)
        found: list[AdoptedDisk] = []
        for disk in _owned(defined):
            target, path = self._examined(uuid, disk)
            role = f"disk{len(found)}" if found else ROOT
            found.append(AdoptedDisk(role=role, target=target, path=path))
        return Adoption(uuid=str(uuid), disks=tuple(found))

    def _examined(self, uuid: UUID, disk: Element) -> tuple[str, str]:
        """Name of the device, and path of the file."""
        target = attribute(disk, "target", "dev") or ""
        what = f"the disk {target}"
        if disk.find("shareable") is not None:
            raise errors.InvalidRequest(
                f"{what} is shared with other machines, and an instance's own disk is not",
                hint="detach it first, and attach_volume() it as multiattach afterwards",
            )
        volume = self._volume_of(disk)
        if volume is None:
            raise errors.InvalidRequest(
                f"{what} is no file in a storage pool of the host: destroy() could not remove it",
                hint="for a file: make a pool of its folder (virsh pool-create-as NAME dir --target"
                " FOLDER); anything else: detach it first",
            )
        path = clean(str(volume.path()))
        if is_of_the_driver(volume.name()):
            raise errors.InvalidRequest(
                f"{what} is a volume, an image, or a disk of an instance",
                hint="detach it first, and attach_volume() it afterwards",
            )
        if attribute(disk, "driver", "type") not in _FORMATS:
            raise errors.InvalidRequest(
                f"{what} is neither raw nor qcow2", hint="convert it first (qemu-img convert)"
            )
        user = self._user_of(uuid, volume)
        if user is not None:
            raise errors.InvalidRequest(
                f"{what} is used by {user} too: destroy() would take it away",
                hint="remove that one first, or give the machine a disk of its own",
            )
        return target, path

    def _volume_of(self, disk: Element) -> Remote | None:
        """The volume of a disk that is a file in a pool; None for any other. Two calls; where the
        pools do not know the file, one for each pool more."""
        found = self._known(disk)
        if found is None and disk.get("type") in {"file", "volume"}:
            # a snapshot, or a tool, makes a file without telling the pool
            for pool in self._pools.files():
                with suppress(errors.HypervisorError):
                    refresh(pool)
            found = self._known(disk)
        return found

    def _known(self, disk: Element) -> Remote | None:
        kind = disk.get("type")
        try:
            if kind == "volume":
                pool = self._connection.remote.storagePoolLookupByName(
                    attribute(disk, "source", "pool") or ""
                )
                volume = pool.storageVolLookupByName(attribute(disk, "source", "volume") or "")
            elif kind == "file":
                volume = self._connection.remote.storageVolLookupByPath(clean(source_of(disk)))
            else:
                return None
        except errors.VolumeNotFound:
            return None
        description = described(volume)
        is_file = description is not None and description.get("type") == "file"
        return volume if is_file else None

    def _user_of(
        self, uuid: UUID, volume: Remote, above: AbstractSet[str] = frozenset()
    ) -> str | None:
        """What else than the machine, and these files of it, uses a file. Calls as for
        delete_volume()."""
        with self._chains.looking(volume) as look:
            mine = disk_name(uuid, "")  # where a backup keeps what the guest overwrites
            overlays = [
                each for each in look.overlays() if each not in above and not each.startswith(mine)
            ]
            if overlays:
                return f"the volume {overlays[0]}, which stands on it,"
            machine = self._chains.machine_with(look, but=uuid)
        return None if machine is None else f"machine {machine.UUIDString()}"

    def _refuse_shared_variables(self, uuid: UUID, defined: Element) -> None:
        """With the definition libvirt removes the file of the firmware's variables."""
        path = clean((defined.findtext("os/nvram") or "").strip())
        if not path:
            return
        for domain in self._connection.remote.listAllDomains(0):
            if UUID(domain.UUIDString()) == uuid:
                continue
            try:
                taken = path in paths_in(parse(domain.XMLDesc(0)))
            except errors.InstanceNotFound:
                continue
            if taken:
                raise errors.InvalidRequest(
                    f"machine {domain.UUIDString()} has the same firmware variables ({path}):"
                    " destroy() would take them away",
                    hint="give the machine a file of its own: virsh edit, <nvram>",
                )

    def require_alone(self, uuid: UUID, xml: Element) -> None:
        """Raise DeviceBusy if anything else uses a disk of an adopted machine, whose content is to
        be another one. For each disk one call and those of delete_volume(); none for a machine that
        spawn() has made."""
        adoption = adoption_in(xml)
        for disk in adopted_disks(xml, adoption).values() if adoption is not None else ():
            volume = self._volume_of(disk)
            user = self._user_of(uuid, volume) if volume is not None else None
            if user is not None:
                raise errors.DeviceBusy(
                    f"the disk {attribute(disk, 'target', 'dev')} is used by {user} too",
                    hint="remove that one first, or give it a disk of its own",
                    retryable=False,
                )

    def files_of(self, uuid: UUID, adoption: Adoption, xml: Element) -> dict[str, Remote]:
        """What destroy() deletes of an adopted machine, by path. Calls as for adoption()."""
        found: dict[str, Remote] = {}
        disks = adopted_disks(xml, adoption)
        for each in adoption.disks:
            disk = disks.get(each.role)
            if disk is None:
                continue  # others have taken it out: it is not the machine's any more
            above: set[str] = set()
            for volume in self._down_to(adoption, each, disk, uuid):
                if self._is_of_others(uuid, volume) or self._user_of(uuid, volume, above):
                    break  # what stands below is used with it
                found[clean(str(volume.path()))] = volume
                above.add(volume.name())
        return found

    def to_keep(
        self, uuid: UUID, adoption: Adoption, xml: Element
    ) -> dict[str, tuple[Element, Remote]]:
        """What destroy() may keep a copy of: of each disk that the machine still has the ``<disk>``
        and the top file, by role. For each disk 3 calls, and those of delete_volume().

        Raises:
            DeviceBusy: something else uses a disk.
            NotSupported: a disk is encrypted.
            InvalidRequest: the host would take a raw disk for another format.
        """
        self.require_alone(uuid, xml)
        disks, found = adopted_disks(xml, adoption), dict[str, tuple[Element, Remote]]()
        for each in adoption.disks:
            disk = disks.get(each.role)
            files = self._down_to(adoption, each, disk, uuid) if disk is not None else []
            if disk is None or not files:
                continue
            if next(disk.iter("encryption"), None) is not None:
                raise errors.NotSupported(
                    f"the disk {each.target} is encrypted: the host copies none that is",
                    hint="destroy() it without keep=, or decrypt the disk first",
                )
            refuse_copy_of_disguised(disk, files[0])
            found[each.role] = disk, files[0]
        return found

    def left_files(self, uuid: UUID, paths: Iterable[str]) -> dict[str, Remote]:
        """Of the files that an adopted machine has left here, those that nothing uses, by path.
        Calls as for files_of()."""
        found: dict[str, Remote] = {}
        for path in paths:
            try:
                volume = self._connection.remote.storageVolLookupByPath(path)
            except errors.VolumeNotFound:
                continue
            if not self._is_of_others(uuid, volume) and self._user_of(uuid, volume) is None:
                found[path] = volume
        return found

    def used(self, uuid: UUID, paths: Iterable[str]) -> set[str]:
        """Of files that an adopted machine has had, those that others use. For each one call and
        those of delete_volume()."""
        found = set()
        for path in paths:
            with suppress(errors.VolumeNotFound):
                volume = self._connection.remote.storageVolLookupByPath(path)
                if self._user_of(uuid, volume) is not None:
                    found.add(path)
        return found

    @staticmethod
    def _is_of_others(uuid: UUID, volume: Remote) -> bool:
        """Whether a file is one of the driver's, and none of this instance's."""
        name = str(volume.name())
        return is_of_the_driver(name) and not name.startswith(disk_name(uuid, ""))

    def _down_to(
        self, adoption: Adoption, known: AdoptedDisk, disk: Element, uuid: UUID
    ) -> list[Remote]:
        """The volumes of a disk, from the file that was recorded to the top file; none where the
        machine has another disk now."""
        volume, recorded = self._volume_of(disk), clean(known.path)
        if volume is None:
            return []
        if adoption.has(known.role, str(volume.path())):
            return [volume]
        above = self._chains.above(str(volume.path()), {recorded}, uuid)
        description = described(above[-1]) if above else None
        if description is None or base_path(description) != recorded:
            return []
        try:
            below: Remote = self._connection.remote.storageVolLookupByPath(recorded)
        except errors.VolumeNotFound:
            return above
        return [*above, below]


def refuse_copy_of_disguised(disk: Element, volume: Remote) -> None:
    """Raise InvalidRequest if the host would copy a raw disk as one of another format. One call,
    none for qcow2."""
    refuse_disguised(
        disk, volume, "snapshot_to_image() it while it runs, and destroy() it without keep="
    )


def _owned(domain: Element) -> Iterator[Element]:
    """The disks that the machine writes to, and that are no volumes."""
    volumes = {id(disk) for disk in volumes_of(domain).values()}
    for disk in domain.iterfind("devices/disk"):
        removable = disk.get("device") in {"cdrom", "floppy"}
        if removable or disk.find("readonly") is not None or id(disk) in volumes:
            continue
        yield disk


def _refuse_differences(defined: Element, running: Element) -> None:
    """What runs must have the disks that its definition has: nobody knows which of them stay."""
    for disk in running.iterfind("devices/disk"):
        if disk.find("mirror") is not None:
            raise errors.DeviceBusy(
                "a disk of the machine is being copied", hint="call again when that has ended"
            )
    if _sources(defined) != _sources(running):
        raise errors.InvalidRequest(
            "the running machine has other disks than its definition",
            hint="attach or detach them with --config too, or switch it off",
        )


def _sources(domain: Element) -> dict[str, object]:
    return {
        attribute(disk, "target", "dev") or "": (
            source_of(disk),
            attribute(disk, "source", "pool"),
            attribute(disk, "source", "volume"),
        )
        for disk in _owned(domain)
    }


def foreign_marks(domain: Element) -> list[str]:
    """Namespaces of what this library has written into the metadata of a machine that this one was
    copied from."""
    found: dict[str, None] = {}
    for element in domain.iterfind("metadata/*"):
        namespace = element.tag.removeprefix("{").partition("}")[0]
        if namespace.startswith(_OUR_NAMESPACES):
            found[namespace] = None
    return list(found)
