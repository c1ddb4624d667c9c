"""Machines that a migration has brought to the destination, and of which a host was not told.

The destination starts the machine and answers that it has. If that answer is lost, libvirt's client
takes it for a failure and lets the machine go on at the source, too. So after a failure the
destination is asked, and one of both is ended.

Then the client tells the source, which removes the machine. If that call is lost, libvirt's client
takes no notice: the migration has ended well, and the source keeps the machine, with its CPUs
frozen. So after a success the source is asked, and that one is ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, waitable
from hvdrivers.driverkit.undo import changed
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.definition import undefine
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.leaving import cut_in, job_of, leaving_in
from hvdrivers.libvirt.metadata import kept
from hvdrivers.libvirt.move_mark import ARRIVED_NAMESPACE
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.start import cut
from hvdrivers.libvirt.states import is_restoring

_PATIENCE = 10.0
"""Seconds that the destination may take to start the machine, or to end what nobody has started."""
_LOOKS_APART = 0.2


def arrived(there: Topic, uuid: UUID, token: str) -> Remote | None:
    """The machine that has come by the migration with this token; None if it has not. Four calls,
    and three for each look at one that is being started.

    Raises:
        OperationTimeout: it has not been started, and is not ended either.
    """
    deadline = Deadline(_PATIENCE)
    while True:
        try:
            found: Remote = there.connection.remote.lookupByUUIDString(str(uuid))
            if kept(xml_of(found), ARRIVED_NAMESPACE) != token:
                return None
            if not is_restoring(*found.state(0)) and found.isPersistent():
                return found
        except errors.InstanceNotFound:
            return None
        deadline.check("the destination has started the machine, or ended it")
        time.sleep(waitable(deadline.within(_LOOKS_APART)))


def end(domain: Remote) -> None:
    """End one of both. Its disks stay. Three calls."""
    cut(domain, loses=False)
    with changed():
        undefine(domain)


def has_ended(token: str, domain: Remote) -> bool:
    """End the machine that the source has kept after the migration with this token; whether it was
    that one. One call, three more if it was.

    Raises:
        OutcomeUnknown: it is another one, or its power has gone since, and its note.
    """
    note = leaving_in(xml_of(domain))
    if note is None or note.token != token:
        raise errors.OutcomeUnknown(
            "the machine has arrived, and there is one with its UUID here, too",
            hint="look at both, and destroy() the one that is too many",
        )
    end(domain)
    return True


def one_of_both(
    here: Topic,
    find: Callable[[], Remote | None],
    uuid: UUID,
    *,
    running: bool,
    error: errors.HypervisorError,
) -> bool:
    """After a failure: leave the machine at one of both hosts. Whether that is the destination: the
    machine stands still here. Up to four calls here, and one there if it has not arrived.

    Args:
        find: looks for the machine at the destination, as :func:`arrived` does.
        running: it ran when the migration began.

    Raises:
        ConnectionFailed: it goes on here, and the one there is ended.
        OutcomeUnknown: the destination cannot be asked.
    """
    try:
        domain = here.domains.if_there(uuid)
        if domain is None or job_of(domain):
            return False
        stands = not running or cut_in(domain) is not None
    except errors.HypervisorError:
        return False  # it is this host that is away
    try:
        found = find()
        if found is not None and not stands:
            end(found)
    except errors.HypervisorError as unknown:
        raise errors.OutcomeUnknown(
            f"{error.message}; whether the machine has arrived is not known: {unknown.message}",
            vendor_code=error.vendor_code,
            hint="call again when the destination answers: that leaves one of both machines",
        ) from error
    if found is None:
        return False
    if stands:
        end(domain)
        return True
    raise errors.ConnectionFailed(
        "the destination's last answer was lost: the machine goes on here, and the one that had"
        " arrived there is ended",
        vendor_code=error.vendor_code,
        hint=hints.CALL_AGAIN,
    ) from error
