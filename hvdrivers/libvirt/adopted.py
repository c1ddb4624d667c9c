"""What an adopted machine's metadata say of its disks.

Libvirt changes no alias of a running machine, so the disks that spawn() has not made are known by
the name of their device (``vda``). The element names the instance too: a copy that somebody makes
of the machine brings the element along, and has other disks.
"""

from __future__ import annotations

import json
import posixpath
from copy import deepcopy
from uuid import UUID

from pydantic import ValidationError

from hvdrivers.libvirt.files import clean
from hvdrivers.libvirt.metadata import NAMESPACE, kept
from hvdrivers.libvirt.naming import OWN_ALIAS, is_own
from hvdrivers.libvirt.xml import Element, attribute, el
from hvdrivers.models.base import Model

ADOPTED_NAMESPACE = f"{NAMESPACE}/adopted"


class AdoptedDisk(Model):
    """A disk that the machine had when it was adopted, and that goes with it."""

    role: str
    """``root``, ``disk1``, ..."""
    target: str
    """Name of the device."""
    path: str
    """Of the file."""


class Adoption(Model):
    """All of them."""

    uuid: str
    disks: tuple[AdoptedDisk, ...] = ()

    def has(self, role: str, path: str) -> bool:
        """Whether a file is the machine's disk of this role: the one that was recorded, or where
        migrate_storage() has put it, which an interrupted one has not recorded."""
        known = next((each.path for each in self.disks if each.role == role), None)
        is_moved = is_own(posixpath.basename(path), UUID(self.uuid), role)
        return known is not None and (clean(path) == clean(known) or is_moved)

    def text(self) -> str:
        """As the element holds it."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=True)


def adoption_in(domain: Element) -> Adoption | None:
    """What a machine's XML says; None where adopt() has written nothing."""
    content = kept(domain, ADOPTED_NAMESPACE)
    if content is None:
        return None
    try:
        found = Adoption.model_validate_json(content)
    except ValidationError:
        return None  # somebody has edited the domain: nothing of it is taken for ours
    return found if found.uuid == domain.findtext("uuid") else None


def adopted_disks(domain: Element, adoption: Adoption) -> dict[str, Element]:
    """The ``<disk>`` of each, by role."""
    by_target = {}
    for disk in domain.iterfind("devices/disk"):
        target = disk.find("target")
        if target is not None:
            by_target[target.get("dev")] = disk
    return {
        each.role: _by_path(by_target[each.target], each.path)
        for each in adoption.disks
        if each.target in by_target
    }


def name_disks(domain: Element) -> None:
    """Give the disks of an adopted machine the aliases that spawn() gives, in a definition that is
    not stored."""
    adoption = adoption_in(domain)
    roles = {each.target: each.role for each in adoption.disks} if adoption else {}
    for disk in domain.iterfind("devices/disk"):
        role = roles.get(attribute(disk, "target", "dev") or "")
        if role is not None:
            for each in disk.findall("alias"):
                disk.remove(each)
            disk.append(el("alias", name=f"{OWN_ALIAS}{role}"))


def _by_path(disk: Element, path: str) -> Element:
    """A disk that is named by pool and volume, as one that is named by its path."""
    if disk.get("type") != "volume":
        return disk
    shown = deepcopy(disk)
    shown.set("type", "file")
    for source in shown.iterfind("source"):
        source.attrib.clear()
        source.set("file", path)
    return shown
