"""Resources: what the host has, what is taken, and how that looks to Placement."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from hvdrivers.contract.operation import Interface, Scope, operation
from hvdrivers.models.resources import HostResources, PlacementProvider


class Resources(Interface):
    """Core: the inventory."""

    @operation(scope=Scope.HOST, changes=False, timeout=60)
    @abstractmethod
    def get_available_resource(self, *, timeout: float | None = None) -> HostResources:
        """The whole inventory: CPU, memory, huge pages, storage, NUMA cells, PCI devices and GPUs.

        The number of round trips does not depend on the number of machines. What spawn takes is
        taken in the next answer, and destroy gives it back.
        """


class Placement(Interface):
    """The inventory in OpenStack's terms. Every connection has it, and no driver need write it."""

    @operation(scope=Scope.HOST, changes=False, timeout=60, derived=True)
    @abstractmethod
    def placement_inventories(self, *, timeout: float | None = None) -> Sequence[PlacementProvider]:
        """The same as resource providers, root first, each parent before its children (storage
        that other hosts see too is a further provider without a parent); names of
        classes and traits are those of os-resource-classes and os-traits, or CUSTOM_*.

        The guard computes it from get_available_resource() and the capabilities. A driver that
        has more to tell Placement may have a method of its own."""
