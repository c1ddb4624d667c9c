"""The states of an instance. What leads from one to another: ``hvdrivers/contract/states.py``."""

from __future__ import annotations

from enum import StrEnum


class StartAs(StrEnum):
    """In which state a machine that is started comes out."""

    RUNNING = "running"
    PAUSED = "paused"
    """Powered on, and its virtual CPUs do not run before unpause(): its ports are plugged before
    the guest can send anything."""


class InstanceState(StrEnum):
    """What an instance is doing. Values are stable and may be stored."""

    BUILDING = "building"
    """spawn() has begun and is not finished. Only reads and destroy() are allowed."""
    RUNNING = "running"
    """Powered on; the virtual CPUs run. Says nothing about the guest's operating system."""
    PAUSED = "paused"
    """Powered on, virtual CPUs frozen, memory kept; also a guest that put itself to sleep (S3)."""
    SUSPENDED = "suspended"
    """Memory saved to disk, powered off. A frozen picture: it may be resumed, dropped or read."""
    STOPPED = "stopped"
    """Powered off. Disks and NICs stay."""
    RESCUED = "rescued"
    """Booted from a rescue image, with its own disks second."""
    CRASHED = "crashed"
    """The guest's kernel or the virtual machine process died, and the hypervisor tells (libvirt;
    elsewhere such a machine is STOPPED, or RUNNING without doing anything). Disks and NICs stay."""


POWERED_ON = frozenset({InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.RESCUED})
"""Of these the machine has memory, and its devices are there."""
