"""Which volume a disk of a machine holds.

The alias of a disk names the volume that was attached as that disk. Libvirt changes no alias while
a machine runs, so after a swap_volume() an element of the domain's metadata names the volume. It is
written while the copy runs, and says both: while the disk's source is the old one, it holds the old
volume. So the moment in which libvirt changes the source is the moment in which the volume has
changed, for each client, and a client that dies before or after it leaves no false name. Libvirt
makes one copy of a disk at a time, so no two clients write the element of one disk. Nobody writes
it after the copy; detach_volume() removes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import libvirt
from pydantic import ValidationError

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.libvirt.metadata import NAMESPACE, keep, kept, put
from hvdrivers.libvirt.naming import alias, from_alias
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import Element, attribute, children
from hvdrivers.models.base import Model

_NAMESPACE = f"{NAMESPACE}/volume/"
_PORTS = {"iscsi": "3260", "nbd": "10809", "nfs": "2049"}
"""Ports that a running machine's definition names, and a stored one may leave out."""


class Slot(Model):
    """What the metadata say of one disk."""

    volume_id: str
    """The volume that it holds."""
    before: str | None = None
    """The volume that it holds as long as its source is ``place``; None: it holds volume_id."""
    place: str = ""


def _slot_namespace(device_alias: str) -> str:
    """The namespace of a disk's element."""
    return _NAMESPACE + device_alias


def _slot_text(slot: Slot) -> str:
    """As the element holds it."""
    return json.dumps(slot.model_dump(mode="json"), ensure_ascii=True)


def not_attached(volume_id: str) -> errors.VolumeNotFound:
    """What to say of a volume that a machine has not."""
    return errors.VolumeNotFound(f"the instance has no volume {volume_id!r}", hint=hints.ATTACHED)


def source_of(disk: Element) -> str:
    """Path of the file or block device behind a ``<disk>``, or the name of a volume that is behind
    a network; empty for any other source."""
    names = (attribute(disk, "source", name) for name in ("file", "dev", "name"))
    return next((name for name in names if name), "")


def place_of(disk: Element) -> str:
    """The same, with the servers of a volume that is behind a network."""
    usual = _PORTS.get(attribute(disk, "source", "protocol") or "")
    hosts = (
        f"{each.get('name')}:{each.get('port', usual)}" for each in disk.iterfind("source/host")
    )
    return " ".join((source_of(disk), *hosts))


def volumes_of(domain: Element) -> dict[str, Element]:
    """The ``<disk>`` of each attached volume, by volume id."""
    found = {}
    for disk in children(domain, "devices"):
        volume_id = _volume_of(domain, disk) if disk.tag == "disk" else None
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
        if name not in taken and all(kept(each, _slot_namespace(name)) is None for each in domains):
            return name
        number += 1


def slot_of(domain: Element, disk: Element) -> Slot | None:
    """What the metadata say of a disk; None where they say nothing."""
    content = kept(domain, _slot_namespace(attribute(disk, "alias", "name") or ""))
    if content is None:
        return None
    try:
        return Slot.model_validate_json(content)
    except ValidationError:
        return None  # somebody has edited the domain


def write_slot(domain: Remote, device_alias: str, slot: Slot | None) -> None:
    """Let the metadata say this of a disk, or nothing (None). One call; two for a machine that is
    off."""
    content = None if slot is None else _slot_text(slot)
    in_both(lambda flags: keep(domain, _slot_namespace(device_alias), content, flags))


def in_both(send: Callable[[int], object]) -> None:
    """Change a machine and its definition; the definition alone, if the machine is off."""
    try:
        send(libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except errors.InvalidState:
        send(libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def settle(domain: Element, disk: Element) -> None:
    """Before the source of a disk is changed in a domain's XML: let the metadata name the volume
    that it holds, wherever it is."""
    volume_id = _volume_of(domain, disk)
    if volume_id is not None and slot_of(domain, disk) is not None:
        name = attribute(disk, "alias", "name") or ""
        put(domain, _slot_namespace(name), _slot_text(Slot(volume_id=volume_id)))


def _volume_of(domain: Element, disk: Element) -> str | None:
    volume_id = from_alias("volume", attribute(disk, "alias", "name") or "")
    slot = None if volume_id is None else slot_of(domain, disk)
    if slot is None:
        return volume_id
    return slot.before if slot.before and slot.place == place_of(disk) else slot.volume_id
