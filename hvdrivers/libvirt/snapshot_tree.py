"""An instance's snapshots as libvirt keeps them, and what the driver writes into them.

Each snapshot is one of libvirt's, so ``virsh snapshot-list --tree`` shows the tree. Its name is the
id, which the driver chooses, and which the disks know the snapshot by. Its description is a
:class:`Note`. Its ``<domain>`` has nothing but the machine's own disks: of those, and of nothing
else, libvirt deletes the snapshot.

A snapshot that is being made is one of libvirt's too, with a mark in front of its note: it is in no
list. Those that are being deleted are named in the machine's metadata. Where the client has died,
the next one that is at the snapshots removes both, with what there is of their data.

Snapshots that others have made in libvirt are not listed, and left alone.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, cast
from uuid import UUID

import libvirt
from pydantic import AwareDatetime, ValidationError

from hvdrivers.contract import errors
from hvdrivers.libvirt.adopted import adoption_in
from hvdrivers.libvirt.covered_disks import refuse_covered
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import OWN_ALIAS, own_disks_in
from hvdrivers.libvirt.metadata import NAMESPACE, keep, kept, record_in
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import unnoticed
from hvdrivers.libvirt.xml import Element, attribute, el, parse, text
from hvdrivers.models.base import Model, Name
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState

_PREFIX = "hv-"
_REDEFINE = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
_CURRENT = _REDEFINE | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
_HALF = "half: "
"""In front of the note of a snapshot that may have no data, or not in every disk."""
_DELETING_NAMESPACE = f"{NAMESPACE}/deleting-snapshots"
_SHAPED = ("disk", "interface", "hostdev", "memory", "filesystem")
"""Devices that come and go."""


class Note(Model):
    """What libvirt has no place for."""

    version: Literal[1] = 1
    name: Name
    created_at: AwareDatetime
    state: InstanceState = InstanceState.STOPPED
    """Of a snapshot with memory: the state in which the machine goes on."""
    shape: str | None = None
    """Of a snapshot with memory: :func:`shape_of` the machine then."""

    @property
    def with_memory(self) -> bool:
        """Whether the snapshot has the machine's memory."""
        return self.shape is not None


@dataclass(frozen=True)
class Node:
    """A snapshot of the driver's."""

    note: Note
    parent: str | None
    remote: Remote
    xml: Element

    def files(self) -> dict[str, str]:
        """Where the disks that it has are, by their aliases."""
        return {alias: source_of(disk) for alias, disk in _disks(self.xml).items()}


@dataclass(frozen=True)
class Tree:
    """The snapshots of an instance."""

    nodes: dict[str, Node]
    """By their ids, parents before children, the oldest first."""
    current: str | None
    halves: dict[str, Node] = field(default_factory=dict)
    """Those that are being made."""

    def shown(self) -> list[Snapshot]:
        """As the contract has them."""
        return [self.snapshot(each) for each in self.nodes]

    def snapshot(self, name: str) -> Snapshot:
        """One of them as the contract has it."""
        node = self.nodes[name]
        return Snapshot(
            id=name,
            name=node.note.name,
            parent=node.parent,
            created_at=node.note.created_at,
            with_memory=node.note.with_memory,
            current=name == self.current,
        )

    def below(self, name: str) -> Iterator[str]:
        """A snapshot and all that descend from it, children before parents."""
        family = {name}
        for each, node in self.nodes.items():
            if node.parent in family:
                family.add(each)
        return (each for each in reversed(list(self.nodes)) if each in family)


def new_id() -> str:
    """An id that no snapshot has."""
    return _PREFIX + secrets.token_hex(8)


def is_ours(name: str) -> bool:
    """Whether a name is one that the driver has made."""
    return name.startswith(_PREFIX)


def tree_of(domain: Remote) -> Tree:
    """The tree. One call, and where there are snapshots one more and one for each."""
    found: dict[str, tuple[Remote, Element]] = {}
    listed = domain.listAllSnapshots(0)
    for each in listed:
        try:
            found[each.getName()] = each, parse(each.getXMLDesc(0))
        except errors.VolumeNotFound:
            continue  # it has been deleted meanwhile
    current = None
    if found:
        try:
            current = domain.snapshotCurrent(0).getName()
        except errors.VolumeNotFound:
            current = None
    parents = {name: xml.findtext("parent/name") for name, (_, xml) in found.items()}
    ours = {name: note for name, (_, xml) in found.items() if (note := _note(name, xml))}

    def up(name: str | None) -> str | None:
        """The nearest of the driver's: others may have made one in between."""
        while name is not None and name not in ours:
            name = parents.get(name)
        return name

    halves = {
        name: Node(note, None, *each)
        for name, each in found.items()
        if (note := _note(name, each[1], half=True))
    }
    nodes: dict[str, Node] = {}
    left = sorted(ours, key=lambda name: (ours[name].created_at, name))
    while left:
        ready = [each for each in left if up(parents[each]) in {None, *nodes}]
        for name in ready:
            nodes[name] = Node(ours[name], up(parents[name]), *found[name])
        left = [each for each in left if each not in nodes]
        if not ready:
            break
    return Tree(nodes, up(current), halves)


