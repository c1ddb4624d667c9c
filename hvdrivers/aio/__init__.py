"""The whole contract for asyncio: any driver, every operation a coroutine.

::

    from hvdrivers import aio

    async with await aio.connect("qemu:///system") as driver:
        info, usage = await asyncio.gather(driver.get_instance(uuid), driver.get_metrics())
        async for event in driver.watch():
            ...

Arguments, results and errors are those of ``hvdrivers.contract``. Calls run in threads, one for
each call in progress and not the event loop's executor, so that neither slow hosts nor each other
hold them up; who wants a bound puts an ``asyncio.Semaphore`` around them. A ``progress`` callback
is called in such a thread, not in the loop's.

Cancelling (``task.cancel()``, ``asyncio.timeout()``) ends the waiting and not the operation: no
hypervisor can take back what it was sent, so it goes on to its end, or to its own ``timeout``. The
instance stays locked as long. Calling again waits for that and tells what came of it: a repeated
call converges, or raises the error that its documentation names. To bound an operation itself give
it a ``timeout=``.
"""

from hvdrivers.aio.driver import AsyncComputeDriver, connect
from hvdrivers.aio.stream import AsyncEventStream

__all__ = ["AsyncComputeDriver", "AsyncEventStream", "connect"]
