"""Limits: what Core allows a hypervisor not to have, where no capability says so.

A capability says what a driver has beyond Core. A limit says what a hypervisor cannot do *of* Core:
vSphere and Hyper-V show no machine as crashed, and take a device away without asking the guest. A
driver declares each of its limits with the reason in one sentence::

    class AcmeDriver(Driver):
        limits = {Limit.NEVER_CRASHED: "Acme shows a machine that died as powered off."}

The caller reads ``driver.limits``. The conformance suite holds both sides: a limit that is not
declared is a broken clause, and a driver that declares one must keep to what stands below.

States that an optional operation leads to need no limit: a driver without the capability ``pause``
never shows PAUSED.
"""

from __future__ import annotations

from enum import StrEnum


class Limit(StrEnum):
    """Something of Core that a hypervisor does not have."""

    NEVER_CRASHED = "never-crashed"
    """No machine is CRASHED. One whose guest or process died is STOPPED."""
    DETACH_UNASKED = "detach-unasked"
    """detach_volume() and unplug_vif() take the device from a running guest at once, whether or not
    the guest has let go; they never raise DeviceBusy for a guest that keeps it. Neither is a
    guest asked to take further CPUs and memory."""
    GROWTH_UNASKED = "growth-unasked"
    """hot_resize_cpu() and hot_resize_memory() give a running guest what it may not take: the
    hypervisor does not learn whether it has. They never raise DeviceBusy for that."""
    EVENTS_MERGED = "events-merged"
    """watch() may merge changes of one instance that lie closer together than the driver asks the
    host. The state that was delivered last is still the state that the instance has."""
