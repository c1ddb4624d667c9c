"""Mutants of the guest's agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Machine
from hvdrivers.models.guest import AddressSource, ExecResult, GuestAddress, GuestCredentials


@mutant("GUEST-001")
class PasswordOfEveryGuest(FakeDriver):
    """A password is set in every guest of the host."""

    def _set_password(
        self, uuid: UUID, user: str, password: SecretStr, credentials: GuestCredentials | None
    ) -> None:
        super()._set_password(uuid, user, password, credentials)
        for machine in self.fake_host.machines.values():
            machine.passwords[user] = password


@mutant("GUEST-001")
class PasswordIsCutAtABlank(FakeDriver):
    """What follows a blank in a password is lost on the way to the agent."""

    def _set_password(
        self, uuid: UUID, user: str, password: SecretStr, credentials: GuestCredentials | None
    ) -> None:
        cut = SecretStr(password.get_secret_value().split(" ")[0])
        super()._set_password(uuid, user, cut, credentials)


@mutant("GUEST-002")
class UserIsMade(FakeDriver):
    """A user that the guest does not know is made."""

    def _set_password(
        self, uuid: UUID, user: str, password: SecretStr, credentials: GuestCredentials | None
    ) -> None:
        self.machines.find(uuid).guest.users.add(user)
        super()._set_password(uuid, user, password, credentials)


@mutant("GUEST-003")
class WrongAccountIsInvalid(FakeDriver):
    """A wrong password of an account is an InvalidRequest, as if none had been given."""

    def _log_in(self, machine: Machine, credentials: GuestCredentials | None) -> None:
        try:
            super()._log_in(machine, credentials)
        except errors.PermissionDenied as error:
            raise errors.InvalidRequest(error.message) from error


@mutant("GUEST-004")
class FreezesAreCounted(FakeDriver):
    """Two freezes need two thaws."""

    def _set_frozen(self, operation: str, uuid: UUID, frozen: bool) -> None:
        depth = self.__dict__.setdefault("_depth", {})
        depth[uuid] = max(0, depth.get(uuid, 0) + (1 if frozen else -1))
        super()._set_frozen(operation, uuid, depth[uuid] > 0)


@mutant("GUEST-004")
class FreezeOnlyFlushes(FakeDriver):
    """freeze() writes everything out, and freezes nothing."""

    def _set_frozen(self, operation: str, uuid: UUID, frozen: bool) -> None:
        super()._set_frozen(operation, uuid, False)


@mutant("GUEST-005")
class ThawOfUnfrozenRaises(FakeDriver):
    """thaw() of what is not frozen is an error, as it is for some agents."""

    def _set_frozen(self, operation: str, uuid: UUID, frozen: bool) -> None:
        if not frozen and not self.machines.find(uuid).frozen:
            raise errors.HypervisorFault("the agent says: not frozen")
        super()._set_frozen(operation, uuid, frozen)


class _Exec(FakeDriver):
    def guest_exec(
        self,
        uuid: UUID,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        return self.changed(
            super().guest_exec(
                uuid,
                self.sent(command),
                stdin=stdin,
                credentials=credentials,
                timeout=timeout,
            )
        )

    def sent(self, command: Sequence[str]) -> Sequence[str]:
        return command

    def changed(self, result: ExecResult) -> ExecResult:
        return result


@mutant("GUEST-006")
class ExitCodeIsSwallowed(_Exec):
    """guest_exec() always returns exit code 0."""

    def changed(self, result: ExecResult) -> ExecResult:
        return result.model_copy(update={"exit_code": 0})


@mutant("GUEST-006")
class OutputIsText(_Exec):
    """Output that is not UTF-8 is replaced."""

    def changed(self, result: ExecResult) -> ExecResult:
        text = result.stdout.decode(errors="replace").encode()
        return result.model_copy(update={"stdout": text})


@mutant("GUEST-006")
class ArgumentsGoThroughAShell(_Exec):
    """Arguments are joined, and split again at blanks."""

    def sent(self, command: Sequence[str]) -> Sequence[str]:
        return " ".join(command).replace("\\", "").split(" ")


@mutant("GUEST-007")
class UnknownProgramIs127(FakeDriver):
    """A program that is not there is a result with exit code 127."""

    def guest_exec(self, uuid: UUID, command: Sequence[str], **options: object) -> ExecResult:
        try:
            return super().guest_exec(uuid, command, **options)  # type: ignore[arg-type]
        except errors.InvalidRequest:
            return ExecResult(exit_code=127, stdout=b"", stderr=b"not found")


@mutant("GUEST-008")
class EndlessProgramTimesOut(FakeDriver):
    """A program that runs on raises OperationTimeout, as if it had been ended."""

    def guest_exec(self, uuid: UUID, command: Sequence[str], **options: object) -> ExecResult:
        try:
            return super().guest_exec(uuid, command, **options)  # type: ignore[arg-type]
        except errors.OutcomeUnknown as error:
            raise errors.OperationTimeout(error.message) from error


@mutant("GUEST-009")
class SilentAgentIsAFault(FakeDriver):
    """An agent that does not answer is a fault of the hypervisor."""

    def _ask_agent(self, operation: str, uuid: UUID) -> Machine:
        try:
            return super()._ask_agent(operation, uuid)
        except errors.GuestAgentUnavailable as error:
            raise errors.HypervisorFault(error.message) from error


@mutant("GUEST-009")
class ThawNeedsNoAgent(FakeDriver):
    """thaw() without an agent is a success."""

    def thaw(self, uuid: UUID, *, timeout: float | None = None) -> None:
        try:
            super().thaw(uuid, timeout=timeout)
        except errors.GuestAgentUnavailable:
            return


@mutant("GUEST-010")
class AddressesOfTheWholeHost(FakeDriver):
    """Leases and neighbours of all machines are given."""

    def _addresses(self, uuid: UUID) -> list[GuestAddress]:
        found = super()._addresses(uuid)
        for other in [each.uuid for each in self.fake_host.ours() if each.uuid != uuid]:
            if self.fake_host.machines[other].state == "running":
                found += super()._addresses(other)
        return found


@mutant("GUEST-010")
class OnlyTheFirstNic(FakeDriver):
    """Only the addresses of the first NIC are given."""

    def _addresses(self, uuid: UUID) -> list[GuestAddress]:
        found = super()._addresses(uuid)
        return [each for each in found if each.mac == found[0].mac]


@mutant("GUEST-011")
class NoAgentNoAddress(FakeDriver):
    """An agent that does not answer hides what the host's leases know."""

    def _addresses(self, uuid: UUID) -> list[GuestAddress]:
        if not self.fake_host.agent_answers(self.machines.find(uuid)):
            raise errors.GuestAgentUnavailable("no agent answers")
        return super()._addresses(uuid)


