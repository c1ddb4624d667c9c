"""What an instance's domain remembers of its spec: JSON texts in the domain's metadata.

Libvirt keeps foreign XML namespaces of a domain untouched. Values of tenants are inside JSON with
ASCII escapes, so that no line break, markup or control character of theirs meets an XML parser.

spawn() writes the record, and nothing writes it again. Each operation that changes a part of it
writes that part into an element of its own namespace: set_metadata() the metadata, resize() the
flavor, rebuild() the image. So two clients that do different things do not overwrite each other.
A part that has no element of its own is as the record says.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Literal

import libvirt
from pydantic import AwareDatetime, Field, ValidationError

from hvdrivers.contract import errors
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import Element, el, text
from hvdrivers.models.base import Model, Name, PrintableText
from hvdrivers.models.hardware import Hardware
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec, Metadata
from hvdrivers.models.numa import NumaNode

NAMESPACE = "https://hvdrivers.org/xmlns/libvirt/1"
PREFIX = "hvdrivers"
FLAVOR_NAMESPACE = f"{NAMESPACE}/flavor"
METADATA_NAMESPACE = f"{NAMESPACE}/metadata"
_DISK_NAMESPACE = f"{NAMESPACE}/disk/"
STATE_NAMESPACE = "https://hvdrivers.org/xmlns/libvirt/state/1"
"""Of the mark that rebuild() and unrescue() set on a machine which they switch off. Its removal,
even where there is none, is an event that says "the machine is off now": libvirt has no such event
for saved memory that has been thrown away."""

MARK_NAMESPACE = "https://hvdrivers.org/xmlns/libvirt/mark/1/"
"""Beginning of the namespace of elements that never exist: the removal of one is an event by which
its sender knows that it has had all events before it."""

BACKUP_NAMESPACE = "https://hvdrivers.org/xmlns/libvirt/backup/1"
"""The id of the backup that is open, or was when the machine went off."""

_REMEMBERED = timedelta(hours=1)
"""How long the mark counts. A caller repeats an interrupted operation soon. Whoever finds an older
mark cannot tell whether the machine has been switched on and off since."""

NO_NAMESPACE = "https://hvdrivers.org/xmlns/libvirt/none/1"
"""Of an element that never exists: its removal changes nothing and says nothing."""

_MOST_RECORDS = 1024
"""Of about a thousand characters each."""


class Record(Model):
    """Version 1. A later version must still be read by this one: unknown fields are an error."""

    version: Literal[1] = 1
    name: Name
    flavor: Flavor
    metadata: Metadata = Field(default_factory=dict)
    firmware: Firmware = Firmware.BIOS
    image: PrintableText | None = None
    """Cache key of the image it was made from."""
    hardware: Hardware = Hardware.model_construct()
    """For what is attached and plugged later, and names no bus and no model."""
    numa: tuple[NumaNode, ...] = ()
    """Where the caller has placed it."""
    created_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, spec: InstanceSpec, image: str | None, default: Firmware) -> Record:
        """The record for a new instance."""
        return cls(
            name=spec.name,
            flavor=spec.flavor,
            metadata=dict(spec.metadata),
            firmware=spec.firmware or default,
            image=image,
            hardware=spec.hardware,
            numa=spec.numa,
        )

    def qualified(self) -> Element:
        """As it stands below ``<metadata>`` in a domain's XML."""
        return el(f"{{{NAMESPACE}}}instance", _json(self))


class RootDisk(Model):
    """What rebuild() remembers of a root disk that it has made."""

    image: PrintableText | None
    """Cache key of the image that the disk was made from."""
    replaces: tuple[str, ...] = ()
    """Names of the root disks before it, which may still be there."""
    placed: bool = False
    """Whether the definition has named it. Before that it belongs to the rebuild() that makes it,
    afterwards whoever replaces it removes it."""


class _Entries(Model):
    metadata: Metadata


def disk_namespace(role: str) -> str:
    """Namespace of what is remembered of one root disk (``root-<hex>``)."""
    return _DISK_NAMESPACE + role


def record_text(record: Record) -> str:
    """A record as its element holds it."""
    return _json(record)


def metadata_text(metadata: Mapping[str, str]) -> str:
    """An instance's metadata as its element holds it."""
    return _json(_Entries(metadata=dict(metadata)))


def flavor_text(flavor: Flavor) -> str:
    """A flavor as its element holds it."""
    return _json(flavor)


