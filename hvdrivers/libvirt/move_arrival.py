"""What finish_move() does at the destination."""

from __future__ import annotations

from pathlib import PurePosixPath
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.undo import undoing
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.definition import define
from hvdrivers.libvirt.devices import source_of, volumes_of
from hvdrivers.libvirt.domain import own_disk, own_disks_in
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.metadata import kept, record_in
from hvdrivers.libvirt.move_copies import nothing_prepared, prepared_there
from hvdrivers.libvirt.move_mark import ARRIVED_NAMESPACE, mark_in
from hvdrivers.libvirt.naming import ROOT
from hvdrivers.libvirt.network_checks import unfit_network
from hvdrivers.libvirt.pinning import has_own
from hvdrivers.libvirt.pools import refresh
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import needing_room
from hvdrivers.libvirt.xml import Element, attribute, text
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.migration import Destination, Move

_GIB = 1 << 30


def require_arrived(domain: Remote, move: Move) -> None:
    """That the instance which is there came by this move. One call."""
    xml = xml_of(domain)
    mark = mark_in(xml)
    if mark is not None and mark.token == move.token:
        raise errors.InvalidRequest(
            "this host is the source of the move",
            hint="call finish_move() of a driver that is connected to the destination",
        )
    if kept(xml, ARRIVED_NAMESPACE) != move.token:
        raise nothing_prepared(move.uuid)


def arrive(here: Topic, move: Move, destination: Destination, deadline: Deadline) -> Remote:
    """Define the instance over the copies that are there. Nine calls, and those that
    finish_move() names."""
    uuid = move.uuid
    xml = prepared_there(here, uuid, move.token, deadline)
    _require_all(here, uuid, xml)
    _require_cpus(here, xml)
    rewiring = here.rewirings.find(uuid, xml, destination.volumes, destination.vifs)
    for interface in xml.iterfind("devices/interface"):
        if attribute(interface, "alias", "name") not in rewiring.devices:
            unfit = unfit_network(here.connection.remote, interface)
            if unfit is not None:
                raise unfit
    for disk in volumes_of(xml).values():
        known = attribute(disk, "alias", "name") in rewiring.devices
        if not known and disk.get("type") in {"file", "block"}:
            here.connection.remote.storageVolLookupByPath(source_of(disk))
    root = own_disk(xml, ROOT)
    if root is not None:
        grow(here, source_of(root), move.flavor)
    with undoing() as undo:
        for attachment in destination.volumes:
            here.secrets.make(uuid, attachment, undo)
        try:
            domain = define(here.connection.remote, text(rewiring.on(xml)))
        except errors.OutcomeUnknown:
            undo.forget_all()  # it may be there, and need them
            raise
        undo.callback(_undefine, here, uuid)
        for attachment in destination.volumes:
            here.deletions.require_kept(attachment.volume, deadline)
    return domain


def _require_all(here: Topic, uuid: UUID, xml: Element) -> None:
    """That all files of the copy are there: confirm_move() removes the ones that they were made
    from. The folder is looked at, as others may have deleted one behind the pool. Two calls."""
    paths = {source_of(each) for each in own_disks_in(xml).values()}
    if nvram := xml.findtext("os/nvram"):
        paths.add(nvram)
    refresh(here.pools.disks())
    there = {volume.name() for volume in here.removal.disks_of(uuid)}
    missing = sorted({PurePosixPath(each).name for each in paths} - there)
    if missing:
        raise nothing_prepared(
            uuid,
            hint=f"of its copy, {', '.join(missing)} has been deleted: revert_move() at the source,"
            " and prepare_move() again",
        )


def _require_cpus(here: Topic, xml: Element) -> None:
    """That a machine with CPUs to itself can have some here. No call: the others may go off before
    it starts."""
    record = record_in(xml)
    if has_own(record.flavor, record.numa) and not here.config.aside:
        raise errors.InsufficientResources(
            "the machine wants dedicated CPUs, and this host sets none aside",
            hint="connect(dedicated_cpus=) names those of this host; or choose another flavor",
        )


def grow(here: Topic, path: str, flavor: Flavor) -> None:
    """Make a copy of a root disk as large as the flavor says. Three calls, two if it is."""
    volume = here.connection.remote.storageVolLookupByPath(path)
    wanted = flavor.disk_gib * _GIB
    if wanted > int(volume.info()[1]):
        with needing_room(here.pools.disks(), capacity=wanted):
            volume.resize(wanted, 0)


def _undefine(here: Topic, uuid: UUID) -> None:
    """Undo the definition at the destination, and keep what was prepared for it."""
    domain = here.domains.if_there(uuid)
    if domain is not None:
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