@mutant("GUEST-011")
class OldAnswersOfTheAgent(FakeDriver):
    """What the agent said last is given for ever as what it says now."""

    def _addresses(self, uuid: UUID) -> list[GuestAddress]:
        found = super()._addresses(uuid)
        return [
            each.model_copy(update={"source": AddressSource.AGENT})
            if each.source is AddressSource.LEASE
            else each
            for each in found
        ]


@mutant("GUEST-003")
class AnybodyRunsPrograms(FakeDriver):
    """guest_exec() does not look at the account, where set_guest_password() does."""

    def _run(
        self, uuid: UUID, command: Sequence[str], credentials: GuestCredentials | None
    ) -> Machine:
        guest = self.machines.find(uuid).guest
        accounts, guest.accounts = guest.accounts, None
        try:
            return super()._run(uuid, command, credentials)
        finally:
            guest.accounts = accounts


class _FrozenFor(FakeDriver):
    """Remembers that a guest was frozen, and does not ask what has become of it."""

    def _keep_frozen(self, uuid: UUID, change: Callable[[], None]) -> None:
        machine = self.machines.find(uuid)
        frozen = machine.frozen
        change()
        machine.frozen = frozen


@mutant("GUEST-012")
class FrozenForGood(_FrozenFor):
    """A machine that was powered off counts as frozen until somebody thaws it."""

    def _power_off(self, uuid: UUID) -> None:
        self._keep_frozen(uuid, lambda: FakeDriver._power_off(self, uuid))


@mutant("GUEST-012")
class FrozenOverAReset(_FrozenFor):
    """A machine that was reset still counts as frozen."""

    def _reset(self, uuid: UUID, kind: RebootKind) -> None:
        self._keep_frozen(uuid, lambda: FakeDriver._reset(self, uuid, kind))
