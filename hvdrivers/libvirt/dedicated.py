"""CPUs of the host that one machine has to itself, while it is powered on.

Which machine has which CPU stands in the running machines' own definitions and nowhere else. A
client that gives CPUs out reads those of all machines and starts one more. Another client could do
the same between the two. So each takes the host's turn first (``turns.py``): of two clients that
start machines with dedicated CPUs at the same moment, the second one sees what the first has taken.
Machines that share CPUs take no turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.undo import undoing
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.event_hub import EventHub
from hvdrivers.libvirt.halves import put_back
from hvdrivers.libvirt.host_facts import HostFacts
from hvdrivers.libvirt.metadata import record_in
from hvdrivers.libvirt.pinning import (
    HostCpus,
    Pins,
    added,
    chosen,
    has_own,
    own_cpus,
    pins_in,
    put_pins,
)
from hvdrivers.libvirt.placement import host_cells
from hvdrivers.libvirt.redefining import redefine, redefine_saved
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.turns import Turns
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.instance import Flavor
from hvdrivers.models.numa import NumaNode

_BOTH = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG


class Dedicated:
    """Give CPUs to machines that start."""

    def __init__(
        self, connection: Connection, hub: EventHub, turns: Turns, facts: HostFacts
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._turns = turns
        self._facts = facts

    def host(self) -> HostCpus:
        """The host's CPUs. No call; one, once for a connection."""
        return HostCpus(host_cells(self._facts.capabilities()), self._connection.config.aside)

    @provides(Capability.CPU_PINNING)
    @contextmanager
    def new(self, flavor: Flavor, nodes: Sequence[NumaNode], *, starts: bool) -> Iterator[Pins]:
        """The CPUs of a new machine, which are nobody else's until the block ends. No call where
        it shares them. Else three, and one for each machine that is powered on.

        Args:
            starts: it is powered on in the block. A machine that is off has no CPU of its own; it
                gets them when it starts.

        Raises:
            InsufficientResources: there are not enough.
        """
        host = self.host() if nodes or self._connection.config.aside else HostCpus([])
        if not has_own(flavor, nodes):
            yield chosen(flavor, nodes, host)
            return
        pins = chosen(flavor, nodes, host)  # what the whole host has not is found before all else
        if not starts:
            yield pins
            return
        with self._turns.take_host(current_deadline()):
            yield chosen(flavor, nodes, host, taken=self._taken(host, but=None))

    @contextmanager
    def placed(self, uuid: UUID, xml: Element) -> Iterator[bool]:
        """The CPUs of a machine that is off and starts in the block, put into its definition. No
        call where it shares them.

        Returns:
            Whether they are others than they were.
        """
        aside = self._connection.config.aside
        if not aside:
            yield False
            return
        record, before = record_in(xml), pins_in(xml)
        host = self.host()
        if not has_own(record.flavor, record.numa):
            yield _changed(xml, before, chosen(record.flavor, record.numa, host))
            return
        with self._turns.take_host(current_deadline()):
            taken = self._taken(host, but=uuid)
            pins = chosen(record.flavor, record.numa, host, taken=taken, before=before)
            yield _changed(xml, before, pins)

    @contextmanager
    def starting(
        self, uuid: UUID, domain: Remote, xml: Element | None = None, *, saved: bool = False
    ) -> Iterator[None]:
        """As :meth:`placed`, of a machine that starts by its definition. One call, and no other
        where it has the CPUs that it had; none where the host sets none aside.

        Args:
            xml: its definition, which saves that call.
            saved: it comes back from saved memory, beside which is a definition of its own.
        """
        if not self._connection.config.aside:
            yield
            return
        xml = xml_of(domain, inactive=True) if xml is None else xml
        with self.placed(uuid, xml) as changed:
            if changed:
                pins = pins_in(xml)
                redefine(self._hub, uuid, domain, lambda found: put_pins(found, pins))
                if saved:
                    redefine_saved(domain, lambda image: put_pins(image, pins))
            yield

    @contextmanager
    def growing(self, domain: Remote, xml: Element, vcpus: int) -> Iterator[None]:
        """A CPU of the host for each one that a running machine gets in the block. No call where
        it shares them."""
        record = record_in(xml)
        if not (self._connection.config.aside and has_own(record.flavor, record.numa)):
            yield
            return
        host = self.host()
        rest = pins_in(xml).emulator
        with self._turns.take_host(current_deadline()), undoing() as undo:
            taken = self._taken(host, but=None)
            more = added(vcpus, host, taken=taken, before=pins_in(xml))
            size = max(host.shared | host.aside) + 1
            for vcpu, cpu in more.items():
                before = partial(domain.pinVcpuFlags, vcpu, _map(rest, size), _BOTH)
                undo.callback(put_back, before)
                domain.pinVcpuFlags(vcpu, _map({cpu}, size), _BOTH)
            yield

    def _taken(self, host: HostCpus, *, but: UUID | None) -> frozenset[int]:
        """The CPUs that machines have to themselves. One call, and one for each machine that is
        powered on or being started, many at a time.

        Args:
            but: whose do not count.
        """
        flags = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        domains = self._connection.remote.listAllDomains(flags)
        others = [each for each in domains if each.UUIDString() != str(but)]
        reads = [partial(_own_cpus, each, host.aside) for each in others]
        return frozenset().union(*self._connection.together(*reads))


def _own_cpus(domain: Remote, aside: frozenset[int]) -> frozenset[int]:
    with suppress(errors.InstanceNotFound):  # it has ended meanwhile
        return own_cpus(xml_of(domain), aside)
    return frozenset()


def _changed(xml: Element, before: Pins, pins: Pins) -> bool:
    if before == pins:
        return False
    put_pins(xml, pins)
    return True


def _map(cpus: frozenset[int] | set[int], size: int) -> tuple[bool, ...]:
    return tuple(number in cpus for number in range(size))
