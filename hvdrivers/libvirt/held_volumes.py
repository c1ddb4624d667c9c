"""Which volume a disk of a machine holds.

The alias of a disk names the volume that was attached as that disk. Libvirt changes no alias while
a machine runs, so after a swap_volume() an element of the domain's metadata names the volume. It is
written before the copy begins, and says both: while the disk's source is the old one, it holds the
old volume. So the moment in which libvirt changes the source is the moment in which the volume has
changed, for each client, and a client that dies before or after it leaves no false name.
"""

from __future__ import annotations

import json

from pydantic import ValidationError

from hvdrivers.libvirt.metadata import NAMESPACE, kept
from hvdrivers.libvirt.naming import alias, from_alias
from hvdrivers.libvirt.xml import Element, attribute
from hvdrivers.models.base import Model

_NAMESPACE = f"{NAMESPACE}/volume/"


class Slot(Model):
    """What the metadata say of one disk."""

    volume_id: str
    """The volume that it holds."""
    before: str | None = None
    """The volume that it holds as long as its source is ``place``; None after the swap."""
    place: str = ""


def slot_namespace(device_alias: str) -> str:
    """The namespace of a disk's element."""
    return _NAMESPACE + device_alias


def slot_text(slot: Slot) -> str:
    """As the element holds it."""
    return json.dumps(slot.model_dump(mode="json"), ensure_ascii=True)


def source_of(disk: Element) -> str:
    """Path of the file or block device behind a ``<disk>``, or the name of a volume that is behind
    a network; empty for any other source."""
    names = (attribute(disk, "source", name) for name in ("file", "dev", "name"))
    return next((name for name in names if name), "")


def place_of(disk: Element) -> str:
    """The same, with the servers of a volume that is behind a network."""
    hosts = (f"{each.get('name')}:{each.get('port')}" for each in disk.iterfind("source/host"))
    return " ".join((source_of(disk), *hosts))


def volumes_of(domain: Element) -> dict[str, Element]:
    """The ``<disk>`` of each attached volume, by volume id."""
    found = {}
    for disk in domain.iterfind("devices/disk"):
        volume_id = _volume_of(domain, disk)
        if volume_id is not None:
            found[volume_id] = disk
    return found


def free_alias(volume_id: str, *domains: Element) -> str:
    """The alias for a volume that is attached now: another disk may have it, which held that volume
    before a swap_volume()."""
    taken = {
        attribute(device, "alias", "name")
        for domain in domains
        for device in domain.iterfind("devices/disk")
    }
    number = 1
    while True:
        name = alias("volume", volume_id, number)
        if name not in taken and all(kept(each, slot_namespace(name)) is None for each in domains):
            return name
        number += 1


def _volume_of(domain: Element, disk: Element) -> str | None:
    name = attribute(disk, "alias", "name") or ""
    volume_id = from_alias("volume", name)
    content = None if volume_id is None else kept(domain, slot_namespace(name))
    if content is None:
        return volume_id
    try:
        slot = Slot.model_validate_json(content)
    except ValidationError:
        return volume_id  # somebody has edited the domain
    return slot.before if slot.before and slot.place == place_of(disk) else slot.volume_id
