"""Time and the lock of the simulated hosts: what happens later, and waiting for it."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


class World:
    """One lock and one clock for hosts that can reach each other.

    Every change of state happens under :attr:`lock`. :meth:`pause` and :meth:`wait_for` give the
    lock away while they wait. :meth:`after` runs an action later, on the clock's own thread, under
    the lock.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._planned = threading.Condition(self.lock)
        """Wakes the clock, which most changes do not concern: each call of the host is one."""
        self.closed = False
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Run ``action`` once, ``seconds`` from now."""
        with self.lock:
            if seconds <= 0:
                action()
                self.changed.notify_all()
                return
            heapq.heappush(self._queue, (time.monotonic() + seconds, next(self._order), action))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="hyperv-simulator-clock", daemon=True
                )
                self._thread.start()
            self._planned.notify_all()

    def pause(self, seconds: float) -> None:
        """Let ``seconds`` pass while others change the state."""
        if seconds > 0:
            self.wait_for(lambda: False, seconds)

    def wait_for(self, holds: Callable[[], bool], seconds: float | None) -> bool:
        """Wait until ``holds()``, at most ``seconds``; whether it holds."""
        with self.lock:
            self.changed.wait_for(lambda: self.closed or holds(), seconds)
            return holds()

    def notify(self) -> None:
        """Tell those who wait that the state changed."""
        with self.lock:
            self.changed.notify_all()

    def close(self) -> None:
        """Stop the clock; what was planned does not happen."""
        with self.lock:
            self.closed = True
            self.changed.notify_all()
            self._planned.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        with self.lock:
            while not self.closed:
                now = time.monotonic()
                if self._queue and self._queue[0][0] <= now:
                    _, _, action = heapq.heappop(self._queue)
                    try:
                        action()
                    except Exception:  # noqa: BLE001 - one event must not stop the clock
                        _log.exception("an event of the simulated host failed")
                    self.changed.notify_all()
                    continue
                self._planned.wait(self._queue[0][0] - now if self._queue else None)
