"""Who uses a file of the host: machines, and volumes that stand on it.

A snapshot puts a new file over a disk: from then on the machine's definition names the new file,
and the old one is needed all the same. So a file is in use if it is anywhere in the chain of any
disk. The pools are refreshed before the look, as libvirt makes such files without telling them. A
look that fails is no answer: it raises DeviceBusy.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from secrets import randbelow, token_hex
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.device_names import is_device
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import own_disks_in
from hvdrivers.libvirt.files import Times, base_path, clean, is_within, paths_in, times_of
from hvdrivers.libvirt.identity import Identity
from hvdrivers.libvirt.naming import IMAGE_PREFIX, disk_name, is_raw_volume
from hvdrivers.libvirt.pools import LOOK, Pools, refresh
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.reserved import is_of_the_driver, is_reserved, not_free
from hvdrivers.libvirt.session import Connection, last_calls
from hvdrivers.libvirt.xml import Element, attribute, el, parse, readable, text

_CONFLICT = "VIR_ERR_OPERATION_FAILED"
"""Another pool is on that folder."""


class Look:
    """What the pools tell of the host's files, and which of them are one file, the target."""

    def __init__(self, remote: Remote, target: Remote, pools: Pools) -> None:
        """One call for each pool to refresh it, one to list it, one for each volume, three for the
        target.

        Raises:
            DeviceBusy: a pool has a job, and cannot be looked at.
        """
        self._remote = remote
        self._folders: dict[str, Remote | None] = {}
        self._opened = ExitStack()
        self._volumes: dict[str, Element] = {}
        self._named: dict[tuple[str, str], str] = {}
        path = clean(str(target.path()))
        first = _times(target)
        for pool in pools.files():
            _refresh(pool)
            for name, volume in pools.volumes(pool).items():
                description = described(volume)
                if description is not None:
                    where = clean(description.findtext("target/path") or "")
                    self._volumes[where] = description
                    self._named[pool.name(), name] = where
        # a guest may be writing to it now: its times are between these
        self._span = (first, _times(target))
        self.paths = {path} | {
            each
            for each, description in self._volumes.items()
            if _may_be(each, path) and self._same(description.find("target"))
        }

    def close(self) -> None:
        """Remove the pools that were made to look into folders."""
        self._opened.close()

    def overlays(self) -> list[str]:
        """Names of the volumes that stand directly on the target."""
        return [
            posixpath.basename(path)
            for path, description in self._volumes.items()
            if self._stands_on_it(description)
            and path not in self.paths
            # to a raw volume its guest may write a header that names any file
            and not is_raw_volume(posixpath.basename(path))
        ]

    def is_used_by(self, running: Element | None, defined: Element) -> bool:
        """Whether a machine has the target in a disk's chain. Libvirt knows the chain of one that
        runs; that of any other is followed from file to file.

        Raises:
            DeviceBusy: a file in it cannot be looked at.
        """
        live = self._paths_of(running) if running is not None else set()
        if (live | self._paths_of(defined)) & self.paths:
            return True
        return any(
            path in self.paths or self._stands_on_it(description)
            for disk in defined.iterfind("devices/disk")
            if attribute(disk, "driver", "type") != "raw"
            for top in self._paths_of(disk) - live
            for path, description in self._chain(top)
        )

    def _paths_of(self, element: Element) -> set[str]:
        named = {
            self._named.get((each.get("pool") or "", each.get("volume") or ""), "")
            for each in element.iter("source")
        }
        return (paths_in(element) | named) - {""}

    def _chain(self, path: str) -> Iterator[tuple[str, Element]]:
        seen: set[str] = set()
        while path and path not in seen:
            seen.add(path)
            description = self._volumes.get(path)
            if description is None:
                description = self._beside_the_pools(path)
            if description is None:
                return
            yield path, description
            path = base_path(description)

    def _beside_the_pools(self, path: str) -> Element | None:
        """A file that the pools have got since they were listed, or one in no pool, seen through a
        pool that is made for the look; None if it is not there. Five calls."""
        folder, name = posixpath.split(path)
        if is_device(folder):
            return None
        with suppress(errors.VolumeNotFound):
            return described(self._remote.storageVolLookupByPath(path))
        try:
            if folder not in self._folders:
                self._folders[folder] = self._opened_pool(folder)
            known = self._folders[folder]
            return None if known is None else described(known.storageVolLookupByName(name))
        except errors.VolumeNotFound:
            return None
        except (errors.HypervisorFault, errors.PermissionDenied, errors.DeviceBusy) as error:
            raise errors.DeviceBusy(
                f"a machine's disk {path} may stand on it, and cannot be looked at: "
                f"{error.message}",
                vendor_code=error.vendor_code,
                hint="make the file readable for the daemon, or remove the machine",
                retryable=False,
            ) from error

    def _opened_pool(self, folder: str) -> Remote | None:
        for _ in range(4):
            try:
                pool: Remote = self._remote.storagePoolCreateXML(_pool_to_look(folder), 0)
            except errors.VolumeNotFound:
                return None
            except errors.HypervisorFault as error:
                if error.vendor_code != _CONFLICT:
                    raise
                conflict = error
            else:
                self._opened.callback(_drop, pool)
                return pool
        raise conflict

    def _stands_on_it(self, description: Element) -> bool:
        path = base_path(description)
        if path in self.paths:
            return True
        # libvirt has read the times of what the path leads to, through any symlink
        return (
            bool(path)
            and path not in self._volumes
            and self._same(description.find("backingStore"))
        )

    def _same(self, element: Element | None) -> bool:
        return is_within(times_of(element), *self._span)


