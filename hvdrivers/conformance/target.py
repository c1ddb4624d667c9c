"""A target: the driver under test, the host it talks to, and what only its author can give.

The least target is ``DriverTarget("fake")``: a driver by name and what to connect with. An author
who can do more gives more, by overriding a method: an *observer* that reads the truth by another
path, a *fault seam* in the transport, a way to crash a guest, a machine made by others. What is
not given makes the checks that need it "precondition missing", which counts against the level:
never a silent skip, never a pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import UUID

from hvdrivers.contract.driver import ComputeDriver, Driver
from hvdrivers.guard import guarded
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Vif


class PreconditionMissing(Exception):
    """The target cannot give what a check needs. The sentence says what."""


class Observer(ABC):
    """Reads the host by another path than the driver: virsh, a raw property collector, Get-VM."""

    @abstractmethod
    def states(self) -> dict[UUID, InstanceState]:
        """Every machine of ours and its state."""

    @abstractmethod
    def residue(self) -> frozenset[str]:
        """Everything on the host that a driver could leave: a sentence for each disk, seed, NVRAM,
        secret, port, snapshot, log. The image cache is left out."""

    @abstractmethod
    def devices(self, uuid: UUID) -> frozenset[str]:
        """Volume ids and VIF ids that the machine has now, as the hypervisor's own tools show."""

    def power_off(self, uuid: UUID) -> None:
        """Switch a machine off behind the driver's back."""
        raise PreconditionMissing("the observer cannot switch a machine off")


class FaultSeam(ABC):
    """The place in a driver's transport where a call can be cut."""

    @abstractmethod
    def counting(self) -> AbstractContextManager[list[str]]:
        """Collect the names of the calls that are made meanwhile."""

    @abstractmethod
    def cut(self, call: int, kind: str) -> AbstractContextManager[None]:
        """Cut the call with this number (from 0): ``before`` it is sent, ``after`` it took effect
        (the reply is lost), ``timeout``, or ``expired`` (the session is not valid any more)."""


class Target(ABC):
    """What the suite runs against."""

    name: str = "driver"
    """For reports."""
    simulated: bool = False
    """True: guests do not really run; the report says so."""
    time_scale: float = 1.0
    """Multiplies every deadline of the suite."""
    flavor: Flavor = Flavor(vcpus=1, memory_mib=192, disk_gib=1)

    @abstractmethod
    def connect(self) -> ComputeDriver:
        """A new connection to the same host."""

    @abstractmethod
    def driver_class(self) -> type[Driver]:
        """The class under test, for the checks that need no host."""

    @abstractmethod
    def image(self) -> ImageRef:
        """An image from which a small guest boots within a few seconds."""

    def vif(self, vif_id: str) -> Vif:
        """A NIC that can be plugged on this host."""
        raise PreconditionMissing("the target names no network (vif)")

    def vif_to_nowhere(self, vif_id: str) -> Vif:
        """The same kind of NIC, on a network that does not exist."""
        raise PreconditionMissing("the target names no absent network (vif_to_nowhere)")

    def observer(self) -> Observer | None:
        """Who reads the truth by another path."""
        return None

    def faults(self, driver: ComputeDriver) -> FaultSeam | None:
        """The seam in this connection's transport."""
        return None

    def crash(self, driver: ComputeDriver, uuid: UUID) -> None:
        """Make the guest or its virtual machine process die."""
        raise PreconditionMissing("the target cannot crash a guest (crash)")

    def wait_booted(self, driver: ComputeDriver, uuid: UUID) -> None:  # noqa: B027
        """Wait until the guest reacts: to the power button, to hot-plug, by its agent."""

    @contextmanager
    def foreign_machine(self) -> Iterator[UUID]:
        """A machine on the host that this library did not make."""
        raise PreconditionMissing("the target cannot make a foreign machine (foreign_machine)")
        yield

    @contextmanager
    def broken_connection(self, driver: ComputeDriver) -> Iterator[None]:
        """Break the driver's connection, as a restarted daemon does; it comes back by itself or
        at the end of the block."""
        raise PreconditionMissing("the target cannot break a connection (broken_connection)")
        yield

    @contextmanager
    def stubborn_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """Make the guest keep its devices and ignore the power button meanwhile."""
        raise PreconditionMissing("the target's guest lets go of everything (stubborn_guest)")
        yield

    def hostile_images(self) -> Sequence[tuple[str, ImageRef]]:
        """Images that must be refused, each with a word that says why."""
        raise PreconditionMissing("the target names no hostile images (hostile_images)")

    def close(self) -> None:  # noqa: B027 - most targets hold nothing
        """The run is over."""


class DriverTarget(Target):
    """A driver by name: ``hvdrivers conformance run NAME`` makes one of these where the driver
    brings no target of its own (entry-point group ``hvdrivers.conformance``)."""

    def __init__(self, driver: str, image: ImageRef | None = None, **options: Any) -> None:
        self.name = driver
        self._image = image
        self._options: Mapping[str, Any] = options

    def driver_class(self) -> type[Driver]:
        from hvdrivers.plugins import load_driver

        return load_driver(self.name)

    def connect(self) -> ComputeDriver:
        cls = self.driver_class()
        return guarded(cls.connect(cls.config_model(**self._options)))

    def image(self) -> ImageRef:
        if self._image is None:
            raise PreconditionMissing("no image given (--image)")
        return self._image
