"""A program that the guest's agent has started: waiting for its end.

The agent names a program by the number of its process, and knows those that it has started itself.
A guest that begins anew (a start, a reset, the memory of a snapshot or of a suspended machine) has
another agent, for which a program of another client may have the same number. So after an event
that may be such a beginning its answers are not believed.
"""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.hub import Back, Listener, Lost
from hvdrivers.hints import PROGRAM_LOST
from hvdrivers.libvirt.agent import NO, ask, field, is_frozen, is_silent
from hvdrivers.libvirt.domains import Domains
from hvdrivers.libvirt.event_hub import AgentLeft, Lifecycle, RawEvent, Reboot
from hvdrivers.libvirt.remote import Remote
from hvdrivers.models.guest import ExecResult

_EXIT_CODES = range(-(1 << 31), 1 << 32)
"""32 bits: Linux has 8 of them, and Windows shows them with or without a sign."""
_SIGNALS = range(1, 128)
"""Of Linux and BSD. What an agent in Windows tells as a signal is the code of an exception, and
less than 0 (QEMU, qga/commands.c)."""
_OUTPUT_HINT = (
    "libvirt carries 3 MiB of output, and after 7 MiB it gives the agent up until that starts anew"
    " in the guest: let the program write more to a file, and read that in parts"
)
"""The agent's whole answer is one text, in base64. libvirt's own messages take 4 MiB
(REMOTE_STRING_MAX), and it reads 10 MiB of an agent's (QEMU_AGENT_MAX_RESPONSE)."""
_GOING = frozenset({libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED})
_FIRST_LOOK = 0.02
_LOOKS_APART = 1.0
"""Seconds: the agent has no event for the end of a program, so it is asked, ever less often."""
_LONGEST_SILENCE = 30.0
"""Seconds without an answer after which an agent is given up that has started a program."""


class Program:
    """One program.

    Args:
        domain: the machine, looked up before the program was started.
        pid: its number.
    """

    def __init__(self, domains: Domains, uuid: UUID, domain: Remote, pid: int) -> None:
        self._domains = domains
        self._uuid = uuid
        self._domain = domain
        self._pid = pid
        self._has_stood = False
        """The machine has been paused since then."""

    def end(self, events: Listener[RawEvent], deadline: Deadline) -> ExecResult:
        """Wait for its end.

        Args:
            events: those since before it was started.
        """
        pause = _FIRST_LOOK
        silence = Deadline(_LONGEST_SILENCE)
        event: RawEvent | Lost | Back | None = None
        refused = False
        while True:
            try:
                status = ask(self._domain, "guest-exec-status", reads=True, pid=self._pid)
            except errors.HypervisorError as error:
                silent = is_silent(error)
                ended = event is not None
                # late, or begun anew: it may still have the program's end to tell
                waits = not silence.passed if silent else self._is_held(error)
                # once: the guest may have been thawed before that was looked at
                again = not (silent or waits or refused or _is_gone(error))
                refused = not (silent or waits)
                if ended or not (waits or again):
                    raise errors.OutcomeUnknown(
                        f"the program was started, and its end is not known: {error.message}",
                        vendor_code=error.vendor_code,
                        hint=PROGRAM_LOST if ended or _is_gone(error) else _OUTPUT_HINT,
                    ) from error
                if not silent:
                    silence = Deadline(_LONGEST_SILENCE)
                status = None
            else:
                silence, refused = Deadline(_LONGEST_SILENCE), False
                event = event or events.wait(self._ends, 0)
                if event is not None and not self._runs_on(event):
                    raise errors.OutcomeUnknown(
                        "the program was started, and its guest has ended or begun anew since",
                        hint=PROGRAM_LOST,
                    )
            if field(status, "exited", bool):
                return result_of(status)
            if deadline.left <= pause:
                more = "the program still runs" if status else "the program was started"
                raise errors.OutcomeUnknown(
                    f"{more}, and its end is not known", hint="give a longer timeout="
                )
            event = events.wait(self._ends, pause)
            pause = min(2 * pause, _LOOKS_APART)

    def _is_held(self, error: errors.HypervisorError) -> bool:
        """Whether the agent could not be asked, and can be later: somebody else asks it, the
        machine is paused, or the guest frozen. One call."""
        try:
            if isinstance(error, errors.InvalidState):
                return self._is_same_run()
            if error.vendor_code == NO:
                return is_frozen(self._domain)
        except errors.DeviceBusy:
            return True
        except errors.HypervisorError:
            return False  # an error of the look would say that no program was started
        return isinstance(error, errors.DeviceBusy)

    def _runs_on(self, event: RawEvent | Lost | Back) -> bool:
        """Whether the answer of an agent may be believed after an event: in a guest that began anew
        another program may have the same number. One call where the end of an earlier run may have
        been told late, else none."""
        if not isinstance(event, Lifecycle):
            return False
        try:
            return self._is_same_run()
        except errors.HypervisorError:
            return False

    def _is_same_run(self) -> bool:
        """Whether the machine still runs as it did when it was looked up: each process of QEMU has
        a number of its own. One call."""
        return bool(self._domains.find(self._uuid).ID() == self._domain.ID())

    def _ends(self, event: RawEvent) -> bool:
        """Whether the guest goes off or begins anew, and its programs end. Of the memory of a
        snapshot there is no event: the machine stands still, and its agent's channel is closed. An
        agent that closes it in a guest that has not stood still was begun anew, and may know the
        program."""
        if event.uuid != self._uuid:
            return False
        if isinstance(event, Lifecycle):
            self._has_stood |= event.event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED
            return event.event in _GOING
        return isinstance(event, Reboot) or (isinstance(event, AgentLeft) and self._has_stood)


def _is_gone(error: errors.HypervisorError) -> bool:
    return isinstance(error, errors.InvalidState | errors.InstanceNotFound)


def result_of(status: Any) -> ExecResult:
    """What an agent has said of the end of a program."""
    code, signal = field(status, "exitcode", int), field(status, "signal", int)
    if code is None and signal is not None:
        # as a shell counts: a program that a signal has ended
        code = 128 + signal if signal in _SIGNALS else signal
    if code is None or code not in _EXIT_CODES:
        raise errors.OutcomeUnknown(
            "the program has ended, and the agent told no exit code", hint=PROGRAM_LOST
        )
    return ExecResult(
        exit_code=code,
        stdout=_decoded(field(status, "out-data", str)),
        stderr=_decoded(field(status, "err-data", str)),
        truncated=bool(status.get("out-truncated")) or bool(status.get("err-truncated")),
    )


def _decoded(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError as error:  # also of letters that are no ASCII
        raise errors.OutcomeUnknown(
            "the program has ended, and its output is not readable", hint=PROGRAM_LOST
        ) from error
