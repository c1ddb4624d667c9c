"""What a move to another libvirt host comes to, and which files both hosts have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from hvdrivers.contract import errors
from hvdrivers.libvirt.adopted import Adoption
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import own_disks_in
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.rewiring import Rewiring
from hvdrivers.libvirt.xml import Element, attribute, parse
from hvdrivers.models.migration import Blocker, BlockerKind


@dataclass(frozen=True)
class Own:
    """A file of the instance's own."""

    role: str
    name: str
    path: str
    volume: Remote
    target: str
    read_only: bool
    format: str


@dataclass
class Plan:
    """What a move comes to."""

    xml: Element
    disks: list[Own] = field(default_factory=list)
    shared: bool = False
    """Both hosts have the disks."""
    log_shared: bool = False
    lacks_room: bool = False
    """The pool there has no room for them."""
    adoption: Adoption | None = None
    """Of an adopted machine."""
    rewiring: Rewiring = field(default_factory=lambda: Rewiring({}))
    """The connections that it has there and not here."""
    blockers: list[Blocker] = field(default_factory=list)

    def add(
        self, kind: BlockerKind, reason: str, *, hint: str | None = None, device: str | None = None
    ) -> None:
        """Note a reason."""
        self.blockers.append(Blocker(kind=kind, reason=reason, hint=hint, device=device))


def own_files(remote: Remote, xml: Element) -> Iterator[Own]:
    """The files of a machine's own. One call for each."""
    for role, disk in own_disks_in(xml).items():
        path = source_of(disk)
        yield Own(
            role=role,
            name=PurePosixPath(path).name,
            path=path,
            volume=remote.storageVolLookupByPath(path),
            target=attribute(disk, "target", "dev") or "",
            read_only=disk.find("readonly") is not None,
            format=attribute(disk, "driver", "type") or "raw",
        )


def reaches(here: Topic, there: Topic, path: str) -> bool:
    """Whether the other host has this very file. A device of both hosts is not recognised. Two
    calls, up to five."""
    try:
        mine = here.connection.remote.storageVolLookupByPath(path)
        other = there.connection.remote.storageVolLookupByPath(path)
    except errors.VolumeNotFound:
        return False
    return _is_same(mine, other)


def same_in(volume: Remote, pool: Remote, name: str) -> bool | None:
    """Whether a volume is that of the other host's pool; None: that has none of this name."""
    try:
        other = pool.storageVolLookupByName(name)
    except errors.VolumeNotFound:
        return None
    return _is_same(volume, other)


def _is_same(mine: Remote, other: Remote) -> bool:
    """Whether two volumes are one file. Two calls, or three."""
    before, found = _times(mine), _times(other)
    # a guest may be writing to it
    return found is not None and found in {before, _times(mine)}


def _times(volume: Remote) -> tuple[str, str] | None:
    """When the file was made and last changed, in nanoseconds."""
    stamps = parse(volume.XMLDesc(0)).find("target/timestamps")
    changed = stamps.findtext("mtime") if stamps is not None else None
    if stamps is None or not changed or "." not in changed:
        return None
    return changed, stamps.findtext("btime") or ""