class Chains:
    """Look along the chains of disks."""

    def __init__(self, connection: Connection, pools: Pools, identity: Identity) -> None:
        self._connection = connection
        self._pools = pools
        self._identity = identity

    @contextmanager
    def looking(self, volume: Remote) -> Iterator[Look]:
        """What the pools tell of a volume's file, for the length of the block."""
        look = Look(self._connection.remote, volume, self._pools)
        try:
            yield look
        finally:
            look.close()

    def machine_with(
        self, look: Look, *, running: bool = False, but: UUID | None = None
    ) -> Remote | None:
        """A machine that has the file in a disk's chain, in what runs or in its definition; only
        one that runs, if so wished; another one than ``but``. One call, and one for each
        machine, two for one that runs; more for a machine that is off and has an overlay in no
        pool."""
        which = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE if running else 0
        for domain in self._connection.remote.listAllDomains(which):
            if but is not None and UUID(domain.UUIDString()) == but:
                continue
            defined = _xml_of(domain, libvirt.VIR_DOMAIN_XML_INACTIVE)
            live = _xml_of(domain, 0) if domain.ID() >= 0 else None
            if defined is not None and look.is_used_by(live, defined):
                found: Remote = domain
                return found
        return None

    def refuse_not_free(
        self, path: str, volume: Remote | None, seen: Element | None = None
    ) -> None:
        """Raise InvalidRequest if a file that the driver has not made is a disk of an instance, or
        a cached image, under another name: the top file of a snapshot, or a symlink.

        3 calls, 1 for each such disk and image in the driver's pool, 1 or 2 for each instance, and
        2 for each snapshot's file, and for each disk that is in another pool.

        Args:
            volume: None for a file in no pool.
            seen: what libvirt has said of such a file; None: it is known by its path only.
        """
        tops, away = self._tops()
        if clean(path) in tops:
            raise not_free()
        if volume is None and seen is None:
            return
        first = _times(volume) if volume is not None else _times_in(seen)
        reserved = [
            _times(each)
            for name, each in self._pools.volumes(self._pools.disks()).items()
            if is_reserved(name)
        ]
        for each in away:
            with suppress(errors.VolumeNotFound):
                reserved.append(_times(self._connection.remote.storageVolLookupByPath(each)))
        last = _times(volume) if volume is not None else first
        # one that is being written to is open in a running machine, and QEMU's lock refuses it
        if first is not None and first == last and first in reserved:
            raise not_free()

    def _tops(self) -> tuple[set[str], set[str]]:
        """What snapshots have put over the disks of instances; and the disks that
        migrate_storage() has moved to other pools."""
        found: set[str] = set()
        away: set[str] = set()
        folder = self._pools.path(self._pools.disks())
        domains = {UUID(each.UUIDString()): each for each in self._listed()}
        ours = self._identity.labels((uuid, each.name()) for uuid, each in domains.items())
        for domain in (domains[uuid] for uuid in ours):
            for flags in (libvirt.VIR_DOMAIN_XML_INACTIVE, *((0,) if domain.ID() >= 0 else ())):
                xml = _xml_of(domain, flags)
                for disk in own_disks_in(xml).values() if xml is not None else ():
                    top = clean(source_of(disk))
                    found |= self._down_to_own(top)
                    if is_reserved(posixpath.basename(top)) and posixpath.dirname(top) != folder:
                        away.add(top)
        return found, away

    def _listed(self) -> list[Remote]:
        return list(self._connection.remote.listAllDomains(0))

    def _down_to_own(self, path: str) -> set[str]:
        found: set[str] = set()
        path = clean(path)
        while path and path not in found and not is_reserved(posixpath.basename(path)):
            found.add(path)
            try:
                volume = self._connection.remote.storageVolLookupByPath(path)
            except errors.VolumeNotFound:
                break
            description = described(volume)
            path = base_path(description) if description is not None else ""
        return found

    def above(self, path: str, own: set[str], uuid: UUID) -> list[Remote]:
        """The volumes over a machine's own disk, from the top file to the first that is its own; of
        one that migrate_storage() has moved with that one; only the top if the chain leads to none
        of its own: what is below may be others'. Two calls for each.

        Args:
            own: its own files in the disk pool.
        """
        found: list[Remote] = []
        seen: set[str] = set()
        path = clean(path)
        while path and path not in own:
            if path in seen:
                return found[:1]
            if posixpath.basename(path).startswith(IMAGE_PREFIX):
                # others' disks stand on it, whoever has merged a disk into it
                return found[:1]
            seen.add(path)
            try:
                volume = self._connection.remote.storageVolLookupByPath(path)
            except errors.VolumeNotFound:
                return found[:1]  # in no pool: libvirt gives no access to it
            found.append(volume)
            if posixpath.basename(path).startswith(disk_name(uuid, "")):
                return found
            description = described(volume)
            path = base_path(description) if description is not None else ""
        return found if path else found[:1]


