"""Power: on, off, again, and the states between.

Every operation here ends in the state it names, or raises and leaves the state as it was. Asking
for the state that is already there is a success.
"""

from __future__ import annotations

from abc import abstractmethod
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Repeat, operation
from hvdrivers.contract.states import C, P, R, S, U, X, row

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RebootKind(StrEnum):
    """How hard to reboot."""

    SOFT = "soft"
    """Ask the guest (ACPI, agent), and wait until it has gone down and come up."""
    HARD = "hard"
    """Reset the machine, without asking."""


class Power(Interface):
    """Core: on, off, reboot."""

    @operation(states=row({S: R, C: R, U: R}, same=(R,)), timeout=120)
    @abstractmethod
    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Start the machine. A SUSPENDED one continues where it was saved.

        Raises:
            InsufficientResources: the host lacks the memory, the dedicated CPUs or the devices, or
                does not give a single machine that many CPUs.
            NetworkNotFound, VolumeNotFound: a network or a volume of the instance is gone. Or a
                destroy() that was interrupted has removed one of its own disks.
            DeviceBusy: another powered-on machine has one of its volumes or ports.
        """

    @operation(states=row({R: S, P: S, U: S, X: S, C: S}, same=(S,)), timeout=120)
    @abstractmethod
    def power_off(
        self, uuid: UUID, *, graceful: NonNegative = 0, timeout: float | None = None
    ) -> None:
        """Stop the machine. A SUSPENDED one loses its saved memory.

        Args:
            graceful: seconds to let a RUNNING guest shut down by itself, after asking it to;
                then, or at once if 0, the power is cut. The result is STOPPED either way. A
                hypervisor that asks by its guest tools (vSphere, Hyper-V) cannot ask a guest
                without them: then the power is cut at once.
        """

    @operation(
        states=row({P: R, C: R}, same=(R, X)),
        variants={RebootKind.SOFT: row(same=(R, X))},
        timeout=180,
        repeat=Repeat.AGAIN,
    )
    @abstractmethod
    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        """Reboot. UUID, disks, NICs and volumes stay; the console log goes on.

        Args:
            kind: HARD resets. SOFT asks the guest.

        Raises:
            DeviceBusy: SOFT, and the guest did not go down within the deadline. It runs on, and
                may still heed the request later.
            GuestAgentUnavailable: SOFT, and the hypervisor can ask only through an agent.
        """


class Pause(Interface, capability=Capability.PAUSE):
    """Stop the clock of a machine."""

    @operation(states=row({R: P}, same=(P,)))
    @abstractmethod
    def pause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Freeze the virtual CPUs. Memory stays allocated; the guest notices nothing but a jump
        of its clock."""

    @operation(states=row({P: R}, same=(R,)))
    @abstractmethod
    def unpause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Let a paused machine go on."""


class StartPaused(Interface, capability=Capability.START_PAUSED):
    """A machine that is on before its guest runs: its ports are plugged, and nothing sends yet."""

    @operation(states=row({S: P, C: P, U: P}, same=(P,)), timeout=120)
    @abstractmethod
    def start_paused(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Start the machine as power_on() does, with its virtual CPUs frozen until unpause().

        Raises:
            InsufficientResources, NetworkNotFound, VolumeNotFound, DeviceBusy: as power_on() does.
        """


class Suspend(Interface, capability=Capability.SUSPEND):
    """Put a machine to disk."""

    @operation(states=row({R: U, P: U}, same=(U,)), timeout=300)
    @abstractmethod
    def suspend(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Save the memory to the host's disk and power the machine off.

        Raises:
            InsufficientResources: no room for the memory image.
            NotSupported: a device of the machine cannot be saved (PCI passthrough, vGPU).
        """

    @operation(states=row({U: R}, same=(R,)), timeout=300)
    @abstractmethod
    def resume(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Continue a suspended machine where it was saved.

        Raises:
            InsufficientResources, NetworkNotFound, VolumeNotFound, DeviceBusy: as power_on() does.
        """


class CrashDump(Interface, capability=Capability.CRASH_DUMP):
    """Make a hung guest tell why."""

    @operation(
        states=row(same=(R, X)),
        with_capability={Capability.NMI_PAUSED: row(same=(R, P, X))},
        repeat=Repeat.AGAIN,
    )
    @abstractmethod
    def inject_nmi(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Send a non-maskable interrupt. A guest set up for it writes a crash dump; what it does
        then is its own configuration. While PAUSED it needs NMI_PAUSED: the guest gets it when it
        goes on."""
