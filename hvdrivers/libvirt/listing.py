"""All machines of the host in two calls, ours and foreign; one more while any is being started, and
up to four for each of these that is no spawn; one more if one has lost its saved memory.

Each state is made by ``states.state_of()``, as in ``get_instance()``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, bounding, current_deadline
from hvdrivers.libvirt.domains import Domains
from hvdrivers.libvirt.identity import Identity, Known, named
from hvdrivers.libvirt.naming import is_rescued
from hvdrivers.libvirt.remote import Bulk, statistics_of
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.states import SAVED, as_rescued, is_starting, state_of
from hvdrivers.models.state import InstanceState

_STATS = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_VCPU
_STATS |= libvirt.VIR_DOMAIN_STATS_BALLOON
_ALL = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
_ALL |= libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_INACTIVE
_NOWAIT = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
_PATIENCE = 3.0
"""Seconds that all the QEMUs of a host have to answer before one of them is taken to hang. One that
is only slow costs nothing but counters of its own."""
_MOST_HUNG = 4


class Listing:
    """The bulk read behind lists, events, inventory and metrics."""

    def __init__(self, connection: Connection, domains: Domains, identity: Identity) -> None:
        self._connection = connection
        self._domains = domains
        self._identity = identity

    def ours(
        self,
        groups: int = _STATS,
        *,
        wait: bool = False,
        only: AbstractSet[UUID] | None = None,
    ) -> Iterable[tuple[UUID, Known, InstanceState, Mapping[str, Any]]]:
        """UUID, what is known, state and statistics of every instance. Calls as for machines(); one
        more where the host has machines that spawn() has not made.

        Args:
            groups: as for machines(), as the others are.
            wait:
            only:
        """
        machines = self.machines(groups, wait=wait, only=only)
        all_ = [named(name, uuid) for uuid, name, _, _ in machines]
        if None in all_:
            known = self._identity.known((uuid, name) for uuid, name, _, _ in machines)
            all_ = [known.get(uuid) for uuid, _, _, _ in machines]
        return (
            (uuid, known, as_rescued(state) if known.rescues else state, stats)
            for known, (uuid, _, state, stats) in zip(all_, machines, strict=True)
            if known is not None
        )

    def machines(
        self,
        groups: int = _STATS,
        *,
        wait: bool = False,
        only: AbstractSet[UUID] | None = None,
    ) -> list[tuple[UUID, str, InstanceState, Mapping[str, Any]]]:
        """UUID, name, state and statistics of every machine.

        Args:
            groups: which statistics.
            wait: for a machine that is being started, saved or moved. Such a one must not hold up
                a list; counters that are asked for shall be whole.
            only: these machines alone; no other is asked anything.
        """
        saved = self.uuids_of(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
        bulk = self._stats(groups, wait, only)
        machines = bulk.rows()
        kinds = {_at(stats) for _, _, stats in machines}
        if SAVED in kinds and any(
            _at(stats) == SAVED and uuid not in saved for uuid, _, stats in machines
        ):
            # suspended between the two calls, or its memory has been thrown away
            saved |= self.uuids_of(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
        building: set[UUID] = set()
        starting = {at for at in kinds if is_starting(*at)}
        if starting:
            building = self.uuids_of(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)
        usual = {at: state_of(*at, saved=False) for at in kinds}
        special = saved | building
        found: list[tuple[UUID, str, InstanceState, Mapping[str, Any]]] = []
        for number, (uuid, name, stats) in enumerate(machines):
            at = _at(stats)
            state = usual[at]
            if at in starting and uuid not in building:
                try:
                    state = self._domains.state(bulk.domain(number))
                except errors.InstanceNotFound:
                    continue  # its spawn has failed, or it was destroyed
            elif (special and uuid in special) or is_rescued(name, uuid):
                state = state_of(
                    *at,
                    saved=uuid in saved,
                    defined=uuid not in building,
                    rescued=is_rescued(name, uuid),
                )
            found.append((uuid, name, state, stats))
        return found

    def _stats(self, groups: int, wait: bool, only: AbstractSet[UUID] | None) -> Bulk:
        """The statistics. One call, two for certain machines, and one for each of them whose QEMU
        hangs.

        Libvirt asks one QEMU after the other, and waits for ever for one that has been stopped. It
        passes over a machine on which another call is at work. So after a while the question is put
        again, beside the call that hangs."""
        domains: list[Any] = []
        flags = 0 if wait else _NOWAIT
        if only is None:
            flags |= _ALL
        else:
            domains = [
                each
                for each in self._connection.remote.listAllDomains(0)
                if UUID(each.UUIDString()) in only
            ]

        def ask(groups: int, flags: int) -> Bulk:
            remote = self._connection.remote  # another one, when the first hangs
            if only is None:
                return statistics_of(remote, "getAllDomainStats", groups, flags)
            if not domains:
                return Bulk(remote, [])
            return statistics_of(remote, "domainListGetStats", domains, groups, flags)

        for _ in range(_MOST_HUNG):
            try:
                with bounding(Deadline(current_deadline().within(_PATIENCE))):
                    return ask(groups, flags)
            except errors.OperationTimeout:
                current_deadline().check("a machine did not answer")
                flags |= _NOWAIT
        return ask(libvirt.VIR_DOMAIN_STATS_STATE, flags)

    def uuids_of(self, flags: int) -> set[UUID]:
        """UUIDs of the machines of a kind. One call."""
        machines = self._connection.remote.listAllDomains(flags)
        return {UUID(bytes=each.UUID()) for each in machines}


def _at(stats: Mapping[str, Any]) -> tuple[int, int]:
    """State and reason."""
    return stats.get("state.state", 0), stats.get("state.reason", 0)
