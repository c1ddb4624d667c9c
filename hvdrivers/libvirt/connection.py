"""Connection on libvirt: is the host there, and what is it."""

from __future__ import annotations

from collections.abc import Sequence

import libvirt

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.connection import Connection as ConnectionContract
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.turns import instance_of
from hvdrivers.models.host import HostCheck, HostInfo


class LibvirtConnection(Topic, ConnectionContract):
    """Connection topic of the contract. Its checks look for turns at snapshots: a client that dies
    in revert_snapshot() leaves its own, and the machine in whatever state it had come to."""

    def ping(self, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        del timeout
        self.connection.remote.getLibVersion()

    def host(self, *, timeout: float | None = None) -> HostInfo:
        """Budget: 4 calls, 1 of them once a connection; the first one may probe KVM."""
        del timeout
        return self.facts.about()

    def narrowed(self) -> dict[Capability, str]:
        """What QEMU and the firmware packages on this host lack, and the caller's machine. Budget:
        2 calls, once; 3 where the usual machine type is not q35."""
        return self.facts.narrowed()

    def host_checks(self, *, timeout: float | None = None) -> Sequence[HostCheck]:
        """Budget: 1 call. It does not tell a client that works from one that is dead: that takes
        longer than a person waits."""
        inactive = libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE
        with self.connection.operation(timeout):
            machines = self.connection.remote.listAllDomains(inactive)
        found = sorted(filter(None, (instance_of(each.name()) for each in machines)))
        if not found:
            return (HostCheck(name="snapshots", status="ok", detail="no client is at any"),)
        return (
            HostCheck(
                name="snapshots",
                status="warn",
                detail=f"a client is at those of {', '.join(found)}, or has died there",
                hint="if none is: the next call for the instance's snapshots takes over within a"
                " minute. If it died in a revert, the machine may be stopped or paused: revert"
                " again, before it is started (hvdrivers snapshot revert HOST INSTANCE SNAPSHOT)",
            ),
        )

    def close(self, *, timeout: float | None = None) -> None:
        """Budget: none counted; callbacks are taken off and the sockets are closed. One on which a
        call hangs is closed when that call has come back."""
        self.connection.close(timeout)
