"""What a rescue leaves: its disks, and a mark. The mark of an adopted machine is a secret (see
``identity.py``), as its domain keeps its name; any other has it in its domain's name (see
``rescue.py``)."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.libvirt.domains import Domains, LookAgain
from hvdrivers.libvirt.identity import Identity
from hvdrivers.libvirt.naming import RESCUE, disk_name, domain_name, is_rescued, label_of
from hvdrivers.libvirt.pools import Pools
from hvdrivers.libvirt.remote import Remote


class Rescues:
    """The rescues that may have left something. Every start of a machine takes it away first."""

    def __init__(self, pools: Pools, domains: Domains, identity: Identity) -> None:
        self._pools = pools
        self._domains = domains
        self._identity = identity

    def leave(self, uuid: UUID, domain: Remote) -> None:
        """Take away what a rescue has left of a machine that is off. No call where the name has no
        mark; else 3, and 2 for each disk. Of an adopted machine 1 where there is no mark; else 3,
        2 for each mark, and 2 for each disk."""
        if label_of(domain.name(), uuid) is None:
            roles = self._identity.rescues(uuid)
            if roles:
                self.delete_disks(uuid, unless_on=domain)
                self._identity.remove_rescues(uuid, roles)
        elif is_rescued(domain.name(), uuid):
            self.delete_disks(uuid, unless_on=domain)
            self._set_mark(domain, uuid, rescued=False)

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

    def is_marked(self, domain: Remote, uuid: UUID) -> bool:
        """Whether a mark says that a machine was rescued last. No call, one for an adopted one."""
        if label_of(domain.name(), uuid) is None:
            return bool(self._identity.rescues(uuid))
        return is_rescued(domain.name(), uuid)

    def begin(self, domain: Remote, uuid: UUID, role: str) -> None:
        """Mark a machine, which is off, as rescued by the disk of this role. One call."""
        if label_of(domain.name(), uuid) is None:
            self._identity.put_rescue(uuid, role)
        else:
            self._set_mark(domain, uuid, rescued=True)

    def end(self, domain: Remote, uuid: UUID, role: str | None = None) -> None:
        """Take the mark away. One call. Of an adopted machine that of this rescue: two; or all of
        them (None): one, and two for each."""
        if label_of(domain.name(), uuid) is None:
            roles = self._identity.rescues(uuid) if role is None else {role}
            self._identity.remove_rescues(uuid, roles)
        else:
            self._set_mark(domain, uuid, rescued=False)

    def end_others(self, domain: Remote, uuid: UUID, role: str) -> None:
        """Take away what earlier rescues have marked an adopted machine with, which is rescued
        again. No call for any other; one, and two for each."""
        if label_of(domain.name(), uuid) is None:
            self._identity.remove_rescues(uuid, self._identity.rescues(uuid) - {role})

    def _set_mark(self, domain: Remote, uuid: UUID, *, rescued: bool) -> None:
        """Set the mark in the name, or take it away; another client having done so is as good. One
        call."""
        label = label_of(domain.name(), uuid) or ""
        wanted = domain_name(label, uuid, rescued=rescued)
        if domain.name() == wanted:
            return
        try:
            domain.rename(wanted, 0)
        except (errors.InvalidState, errors.InvalidRequest, errors.HypervisorFault):
            if is_rescued(self._domains.find(uuid).name(), uuid) is not rescued:
                raise
