"""Guest: operations that a program inside the guest, the guest agent, carries out.

All of them need a running agent, except addresses from leases and ARP. Without an agent they
raise GuestAgentUnavailable within the deadline. They never wait for the guest to boot.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Repeat, operation
from hvdrivers.contract.states import R, row
from hvdrivers.models.guest import ExecResult, GuestAddress, GuestCredentials


class GuestPassword(Interface, capability=Capability.GUEST_PASSWORD):
    """Back into a guest."""

    @operation(states=row(same=(R,)), timeout=30)
    @abstractmethod
    def set_guest_password(
        self,
        uuid: UUID,
        user: str,
        password: SecretStr,
        *,
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> None:
        """Set a user's password in the guest.

        Args:
            credentials: an account of the guest, where the hypervisor's agent asks for one
                (vSphere, Hyper-V); QEMU's does not.

        Raises:
            InvalidRequest: the guest knows no such user, or credentials are needed.
            PermissionDenied: the guest refused the credentials.
        """


class GuestFreeze(Interface, capability=Capability.GUEST_FREEZE):
    """Consistent file systems for a snapshot made elsewhere."""

    @operation(states=row(same=(R,)), timeout=60)
    @abstractmethod
    def freeze(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Flush and freeze all file systems of the guest. Freezing twice is one freeze. A guest
        that starts anew is not frozen.

        Raises:
            OutcomeUnknown: the guest may be frozen, or freeze later. thaw() ends that.
            HypervisorFault: the guest refused, and nothing is frozen.
        """

    @operation(states=row(same=(R,)), timeout=60)
    @abstractmethod
    def thaw(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Let them go on. Thawing what is not frozen is a success.

        Raises:
            OutcomeUnknown: the guest may still be frozen.
            HypervisorFault: the guest refused. The hint says whether it is frozen; if it is not, it
                may have gone on earlier than it was told to (Windows: after ten seconds).
        """


class GuestExec(Interface, capability=Capability.GUEST_EXEC):
    """Run something inside."""

    @operation(serialised=False, states=row(same=(R,)), timeout=300, repeat=Repeat.AGAIN)
    @abstractmethod
    def guest_exec(
        self,
        uuid: UUID,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a program in the guest and wait for its end.

        Not serialised: no other operation on the instance waits until the program has ended, and
        several programs may run at once.

        Args:
            command: the program's path and its arguments; no shell reads them.
            credentials: as in set_guest_password().

        Raises:
            InvalidRequest: the guest has no such program.
            OutcomeUnknown: it was started, and its end is not known. It still ran at the deadline,
                and may run on; or the instance was powered off, suspended, rebooted, destroyed or
                moved meanwhile.
        """


class GuestAddresses(Interface, capability=Capability.GUEST_ADDRESSES):
    """Where the guest can be reached."""

    @operation(changes=False, states=row(same=(R,)), timeout=30)
    @abstractmethod
    def guest_addresses(
        self, uuid: UUID, *, timeout: float | None = None
    ) -> Sequence[GuestAddress]:
        """Every address that any source knows now, each with its source. Empty if none does; it
        does not wait for the guest to get one."""