def root_text(disk: RootDisk) -> str:
    """What is remembered of a root disk, as its element holds it."""
    return _json(disk)


def keep(domain: Remote, namespace: str, content: str | None, flags: int) -> None:
    """Write one element of the domain's metadata, or remove it (None). One call, which libvirt
    makes whole, and which never makes a domain that has been removed come back."""
    element = None if content is None else text(el("instance", content))
    prefix = None if content is None else PREFIX
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, prefix, namespace, flags)


def kept(domain: Element, namespace: str) -> str | None:
    """The content of an element of the domain's metadata, or None."""
    # step by step: ElementTree walks a path of several steps in Python, and one step in C
    above = domain.find("metadata")
    return above.findtext(f"{{{namespace}}}instance") if above is not None else None


def to_run_text(written: str = "") -> str:
    """The mark of a machine that is switched off to be started again.

    Args:
        written: the machine's disk, and when it was written to, once the machine is off.
    """
    return f"{datetime.now(UTC).isoformat()} {written}".strip()


def is_to_run(domain: Element) -> bool:
    """Whether an operation has switched the machine off, and did not come to start it."""
    mark = kept(domain, STATE_NAMESPACE)
    if mark is None:
        return False
    with suppress(ValueError, TypeError):  # others have written it: no time, or one without a zone
        time = datetime.fromisoformat(mark.partition(" ")[0])
        return abs(datetime.now(UTC) - time) < _REMEMBERED
    return False


def written_in(domain: Element) -> str:
    """What the mark says of the machine's disk; nothing, if it was made before the machine was
    off."""
    return (kept(domain, STATE_NAMESPACE) or "").partition(" ")[2]


def put(domain: Element, namespace: str, content: str) -> Element:
    """A domain's XML with this element in it."""
    found = domain.find(f"metadata/{{{namespace}}}instance")
    if found is None:
        above = domain.find("metadata")
        if above is None:
            above = el("metadata")
            domain.append(above)
        found = el(f"{{{namespace}}}instance")
        above.append(found)
    found.text = content
    return domain


def roots_in(domain: Element) -> dict[str, RootDisk]:
    """What rebuild() remembers of root disks, by the role in their names, the newest last."""
    found = {}
    above = domain.find("metadata")
    for element in above if above is not None else ():
        namespace = element.tag.removeprefix("{").partition("}")[0]
        if namespace.startswith(_DISK_NAMESPACE):
            role = namespace.removeprefix(_DISK_NAMESPACE)
            found[role] = RootDisk.model_validate_json(element.text or "")
    return found


def record_in(domain: Element) -> Record:
    """The record in a domain's XML, with what has been changed since."""
    try:
        record = _record(kept(domain, NAMESPACE) or "")
        now: dict[str, object] = {}
        if (metadata := kept(domain, METADATA_NAMESPACE)) is not None:
            now["metadata"] = _Entries.model_validate_json(metadata).metadata
        if (flavor := kept(domain, FLAVOR_NAMESPACE)) is not None:
            now["flavor"] = Flavor.model_validate_json(flavor)
        if roots := roots_in(domain):
            now["image"] = _current(domain, roots).image
        return record.model_copy(update=now) if now else record
    except ValidationError as error:
        raise errors.HypervisorFault(
            "the domain's hvdrivers metadata is missing or damaged",
            hint="somebody has edited the domain; destroy() still removes it",
        ) from error


@functools.lru_cache(_MOST_RECORDS)
def _record(content: str) -> Record:
    """A record depends on its text alone, and its text stays the same while that of the domain
    changes: what has been read is kept. Nobody may change its mapping of metadata."""
    return Record.model_validate_json(content)


def _current(domain: Element, roots: dict[str, RootDisk]) -> RootDisk:
    """Of the disk that the machine has. Where a snapshot has put another file over it, the newest:
    rebuild() refuses a disk with snapshots."""
    files = {source.get("file", "") for source in domain.iterfind("devices/disk/source")}
    for role, disk in roots.items():
        if any(file.endswith(f".{role}") for file in files):
            return disk
    return list(roots.values())[-1]


def _json(value: Model) -> str:
    return json.dumps(value.model_dump(mode="json"), ensure_ascii=True)


def hardware_in(domain: Element) -> Hardware:
    """The hardware wishes of its spec; none where the record cannot be read."""
    try:
        return record_in(domain).hardware
    except errors.HypervisorFault:
        return Hardware()
