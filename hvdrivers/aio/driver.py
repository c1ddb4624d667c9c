"""The facade itself: a driver for asyncio, and how to get one."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Self

from hvdrivers.aio.operations import AsyncOperations
from hvdrivers.aio.stream import AsyncEventStream
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.fields import Fields
from hvdrivers.contract.limits import Limit
from hvdrivers.models.host import HostCheck
from hvdrivers.plugins import connecting
from hvdrivers.workers import Workers


class AsyncComputeDriver(AsyncOperations):
    """A ComputeDriver whose operations are coroutines. ``aio.connect()`` makes one; one can also
    be put around a driver that is already connected, and then owns it: close() closes both."""

    def __init__(self, driver: ComputeDriver) -> None:
        self._driver = driver
        self._workers = Workers("hvdrivers-aio")
        # a facade that is dropped without close() leaves no thread
        self._finalizer = weakref.finalize(self, self._workers.close, 0)
        self._finalizer.atexit = False

    @property
    def driver_name(self) -> str:
        """Name of the driver behind it."""
        return self._driver.driver_name

    @property
    def host_label(self) -> str:
        """The host as errors and logs name it: never with credentials."""
        return self._driver.host_label

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this driver can do on this host beyond Core."""
        return self._driver.capabilities

    @property
    def takes(self) -> Fields:
        """The optional fields of specs, volumes and NICs that the driver honours."""
        return self._driver.takes

    @property
    def limits(self) -> Mapping[Limit, str]:
        """What of Core this hypervisor cannot do, each with the reason in one sentence."""
        return self._driver.limits

    def why_not(self, capability: Capability) -> str | None:
        """Why ``capability`` is not there, in one sentence; None if it is."""
        return self._driver.why_not(capability)

    def narrowed(self) -> dict[Capability, str]:
        """Capabilities that the code has and this host has not, each with the reason."""
        return self._driver.narrowed()

    async def host_checks(self, *, timeout: float | None = None) -> Sequence[HostCheck]:
        """What a person who sets up a host of this kind should look at; it changes nothing."""
        return await self._run(self._driver.host_checks, timeout=timeout)

    def watch(self, *, timeout: float | None = None) -> AsyncEventStream:
        """Subscribe to lifecycle and device events of our instances, whoever causes them.

        The subscription begins at ``await``, at ``async with``, or with the first event waited
        for; what changes from then on is delivered, beginning with a ResyncEvent that has the
        state of every instance.

        Args:
            timeout: bounds the subscribing, not the stream.
        """
        return AsyncEventStream(partial(self._driver.watch, timeout=timeout), self._workers)

    async def close(self, *, timeout: float | None = None) -> None:
        """Close connections, end streams and threads. Machines go on running. Closing twice is
        allowed; ``async with`` closes at the end."""
        try:
            # in a thread: it waits for those of the guard
            close = partial(self._driver.close, timeout=timeout)
            await asyncio.wrap_future(self._workers.submit(close))
        finally:
            self._workers.close()
            self._finalizer.detach()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<hvdrivers.aio {self.driver_name} {self.host_label}>"


async def connect(
    target: str,
    /,
    *,
    config_file: str | os.PathLike[str] | None = None,
    **options: object,
) -> AsyncComputeDriver:
    """Connect to a host: ``hvdrivers.connect()`` for asyncio, with the same arguments and errors.

    A connection that comes when the waiting has been cancelled is closed again.
    """
    workers = Workers("hvdrivers-aio-connect", keep_idle=0)
    connected = workers.submit(
        lambda: connecting.connect(target, config_file=config_file, **options)
    )
    try:
        return AsyncComputeDriver(await asyncio.wrap_future(connected))
    except asyncio.CancelledError:
        connected.add_done_callback(lambda late: _dismiss(late, workers))
        raise


def _dismiss(late: Future[ComputeDriver], workers: Workers) -> None:
    if not late.cancelled() and late.exception() is None:
        workers.submit(late.result().close)
