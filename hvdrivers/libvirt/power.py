"""Power on libvirt."""

from __future__ import annotations

from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.power import CrashDump, Pause, Power, RebootKind, Suspend
from hvdrivers.libvirt.base import Deadline, Topic
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.hub import Lifecycle, RawEvent, Reboot, is_gap
from hvdrivers.libvirt.record import STATE_NAMESPACE
from hvdrivers.libvirt.starting import cut, start
from hvdrivers.models.state import InstanceState

_ASK_AGAIN = 5.0
"""Seconds after which the power button is pressed again: a booting guest misses the first time."""


class LibvirtPower(Topic, Power, Pause, Suspend, CrashDump):
    """Core power, pause, suspend and NMI."""

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls, 4 if it was suspended, 4 or 5 if it has crashed. A managed save image is
        resumed by libvirt itself."""
        del timeout
        domain, state = self._checked("power_on", uuid)
        if state is InstanceState.RUNNING:
            return
        if state is InstanceState.CRASHED:
            cut(domain)
        start(domain)

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        """Budget: 3 calls, and 1 for each press of the power button (every 5 seconds); 5 if it
        was suspended or has crashed."""
        deadline = Deadline(timeout)
        domain, state = self._checked("power_off", uuid)
        if state is InstanceState.STOPPED:
            return
        if state is InstanceState.SUSPENDED:
            self._drop_saved(domain)
            return
        if state is InstanceState.CRASHED and not domain.isActive():
            self._forget_crash(domain)
            return
        grace = min(graceful, deadline.left)
        if grace and state is InstanceState.RUNNING and self._shut_down(uuid, domain, grace):
            return
        cut(domain)

    @staticmethod
    def _drop_saved(domain: Remote) -> None:
        domain.managedSaveRemove(0)
        # Libvirt has no event for that. Removing a metadata element that is not there has one, and
        # tells the streams of every connection (see ``events.py``).
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            None,
            None,
            STATE_NAMESPACE,
            libvirt.VIR_DOMAIN_AFFECT_CONFIG,
        )

    def _forget_crash(self, domain: Remote) -> None:
        """From CRASHED to STOPPED where QEMU itself has died: the daemon keeps the reason for
        which a machine is off until its next start, so it is started, without its CPUs, and
        stopped. A start that fails changes the reason as well."""
        try:
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        except errors.HypervisorError:
            if self._state(domain) is not InstanceState.STOPPED:
                raise
        else:
            cut(domain)

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
        """Budget: 3 calls for HARD (4 from PAUSED, 5 if the guest had put itself to sleep, 4 or 5
        from CRASHED), 3 for SOFT and one for each press of the button after the first."""
        deadline = Deadline(timeout)
        domain, state = self._checked("reboot", uuid, kind)
        if kind is RebootKind.SOFT:
            self._reboot_soft(uuid, domain, deadline)
        elif state is InstanceState.CRASHED or not self._reset(domain, state):
            cut(domain)
            start(domain)

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
        domain, state = self._checked("pause", uuid)
        if state is InstanceState.RUNNING:
            domain.suspend()

    def unpause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls, 4 if the guest had put itself to sleep."""
        deadline = Deadline(timeout)
        domain, state = self._checked("unpause", uuid)
        if state is InstanceState.PAUSED:
            self._let_run(uuid, domain, deadline)

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
        except errors.InvalidState:
            with self.hub.listening() as events:
                domain.pMWakeup(0)
                event = events.wait(awake, deadline.left)
            if is_gap(event):
                raise errors.OutcomeUnknown("the connection broke while the guest woke") from None
            if event is None:
                raise errors.OperationTimeout("the guest did not wake in time") from None

    def suspend(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls. A paused machine is saved so that it runs when it comes back."""
        del timeout
        domain, state = self._checked("suspend", uuid)
        if state is not InstanceState.SUSPENDED:
            domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)

    def resume(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 4 calls."""
        del timeout
        domain, state = self._checked("resume", uuid)
        if state is InstanceState.SUSPENDED:
            start(domain)

    def inject_nmi(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls."""
        del timeout
        domain, _ = self._checked("inject_nmi", uuid)
        domain.injectNMI(0)
