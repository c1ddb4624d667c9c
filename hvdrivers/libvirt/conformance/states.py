"""Which machines of a libvirt host are ours, and in which state: nothing of the driver's code tells
it. Shared with the driver are facts of the host: how names carry a UUID, and what a secret says."""

from __future__ import annotations

from typing import Any

import libvirt

from hvdrivers.models.state import InstanceState

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: InstanceState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: InstanceState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: InstanceState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: InstanceState.CRASHED,
}
_CRASHED = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED),
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED),
}


def machines(connect: Any) -> list[tuple[Any, bool]]:
    """Each machine, and whether it is ours: its name says so, or it has been adopted."""
    adopted = _marked(connect, "adopted")
    return [
        (each, each.name().endswith(f".{each.UUIDString()}") or each.UUIDString() in adopted)
        for each in connect.listAllDomains(0)
    ]


def state_of(domain: Any) -> InstanceState:
    """The state of a machine, as the contract calls it."""
    state, reason = domain.state(0)
    if (state, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP):
        if not domain.isPersistent():
            return InstanceState.BUILDING
        state = libvirt.VIR_DOMAIN_SHUTOFF  # QEMU is being started: it has not left its state
    if (state, reason) in _CRASHED:
        return InstanceState.CRASHED
    if state == libvirt.VIR_DOMAIN_SHUTOFF and domain.hasManagedSaveImage(0):
        return InstanceState.SUSPENDED
    found = _STATES.get(state, InstanceState.STOPPED)
    if found not in {InstanceState.RUNNING, InstanceState.PAUSED}:
        return found
    return InstanceState.RESCUED if _is_rescued(domain) else found


def _is_rescued(domain: Any) -> bool:
    """Whether the name says so; of an adopted machine, a secret."""
    name, uuid = domain.name(), domain.UUIDString()
    if name.endswith(f".{uuid}"):
        return bool(name.endswith(f"%rescued.{uuid}"))
    return uuid in _marked(domain.connect(), "rescued")


def _marked(connect: Any, word: str) -> set[str]:
    """The UUIDs of the machines of which a secret says this."""
    try:
        secrets = connect.listAllSecrets(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        return set()  # a host that keeps no secrets has no adopted machine
    marks = (str(each.usageID()).split(" ", 2) for each in secrets)
    return {
        mark[1] for mark in marks if mark[0] == "hvdrivers" and mark[-1].startswith(f"/{word}/")
    }
