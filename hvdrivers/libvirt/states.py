"""Libvirt's domain states in the words of the contract."""

from __future__ import annotations

import functools

import libvirt

from hvdrivers.models.state import InstanceState

_BY_STATE = {
    libvirt.VIR_DOMAIN_NOSTATE: InstanceState.STOPPED,
    libvirt.VIR_DOMAIN_RUNNING: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: InstanceState.PAUSED,
    # QEMU is about to end: the guest has powered off, or libvirt has told QEMU to end. Until its
    # process has gone it cannot be started, so this is RUNNING, also for a guest that was PAUSED.
    libvirt.VIR_DOMAIN_SHUTDOWN: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTOFF: InstanceState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: InstanceState.CRASHED,
    # the guest put itself to sleep (ACPI S3): memory is kept, CPUs stand still
    libvirt.VIR_DOMAIN_PMSUSPENDED: InstanceState.PAUSED,
}

_BY_REASON = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP): InstanceState.BUILDING,
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED): InstanceState.CRASHED,
    # suspend() writes the memory of a machine that ran. If that fails, the machine runs on. (One
    # that was paused before keeps the reason of its pause.)
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE): InstanceState.RUNNING,
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED): InstanceState.CRASHED,
}

_ON = {InstanceState.RUNNING, InstanceState.PAUSED}

SAVED = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SAVED)
"""State and reason of a machine that was suspended; they stay when its memory is thrown away."""


def as_rescued(state: InstanceState) -> InstanceState:
    """The state of a machine that a rescue marks: RESCUED if it is on."""
    return InstanceState.RESCUED if state in _ON else state


def is_starting(state: int, reason: int) -> bool:
    """Whether QEMU is being started: for a spawn, a power-on or a resume."""
    return _BY_REASON.get((state, reason)) is InstanceState.BUILDING


def is_restoring(state: int, reason: int) -> bool:
    """Whether QEMU has begun and its memory is brought in: saved memory where there is some, that
    of another host in a migration."""
    return (state, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)


def is_off(state: int, reason: int) -> bool:
    """Whether there may be saved memory: the machine is off, or has not left that state yet."""
    off = state == libvirt.VIR_DOMAIN_SHUTOFF
    return off or is_starting(state, reason) or is_restoring(state, reason)


@functools.cache
def state_of(
    state: int, reason: int, *, saved: bool, defined: bool = True, rescued: bool = False
) -> InstanceState:
    """The state for libvirt's state and reason. Every read of a state ends here.

    Args:
        saved: whether there is a managed save image. No reason tells that: the daemon forgets
            reasons when it restarts, keeps "saved" when the image is thrown away, and says
            "failed", "daemon" or "crashed" of a machine whose resume failed and whose image is
            still there.
        defined: whether the machine has a definition. spawn() starts a machine before it defines
            it. Any other machine that is being started has not left its state yet.
        rescued: whether its name says that rescue() has started it.
    """
    if is_starting(state, reason) and defined:
        state, reason = libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN
    if saved and (state == libvirt.VIR_DOMAIN_SHUTOFF or is_restoring(state, reason)):
        return InstanceState.SUSPENDED
    found = _BY_REASON.get((state, reason), _BY_STATE.get(state, InstanceState.STOPPED))
    return as_rescued(found) if rescued else found
