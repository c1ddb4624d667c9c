"""Files that a move of disks to another pool makes or replaces, noted in the machine's metadata.

The note is written before the first of them is made, and goes with the last. It names new files and
old ones alike. Which of them the machine has, its definition says: libvirt changes that in one
moment. So a file that is noted, and that neither the machine nor its definition names, is left of a
move that has failed, or has not come to its end. The next move deletes it, or destroy() does.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Iterable
from contextlib import suppress
from uuid import UUID

from pydantic import ValidationError

from hvdrivers.contract import errors
from hvdrivers.libvirt.adopted import adoption_in
from hvdrivers.libvirt.domain import own_disks_in
from hvdrivers.libvirt.files import clean, paths_in
from hvdrivers.libvirt.held_volumes import in_both, source_of
from hvdrivers.libvirt.metadata import NAMESPACE, keep, kept
from hvdrivers.libvirt.naming import disk_name
from hvdrivers.libvirt.pools import Pools, delete
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import Element, attribute
from hvdrivers.models.base import Model

_NAMESPACE = f"{NAMESPACE}/files"


class File(Model):
    """A file of an instance."""

    pool: str
    path: str

    @property
    def name(self) -> str:
        """Of the volume."""
        return posixpath.basename(self.path)


class _Note(Model):
    files: tuple[File, ...]


def noted_in(uuid: UUID, *domains: Element) -> list[File]:
    """The files that a machine's XML notes. A file that has another name than the instance's own,
    and that adopt() has not recorded, is none: others have edited the domain."""
    found: dict[File, None] = {}
    for domain in domains:
        content = kept(domain, _NAMESPACE)
        if content is None:
            continue
        try:
            files = _Note.model_validate_json(content).files
        except ValidationError:
            continue
        own, adoption = disk_name(uuid, ""), adoption_in(domain)
        had = {clean(each.path) for each in adoption.disks} if adoption is not None else set()
        found |= dict.fromkeys(
            each for each in files if each.name.startswith(own) or clean(each.path) in had
        )
    return list(found)


def note(domain: Remote, files: Collection[File]) -> None:
    """Note these files and no others. One call; two for a machine that is off."""
    noted = _Note(files=tuple(files)).model_dump(mode="json")
    content = json.dumps(noted, ensure_ascii=True) if files else None
    in_both(lambda flags: keep(domain, _NAMESPACE, content, flags))


def end_copies(domain: Remote, live: Element, files: Collection[File]) -> bool:
    """End what copies an own disk of a running machine to one of these files; whether there was
    anything. One call for each."""
    paths = {clean(each.path) for each in files}
    ended = False
    for disk in own_disks_in(live).values():
        mirror = disk.find("mirror")
        if mirror is not None and clean(source_of(mirror)) in paths:
            ended = True
            with suppress(errors.InvalidState, errors.InvalidRequest, errors.HypervisorFault):
                domain.blockJobAbort(attribute(disk, "target", "dev") or "", 0)
    return ended


def unnamed(files: Iterable[File], *domains: Element) -> list[File]:
    """Those that a machine has not."""
    named = {path for domain in domains for path in paths_in(domain)}
    return [each for each in files if clean(each.path) not in named]


def delete_files(pools: Pools, files: Iterable[File]) -> list[File]:
    """Delete these files. Two calls for each, one more in another pool than the driver's own.

    Returns:
        Those in pools that are not active.
    """
    away = []
    for each in files:
        try:
            pool = pools.named(each.pool)
        except errors.VolumeNotFound as error:
            if error.vendor_code is None:  # it is defined, and stopped
                away.append(each)
            continue
        try:
            volume = pool.storageVolLookupByName(each.name)
        except errors.VolumeNotFound:
            continue
        delete(volume)
    return away
