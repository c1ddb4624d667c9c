"""Events: changes on the host, as they happen.

::

    with driver.watch() as events:
        for event in events:          # blocks; ends when the stream or the driver is closed
            ...
        event = events.next(timeout=5)   # or one at a time; None if nothing came

The first event is a ResyncEvent with the state of every instance, so a consumer needs no list of
its own beside the stream and no change falls between the two. It tells no less than the driver has
told the same client by the time of next(): an instance that the client has spawned since watch() is
in it, and comes as an event all the same. After a lost connection the
stream connects again by itself, and delivers what was missed where the host has kept it (a vSphere
session survives a cut), or another ResyncEvent. A consumer that is slower than
the host loses nothing silently either: when the buffer is full the stream drops it and
resynchronises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from hvdrivers.contract.operation import Interface, Scope, operation
from hvdrivers.models.events import Event


class EventStream(ABC):
    """One subscription. One consumer thread at a time; several streams are independent."""

    @abstractmethod
    def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None after ``timeout`` seconds without one, or once closed."""

    @abstractmethod
    def close(self) -> None:
        """End the subscription; a consumer blocked in next() returns. May be called twice."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether it has ended, by close() or by the driver's close()."""

    def __iter__(self) -> Iterator[Event]:
        while not self.closed:
            event = self.next()
            if event is not None:
                yield event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Events(Interface):
    """Core: subscribe."""

    @operation(scope=Scope.HOST, changes=False, timeout=30)
    @abstractmethod
    def watch(self, *, timeout: float | None = None) -> EventStream:
        """Subscribe to lifecycle and device events of our instances.

        The stream also reports changes that another client, the guest or the host causes.
        Changes made after watch() has returned are delivered, in the order of the changes of each
        instance, and the last state delivered is always the state it has. Changes of different
        instances have no order among them. A driver with the limit ``events-merged`` may merge
        changes of one instance that lie closer together than it asks the host.
        Device events come where the hypervisor reports them.

        Args:
            timeout: bounds the subscribing, not the stream.
        """