def _note(name: str, xml: Element, *, half: bool = False) -> Note | None:
    found = xml.findtext("description") or ""
    if not is_ours(name) or found.startswith(_HALF) is not half:
        return None
    try:
        return Note.model_validate_json(found.removeprefix(_HALF))
    except ValidationError:
        return None


def remember(
    domain: Remote, name: str, note: Note, parent: str | None, xml: Element, *, half: bool = False
) -> Remote:
    """Add a snapshot, whose data is there, below another one, and make it current. One call; two
    where the machine went off since it was written down as a half.

    Args:
        xml: the machine's.
        half: its data is still to be made: the snapshot is marked, and not current.
    """
    state = {InstanceState.RUNNING: "running", InstanceState.PAUSED: "paused"}
    described = el(
        "domainsnapshot",
        el("name", name),
        el("description", (_HALF if half else "") + json.dumps(note.model_dump(mode="json"))),
        el("creationTime", str(int(note.created_at.timestamp()))),
        el("state", state.get(note.state, "shutoff")),
        el("parent", el("name", parent)) if parent is not None else None,
        el("memory", snapshot="internal" if note.with_memory else "no"),
        _inside(xml),
        bare(xml, xml.findtext("name") or "", xml.findtext("uuid") or ""),
    )
    return _write_down(domain, described, _REDEFINE if half else _CURRENT)


def _write_down(domain: Remote, described: Element, flags: int) -> Remote:
    """Add a snapshot without its data, or write it down anew. One call, and where libvirt has
    written it down otherwise one more.

    Libvirt holds a ``<domain>`` against the one that it has, after it has added what it takes for
    usual to both. That differs: of a machine that ran when the daemon began, it does not know
    which CPU is the usual one. A snapshot that comes without keeps the ``<domain>`` that it has.
    """
    try:
        return cast(Remote, domain.snapshotCreateXML(text(described), flags))
    except errors.NotSupported:
        has = described.find("domain")
        if has is None:
            raise
        without = el(described.tag, *(each for each in described if each is not has))
        with suppress(errors.HypervisorFault):  # it has none, so that was not the reason
            return cast(Remote, domain.snapshotCreateXML(text(without), flags))
        raise


def note_deletion(domain: Remote, names: Iterable[str], flags: int) -> None:
    """Write down which snapshots are being deleted; none any more. One call."""
    keep(domain, _DELETING_NAMESPACE, " ".join(names) or None, flags)


def being_deleted(xml: Element) -> list[str]:
    """What :func:`note_deletion` has written into a machine's definition."""
    return (kept(xml, _DELETING_NAMESPACE) or "").split()


def forget(snapshot: Remote) -> None:
    """Take a snapshot without data out of the tree. One call."""
    with suppress(errors.VolumeNotFound):
        snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


def give_back(room: Remote) -> None:
    """Give back the room that a snapshot without data has kept. One call."""
    with unnoticed(), suppress(errors.InstanceNotFound):  # another client has the turn
        forget(room)


def make_current(domain: Remote, node: Node) -> None:
    """Make a snapshot the current one. One call; two where the daemon began anew while the machine
    ran."""
    _write_down(domain, node.xml, _CURRENT)


def known_to(xml: Element, name: str, *, note: str | None = None) -> str:
    """A snapshot as a machine knows it that is off, and that has not made it."""
    described = el(
        "domainsnapshot",
        el("name", name),
        el("description", note) if note is not None else None,
        el("creationTime", "1"),
        el("state", "shutoff"),
        el("memory", snapshot="no"),
        _inside(xml),
        xml,
    )
    return text(described)


def _inside(xml: Element) -> Element:
    """That each disk of the machine's own keeps its part of the snapshot in itself."""
    names = (attribute(disk, "target", "dev") for disk in _disks(xml).values())
    return el("disks", *(el("disk", name=name, snapshot="internal") for name in names))


