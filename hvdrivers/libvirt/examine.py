"""What a person should see of a host that has gone through the death of a client: lines of
``hvdrivers doctor``."""

from __future__ import annotations

from collections.abc import Sequence

import libvirt

from hvdrivers.libvirt.connection import LibvirtConnection
from hvdrivers.libvirt.turns import instance_of
from hvdrivers.models.host import HostCheck


class LibvirtExamine(LibvirtConnection):
    """The connection topic, with turns at snapshots: a client that dies in revert_snapshot()
    leaves its own, and the machine in whatever state it had come to."""

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
