"""Run an operation of a blocking driver and wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import asynchronous
from hvdrivers.workers import Workers

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Running:
    """What every part of the facade has: the driver, and threads for what the guard does not run in
    its own."""

    _driver: ComputeDriver
    _workers: Workers

    async def _run(self, operation: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        # Cancelling ends the waiting; what has begun goes on by itself.
        guarded = asynchronous(operation)
        if guarded is not None:
            return await guarded(*args, **kwargs)
        call = partial(operation, *args, **kwargs)
        return await asyncio.wrap_future(self._workers.submit(call))
