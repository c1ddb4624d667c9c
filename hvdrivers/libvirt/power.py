"""Power on libvirt."""

from __future__ import annotations

from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.power import CrashDump, Pause, Power, RebootKind, Suspend
from hvdrivers.libvirt.base import Deadline, Topic
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.hub import Lifecycle, Lost, RawEvent, Reboot
from hvdrivers.models.state import InstanceState

_ASK_AGAIN = 5.0
"""Seconds after which the power button is pressed again: a booting guest misses the first time."""


class LibvirtPower(Topic, Power, Pause, Suspend, CrashDump):
    """Core power, pause, suspend and NMI."""

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls, 4 if it crashed and is still there. A managed save image is resumed by
        libvirt itself."""
        del timeout
        domain, state = self._checked("power_on", uuid)
        if state is InstanceState.RUNNING:
            return
        if state is InstanceState.CRASHED:
            cut(domain)
        start(domain)

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        """Budget: 3 calls, and 1 for each press of the power button (every 5 seconds)."""
        del timeout
        domain, state = self._checked("power_off", uuid)
        if state is InstanceState.STOPPED:
            return
        if state is InstanceState.SUSPENDED:
            domain.managedSaveRemove(0)
            return
        if graceful and state is InstanceState.RUNNING and self._shut_down(uuid, domain, graceful):
            return
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
                    return True
                event = events.wait(stopped, min(_ASK_AGAIN, grace.left))
                if isinstance(event, Lost):
                    raise errors.OutcomeUnknown("the connection broke while the guest shut down")
                if event is not None:
                    return True
        return False

    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        """Budget: 3 calls for HARD (4 from PAUSED or CRASHED), 3 for SOFT and one for each press
        of the button."""
        deadline = Deadline(timeout)
        domain, state = self._checked("reboot", uuid, kind)
        if kind is RebootKind.SOFT:
            self._reboot_soft(uuid, domain, deadline)
        elif state is InstanceState.CRASHED:
            cut(domain)
            start(domain)
        else:
            domain.reset(0)
            if state is InstanceState.PAUSED:
                domain.resume()

    def _reboot_soft(self, uuid: UUID, domain: Remote, deadline: Deadline) -> None:
        def rebooted(event: RawEvent) -> bool:
            return isinstance(event, Reboot) and event.uuid == uuid

        with self.hub.listening() as events:
            while not deadline.passed:
                domain.reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)
                event = events.wait(rebooted, min(_ASK_AGAIN, deadline.left))
                if isinstance(event, Lost):
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
        """Budget: 3 calls."""
        del timeout
        domain, state = self._checked("unpause", uuid)
        if state is InstanceState.PAUSED:
            domain.resume()

    def suspend(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls. A paused machine is saved so that it runs when it comes back."""
        del timeout
        domain, state = self._checked("suspend", uuid)
        if state is not InstanceState.SUSPENDED:
            domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)

    def resume(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls."""
        del timeout
        domain, state = self._checked("resume", uuid)
        if state is InstanceState.SUSPENDED:
            start(domain)

    def inject_nmi(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 calls."""
        del timeout
        domain, _ = self._checked("inject_nmi", uuid)
        domain.injectNMI(0)


def start(domain: Remote) -> None:
    """Power on; somebody else having done it is as good."""
    try:
        domain.createWithFlags(0)
    except errors.InvalidState:
        if not domain.isActive():
            raise


def cut(domain: Remote) -> None:
    """Power off at once; it being off is as good."""
    try:
        domain.destroyFlags(0)
    except errors.InvalidState:
        if domain.isActive():
            raise
