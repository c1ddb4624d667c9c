"""The fake host as a whole."""

from __future__ import annotations

from hvdrivers.contract import errors
from hvdrivers.contract.maintenance import HostPower, Maintenance
from hvdrivers.fake.base import FakeBase
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.state import POWERED_ON


class FakeMaintenance(FakeBase, Maintenance):
    """Maintenance mode, in which the host takes no new machines."""

    def enter_maintenance(self, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("enter_maintenance", None, timeout) as task:
            task.call("enter-maintenance", self._enter)

    def exit_maintenance(self, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("exit_maintenance", None, timeout) as task:
            task.call("exit-maintenance", self._leave)

    def _enter(self) -> None:
        host = self.fake_host
        on = any(machine.takes_memory for machine in host.machines.values())
        if on and not host.maintenance:
            raise errors.InvalidState(
                "machines are powered on", hint="stop them, or move them to another host"
            )
        host.maintenance = True

    def _leave(self) -> None:
        self.fake_host.maintenance = False

    def in_maintenance(self, *, timeout: float | None = None) -> bool:
        """1 call."""
        with self.link.task("in_maintenance", None, timeout) as task:
            return task.call("read-maintenance", lambda: self.fake_host.maintenance, changes=False)


class FakeHostPower(FakeBase, HostPower):
    """Reboot, or off. ``FakeHost.answer_again()`` switches a host on that was shut down."""

    def host_power(self, action: HostPowerAction, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("host_power", None, timeout) as task:
            task.call("power-host", lambda: self._power(action))

    def _power(self, action: HostPowerAction) -> None:
        if any(machine.state in POWERED_ON for machine in self.fake_host.ours()):
            raise errors.InvalidState(
                "machines are powered on", hint="stop them, or move them to another host"
            )
        self.fake_host.restart_host()
        if action is HostPowerAction.SHUTDOWN:
            self.fake_host.stop_answering()
