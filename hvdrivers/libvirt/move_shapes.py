"""Definitions in a move in steps: what an instance becomes, and what it was.

Only functions of their arguments, no remote call. Each changes the definition that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

from hvdrivers.libvirt.cold_size import has_nodes, size_in, size_of
from hvdrivers.libvirt.domain import definable, own_disk
from hvdrivers.libvirt.metadata import (
    FLAVOR_NAMESPACE,
    STATE_NAMESPACE,
    RootDisk,
    disk_namespace,
    flavor_text,
    kept,
    put,
    record_in,
    root_text,
    roots_in,
)
from hvdrivers.libvirt.move_mark import (
    ARRIVED_NAMESPACE,
    MOVE_NAMESPACE,
    Mark,
    Step,
    copy_name,
    root_role,
)
from hvdrivers.libvirt.naming import domain_name
from hvdrivers.libvirt.sizes import resized
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.flavor import Flavor


def arriving(domain: Element, uuid: UUID, label: str, mark: Mark) -> Element:
    """The instance as it is defined at the destination."""
    name, emulator = domain.find("name"), domain.find("devices/emulator")
    if name is not None:
        name.text = domain_name(label, uuid)
    if emulator is not None:  # that host has its own
        domain.find("devices").remove(emulator)  # type: ignore[union-attr]
    without(domain, MOVE_NAMESPACE)
    # libvirt forgets there why the machine is off (see start.shall_run())
    without(domain, STATE_NAMESPACE)
    put(domain, ARRIVED_NAMESPACE, mark.token)
    return definable(with_size(domain, mark.flavor))


def finished(domain: Element, uuid: UUID, mark: Mark, path_of: Callable[[str], str]) -> Element:
    """Within one host: the instance with the new flavor and the copies of its disks.

    Args:
        path_of: gives the path of a file in the disk pool.
    """
    image = record_in(domain).image
    _set_disks(domain, {r: path_of(copy_name(uuid, r, mark.token)) for r in mark.disks})
    if mark.roots:
        _set_roots(domain, {})
        known = RootDisk(image=image, placed=True)
        put(domain, disk_namespace(root_role(mark.token)), root_text(known))
    put(domain, MOVE_NAMESPACE, mark.at(Step.FINISHED).text)
    return with_size(domain, mark.flavor)


def as_before(domain: Element, mark: Mark, step: Step) -> Element:
    """Within one host: the instance with the flavor and the disks that it had."""
    _set_disks(domain, mark.disks)
    _set_roots(domain, mark.roots)
    put(domain, MOVE_NAMESPACE, mark.at(step).text)
    return with_size(domain, mark.before)


def with_size(domain: Element, flavor: Flavor) -> Element:
    """The definition with the size of a flavor; one that the caller has placed keeps its size."""
    placed = bool(record_in(domain).numa)
    now, wanted = size_in(domain)._replace(flavor=None), size_of(flavor)._replace(flavor=None)
    if not placed and (now != wanted or has_nodes(domain, flavor)):
        domain = resized(domain, flavor)
    return put(domain, FLAVOR_NAMESPACE, flavor_text(flavor))


def without(domain: Element, namespace: str) -> Element:
    """The definition without an element of its metadata."""
    metadata = domain.find("metadata")
    if metadata is not None:
        for element in metadata.findall(f"{{{namespace}}}instance"):
            metadata.remove(element)
    return domain


def notes_on_roots(domain: Element) -> dict[str, str]:
    """What rebuild() has noted of root disks, by role."""
    return {role: kept(domain, disk_namespace(role)) or "" for role in roots_in(domain)}


def _set_roots(domain: Element, notes: Mapping[str, str]) -> None:
    for role in roots_in(domain):
        without(domain, disk_namespace(role))
    for role, note in notes.items():
        put(domain, disk_namespace(role), note)


def _set_disks(domain: Element, paths: Mapping[str, str]) -> None:
    for role, path in paths.items():
        disk = own_disk(domain, role)
        source = disk.find("source") if disk is not None else None
        if source is not None:
            source.set("file", path)