def _refresh(pool: Remote) -> None:
    """A pool that is stopped meanwhile, or whose folder has gone, is one that is not active."""
    try:
        refresh(pool)
    except (errors.HypervisorFault, errors.VolumeNotFound, errors.PermissionDenied) as error:
        stopped = error.vendor_code in {"VIR_ERR_OPERATION_INVALID", "VIR_ERR_NO_STORAGE_POOL"}
        if not stopped and not isinstance(error, errors.VolumeNotFound):
            raise errors.DeviceBusy(
                f"storage pool '{pool.name()}' cannot be looked at: {error.message}",
                vendor_code=error.vendor_code,
                hint="overlays of the volume may be in it: look at that pool on the host",
            ) from error


def _may_be(path: str, target: str) -> bool:
    """Whether a path may be another name of the target. Files that the driver has made have one
    name each, in one pool; two of them may be made at the same moment."""
    name = posixpath.basename(path)
    return name == posixpath.basename(target) or not is_of_the_driver(name)


def _xml_of(domain: Remote, flags: int) -> Element | None:
    """None of a machine that has gone meanwhile, or that cannot be read: libvirt could not start
    it."""
    try:
        document = domain.XMLDesc(flags)
    except errors.InstanceNotFound:
        return None
    return readable(f"the machine {domain.UUIDString()}", partial(parse, document))


def _pool_to_look(folder: str) -> str:
    # Libvirt refuses a second pool on a folder, be the first active or not, and compares text. The
    # number of dots keeps two that look at the same moment apart.
    path = folder + "/." * (1 + randbelow(200))
    target = el("target", el("path", path))
    return text(el("pool", el("name", f"{LOOK}{token_hex(8)}"), target, type="dir"))


def _drop(pool: Remote) -> None:
    with suppress(errors.HypervisorError), last_calls():
        pool.destroy()


def same_file(one: Remote, other: Remote) -> bool:
    """Whether two volumes of one name, in two pools, are one file. Three calls."""
    first, now, last = (_times(each) for each in (one, other, one))
    return is_within(now, first, last)


def _times(volume: Remote) -> Times | None:
    return _times_in(described(volume))


def _times_in(description: Element | None) -> Times | None:
    """Of the file that a volume's XML describes."""
    return times_of(description.find("target")) if description is not None else None


def described(volume: Remote) -> Element | None:
    """A volume's XML; None for one that is gone, or cannot be read. One call."""
    try:
        return readable("a volume", lambda: parse(volume.XMLDesc(0)))
    except errors.VolumeNotFound:
        return None
