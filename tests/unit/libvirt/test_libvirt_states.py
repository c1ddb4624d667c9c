"""States: every state and reason of libvirt has one of the contract's."""

from __future__ import annotations

import libvirt
import pytest

from hvdrivers.libvirt.states import is_starting, state_of
from hvdrivers.models.state import InstanceState

S = InstanceState
STATES = {
    value: name
    for name, value in vars(libvirt).items()
    if name
    in {
        "VIR_DOMAIN_NOSTATE",
        "VIR_DOMAIN_RUNNING",
        "VIR_DOMAIN_BLOCKED",
        "VIR_DOMAIN_PAUSED",
        "VIR_DOMAIN_SHUTDOWN",
        "VIR_DOMAIN_SHUTOFF",
        "VIR_DOMAIN_CRASHED",
        "VIR_DOMAIN_PMSUSPENDED",
    }
}


@pytest.mark.parametrize("state", range(8))
def test_every_state_has_a_meaning(state: int) -> None:
    assert state in STATES
    for reason in range(16):
        for saved in (False, True):
            found = state_of(state, reason, saved=saved)
            # one that is being started has not left its state yet; a spawn's has none before that
            off = state == libvirt.VIR_DOMAIN_SHUTOFF or is_starting(state, reason)
            # nor has one whose saved memory QEMU still reads
            off = off or (state, reason) == (
                libvirt.VIR_DOMAIN_PAUSED,
                libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
            )
            assert (found is S.SUSPENDED) == (saved and off)
            starting = state_of(state, reason, saved=saved, defined=False) is S.BUILDING
            assert starting == is_starting(state, reason)


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED, S.RUNNING),
        (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTDOWN_USER, S.RUNNING),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER, S.PAUSED),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR, S.PAUSED),
        # while suspend() saves a machine that ran
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE, S.RUNNING),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP, S.STOPPED),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED, S.CRASHED),
        (libvirt.VIR_DOMAIN_PMSUSPENDED, libvirt.VIR_DOMAIN_PMSUSPENDED_UNKNOWN, S.PAUSED),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN, S.STOPPED),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SAVED, S.STOPPED),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FAILED, S.STOPPED),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, S.CRASHED),
        (libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED, S.CRASHED),
    ],
)
def test_reasons(state: int, reason: int, expected: InstanceState) -> None:
    assert state_of(state, reason, saved=False) is expected