def bare(xml: Element, name: str, uuid: str) -> Element:
    """A machine with the own disks of another one and nothing else."""
    kind = xml.find("os/type")
    disks = []
    adopted = adoption_in(xml) is not None
    for alias, disk in _disks(xml).items():
        parts = ("driver", "source", "target")
        kept = [deepcopy(each) for part in parts if (each := disk.find(part)) is not None]
        if adopted:  # what others have set there may need more of the machine than its disks
            kept = [_plain(each) for each in kept]
        disks.append(el("disk", *kept, el("alias", name=alias), type="file", device="disk"))
    for disk in disks:
        source = disk.find("source")
        if source is not None:  # what libvirt adds for a machine that runs
            source.attrib.pop("index", None)
            source[:] = []
    return el(
        "domain",
        el("name", name),
        el("uuid", uuid),
        el("memory", "1024"),
        el("vcpu", "1"),
        el("os", deepcopy(kind) if kind is not None else None),
        el("devices", *disks),
        type=xml.get("type"),
    )


def _plain(part: Element) -> Element:
    """A part of a disk that others have made, with what says which file it is and nothing else; on
    a bus that needs no controller."""
    told = {"name", "type", "file", "dev"}
    kept = {name: value for name, value in part.attrib.items() if name in told}
    return el(part.tag, **kept, bus="virtio" if part.tag == "target" else None)


def _disks(xml: Element) -> dict[str, Element]:
    """The machine's own disks, without the seed, by the aliases that spawn() gives them; in a
    machine or a snapshot. Those of an adopted machine have these aliases in its snapshots alone."""
    domain = xml.find("domain") if xml.tag == "domainsnapshot" else xml
    return {
        f"{OWN_ALIAS}{role}": disk
        for role, disk in (own_disks_in(domain) if domain is not None else {}).items()
        # a seed disc, be it a CD or a disk
        if disk.find("readonly") is None and disk.get("device", "disk") == "disk"
    }


def live_names(xml: Element) -> dict[str, str]:
    """The aliases by which QEMU knows the own disks of a machine that is on, and ours for each."""
    return {attribute(disk, "alias", "name") or alias: alias for alias, disk in _disks(xml).items()}


def devices_of(xml: Element) -> dict[str, str]:
    """What libvirt calls the own disks of a machine, by our aliases."""
    return {alias: attribute(disk, "target", "dev") or "" for alias, disk in _disks(xml).items()}


def own_files(uuid: UUID, xml: Element) -> dict[str, str]:
    """Where the machine's own disks are, by their aliases.

    Raises:
        InvalidRequest: it has none, or one that is not qcow2.
        DeviceBusy: others have put a file of their own over one.
    """
    disks = _disks(xml)
    if not disks:
        raise errors.InvalidRequest(
            "the instance has no disk of its own, and snapshots are of those",
            hint="make a snapshot of its volumes where they are kept",
        )
    adoption = adoption_in(xml)
    for alias, disk in disks.items():
        device = attribute(disk, "target", "dev")
        if attribute(disk, "driver", "type") != "qcow2":
            raise errors.InvalidRequest(
                f"the disk {device} of the instance is not qcow2, and no other format keeps"
                " snapshots",
                hint="convert the disk while the machine is off (qemu-img convert -O qcow2, virsh"
                " edit); or begin_backup()",
            )
        refuse_covered(uuid, alias.removeprefix(OWN_ALIAS), disk, adoption)
    return {alias: source_of(disk) for alias, disk in disks.items()}


def shape_of(xml: Element) -> str:
    """What a machine must have to go on from saved memory: its flavor, CPUs, memory, and the
    devices that come and go, each in its slot."""
    parts = [record_in(xml).flavor.model_dump_json()]
    parts += [text(each) for tag in ("vcpu", "memory") if (each := xml.find(tag)) is not None]
    adopted = adoption_in(xml) is not None
    for tag in _SHAPED:
        for device in xml.iterfind(f"devices/{tag}"):
            slot = device.find("address")
            alias = attribute(device, "alias", "name") or ""
            if alias.startswith(OWN_ALIAS) and adopted:
                alias = ""  # of a run that was started for a snapshot's memory
            parts.append(
                "|".join(
                    (
                        tag,
                        alias if alias.startswith("ua-") else "",
                        attribute(device, "mac", "address") or "",
                        attribute(device, "target", "dev") or "" if tag == "disk" else "",
                        str(sorted(slot.attrib.items())) if slot is not None else "",
                    )
                )
            )
    return sha256("\n".join(sorted(parts)).encode()).hexdigest()
