"""Power on Hyper-V. Each operation is one call; the script waits for the state that it names."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract.power import CrashDump, Pause, Power, RebootKind, Suspend
from hvdrivers.hyperv.base import Topic


class HypervPower(Topic, Power, Pause, Suspend, CrashDump):
    """Budget of each operation: 1 call."""

    def _power(
        self,
        operation: str,
        action: str,
        uuid: UUID,
        timeout: float | None,
        *,
        graceful: float = 0,
        variant: RebootKind | None = None,
    ) -> None:
        arguments = {"action": action, "graceful": graceful}
        self.session.change(operation, "Power", uuid, arguments, timeout, variant=variant)

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self._power("power_on", "on", uuid, timeout)

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        """Budget: 1 call.

        The shutdown integration service asks the guest. If the guest does not run it, the power is
        cut at once. A guest that somebody has asked before is waited for.
        """
        self._power("power_off", "off", uuid, timeout, graceful=graceful)

    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 call.

        SOFT asks the guest to shut down, waits for it, and starts the machine again: Hyper-V
        cannot ask a guest to reboot. If the guest does not run the shutdown integration service:
        GuestAgentUnavailable.
        """
        action = "reset" if kind is RebootKind.HARD else "reboot"
        self._power("reboot", action, uuid, timeout, variant=kind)

    def pause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self._power("pause", "pause", uuid, timeout)

    def unpause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self._power("unpause", "unpause", uuid, timeout)

    def suspend(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self._power("suspend", "suspend", uuid, timeout)

    def resume(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self._power("resume", "resume", uuid, timeout)

    def inject_nmi(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self._power("inject_nmi", "nmi", uuid, timeout)
