"""How the end of a migration is awaited, and what is looked at meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.libvirt.leaving import abort, bytes_of, job_of
from hvdrivers.libvirt.remote import Remote
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

_LOOKS_APART = 0.5
"""Seconds between two looks at a migration: libvirt has no event for its progress. Its end is seen
at once."""
_UNTIL_IT_BEGINS = 0.1
"""Seconds between two looks until libvirt tells of it."""


def await_end(
    domain: Remote,
    sending: Future[None],
    deadline: Deadline,
    progress: ProgressCallback | None,
    begun: Callable[[], None],
) -> None:
    """Wait until a migration has ended; it is ended if anything is raised meanwhile.

    Args:
        sending: the call that makes it.
        begun: called once, when it is seen to have begun, unless it has ended before that.
    """
    try:
        _watch(domain, sending, deadline, progress, begun)
    except BaseException:
        while not sending.done():
            with suppress(errors.HypervisorError):
                abort(domain)
            with suppress(TimeoutError, errors.HypervisorError):
                sending.result(timeout=_LOOKS_APART)
        if sending.exception() is not None:
            raise
    if (failed := sending.exception()) is not None:
        raise failed


def told(error: errors.HypervisorError, domain: Remote, *, running: bool) -> errors.HypervisorError:
    """What the caller learns of a migration that has failed. Of one whose QEMU has died libvirt
    says that the machine "is not being migrated", with the code of a state that forbids it: but for
    a guest that has gone off, its state does not. One call for such an error of a guest that ran.

    Args:
        running: it ran when the migration began.
    """
    if not isinstance(error, errors.InvalidState):
        return error
    if running:
        with suppress(errors.HypervisorError):
            if not domain.isActive():
                return error
    fault = errors.HypervisorFault(
        error.message, vendor_code=error.vendor_code, hint=hints.CALL_AGAIN
    )
    fault.__cause__ = error
    return fault


def _watch(
    domain: Remote,
    sending: Future[None],
    deadline: Deadline,
    progress: ProgressCallback | None,
    begun: Callable[[], None],
) -> None:
    """Tell how far it has come until it has ended."""
    done, has_begun = 0, False
    while True:
        apart = _LOOKS_APART if has_begun else _UNTIL_IT_BEGINS
        try:
            sending.result(timeout=min(deadline.within(apart), apart))
        except TimeoutError:
            if sending.done():
                return
        except errors.HypervisorError:
            return  # the caller looks at it
        else:
            return
        deadline.check("the machine was moved")
        if has_begun and progress is None:
            continue
        found: dict[str, Any] = {}
        with suppress(errors.HypervisorError):  # what came of it the move itself says
            found = job_of(domain)
            if found and not has_begun:
                begun()
                has_begun = True
        if found and progress is not None:
            total, remaining = bytes_of(found)
            done = max(done, total - remaining)
            progress(Progress(phase=Phase.MIGRATE, done=done, total=max(total, done) or None))
