"""Events for asyncio, without losing one to a cancelled wait."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Self

from hvdrivers.contract.events import EventStream
from hvdrivers.models.events import Event
from hvdrivers.workers import Workers

_CLOSING = 5.0


class AsyncEventStream:
    """One subscription (see ``hvdrivers.contract.events``). It begins when it is first used::

        async for event in driver.watch():            # ends when the driver is closed
            ...
        async with driver.watch() as events:          # begins and ends with the block
            event = await events.next(timeout=5)
        events = await driver.watch()                 # begins now, ends with close()

    Cancelling a wait loses no event: the next wait gets it.
    """

    def __init__(self, subscribe: Callable[[], EventStream], workers: Workers) -> None:
        self._subscribe = subscribe
        self._workers = workers
        self._turn = asyncio.Lock()
        self._subscribing: asyncio.Future[EventStream] | None = None
        self._stream: EventStream | None = None
        self._coming: asyncio.Future[Event | None] | None = None
        self._closed = False

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        async with self._turn:
            await self._begin()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def closed(self) -> bool:
        """Whether it has ended, by close() or by the driver's close()."""
        return self._closed or (self._stream is not None and self._stream.closed)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self.closed:
            event = await self.next()
            if event is not None:
                return event
        raise StopAsyncIteration

    async def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None after ``timeout`` seconds without one, or once closed."""
        async with self._turn:
            if self._closed:
                return None
            stream = await self._begin()
            if self._coming is None:
                # without a timeout of its own, and kept: whoever waits next takes it over
                self._coming = asyncio.wrap_future(self._workers.submit(stream.next))
            await asyncio.wait({self._coming}, timeout=timeout)
            if not self._coming.done():
                return None
            coming, self._coming = self._coming, None
            return coming.result()

    async def close(self) -> None:
        """End the subscription. May be called twice."""
        self._closed = True
        if self._subscribing is None:
            return
        await asyncio.wait({self._subscribing})
        if not self._subscribing.cancelled() and self._subscribing.exception() is None:
            stream = self._subscribing.result()
            await asyncio.wrap_future(self._workers.submit(stream.close))
        if self._coming is not None:
            # closing wakes the thread that waits for an event: let it come home
            await asyncio.wait({self._coming}, timeout=_CLOSING)

    async def _begin(self) -> EventStream:
        if self._stream is None:
            if self._subscribing is None:
                self._subscribing = asyncio.wrap_future(self._workers.submit(self._subscribe))
            await asyncio.wait({self._subscribing})
            subscribing = self._subscribing
            if subscribing.exception() is not None:
                self._subscribing = None  # the next use tries again
            self._stream = subscribing.result()
            # the thread that waits for an event must not wait for a stream that nobody has any more
            weakref.finalize(self, self._stream.close).atexit = False
        return self._stream
