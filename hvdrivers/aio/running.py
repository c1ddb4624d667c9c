"""Run a blocking call in a thread of the facade and wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.workers import Workers

_T = TypeVar("_T")


class Running:
    """What every part of the facade has: the driver, and threads to call it in."""

    _driver: ComputeDriver
    _workers: Workers

    async def _run(self, call: Callable[[], _T]) -> _T:
        # Cancelling reaches the job only if it has not begun; otherwise it goes on by itself.
        return await asyncio.wrap_future(self._workers.submit(call))
