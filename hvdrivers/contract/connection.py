"""Connection: one driver object is one host, or one cluster, from connect() to close().

Where it is a cluster (vCenter), ``host`` in this contract means the cluster as a whole.

A driver object is safe to share between threads. It holds whatever connections it needs, notices
when one is lost and makes a new one at the next call; a call that was under way when it was lost
raises ConnectionFailed (nothing was sent) or OutcomeUnknown (it was, and no answer came).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Scope, operation
from hvdrivers.models.host import HostCheck, HostInfo


class Connection(Interface):
    """What every driver can say about its connection."""

    @operation(scope=Scope.HOST, changes=False, timeout=10)
    @abstractmethod
    def ping(self, *, timeout: float | None = None) -> None:
        """Prove that the host answers now: one round trip, not a cached state.

        Raises:
            ConnectionFailed: it does not answer.
            AuthenticationFailed: it answers and refuses the credentials.
        """

    @operation(scope=Scope.HOST, changes=False, timeout=10)
    @abstractmethod
    def host(self, *, timeout: float | None = None) -> HostInfo:
        """Product, versions and architecture of the host."""

    @operation(scope=Scope.HOST, changes=False, timeout=30)
    @abstractmethod
    def close(self, *, timeout: float | None = None) -> None:
        """Close connections, end streams and threads. Machines go on running.

        Closing twice is allowed. Every other operation on a closed driver raises
        ConnectionFailed; ``with connect(...) as driver`` closes at the end.
        """

    @abstractmethod
    def narrowed(self) -> dict[Capability, str]:
        """Capabilities that the code has and this host has not, each with the reason in one
        sentence. Called once, when the driver has connected."""

    def host_checks(self, *, timeout: float | None = None) -> Sequence[HostCheck]:
        """What a person who sets up a host of this kind should look at, beyond the contract: for
        ``hvdrivers doctor``. It changes nothing, and a driver need not have any."""
        del timeout
        return ()
