"""What fake guests do and tell."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from math import inf
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.contract.guest import GuestAddresses, GuestExec, GuestFreeze, GuestPassword
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.clock import Wake
from hvdrivers.fake.records import Machine
from hvdrivers.hints import ACCOUNT, PROGRAM_LOST, USER
from hvdrivers.models.guest import AddressSource, ExecResult, GuestAddress, GuestCredentials
from hvdrivers.models.vif import NetworkVif


class _Agent(FakeBase):
    def _ask_agent(self, operation: str, uuid: UUID) -> Machine:
        """The machine, if its agent answers."""
        machine = self.machines.checked(operation, uuid)
        if not self.fake_host.agent_answers(machine):
            raise errors.GuestAgentUnavailable("no agent answers in the guest", instance=uuid)
        return machine

    def _log_in(self, machine: Machine, credentials: GuestCredentials | None) -> None:
        accounts = machine.guest.accounts
        if accounts is None:
            return
        if credentials is None:
            raise errors.InvalidRequest("the guest's agent asks for credentials", hint=ACCOUNT)
        if accounts.get(credentials.user) != credentials.password.get_secret_value():
            raise errors.PermissionDenied("the guest refused the credentials", hint=ACCOUNT)


class FakeGuestPassword(_Agent, GuestPassword):
    """Passwords."""

    def set_guest_password(
        self,
        uuid: UUID,
        user: str,
        password: SecretStr,
        *,
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> None:
        """1 call."""
        with self.link.task("set_guest_password", uuid, timeout) as task:
            task.call("set-password", lambda: self._set_password(uuid, user, password, credentials))

    def _set_password(
        self, uuid: UUID, user: str, password: SecretStr, credentials: GuestCredentials | None
    ) -> None:
        machine = self._ask_agent("set_guest_password", uuid)
        self._log_in(machine, credentials)
        if user not in machine.guest.users:
            raise errors.InvalidRequest(f"the guest has no user {user!r}", hint=USER)
        machine.passwords[user] = password


class FakeGuestFreeze(_Agent, GuestFreeze):
    """File systems."""

    def freeze(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("freeze", uuid, timeout) as task:
            task.call("freeze-guest", lambda: self._set_frozen("freeze", uuid, True))

    def thaw(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("thaw", uuid, timeout) as task:
            task.call("thaw-guest", lambda: self._set_frozen("thaw", uuid, False))

    def _set_frozen(self, operation: str, uuid: UUID, frozen: bool) -> None:
        self._ask_agent(operation, uuid).frozen = frozen


class FakeGuestExec(_Agent, GuestExec):
    """Programs."""

    def guest_exec(
        self,
        uuid: UUID,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """2 calls."""
        with self.link.task("guest_exec", uuid, timeout) as task:
            machine = task.call(
                "start-program", lambda: self._start_program(uuid, command, credentials, task.wake)
            )
            try:
                endless = command[0] in machine.guest.endless
                in_time = task.wait_for(inf if endless else machine.guest.exec_seconds)
            finally:
                self._leave_program(machine, task.wake)
            if task.wake.is_set():
                raise errors.OutcomeUnknown(
                    "the guest went off while the program ran, or moved", hint=PROGRAM_LOST
                )
            if not in_time:
                raise errors.OutcomeUnknown("the program still ran at the deadline, and runs on")
            # outside the host's lock: the program is a test's own code
            program = machine.guest.programs[command[0]]
            result = program(command, stdin)
            task.call("read-output", lambda: None, changes=False)
            return result

    def _start_program(
        self,
        uuid: UUID,
        command: Sequence[str],
        credentials: GuestCredentials | None,
        wake: Wake,
    ) -> Machine:
        machine = self._run(uuid, command, credentials)
        machine.programs.append(wake)
        return machine

    def _leave_program(self, machine: Machine, wake: Wake) -> None:
        with self.fake_host.world.lock, suppress(ValueError):
            machine.programs.remove(wake)

    def _run(
        self, uuid: UUID, command: Sequence[str], credentials: GuestCredentials | None
    ) -> Machine:
        machine = self._ask_agent("guest_exec", uuid)
        self._log_in(machine, credentials)
        if not command or command[0] not in machine.guest.programs:
            raise errors.InvalidRequest(
                "the guest has no such program",
                hint="name one of the guest's programs: GuestBehaviour.programs",
            )
        return machine


class FakeGuestAddresses(_Agent, GuestAddresses):
    """Addresses: 10.x.y.z/8 from the last three octets of the MAC address."""

    def guest_addresses(
        self, uuid: UUID, *, timeout: float | None = None
    ) -> Sequence[GuestAddress]:
        """1 call: the agent, leases and neighbours are asked at once."""
        with self.link.task("guest_addresses", uuid, timeout) as task:
            return task.call("read-addresses", lambda: self._addresses(uuid), changes=False)

    def _addresses(self, uuid: UUID) -> list[GuestAddress]:
        machine = self.machines.checked("guest_addresses", uuid)
        agent = self.fake_host.agent_answers(machine)
        found = []
        for number, port in enumerate(self.ports.of(uuid)):
            octets = [int(part, 16) for part in port.vif.mac.split(":")[3:]]
            address = IPv4Address(f"10.{octets[0]}.{octets[1]}.{octets[2]}")
            sources = [AddressSource.ARP]
            if isinstance(port.vif, NetworkVif):
                sources.append(AddressSource.LEASE)
            if agent:
                sources.append(AddressSource.AGENT)
            found += [
                GuestAddress(
                    mac=port.vif.mac,
                    address=address,
                    prefix_length=None if source is AddressSource.ARP else 8,
                    source=source,
                    interface=f"eth{number}" if source is AddressSource.AGENT else None,
                )
                for source in sources
            ]
        return found
