"""All machines of the host in two calls, ours and foreign; one more while any is being started, and
up to four for each of these that is no spawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.states import is_starting, state_of
from hvdrivers.models.state import InstanceState

_STATS = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_VCPU
_STATS |= libvirt.VIR_DOMAIN_STATS_BALLOON
_ALL = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
_ALL |= libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_INACTIVE


class Listing(Topic):
    """The bulk read behind lists, events, inventory and metrics."""

    def _all(
        self, groups: int = _STATS, *, wait: bool = False
    ) -> list[tuple[UUID, str, InstanceState, Mapping[str, Any]]]:
        """UUID, name, state and statistics of every machine.

        Args:
            groups: which statistics.
            wait: for a machine that is being started, saved or moved. Such a one must not hold up
                a list; counters that are asked for shall be whole.
        """
        flags = _ALL if wait else _ALL | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        remote = self.connection.remote
        saved = {
            domain.UUIDString()
            for domain in remote.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
        }
        machines = [
            (domain, (stats.get("state.state", 0), stats.get("state.reason", 0)), stats)
            for domain, stats in remote.getAllDomainStats(groups, flags)
        ]
        building = self._building() if any(is_starting(*at) for _, at, _ in machines) else set()
        found = []
        for domain, at, stats in machines:
            name, uuid = domain.name(), domain.UUIDString()
            if is_starting(*at) and uuid not in building:
                try:
                    state = self._state(domain)
                except errors.InstanceNotFound:
                    continue  # its spawn has failed, or it was destroyed
            else:
                state = state_of(*at, saved=uuid in saved)
            found.append((UUID(uuid), name, state, stats))
        return found

    def _building(self) -> set[str]:
        """What is being spawned. One call."""
        flags = libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT
        return {each.UUIDString() for each in self.connection.remote.listAllDomains(flags)}
