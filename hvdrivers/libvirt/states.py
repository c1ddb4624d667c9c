"""Libvirt's domain states in the words of the contract."""

from __future__ import annotations

import libvirt

from hvdrivers.models.state import InstanceState

_BY_STATE = {
    libvirt.VIR_DOMAIN_NOSTATE: InstanceState.STOPPED,
    libvirt.VIR_DOMAIN_RUNNING: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: InstanceState.PAUSED,
    # the guest has begun to shut down and still runs
    libvirt.VIR_DOMAIN_SHUTDOWN: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTOFF: InstanceState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: InstanceState.CRASHED,
    # the guest put itself to sleep (ACPI S3): memory is kept, CPUs stand still
    libvirt.VIR_DOMAIN_PMSUSPENDED: InstanceState.PAUSED,
}

_BY_REASON = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP): InstanceState.BUILDING,
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED): InstanceState.CRASHED,
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED): InstanceState.CRASHED,
}


def is_starting(state: int, reason: int) -> bool:
    """Whether QEMU is being started, for a spawn or a power-on."""
    return _BY_REASON.get((state, reason)) is InstanceState.BUILDING


def state_of(state: int, reason: int, *, saved: bool) -> InstanceState:
    """The state for libvirt's state and reason.

    Args:
        saved: whether there is a managed save image. The reason VIR_DOMAIN_SHUTOFF_SAVED says
            so too, but the daemon forgets reasons when it restarts.
    """
    if saved and state == libvirt.VIR_DOMAIN_SHUTOFF:
        return InstanceState.SUSPENDED
    return _BY_REASON.get((state, reason), _BY_STATE.get(state, InstanceState.STOPPED))
