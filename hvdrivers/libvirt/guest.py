"""Inside the guest: addresses, passwords, frozen file systems, programs.

All but addresses from leases and the neighbour table need qemu-guest-agent in the guest. It runs as
the guest's administrator and asks for no account.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from itertools import islice
from typing import Any
from uuid import UUID

import libvirt
from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.contract.guest import GuestAddresses, GuestExec, GuestFreeze, GuestPassword
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.hints import PROGRAM, PROGRAM_LOST
from hvdrivers.libvirt.agent import (
    Refused,
    field,
    interfaces,
    is_frozen,
    require,
    tell,
    tell_thawed,
)
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import vifs_of
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.programs import Program
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import attribute
from hvdrivers.models.guest import AddressSource, ExecResult, GuestAddress, GuestCredentials

_HOST_SOURCES = (
    (AddressSource.LEASE, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE),
    (AddressSource.ARP, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP),
)
_MOST_ADDRESSES = 1000
"""Of one machine and one source: a guest says what it likes, and must not crowd out the others."""
_NOT_TOLD = (
    errors.GuestAgentUnavailable,
    errors.NotSupported,
    errors.InvalidState,
    errors.HypervisorFault,  # the agent says no, the host's table cannot be read
)
_MOST_INPUT = 1 << 20
"""Bytes of input to a program, and of its arguments. They travel in one message, the input as
base64, which libvirt bounds."""
_FREEZE_HINT = "the guest may be frozen, or freeze later: thaw() it, and freeze() it again"
_NOT_FROZEN_HINT = (
    "the guest's file systems are thawed: see the agent's log and its freeze hooks in the guest"
)
_THAW_HINT = (
    "the guest may still be frozen: thaw() it again; if its agent does not answer any more, start"
    " it anew in the guest, and if that cannot be done, reboot() the guest"
)
_THAWED_BEFORE_HINT = (
    "nothing is frozen any more, and the guest may have gone on before: what was copied meanwhile"
    " may not be consistent, so freeze() and copy again"
)
_ACCOUNT_HINT = "the guest may have the new password or the old one: set it again"
_LONGEST_PASSWORD = 4096
"""Bytes. What sets a password in a guest reads lines of at most 8 KiB (chpasswd), and the agent
that waits for it answers nobody."""


class LibvirtGuest(Topic, GuestAddresses, GuestPassword, GuestFreeze, GuestExec):
    """The guest agent, and what the host knows about the guest's addresses."""

    def guest_addresses(
        self, uuid: UUID, *, timeout: float | None = None
    ) -> Sequence[GuestAddress]:
        """Budget: 6 calls. Only addresses of the instance's own NICs: a guest may name any. The
        agent is asked last, so that one that is silent hides nothing that the host knows."""
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
        for source, number in _HOST_SOURCES:
            with suppress(*_NOT_TOLD):
                answer = domain.interfaceAddresses(number, 0)
                found += _own(_addresses(answer.items(), source), own)
        told: list[GuestAddress] = []
        # busy: somebody else waits for it
        with suppress(errors.DeviceBusy, errors.OperationTimeout, *_NOT_TOLD):
            told += _own(_addresses(interfaces(domain), AddressSource.AGENT), own)
        return told + found

    def set_guest_password(
        self,
        uuid: UUID,
        user: str,
        password: SecretStr,
        *,
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> None:
        """Budget: 4 calls. Four more where the agent says no."""
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
            tell_thawed(
                domain,
                "guest-set-user-password",
                deadline,
                otherwise=_ACCOUNT_HINT,
                username=user,
                password=base64.b64encode(password.get_secret_value().encode()).decode(),
                crypted=False,
            )
        except Refused as error:
            raise errors.InvalidRequest(
                "the guest did not set the password",
                vendor_code=error.vendor_code,
                hint="does it know that user, and take such a password?",
            ) from error

    def freeze(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 4 calls, 3 if they are frozen, 6 if the agent refuses. libvirt's fsFreeze() would
        wait for ever for an agent that says nothing, and hold all others off from it."""
        del timeout
        deadline = current_deadline()
        domain, _ = self.domains.checked("freeze", uuid, deadline)
        if is_frozen(domain):
            return
        try:
            tell(domain, "guest-fsfreeze-freeze", patience=deadline.left, otherwise=_FREEZE_HINT)
        except Refused as error:
            # frozen: another client came first, and a frozen guest's agent refuses a second freeze.
            # One that fails thaws what it had frozen
            if not self._frozen_after(domain, error, _FREEZE_HINT):
                raise errors.HypervisorFault(
                    error.message, vendor_code=error.vendor_code, hint=_NOT_FROZEN_HINT
                ) from error

    def thaw(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 4 calls, 6 if the agent refuses; two more where an agent that is there did not
        answer in five seconds, as in a guest whose file systems are frozen. It is asked once more
        then."""
        del timeout
        deadline = current_deadline()
        domain, _ = self.domains.checked("thaw", uuid, deadline)
        require(domain, again=True)
        try:
            tell(domain, "guest-fsfreeze-thaw", patience=deadline.left, otherwise=_THAW_HINT)
        except Refused as error:
            frozen = self._frozen_after(domain, error, _THAW_HINT)
            raise errors.HypervisorFault(
                error.message,
                vendor_code=error.vendor_code,
                hint=_THAW_HINT if frozen else _THAWED_BEFORE_HINT,
            ) from error

    def _frozen_after(self, domain: Remote, error: Refused, otherwise: str) -> bool:
        """Whether the guest is frozen after its agent has refused. One call."""
        try:
            return is_frozen(domain)
        except errors.GuestAgentUnavailable:
            raise errors.OutcomeUnknown(
                error.message, vendor_code=error.vendor_code, hint=otherwise
            ) from error

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
        ended: after 20 ms, and then ever less often, at least once a second. Two while the agent
        cannot be asked: the machine is paused, or its guest frozen. Four more where the agent does
        not start it."""
        del timeout
        _refuse_account(credentials)
        if not command:
            raise errors.InvalidRequest("no program is named", hint=PROGRAM)
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
        with self.hub.listening() as events:
            require(domain)
            pid = self._started_program(domain, command, stdin, deadline)
            return Program(self.domains, uuid, domain, pid).end(events, deadline)

    def _started_program(
        self, domain: Remote, command: Sequence[str], stdin: bytes, deadline: Deadline
    ) -> int:
        try:
            answer = tell_thawed(
                domain,
                "guest-exec",
                deadline,
                otherwise=PROGRAM_LOST,
                **{
                    "path": command[0],
                    "arg": list(command[1:]),
                    "input-data": base64.b64encode(stdin).decode(),
                    "capture-output": True,
                },
            )
        except Refused as error:
            raise errors.InvalidRequest(
                "the guest's agent could not start the program",
                vendor_code=error.vendor_code,
                hint="does the guest have it, at this path, and may the agent run programs?",
            ) from error
        pid = field(answer, "pid", int)
        if pid is None:
            raise errors.OutcomeUnknown(
                "the guest's agent did not say which program it started", hint=PROGRAM_LOST
            )
        return int(pid)


def _refuse_account(credentials: GuestCredentials | None) -> None:
    if credentials is not None:
        raise errors.NotSupported(
            "QEMU's guest agent works as the guest's administrator, and takes no account",
            hint="leave credentials= out",
        )


def _own(found: Iterator[GuestAddress], own: set[str]) -> list[GuestAddress]:
    """Those of the machine's own NICs, as many as are believed of one source."""
    return list(islice((each for each in found if each.mac in own), _MOST_ADDRESSES))


def _addresses(answer: Iterable[tuple[str, Any]], source: AddressSource) -> Iterator[GuestAddress]:
    """libvirt's answer: interfaces with their names, each with its MAC address and a list of
    addresses."""
    for name, interface in answer:
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
                prefix_length=None if by_neighbours else each["prefix"],
                source=source,
                interface=(str(name)[:64] or None) if source is AddressSource.AGENT else None,
            )
