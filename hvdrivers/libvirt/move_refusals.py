"""When an instance of libvirt cannot be moved in steps, and with which error."""

from __future__ import annotations

from uuid import UUID

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.driverkit.checks import require_growth
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.encrypted_memory import is_encrypted, refuse_growth
from hvdrivers.libvirt.metadata import record_in
from hvdrivers.libvirt.move_mark import Mark, Step
from hvdrivers.libvirt.moving_plan import Own
from hvdrivers.libvirt.naming import ROOT
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.size_refusals import refuse_other_disks, refuse_placed
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.migration import Blocker, BlockerKind

_GIB = 1 << 30


def unfinished(uuid: UUID) -> errors.InvalidState:
    """The error for a move that cannot be confirmed yet."""
    return errors.InvalidState(
        "the move is not finished", instance=uuid, hint="finish_move() at the destination first"
    )


def refuse_confirmed(uuid: UUID, mark: Mark) -> None:
    """Raise InvalidState at the source of a move that a confirm_move() has begun to end."""
    if mark.step is Step.ENDED and mark.where is not None:
        raise errors.InvalidState(
            "the instance is at the destination, and what it was here is being removed",
            instance=uuid,
            hint="a confirm_move() was interrupted: confirm_move() again",
        )


def refuse_unfit(domain: Remote, xml: Element, wanted: Flavor, own: list[Own]) -> None:
    """Refuse what cannot be, before anything is done. Two calls."""
    record = record_in(xml)
    refuse_other_disks(record.flavor, wanted)
    refuse_placed(record, wanted)
    if is_encrypted(xml):
        refuse_growth(wanted)
    if xml.find("devices/tpm") is not None:
        raise errors.InvalidRequest(
            "it has a TPM, whose state libvirt copies nowhere",
            hint="cold_migrate() hands it to another host; resize() it on this one",
        )
    if domain.snapshotNum(0):
        raise errors.InvalidRequest("it has snapshots", hint="delete them first")
    for each in own:
        if each.role == ROOT and wanted.disk_gib:
            now = int(each.volume.info()[1])
            require_growth("the root disk", now, wanted.disk_gib * _GIB)


def refuse_blocked(blockers: list[Blocker], *, lacks_room: bool) -> None:
    """Raise for blockers, if there are any.

    Args:
        lacks_room: those of the kind STORAGE say that there is no room.

    Raises:
        InsufficientResources: the other host lacks nothing but room, memory or the like.
        InvalidRequest: anything else speaks against the move.
    """
    if not blockers:
        return
    reasons = "; ".join(each.reason for each in blockers)
    hint = "; ".join(each.hint for each in blockers if each.hint is not None) or None
    full = {BlockerKind.RESOURCES} | ({BlockerKind.STORAGE} if lacks_room else set())
    if {each.kind for each in blockers} <= full:
        raise errors.InsufficientResources(reasons, hint="choose another host, or free room there")
    raise errors.InvalidRequest(reasons, hint=hint)


def require_memory(host: Topic, flavor: Flavor) -> None:
    """Raise InsufficientResources if a host has less memory than a flavor, in all. One call."""
    total = int(host.connection.remote.getInfo()[1])
    if flavor.memory_mib > total:
        raise errors.InsufficientResources(
            f"the machine would have {flavor.memory_mib} MiB of memory, the host has {total} MiB",
            hint=hints.SMALLER_FLAVOR,
        )
