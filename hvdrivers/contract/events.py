"""Events: changes on the host, as they happen.

::

    with driver.watch() as events:
        for event in events:          # blocks; ends when the stream or the driver is closed
            ...
        event = events.next(timeout=5)   # or one at a time; None if nothing came

The first event is a ResyncEvent with the state of every instance, so a consumer needs no list of
its own beside the stream and no change falls between the two. It is the truth at that moment: an
instance that is spawned afterwards comes as an event and is not in it. After a lost connection the
stream connects again by itself and delivers another ResyncEvent. A consumer that is slower than
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
        """Subscribe to lifecycle and device events of our instances, whoever causes them.

        Changes made after watch() has returned are delivered, in the order of the changes of each
        instance, and the last state delivered is always the state it has. A hypervisor without
        push events (Hyper-V) may merge changes that lie closer together than it is asked.
        Device events come where the hypervisor tells of them.

        Args:
            timeout: bounds the subscribing, not the stream.
        """
