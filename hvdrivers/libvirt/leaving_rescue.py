"""What a rescue leaves: its disks, and a mark in the domain's name (see ``rescue.py``)."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.libvirt.domains import Domains, LookAgain
from hvdrivers.libvirt.naming import RESCUE, disk_name, domain_name, is_rescued, label_of
from hvdrivers.libvirt.pools import Pools
from hvdrivers.libvirt.remote import Remote


class Rescues:
    """The rescues that may have left something. Every start of a machine takes it away first."""

    def __init__(self, pools: Pools, domains: Domains) -> None:
        self._pools = pools
        self._domains = domains

    def leave(self, uuid: UUID, domain: Remote) -> None:
        """Take away what a rescue has left of a machine that is off. No call where the name has no
        mark; else 3, and 2 for each disk."""
        if is_rescued(domain.name(), uuid):
            self.delete_disks(uuid, unless_on=domain)
            self.set_mark(domain, uuid, rescued=False)

    def delete_disks(
        self, uuid: UUID, but: Collection[str] = (), unless_on: Remote | None = None
    ) -> None:
        """Delete the rescue disks, and their seeds. One call, and two for each; one more with
        ``unless_on``: if that machine is on, another client rescues it, and has these disks."""
        prefix = f"{disk_name(uuid, RESCUE)}-"
        volumes = self._pools.volumes(self._pools.disks())
        if unless_on is not None and unless_on.isActive():
            raise LookAgain
        for name in volumes:
            if name.startswith(prefix) and name not in but:
                self._pools.delete_disk(name)

    def set_mark(self, domain: Remote, uuid: UUID, *, rescued: bool) -> None:
        """Set the mark, or take it away; another client having done so is as good. One call."""
        label = label_of(domain.name(), uuid) or ""
        wanted = domain_name(label, uuid, rescued=rescued)
        if domain.name() == wanted:
            return
        try:
            domain.rename(wanted, 0)
        except (errors.InvalidState, errors.InvalidRequest, errors.HypervisorFault):
            if is_rescued(self._domains.find(uuid).name(), uuid) is not rescued:
                raise
