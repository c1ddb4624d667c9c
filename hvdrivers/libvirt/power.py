"""Power on libvirt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.power import CrashDump, Pause, Power, RebootKind, StartPaused, Suspend
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.driverkit.hub import is_gap
from hvdrivers.driverkit.undo import changed, ended
from hvdrivers.libvirt.backup_job import refuse_open_backup
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.definition import complete
from hvdrivers.libvirt.domains import LookAgain, Moved, xml_of
from hvdrivers.libvirt.event_hub import Lifecycle, RawEvent, Reboot
from hvdrivers.libvirt.halves import rest
from hvdrivers.libvirt.metadata import STATE_NAMESPACE, is_to_run, keep
from hvdrivers.libvirt.network_checks import macvtap_taken
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import explained_save, unsaved_device
from hvdrivers.libvirt.start import (
    cut,
    forget_crash,
    forget_old_memory,
    has_old_memory,
    restore,
    start,
)
from hvdrivers.libvirt.turns import Turn
from hvdrivers.models.state import InstanceState

_ASK_AGAIN = 5.0
"""Seconds after which the power button is pressed again: a booting guest misses the first time."""


class LibvirtPower(Topic, Power, Pause, StartPaused, Suspend, CrashDump):
    """Core power, pause, start paused, suspend and NMI."""

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls if it runs, 5 if it is stopped, 7 if it has crashed, 8 if it is
        suspended; 5 more if it went off while it was rescued; 2 more for a start of an adopted
        machine, and 1 for one with macvtap NICs."""
        del timeout
        self._power_on("power_on", uuid, current_deadline(), InstanceState.RUNNING)

    def start_paused(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls if it is paused, 5 if it is stopped or suspended, 7 if it has crashed; 5
        more if it went off while it was rescued; 2 more for a start of an adopted machine, and 1
        for one with macvtap NICs."""
        del timeout
        self._power_on("start_paused", uuid, current_deadline(), InstanceState.PAUSED)

    def _power_on(
        self, operation: str, uuid: UUID, deadline: Deadline, wanted: InstanceState
    ) -> None:
        """Bring a machine to RUNNING or PAUSED. A start that fails while another client is at the
        snapshots, with qemu-img at the disks, is made again after that client's turn."""
        repeated = False

        def act(domain: Remote, state: InstanceState) -> None:
            nonlocal repeated
            if state is wanted:
                forget_old_memory(domain)
                return
            if state is InstanceState.CRASHED:
                cut(domain)
            self.rescues.leave(uuid, domain)
            saved = state is InstanceState.SUSPENDED
            try:
                with self._starting(uuid, domain, saved=saved):
                    if saved and wanted is InstanceState.RUNNING:
                        began = restore(domain)
                    else:
                        began = start(domain, paused=wanted is InstanceState.PAUSED)
            except errors.HypervisorFault as error:
                waited = self.turns.wait(uuid, deadline)
                # None: there is no turn now, and there may have been one. That is believed once.
                if waited is True or (waited is None and not repeated and domain.snapshotNum(0)):
                    repeated = True
                    raise LookAgain from error
                raise
            if not began:
                raise LookAgain  # another client has started it, maybe otherwise

        self.domains.change(operation, uuid, deadline, act)

    @contextmanager
    def _starting(self, uuid: UUID, domain: Remote, *, saved: bool = False) -> Iterator[None]:
        """What a start needs that libvirt does not see to. One call; one more for a machine with
        macvtap NICs, and those for CPUs of its own (``dedicated.py``)."""
        xml = xml_of(domain, inactive=True)
        self.networks.refuse_ports(uuid, xml)
        with self.dedicated.starting(uuid, domain, xml, saved=saved):
            yield

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        """Budget: 6 calls, and 1 for each press of the power button (every 5 seconds); 4 if it is
        off; 7 if it was suspended, 8 if it has crashed. Up to 3 more for a device that the guest
        did not let go of when it was asked; 1 more where a rebuild() or unrescue() was cut after
        its start."""
        del timeout
        deadline = current_deadline()
        grace = Deadline(graceful)

        def act(domain: Remote, state: InstanceState) -> None:
            if state is InstanceState.STOPPED:
                # an attempt before this one may have been cut before it told the streams
                self._tell_stopped(domain)
                return
            if state is InstanceState.SUSPENDED:
                domain.managedSaveRemove(0)
                with rest():
                    self._tell_stopped(domain)
                    # another client may have resumed it meanwhile; or QEMU died in a resume
                    if self.domains.state(domain) is not InstanceState.STOPPED:
                        raise Moved
                return
            if state is InstanceState.CRASHED and not domain.isActive():
                forget_crash(domain)
                with rest():
                    self._tell_stopped(domain)
                return
            if not domain.isPersistent():
                complete(domain)  # or it would vanish, and leave its disks
            self.plugging.settle_before_the_end(uuid, domain)
            to_run = is_to_run(xml_of(domain, inactive=True))
            left = min(grace.left, deadline.left)
            if not (left and state is InstanceState.RUNNING) or not self._shut_down(
                uuid, domain, left
            ):
                domain.destroyFlags(0)
            with rest():
                if to_run:  # an operation was cut after it had started the machine: that is over
                    keep(domain, STATE_NAMESPACE, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
                if has_old_memory(domain):
                    raise Moved

        self.domains.change("power_off", uuid, deadline, act)

    @staticmethod
    def _tell_stopped(domain: Remote) -> None:
        """Libvirt has no event for the end of saved memory, nor for a start that fails. Removing a
        metadata element that is not there has one, and tells the streams of every connection (see
        ``event_hub.py``). Where it is there, rebuild() has been interrupted (see ``rebuild.py``):
        the machine shall be off now."""
        keep(domain, STATE_NAMESPACE, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def _shut_down(self, uuid: UUID, domain: Remote, seconds: float) -> bool:
        """Press the power button and wait; True if the guest went down."""

        def stopped(event: RawEvent) -> bool:
            return (
                isinstance(event, Lifecycle)
                and event.uuid == uuid
                and event.event == libvirt.VIR_DOMAIN_EVENT_STOPPED
            )

        grace = Deadline(seconds)
        with self.hub.listening() as events:
            while not grace.passed:
                try:
                    domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
                except errors.InvalidState:
                    return not domain.isActive()  # it went down, or it crashed
                event = events.wait(stopped, min(_ASK_AGAIN, grace.left))
                if is_gap(event):
                    raise errors.OutcomeUnknown("the connection broke while the guest shut down")
                if event is not None:
                    return True
        return False

    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        """Budget: 4 calls for HARD (5 from PAUSED, 8 if the guest had put itself to sleep, 7 to 9
        from CRASHED, and 1 more for macvtap NICs), 4 for SOFT and one for each press of the button
        after the first."""
        del timeout
        deadline = current_deadline()

        def act(domain: Remote, state: InstanceState) -> None:
            if not domain.isPersistent():
                complete(domain)  # or it would vanish with its power
            if kind is RebootKind.SOFT:
                self._reboot_soft(uuid, domain, deadline)
            elif state is InstanceState.CRASHED or not self._reset(domain, state):
                if not cut(domain) and state is not InstanceState.CRASHED:
                    raise LookAgain  # another client has switched it off, or suspended it
                with ended() if state is not InstanceState.CRASHED else changed():
                    if state is not InstanceState.RESCUED:
                        self.rescues.leave(uuid, domain)
                    with self._starting(uuid, domain):
                        start(domain)

        self.domains.change("reboot", uuid, deadline, act, variant=kind)

    @staticmethod
    def _reset(domain: Remote, state: InstanceState) -> bool:
        """Reset; False where that boots nothing: a guest that sleeps (ACPI S3). Its firmware takes
        a reset for the awakening, for as long as it has not got to its own code, and lets the old
        system go on; and nobody can see when it has."""
        if state is InstanceState.PAUSED:
            try:
                domain.resume()
            except errors.InvalidState:
                return False
        with ended() if state is InstanceState.PAUSED else nullcontext():
            domain.reset(0)
        return True

    def _reboot_soft(self, uuid: UUID, domain: Remote, deadline: Deadline) -> None:
        def rebooted(event: RawEvent) -> bool:
            return isinstance(event, Reboot) and event.uuid == uuid

        with self.hub.listening() as events:
            while not deadline.passed:
                domain.reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)
                event = events.wait(rebooted, min(_ASK_AGAIN, deadline.left))
                if is_gap(event):
                    raise errors.OutcomeUnknown("the connection broke while the guest rebooted")
                if event is not None:
                    return
        raise errors.DeviceBusy(
            "the guest did not go down in time", hint="use RebootKind.HARD, or give it longer"
        )

    def pause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls."""
        del timeout

        def act(domain: Remote, state: InstanceState) -> None:
            if state is InstanceState.RUNNING:
                domain.suspend()

        self.domains.change("pause", uuid, current_deadline(), act)

    def unpause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls, 4 if the guest had put itself to sleep."""
        del timeout
        deadline = current_deadline()

        def act(domain: Remote, state: InstanceState) -> None:
            if state is InstanceState.PAUSED:
                self._let_run(uuid, domain, deadline)

        self.domains.change("unpause", uuid, deadline, act)

    def _let_run(self, uuid: UUID, domain: Remote, deadline: Deadline) -> None:
        """Let a machine that stands still go on, also one whose guest sleeps (ACPI S3)."""

        def awake(event: RawEvent) -> bool:
            return (
                isinstance(event, Lifecycle)
                and event.uuid == uuid
                and event.event == libvirt.VIR_DOMAIN_EVENT_STARTED
            )

        try:
            domain.resume()
        except errors.HypervisorFault as error:  # libvirt switches macvtap devices on here
            remote, nics = self.connection.remote, xml_of(domain).iterfind("devices/interface")
            raise macvtap_taken(remote, nics, error) or error from error
        except errors.InvalidState:
            with self.hub.listening() as events:
                domain.pMWakeup(0)
                event = events.wait(awake, deadline.left)
            if is_gap(event):
                raise errors.OutcomeUnknown("the connection broke while the guest woke") from None
            if event is None:
                raise errors.OperationTimeout("the guest did not wake in time") from None

    def suspend(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 7 calls.

        A paused machine is saved as paused, and restore() lets it run. With libvirt's flag for
        "save it as running" a save that fails, for want of room, would let it run at once.

        It waits for what another client does with the snapshots: a machine that is being brought
        back to one looks paused."""
        del timeout

        def act(turn: Turn, domain: Remote, state: InstanceState) -> None:
            if state is InstanceState.SUSPENDED:
                return
            refuse_open_backup(domain)
            turn.check()
            try:
                domain.managedSave(0)
            except errors.HypervisorFault as error:
                raise explained_save(domain, error) from error
            except errors.InvalidState as error:
                raise unsaved_device(domain, error) from error

        self.turns.change("suspend", uuid, current_deadline(), act)

    def resume(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 8 calls, 3 if it runs; 1 more for macvtap NICs."""
        del timeout

        def act(domain: Remote, state: InstanceState) -> None:
            if state is not InstanceState.SUSPENDED:
                forget_old_memory(domain)
            else:
                with self._starting(uuid, domain, saved=True):
                    began = restore(domain)
                if not began:
                    raise LookAgain

        self.domains.change("resume", uuid, current_deadline(), act)

    def inject_nmi(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls."""
        del timeout
        self.domains.change(
            "inject_nmi", uuid, current_deadline(), lambda domain, _: domain.injectNMI(0)
        )
