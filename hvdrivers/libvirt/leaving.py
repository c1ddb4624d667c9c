"""What the source of a live migration remembers, and what is left where the end of one was cut.

At its end the CPUs stand still here, and start there when the caller's process has told the
destination so. If the daemon here or the caller dies in between, the daemon here does not know
whether they have: it keeps the machine, PAUSED. So the machine has a note here until it has gone,
and the one that arrives has the same token. live_migrate() to the same destination looks for that
machine, and leaves one of both. Until then nothing lets the machine here run.

The note is in the live machine alone, and goes with its power; that of a machine that is off is in
its definition.
"""

from __future__ import annotations

from contextlib import suppress
from secrets import token_hex
from typing import Any
from uuid import UUID

import libvirt
from pydantic import Field, ValidationError

from hvdrivers.contract import errors
from hvdrivers.driverkit.undo import changed
from hvdrivers.libvirt.metadata import NAMESPACE, keep, kept
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.states import is_restoring
from hvdrivers.libvirt.xml import Element, parse
from hvdrivers.models.base import Model

LEAVING_NAMESPACE = f"{NAMESPACE}/leaving"
_LIVE, _STORED = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
_ALLOWED = frozenset({"live_migrate", "abort_migration", "force_migration", "power_off"})
"""What a machine takes of which it is not known whether it has gone. power_off() decides that it
has not."""


class Leaving(Model):
    """The note of a live migration that is under way, or was cut."""

    token: str = Field(default_factory=lambda: token_hex(8))
    """That of the machine which arrives, too."""
    where: str
    """The host as it was asked for."""
    shared: bool
    """Both hosts have the disks."""
    log_shared: bool

    def on(self, domain: Remote, *, running: bool) -> None:
        """Note it. One call."""
        keep(domain, LEAVING_NAMESPACE, self.model_dump_json(), _LIVE if running else _STORED)


def forget(domain: Remote, *, running: bool = True) -> None:
    """Remove the note of a machine that stays. One call."""
    keep(domain, LEAVING_NAMESPACE, None, _LIVE if running else _STORED)


def leaving_in(xml: Element) -> Leaving | None:
    """The note in a machine's live XML."""
    content = kept(xml, LEAVING_NAMESPACE)
    if content is None:
        return None
    try:
        return Leaving.model_validate_json(content)
    except ValidationError:
        return None


def cut_in(domain: Remote) -> Leaving | None:
    """The note of a machine whose migration was cut at its end; None for any other. One call; two
    for one that libvirt has paused, and one more where there is a note."""
    if not is_restoring(*domain.state(0)):
        return None
    note = leaving_in(parse(domain.XMLDesc(0)))
    return note if note is not None and not job_of(domain) else None


def refuse_cut(operation: str, uuid: UUID, domain: Remote) -> None:
    """Refuse to change a machine that may run at the destination. Calls as for cut_in()."""
    if operation in _ALLOWED or (note := cut_in(domain)) is None:
        return
    raise errors.InvalidState(
        f"its live migration was cut at its end: it may run at {note.where}",
        instance=uuid,
        hint="live_migrate() it there again: that leaves one of both. Or power_off() this one, if"
        " you know that it does not run there",
    )


def refuse_shared(domain: Remote, xml: Element) -> None:
    """Refuse to delete disks with which the machine may run at the destination. No call without a
    note of such disks, else those of cut_in()."""
    note = leaving_in(xml)
    if note is not None and note.shared and cut_in(domain) is not None:
        raise errors.DeviceBusy(
            f"its live migration was cut at its end: it may run at {note.where}, with these disks",
            hint="live_migrate() it there again: that leaves one of both. Or power_off() this one"
            " first, if you know that it does not run there",
        )


def go_on(domain: Remote) -> None:
    """Let a machine run that has not gone. Two calls."""
    domain.resume()
    with changed():
        forget(domain)


def job_of(domain: Remote) -> dict[str, Any]:
    """The migration away from this host that is under way; empty without one. One call."""
    try:
        found: dict[str, Any] = domain.jobStats(0)
    except (errors.InvalidState, errors.InstanceNotFound):
        return {}  # it is off, or has gone
    if int(found.get("type", 0)) == libvirt.VIR_DOMAIN_JOB_NONE:
        return {}
    if found.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
        return {}
    return found


def bytes_of(found: dict[str, Any]) -> tuple[int, int]:
    """All there is to move, and what is left of it."""
    return int(found.get("data_total", 0)), int(found.get("data_remaining", 0))


def abort(domain: Remote) -> None:
    """End the move that is under way. One call."""
    with suppress(errors.InvalidState, errors.InstanceNotFound):  # it has ended
        domain.abortJob()
