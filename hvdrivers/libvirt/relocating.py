"""One migrate_storage(): which disks move, and the copies of them.

Only the top file of a disk is copied. What it stands on, an image of the cache, stays where it is,
and is the base of the copy too. A copy has a name that no other file has.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.adopted import adoption_in
from hvdrivers.libvirt.chains import described
from hvdrivers.libvirt.covered_disks import refuse_covered
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import own_disks_in
from hvdrivers.libvirt.files import Times, base_path, clean, times_of
from hvdrivers.libvirt.left_files import File
from hvdrivers.libvirt.naming import disk_name
from hvdrivers.libvirt.pools import Pools, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.snapshot_data import Machine
from hvdrivers.libvirt.xml import Element, attribute, el, parse, text
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

_COPY = (
    libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
    | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    # the guest's writes go to both at once: a busy guest cannot keep the copy from its end
    | libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
)


_TOLD = ("name", "type", "cache", "discard")
"""What a copy takes over of how a disk is driven; others may have set more."""


@dataclass(frozen=True)
class Part:
    """One disk that moves."""

    role: str
    device: str
    """``vda``."""
    volume: Remote
    """The old file."""
    old: File
    new: File
    capacity: int
    allocation: int
    """Bytes that the old file takes."""
    backing: tuple[str, str] | None
    """What it stands on, and its format."""

    def document(self) -> str:
        """The description of the new volume."""
        return volume_xml(self.new.name, self.capacity, "qcow2", backing=self.backing)

    def times(self) -> Times | None:
        """When the old file was written to. One call."""
        found = described(self.volume)
        return times_of(found.find("target")) if found is not None else None

    def is_on(self, disk: Element | None) -> bool:
        """Whether a ``<disk>`` is the new file."""
        return disk is not None and clean(source_of(disk)) == clean(self.new.path)

    def is_copied(self, domain: Element) -> bool:
        """Whether a running machine's disk is being copied to the new file."""
        mirror = _disk(domain, self.role).find("mirror")
        return mirror is not None and clean(source_of(mirror)) == clean(self.new.path)

    def begin(self, domain: Remote, live: Element) -> None:
        """Begin to copy the disk of a running machine. One call."""
        disk = _disk(live, self.role)
        told = [
            el("driver", **{name: value for name in _TOLD if (value := each.get(name))})
            for each in disk.iterfind("driver")
        ]
        target = el("disk", *told, el("source", file=self.new.path), type="file", device="disk")
        shallow = libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW if self.backing is not None else 0
        domain.blockCopy(self.device, text(target), None, _COPY | shallow)

    def placed(self, stored: Element, file: File) -> str:
        """The disk of a definition on another file."""
        disk = deepcopy(_disk(stored, self.role))
        disk.find("source").set("file", file.path)  # type: ignore[union-attr]
        return text(disk)


def _disk(domain: Element, role: str) -> Element:
    found = own_disks_in(domain).get(role)
    if found is None or found.find("source") is None:
        raise errors.HypervisorFault(f"the machine has no {role} disk any more", retryable=True)
    return found


def movable(domain: Element) -> dict[str, Element]:
    """The own disks that move, by role: all that a guest writes to. A seed disc, the variables of
    UEFI and the console's log stay."""
    return {
        role: disk
        for role, disk in own_disks_in(domain).items()
        if disk.get("device", "disk") == "disk" and disk.find("readonly") is None
    }


def moving(uuid: UUID, domain: Element, folder: str) -> dict[str, Element]:
    """Those that are not in a folder.

    Raises:
        DeviceBusy: others have put a file of their own over one.
        InvalidRequest: one is not qcow2, as others have made it.
    """
    found = {}
    adoption = adoption_in(domain)
    for role, disk in movable(domain).items():
        refuse_covered(uuid, role, disk, adoption)
        if posixpath.dirname(clean(source_of(disk))) != folder:
            if attribute(disk, "driver", "type") != "qcow2":
                device = attribute(disk, "target", "dev")
                raise errors.InvalidRequest(
                    f"the disk {device} is not qcow2, and copies are",
                    hint="convert it first (qemu-img convert)",
                )
            found[role] = disk
    return found


def parts_of(
    uuid: UUID, disks: dict[str, Element], pools: Pools, target: Remote, token: str
) -> Iterator[Part]:
    """What moves. Three calls for each; two more for one that is not in the disk pool."""
    for role, disk in disks.items():
        path = source_of(disk)
        pool = pools.holding(path)
        volume = pool.storageVolLookupByName(posixpath.basename(path))
        description = parse(volume.XMLDesc(0))
        base, format_ = base_path(description), _base_format(description)
        yield Part(
            role=role,
            device=attribute(disk, "target", "dev") or "",
            volume=volume,
            old=File(pool=pool.name(), path=path),
            new=File(
                pool=target.name(),
                path=f"{pools.path(target)}/{disk_name(uuid, f'{role}-{token}')}",
            ),
            capacity=int(description.findtext("capacity") or 0),
            allocation=int(description.findtext("allocation") or 0),
            backing=(base, format_) if base and format_ else None,
        )


def _base_format(description: Element) -> str | None:
    return attribute(description, "backingStore/format", "type")


def require_same(live: Element, stored: Element) -> None:
    """Raise DeviceBusy if a running machine has other disks than its definition."""

    def places(domain: Element) -> dict[str, str]:
        return {role: clean(source_of(disk)) for role, disk in movable(domain).items()}

    if places(live) != places(stored):
        raise errors.DeviceBusy(
            "the running machine has other disks than its definition",
            hint="power_off() it first",
            retryable=False,
        )


def refuse_by_pool(stored: Element, disks: Iterable[Element]) -> None:
    """Raise InvalidRequest if a definition names one of these disks by pool and volume: libvirt
    would not let it name the copy that the running machine goes on with."""
    devices = {attribute(disk, "target", "dev") for disk in disks}
    for disk in stored.iterfind("devices/disk[@type='volume']"):
        device = attribute(disk, "target", "dev")
        if device in devices:
            raise errors.InvalidRequest(
                f"the disk {device} is named by its storage pool, and moves while it is off alone",
                hint="power_off() it first",
            )


def files_of(parts: Iterable[Part]) -> list[File]:
    """The new files, and the old ones."""
    return [file for part in parts for file in (part.new, part.old)]


@dataclass
class Move:
    """One attempt of migrate_storage()."""

    machine: Machine
    pool: Remote
    parts: Sequence[Part]
    progress: ProgressCallback | None
    told: int = field(default=0, init=False)

    @property
    def total(self) -> int:
        """Bytes that are to be copied."""
        return sum(part.allocation for part in self.parts)

    def tell(self, done: int) -> None:
        """Tell the caller of bytes that have been copied; never fewer than before."""
        self.told = max(self.told, min(done, self.total))
        if self.progress is not None:
            self.progress(Progress(phase=Phase.COPY, done=self.told, total=self.total or None))
