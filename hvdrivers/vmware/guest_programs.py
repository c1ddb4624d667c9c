"""Programs in a guest: VMware Tools start them, and tell when they have ended.

A program's input and output are files of the guest, in a folder of its own, which is removed when
the program has ended, or when nobody waits for it any more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext

from hvdrivers.contract import errors
from hvdrivers.driverkit import Deadline, undoing
from hvdrivers.driverkit.deadline import bounding, current_deadline
from hvdrivers.models.guest import ExecResult, GuestCredentials
from hvdrivers.vmware.guest_inside import Inside, Insides
from hvdrivers.vmware.guest_line import arguments_of, program_of
from hvdrivers.vmware.machines import Machine
from hvdrivers.vmware.session import by_chance

_log = logging.getLogger(__name__)
_READY = "guest.guestOperationsReady"
_FAMILY = "guest.guestFamily"
TOOLS = "guest.toolsRunningStatus"
INSIDE = (TOOLS, _READY, _FAMILY)
"""What is read of a machine before its guest is entered."""
_WITH_A_SHELL = frozenset({"linuxGuest", "solarisGuest", "darwinGuestFamily", "otherGuestFamily"})
_MOST_OUTPUT = 16 << 20
"""Bytes of each output that are read: as many as QEMU's guest agent keeps."""
_FIRST_LOOK = 0.02
_LOOKS_APART = 1.0
"""Seconds: Tools themselves look once a second whether a program has ended."""
_CLEANING = 3.0
"""Seconds that the removal of a program's folder has at least."""


def require_tools(found: Machine) -> None:
    """Refuse a guest that cannot be entered. No call.

    Raises:
        GuestAgentUnavailable: VMware Tools do not run.
        NotSupported: it is a guest of a family that this driver does not enter.
    """
    row = found.row
    if row.get(TOOLS) != "guestToolsRunning" or row.get(_READY) is False:
        raise errors.GuestAgentUnavailable(
            "VMware Tools do not run in the guest, or take no requests yet",
            hint="install open-vm-tools, or wait until the guest has booted",
            instance=found.uuid,
        )
    family = row.get(_FAMILY)
    if family is not None and family not in _WITH_A_SHELL:
        raise errors.NotSupported(
            f"the driver runs no programs in a guest of the family {family}",
            hint="it does in guests with a POSIX shell",
            instance=found.uuid,
        )


class Programs:
    """Runs programs in guests."""

    def __init__(self, insides: Insides) -> None:
        self._insides = insides

    def run(
        self,
        found: Machine,
        command: Sequence[str],
        stdin: bytes,
        accounts: Sequence[GuestCredentials],
    ) -> ExecResult:
        """Run a program and wait for its end: 7 calls and a request, 1 request more for each output
        that there is, and a call for each look whether it has ended.

        The first transfer comes before the start, so that a host which cannot be reached is found
        before the program runs.

        Args:
            found: a machine with ``INSIDE``.
            accounts: as for Insides.enter().

        Raises:
            OutcomeUnknown: the program was started, and what came of it is not known.
        """
        program = program_of(command)
        guest = self._insides.enter(found.row, accounts)
        with undoing() as undo:
            folder = guest.make_folder()
            undo.callback(guest.remove_folder, folder)
            names = {each: f"{folder}/{each}" for each in ("stdin", "stdout", "stderr")}
            arguments = arguments_of(command, **names)
            guest.write(names["stdin"], stdin)
            number = guest.start(program, arguments)
            undo.forget()
        try:
            code = _exit_code(guest, number)
            stdout, more = guest.read(names["stdout"], _MOST_OUTPUT)
            stderr, still_more = guest.read(names["stderr"], _MOST_OUTPUT)
        except errors.OutcomeUnknown:
            raise
        except errors.HypervisorError as error:
            raise errors.OutcomeUnknown(
                f"the program was started, and what came of it is not known: {error.message}",
                vendor_code=error.vendor_code,
                hint=error.hint,
            ) from error
        finally:
            _remove(guest, folder)
        return ExecResult(
            exit_code=code, stdout=stdout, stderr=stderr, truncated=more or still_more
        )


def _exit_code(guest: Inside, number: int) -> int:
    """Wait for the end of a program."""
    deadline = current_deadline()
    pause, looks = _FIRST_LOOK, 0
    while True:
        if deadline.left <= pause:
            raise errors.OutcomeUnknown("the program still runs", hint="give a longer timeout=")
        deadline.pause(pause, "the program ran")
        # how many looks it takes is the guest's affair
        with by_chance() if looks else nullcontext():
            process = guest.process(number)
        if process is None:
            raise errors.OutcomeUnknown(
                "the guest does not know the program any more", hint="VMware Tools started anew?"
            )
        if process.ended:
            if process.exit_code is None:
                raise errors.OutcomeUnknown("the guest does not say how the program has ended")
            return process.exit_code
        looks += 1
        pause = min(2 * pause, _LOOKS_APART)


def _remove(guest: Inside, folder: str) -> None:
    """Remove a program's folder; what is known of the program matters more than whether that
    works."""
    with bounding(Deadline(max(current_deadline().left, _CLEANING))):
        try:
            guest.remove_folder(folder)
        except errors.HypervisorError as error:
            _log.warning("the folder %s stays in the guest: %s", folder, error.message)
