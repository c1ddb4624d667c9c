"""One client at a time at an instance's snapshots, and at the disks that they are in.

Libvirt keeps the calls of two clients apart, and an operation with snapshots is many calls. So a
client first takes the instance's turn: it defines a second domain, the helper, whose name comes
from the instance's UUID and whose own UUID is new for each turn. Libvirt refuses a second domain of
a name: whoever gets the name has the turn, and undefines the helper at its end. The helper never
starts. Through it ``qemu-img`` reaches the disks of a machine that is off (``snapshot_data.py``).

A client that dies leaves its helper. The client counts in the helper's metadata while it works. A
client that waits takes over after it has looked so often, with a pause after each look, and found
the same count and nothing that the daemon does for the machine. No clocks are compared. A client
that was only slow finds its helper gone, and fails: it works through the helper, or asks for it
before each change. A client that lost the host leaves its helper too. Its own process knows that,
and waits for the host's last calls alone.

The host has such a turn too (``HOST``), for what it gives to one machine alone (``dedicated.py``).

What was begun by a client that died stands in the tree of snapshots (``snapshot_tree.py``): the
next turn clears it away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar, cast
from uuid import UUID, uuid4

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.hub import is_gap
from hvdrivers.driverkit.undo import changed, ended
from hvdrivers.libvirt import monitor
from hvdrivers.libvirt.config import VirtType
from hvdrivers.libvirt.definition import define, undefine
from hvdrivers.libvirt.domains import Domains, xml_of
from hvdrivers.libvirt.event_hub import EventHub, Lifecycle, RawEvent
from hvdrivers.libvirt.host_facts import HostFacts
from hvdrivers.libvirt.left_files import end_copies, noted_in
from hvdrivers.libvirt.metadata import NAMESPACE, keep, kept
from hvdrivers.libvirt.naming import HELPER_PREFIX
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection, last_calls, unnoticed
from hvdrivers.libvirt.start import cut
from hvdrivers.libvirt.xml import el, parse, text
from hvdrivers.models.state import InstanceState

_T = TypeVar("_T")

_COUNT_NAMESPACE = f"{NAMESPACE}/turn"
LOADING_NAMESPACE = f"{NAMESPACE}/loading"
"""In the running definition of a machine that was started to get a snapshot's memory: the turn."""

HOST = UUID("5b0c7ad4-77b1-5f0e-8f43-3a4f5f3d0a11")
"""Stands for the host where a turn is not an instance's."""

DEVICES = UUID("5b0c7ad4-77b1-5f0e-8f43-3a4f5f3d0a12")
"""Stands for the host's PCI devices."""

JOB = "hv-"
"""In front of the names of QEMU's jobs that are a turn's."""
_LOOKS = 20
"""At so many in a row nothing has moved: the client is dead."""
_LOOKS_AT_OWN = 2
"""Enough where the client is this process, whose operation has ended without reaching the host:
what it had sent before is done, or seen to be under way."""
_APART = 2.0
"""Seconds between two looks."""
_REFUSALS = 3
"""Times that libvirt may refuse the helper and show none: then it has another reason."""


_left: set[str] = set()
"""Turns of this process, by UUID, that it could not give up."""


class Robbed(Exception):
    """Another client has the turn: it took this one for dead. Only ``Turns.take()`` sees it."""


def instance_of(name: str) -> str | None:
    """The UUID of the instance whose turn a domain is; None for any other domain."""
    found = name.removeprefix(HELPER_PREFIX) if name.startswith(HELPER_PREFIX) else None
    return None if found in {str(HOST), str(DEVICES)} else found


def remove_helper(remote: Remote, uuid: UUID) -> None:
    """Remove what a dead client's turn has left. One call, two where there is something."""
    with suppress(errors.InstanceNotFound):
        undefine(remote.lookupByName(f"{HELPER_PREFIX}{uuid}"))


