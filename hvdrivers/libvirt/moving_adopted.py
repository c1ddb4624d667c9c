"""The move of an adopted machine to another libvirt host: what it has beside one of spawn()'s.

Its disks have the names and the places that their owner gave them. A copy gets a name and a place
of the driver's, and the record of the adoption names the copy from then on. Disks that both hosts
have at the same path stay there.

The mark is made at the destination before the machine comes there, so the machine is an instance of
ours as soon as it is seen, wherever the caller dies. It gets the number of a later mark: a stream
of events takes the first one, which follows when the machine is there, as the news of it. The mark
at the source goes last. Without a machine it marks nothing, and destroy() removes it there.

Once the machine has left, no definition at the source names the files of its disks. So before the
move each of them is noted in a secret of libvirt's (``secrets.py``). destroy() of the UUID deletes
what an interrupted move has left of them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.driverkit.undo import Undo
from hvdrivers.libvirt.adopted import ADOPTED_NAMESPACE, Adoption
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.covered_disks import COVERED_HINT, covered
from hvdrivers.libvirt.devices import source_of, volumes_of
from hvdrivers.libvirt.disguised import refuse_disguised
from hvdrivers.libvirt.domain import own_disks_in
from hvdrivers.libvirt.files import clean
from hvdrivers.libvirt.identity import Mark
from hvdrivers.libvirt.metadata import put
from hvdrivers.libvirt.moving_plan import Plan, own_files, reaches
from hvdrivers.libvirt.naming import console_name, disk_name
from hvdrivers.libvirt.pools import refresh, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import needing_room
from hvdrivers.libvirt.xml import Element, attribute
from hvdrivers.models.migration import BlockerKind

_ARRIVING, _ARRIVED = 2, 1
"""Numbers of the marks at the destination (see ``identity.py``)."""


def look(here: Topic, there: Topic, domain: Remote, plan: Plan, adoption: Adoption) -> None:
    """What of an adopted machine keeps it here, and whether both hosts have its disks. Three calls
    there, and two for each disk and CD that the hosts do not share; here 1 for each."""
    try:
        there.connection.remote.lookupByName(domain.name())
    except errors.InstanceNotFound:
        pass
    else:
        plan.add(
            BlockerKind.STATE,
            f"a machine that libvirt knows by the name {domain.name()!r} is there",
            hint="rename one of the two while it is off: virsh domrename",
        )
    if plan.xml.find("os[@firmware='efi']") is not None or plan.xml.findtext("os/nvram"):
        plan.add(
            BlockerKind.STORAGE,
            "it keeps the variables of its firmware in a file that no storage pool has",
            hint="snapshot_to_image() it, and spawn() one from that image there",
        )
    _look_at_disks(here, plan, adoption)
    _look_at_others(here, there, plan)
    found = [reaches(here, there, each.path) for each in plan.disks]
    plan.shared = bool(found) and all(found)
    rest = disk_name(UUID(adoption.uuid), "")
    for pool in (there.pools.disks(), there.pools.consoles()):
        refresh(pool)
        if any(name.startswith(rest) for name in there.pools.volumes(pool)):
            plan.add(
                BlockerKind.STATE,
                "the rest of an earlier machine with this UUID is there",
                hint="destroy() it there",
            )
            break


def _look_at_disks(here: Topic, plan: Plan, adoption: Adoption) -> None:
    disks = own_disks_in(plan.xml)
    targets = [
        attribute(disks[each.role], "target", "dev")
        for each in adoption.disks
        if each.role in disks and not adoption.has(each.role, source_of(disks[each.role]))
    ]
    for target in targets:
        plan.add(
            BlockerKind.STORAGE,
            covered(target),
            hint=COVERED_HINT,
            device=target,
        )
    if targets:
        return
    plan.disks = [
        replace(each, name=disk_name(UUID(adoption.uuid), each.role))
        for each in own_files(here.connection.remote, plan.xml)
    ]
    for each in plan.disks:
        try:
            hint = "write over its beginning in the guest, or detach it"
            refuse_disguised(disks[each.role], each.volume, hint)
        except errors.InvalidRequest as error:
            plan.add(BlockerKind.STORAGE, error.message, hint=error.hint, device=each.target)


def _look_at_others(here: Topic, there: Topic, plan: Plan) -> None:
    """Disks that are neither its own nor volumes: CDs, floppies, and what it only reads."""
    known = {attribute(disk, "target", "dev") or "" for disk in own_disks_in(plan.xml).values()}
    known |= {attribute(disk, "target", "dev") or "" for disk in volumes_of(plan.xml).values()}
    for disk in plan.xml.iterfind("devices/disk"):
        target, source = attribute(disk, "target", "dev") or "", disk.find("source")
        is_empty = source is None or not source.attrib.keys() & {"file", "dev", "pool", "dir"}
        if target in known or disk.get("type") == "network" or is_empty:
            continue
        if not reaches(here, there, source_of(disk)):
            plan.add(
                BlockerKind.STORAGE,
                f"the disk {target} is a file or a device of this host",
                hint=f"take it out: virsh change-media DOMAIN {target} --eject, or detach-disk",
                device=target,
            )


def begin(here: Topic, there: Topic, uuid: UUID, plan: Plan, undo: Undo) -> None:
    """Make what there must be before the machine moves: there the claim, which is an empty log, and
    the mark; here what the files are found by. Four calls there, one more for each secret of an
    earlier machine; here 1, and 1 for each disk that is copied."""
    mark = _mark_of(here, uuid)
    pool = there.pools.consoles()
    with needing_room(pool):
        pool.createXML(volume_xml(console_name(uuid), 0, "raw"), 0)
    there.secrets.delete(uuid)  # the mark of a machine that is there no more
    there.identity.put(replace(mark, number=_ARRIVING))
    if not plan.shared:
        undo.callback(partial(_forget_left, here, uuid))
        for each in plan.disks:
            here.secrets.note_left(uuid, clean(each.path))


def _forget_left(here: Topic, uuid: UUID) -> None:
    """The machine stays; of one that has gone, and whose move did not come to its end, destroy()
    needs the notes."""
    if here.domains.if_there(uuid) is not None:
        here.secrets.forget_left(uuid)


def _mark_of(here: Topic, uuid: UUID) -> Mark:
    mark = here.identity.marks().get(uuid)
    if mark is None:
        raise errors.InstanceNotFound("the instance was destroyed meanwhile", instance=uuid)
    return mark


def arrived(there: Topic, uuid: UUID, domain: Remote) -> None:
    """The machine is there: tell the streams of events. Six calls."""
    mark = there.identity.marks().get(uuid)
    if mark is not None and mark.number == _ARRIVING:
        state = there.domains.state(domain)
        there.identity.put(replace(mark, number=_ARRIVED, state=state))
        there.identity.remove(mark)


def place(xml: Element, plan: Plan, adoption: Adoption, there: Topic) -> None:
    """Let a definition, and the record of the adoption in it, name the copies. No call."""
    if plan.shared:
        return
    new = {each.role: there.pools.disk_path(each.name) for each in plan.disks}
    targets = {each.target: new[each.role] for each in plan.disks}
    for disk in xml.iterfind("devices/disk"):
        path = targets.get(attribute(disk, "target", "dev") or "")
        source = disk.find("source")
        if path is None or source is None:
            continue
        disk.set("type", "file")
        source.clear()
        source.set("file", path)
        for below in disk.findall("backingStore"):
            disk.remove(below)  # the copy stands alone
    moved = tuple(
        each.model_copy(update={"path": new[each.role]})
        for each in adoption.disks
        if each.role in new
    )
    put(xml, ADOPTED_NAMESPACE, Adoption(uuid=adoption.uuid, disks=moved).text())
