"""Inside the guest: addresses, passwords, frozen file systems, programs.

All but addresses from leases and the neighbour table need qemu-guest-agent in the guest. It runs as
the guest's administrator and asks for no account.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import libvirt
from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.contract.guest import GuestAddresses, GuestExec, GuestFreeze, GuestPassword
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.libvirt.agent import ask, field, require
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import vifs_of
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import attribute
from hvdrivers.models.guest import AddressSource, ExecResult, GuestAddress, GuestCredentials

_SOURCES = (
    (AddressSource.AGENT, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT),
    (AddressSource.LEASE, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE),
    (AddressSource.ARP, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP),
)
_MOST_ADDRESSES = 1000
"""Of one machine: a guest says what it likes."""
_MOST_INPUT = 1 << 20
"""Bytes of input to a program, and of its arguments. They travel in one message, the input as
base64, which libvirt bounds."""
_EXIT_CODES = range(-(1 << 31), 1 << 32)
"""32 bits: Linux has 8 of them, and Windows shows them with or without a sign."""
_LONGEST_PASSWORD = 4096
"""Bytes. What sets a password in a guest reads lines of at most 8 KiB (chpasswd), and the agent
that waits for it answers nobody."""
_OUTPUT_HINT = (
    "libvirt carries 3 MiB of output, and after 7 MiB it gives the agent up until that starts anew"
    " in the guest: let the program write more to a file, and read that in parts"
)
"""The agent's whole answer is one text, in base64. libvirt's own messages take 4 MiB
(REMOTE_STRING_MAX), and it reads 10 MiB of an agent's (QEMU_AGENT_MAX_RESPONSE)."""
_FIRST_LOOK = 0.02
_LOOKS_APART = 1.0
"""Seconds: the agent has no event for the end of a program, so it is asked, ever less often."""


