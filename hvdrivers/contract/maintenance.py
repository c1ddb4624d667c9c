"""Maintenance: the host as a whole."""

from __future__ import annotations

from abc import abstractmethod

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Repeat, Scope, operation
from hvdrivers.models.host import HostPowerAction


class Maintenance(Interface, capability=Capability.MAINTENANCE):
    """Maintenance mode: the host powers no machine on."""

    @operation(scope=Scope.HOST, timeout=600)
    @abstractmethod
    def enter_maintenance(self, *, timeout: float | None = None) -> None:
        """Enter maintenance. Any call that would power a machine on raises InsufficientResources.

        Raises:
            InvalidState: machines are powered on. Moving them is the orchestrator's decision, and
                comes first.
        """

    @operation(scope=Scope.HOST)
    @abstractmethod
    def exit_maintenance(self, *, timeout: float | None = None) -> None:
        """Leave maintenance. Calls may power machines on again."""

    @operation(scope=Scope.HOST, changes=False, timeout=30)
    @abstractmethod
    def in_maintenance(self, *, timeout: float | None = None) -> bool:
        """Whether the host is in maintenance, set by this library or by another tool."""


class HostPower(Interface, capability=Capability.HOST_POWER):
    """Reboot the hypervisor itself."""

    @operation(scope=Scope.HOST, timeout=60, repeat=Repeat.AGAIN)
    @abstractmethod
    def host_power(self, action: HostPowerAction, *, timeout: float | None = None) -> None:
        """Reboot or shut down the host. Returns when the host has accepted; the connection is lost
        soon after.

        Raises:
            InvalidState: machines of ours are powered on.
        """