class Turn:
    """A turn that this client has."""

    def __init__(self, uuid: UUID, helper: Remote, since: float) -> None:
        self.name = f"{HELPER_PREFIX}{uuid}"
        self.id = UUID(helper.UUIDString())
        self.helper = helper
        self.inherited: str | None = None
        """The snapshot that a dead client's turn brought the disks back to, or made."""
        self.after: str | None = None
        """The UUID of the dead client's turn."""
        self.disks: list[str] = []
        """What the helper has of the machine's disks."""
        self.tagged: str | None = None
        """The snapshot that was made through the helper."""
        self._count = 0
        self._counted = since

    def check(self) -> None:
        """Show that this client lives and has the turn. One call, which only reads where the client
        has counted a moment ago: libvirt writes each count to its disk.

        Raises:
            Robbed: it has not.
        """
        with self.own():
            if time.monotonic() - self._counted < _APART:
                self.helper.isPersistent()  # one that is gone is no domain
            else:
                self._go_on_counting(self.helper)

    def show(self, remote: Remote) -> None:
        """Count over another connection, beside a long call. Two calls."""
        with self.own():
            self._go_on_counting(remote.lookupByUUIDString(str(self.id)))

    def _go_on_counting(self, helper: Remote) -> None:
        self._count += 1
        now = time.monotonic()
        with unnoticed():
            keep(helper, _COUNT_NAMESPACE, str(self._count), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        self._counted = now

    @contextmanager
    def own(self) -> Iterator[None]:
        """Stands around calls of the helper.

        Raises:
            Robbed: it has gone.
        """
        try:
            yield
        except errors.InstanceNotFound as error:
            raise Robbed from error

    def again(self, remote: Remote) -> None:
        """Look the helper up: this is how things are undone after a connection was lost.

        Raises:
            Robbed: it has gone.
        """
        with self.own():
            self.helper = remote.lookupByUUIDString(str(self.id))


class Turns:
    """Take the turn of an instance, or wait for it."""

    def __init__(
        self, connection: Connection, hub: EventHub, domains: Domains, facts: HostFacts
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._domains = domains
        self._facts = facts

    def change(
        self,
        operation: str,
        uuid: UUID,
        deadline: Deadline,
        act: Callable[[Turn, Remote, InstanceState], _T],
    ) -> _T:
        """As ``Domains.change()``, while no other client is at the instance's snapshots. Two calls
        more.

        Raises:
            DeviceBusy: another client had the turn until the deadline.
        """
        with self.take(uuid, deadline) as turn:
            return self._domains.change(
                operation, uuid, deadline, lambda domain, state: act(turn, domain, state)
            )

    @contextmanager
    def take_host(self, deadline: Deadline) -> Iterator[None]:
        """Have the turn at what the host gives to one machine alone. Two calls.

        A client that is taken for dead loses it, and goes on: what it has taken stands in the
        definition of the machine that it starts, which the next client reads.

        Raises:
            DeviceBusy: another client had the turn until the deadline.
        """
        with self._taken(HOST, deadline):
            yield

    @contextmanager
    def take_devices(self, deadline: Deadline) -> Iterator[None]:
        """The same, at the host's PCI devices. Two calls."""
        with self._taken(DEVICES, deadline):
            yield

    @contextmanager
    def take(self, uuid: UUID, deadline: Deadline) -> Iterator[Turn]:
        """Have the turn for the length of the block. Two calls."""
        try:
            with self._taken(uuid, deadline) as turn:
                yield turn
        except Robbed as error:
            # or it was destroy() that removed the helper; adopt() takes a turn at a foreign machine
            self._connection.remote.lookupByUUIDString(str(uuid))
            raise errors.DeviceBusy(
                "this client made no progress for so long that another one took its turn at the"
                " instance's snapshots",
                hint="call again",
            ) from error

    @contextmanager
    def _taken(self, uuid: UUID, deadline: Deadline) -> Iterator[Turn]:
        made = uuid4()
        try:
            turn = self._take(uuid, made, deadline)
        except (errors.ConnectionFailed, errors.OperationTimeout, errors.DeviceBusy):
            raise  # there is no helper: one that may be there is an OutcomeUnknown
        except BaseException as original:
            self._give_up_after(original, made)
            raise
        try:
            if turn.after is not None:
                self.end_half_loaded(uuid, turn.after)
                self._end_copies(uuid)
            yield turn
        except BaseException as original:
            self._give_up_after(original, made)
            raise
        with ended():
            try:
                with unnoticed(), last_calls():
                    undefine(turn.helper)
            except (errors.ConnectionFailed, errors.OutcomeUnknown):
                self._give_up(made)  # by another connection

    def _give_up_after(self, original: BaseException, made: UUID) -> None:
        try:
            self._give_up(made)
        except errors.HypervisorError as failed:
            original.add_note(f"the turn at the snapshots could not be given up: {failed}")
            with changed():  # for other clients something has
                raise original from failed

    def _give_up(self, made: UUID) -> None:
        """Undo the beginning of a turn, wherever it has come to."""
        _left.add(str(made))
        with suppress(errors.InstanceNotFound), unnoticed(), last_calls():
            undefine(self._connection.remote.lookupByUUIDString(str(made)))
        _left.discard(str(made))

    def _take(self, uuid: UUID, made: UUID, deadline: Deadline) -> Turn:
        """Take the turn. One call; while another client has it, four for each look."""
        document = text(
            el(
                "domain",
                el("name", f"{HELPER_PREFIX}{uuid}"),
                el("uuid", str(made)),
                el("memory", "1024"),
                el("vcpu", "1"),
                el("os", el("type", "hvm")),
                type=self._helper_type(),
            )
        )
        refused = 0
        inherited: str | None = None
        after: str | None = None
        while True:
            since = time.monotonic()
            try:
                with unnoticed():
                    # libvirt's schema takes 5 ms, and would find nothing in these few elements
                    helper = define(self._connection.remote, document, validated=True)
                break
            except errors.HypervisorFault:
                inherited = None
                dead = self.wait(uuid, deadline)
                if dead is None:
                    refused += 1
                    if refused == _REFUSALS:
                        raise
                    continue
                refused = 0
                if isinstance(dead, Remote):
                    after = dead.UUIDString()
                    _left.discard(after)
                    inherited = self._end_of(dead)
        turn = Turn(uuid, helper, since)
        turn.inherited, turn.after = inherited, after
        return turn

    def _helper_type(self) -> str:
        """A domain type that this host defines. No call; one, once, where the caller did not name
        one."""
        if self._connection.config.virt_type is not VirtType.AUTO:
            return self._connection.config.virt_type.value
        return "kvm" if self._facts.kvm_offered() else "qemu"

    def wait(self, uuid: UUID, deadline: Deadline) -> Remote | bool | None:
        """Wait until the turn that another client has comes to its end.

        Returns:
            True: it has. None: there was none. The helper: its client is dead.
        """
        name = f"{HELPER_PREFIX}{uuid}"

        def ended(event: RawEvent) -> bool:
            return (
                isinstance(event, Lifecycle)
                and event.name == name
                and event.event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED
            )

        seen: tuple[str, str | None] | None = None
        still = 0
        with self._hub.listening() as events:
            while True:
                try:
                    # both wait for what the daemon does with the helper
                    helper = self._connection.remote.lookupByName(name)
                    now = helper.UUIDString(), kept(xml_of(helper), _COUNT_NAMESPACE)
                except errors.InstanceNotFound:
                    return None if seen is None else True
                still = still + 1 if now == seen and not self._works(uuid) else 0
                seen = now
                if still >= (_LOOKS_AT_OWN if now[0] in _left else _LOOKS):
                    return cast(Remote, helper)
                if deadline.passed:
                    raise errors.DeviceBusy(
                        "another client gives CPUs or devices of the host to a machine"
                        if uuid in {HOST, DEVICES}
                        else "another client is at the instance's snapshots",
                        hint="call again when it is done; if it has died, a call with a longer"
                        " timeout takes over",
                    )
                if is_gap(events.wait(ended, deadline.within(_APART))):
                    raise errors.ConnectionFailed("the connection broke while the turn was awaited")

    def _works(self, uuid: UUID) -> bool:
        """Whether the daemon, or QEMU, is at something of the machine. Up to three calls."""
        try:
            domain = self._domains.find(uuid)
            if domain.controlInfo(0)[0] in {
                libvirt.VIR_DOMAIN_CONTROL_JOB,
                libvirt.VIR_DOMAIN_CONTROL_OCCUPIED,
            }:
                return True
            return bool(domain.jobStats(0)["type"] != libvirt.VIR_DOMAIN_JOB_NONE)
        except (errors.InvalidState, errors.InstanceNotFound):
            return False
        except errors.DeviceBusy:
            return True

    @staticmethod
    def _end_of(dead: Remote) -> str | None:
        """Remove a dead client's helper; the snapshot that its disks were brought to."""
        current: str | None = None
        with suppress(errors.VolumeNotFound, errors.InstanceNotFound):
            current = dead.snapshotCurrent(0).getName()
        with unnoticed():
            return current if undefine(dead) else None

    def _end_copies(self, uuid: UUID) -> None:
        """End the copies of disks that a dead client has left in a running machine: while they
        run, libvirt refuses snapshots and more."""
        with suppress(errors.InstanceNotFound, errors.InvalidState):
            domain = self._domains.find(uuid)
            xml = parse(domain.XMLDesc(0))
            end_copies(domain, xml, noted_in(uuid, xml))

    def end_half_loaded(self, uuid: UUID, after: str) -> None:
        """Switch a machine off that was started for a snapshot's memory, by a client that has died
        or lost the host, and that has not got it: no CPU of it has run, and QEMU knows of no job
        that has succeeded.

        Args:
            after: the UUID of that client's turn.
        """
        with suppress(errors.InstanceNotFound, errors.InvalidState):
            domain = self._domains.find(uuid)
            if kept(parse(domain.XMLDesc(0)), LOADING_NAMESPACE) != after:
                return
            if monitor.ask(domain, "query-status", reads=True)["status"] != "prelaunch":
                return
            # it answers when it has read the memory
            jobs = monitor.ask(domain, "query-jobs", reads=True)
            if all(job.get("error") for job in jobs if str(job["id"]).startswith(JOB)):
                cut(domain, loses=False)