class LibvirtGuest(Topic, GuestAddresses, GuestPassword, GuestFreeze, GuestExec):
    """The guest agent, and what the host knows about the guest's addresses."""

    def guest_addresses(
        self, uuid: UUID, *, timeout: float | None = None
    ) -> Sequence[GuestAddress]:
        """Budget: 7 calls; 6 without an agent. Only addresses of the instance's own NICs: a guest
        may name any."""
        del timeout
        deadline = current_deadline()
        domain, _ = self.domains.checked("guest_addresses", uuid, deadline)
        own = {
            str(attribute(element, "mac", "address")).lower()
            for _, element in vifs_of(xml_of(domain)).values()
        }
        if not own:
            return []
        found: list[GuestAddress] = []
        for source, number in _SOURCES:
            try:
                if source is AddressSource.AGENT:
                    require(domain)
                answer = domain.interfaceAddresses(number, 0)
            except (
                errors.GuestAgentUnavailable,
                errors.NotSupported,
                errors.InvalidState,
                errors.HypervisorFault,  # the agent says no, the host's table cannot be read
            ):
                continue
            found += [each for each in _addresses(answer, source) if each.mac in own]
        return found[:_MOST_ADDRESSES]

    def set_guest_password(
        self,
        uuid: UUID,
        user: str,
        password: SecretStr,
        *,
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> None:
        """Budget: 4 calls."""
        del timeout
        _refuse_account(credentials)
        if len(password.get_secret_value().encode()) > _LONGEST_PASSWORD:
            raise errors.InvalidRequest(
                f"the password is longer than {_LONGEST_PASSWORD} bytes in UTF-8",
                hint="guests take none of that length",
            )
        deadline = current_deadline()
        domain, _ = self.domains.checked("set_guest_password", uuid, deadline)
        require(domain)
        try:
            ask(
                domain,
                "guest-set-user-password",
                reads=False,
                patience=deadline.left,
                username=user,
                password=base64.b64encode(password.get_secret_value().encode()).decode(),
                crypted=False,
            )
        except errors.HypervisorFault as error:
            self._require_refusal(domain, error)
            raise errors.InvalidRequest(
                "the guest did not set the password",
                vendor_code=error.vendor_code,
                hint="does it know that user, and take such a password?",
            ) from error

    def _require_refusal(self, domain: Remote, error: errors.HypervisorFault) -> None:
        """See whether the agent has said no: libvirt has the same code for an answer of any other
        kind, and gives up the agent that gave it. One call."""
        if error.vendor_code != "VIR_ERR_INTERNAL_ERROR":
            raise error
        try:
            require(domain)
        except errors.GuestAgentUnavailable:
            raise errors.OutcomeUnknown(
                "the guest's agent gave an answer that is none", vendor_code=error.vendor_code
            ) from error

    def freeze(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 4 calls, 3 if they are frozen."""
        del timeout
        domain, _ = self.domains.checked("freeze", uuid, current_deadline())
        if not self._frozen(domain):
            domain.fsFreeze(None, 0)

    def thaw(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 4 calls."""
        del timeout
        domain, _ = self.domains.checked("thaw", uuid, current_deadline())
        require(domain)
        domain.fsThaw(None, 0)

    def _frozen(self, domain: Remote) -> bool:
        status = ask(domain, "guest-fsfreeze-status", reads=True)
        return bool(status == "frozen")

    def guest_exec(
        self,
        uuid: UUID,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Budget: 4 calls, and one each time that the agent is asked whether the program has
        ended: after 20 ms, and then ever less often, at least once a second."""
        del timeout
        _refuse_account(credentials)
        if not command:
            raise errors.InvalidRequest(
                "no program is named", hint="the first word of command is the program's path"
            )
        if len(json.dumps(list(command))) > _MOST_INPUT:
            raise errors.InvalidRequest(
                f"the program's arguments take more than {_MOST_INPUT} bytes in the message to the"
                " agent",
                hint="give them as stdin=, or in a file",
            )
        if len(stdin) > _MOST_INPUT:
            raise errors.InvalidRequest(
                f"{len(stdin)} bytes of input are more than {_MOST_INPUT}",
                hint="put them onto a volume, or let the program fetch them",
            )
        deadline = current_deadline()
        domain, _ = self.domains.checked("guest_exec", uuid, deadline)
        require(domain)
        pid = self._started_program(domain, command, stdin, deadline)
        return self._ended_program(domain, pid, deadline)

    def _started_program(
        self, domain: Remote, command: Sequence[str], stdin: bytes, deadline: Deadline
    ) -> int:
        try:
            answer = ask(
                domain,
                "guest-exec",
                reads=False,
                patience=deadline.left,
                **{
                    "path": command[0],
                    "arg": list(command[1:]),
                    "input-data": base64.b64encode(stdin).decode(),
                    "capture-output": True,
                },
            )
        except errors.HypervisorFault as error:
            self._require_refusal(domain, error)
            raise errors.InvalidRequest(
                "the guest's agent could not start the program",
                vendor_code=error.vendor_code,
                hint="does the guest have it, at this path, and may the agent run programs?",
            ) from error
        pid = field(answer, "pid", int)
        if pid is None:
            raise errors.OutcomeUnknown("the guest's agent did not say which program it started")
        return int(pid)

    def _ended_program(self, domain: Remote, pid: int, deadline: Deadline) -> ExecResult:
        pause = _FIRST_LOOK
        while True:
            try:
                status = ask(domain, "guest-exec-status", reads=True, pid=pid)
            except errors.HypervisorError as error:
                raise errors.OutcomeUnknown(
                    f"the program was started, and its end is not known: {error.message}",
                    vendor_code=error.vendor_code,
                    hint=_OUTPUT_HINT,
                ) from error
            if field(status, "exited", bool):
                return _result(status)
            if deadline.left <= pause:
                raise errors.OutcomeUnknown("the program still runs", hint="give a longer timeout=")
            deadline.pause(pause, "the program ran")
            pause = min(2 * pause, _LOOKS_APART)


def _refuse_account(credentials: GuestCredentials | None) -> None:
    if credentials is not None:
        raise errors.NotSupported(
            "QEMU's guest agent works as the guest's administrator, and takes no account",
            hint="leave credentials= out",
        )


def _addresses(answer: Any, source: AddressSource) -> Iterator[GuestAddress]:
    """libvirt's answer: interfaces by name, each with its MAC address and a list of addresses."""
    for name, interface in answer.items():
        mac = str(interface.get("hwaddr") or "").lower()
        for each in interface.get("addrs") or ():
            try:
                address = ip_address(str(each["addr"]).partition("%")[0])
            except ValueError:
                continue  # the guest's own words
            by_neighbours = source is AddressSource.ARP
            yield GuestAddress(
                mac=mac,
                address=address,
                prefix_length=None if by_neighbours else int(each["prefix"]),
                source=source,
                interface=str(name)[:64] if source is AddressSource.AGENT else None,
            )


def _result(status: Any) -> ExecResult:
    code = field(status, "exitcode", int)
    if code is None:
        # as a shell counts: a program that a signal has ended
        code = 128 + (field(status, "signal", int) or 0)
    if code not in _EXIT_CODES:
        raise errors.OutcomeUnknown("the program has ended, and the agent told no exit code")
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
            "the program has ended, and its output is not readable"
        ) from error
