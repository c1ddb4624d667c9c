"""Threads that run blocking calls, so that a caller's deadline holds.

The client libraries block in C code that nothing can interrupt: a host that accepts a request and
never answers would keep the caller for ever. So a call runs in a worker thread and the caller
waits for it no longer than its deadline. ``concurrent.futures.ThreadPoolExecutor`` does not
serve: its size is fixed, so a few hung calls would block all others, and the interpreter waits
for its threads at exit.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Job(Generic[_T]):
    """One call. ``future.cancel()`` tells whether it can still be kept from starting."""

    def __init__(self, call: Callable[[], _T]) -> None:
        self.future: Future[_T] = Future()
        self._call = call
        self._context = contextvars.copy_context()

    def run(self) -> Callable[[], None]:
        """Do the call; the returned function publishes its result."""
        if not self.future.set_running_or_notify_cancel():
            return _nothing
        future, context, call = self.future, self._context, self._call
        # The error knows this frame. If the frame knew the future, each would keep the other, and
        # what the frames above have, until a garbage collection frees it in any thread.
        del self
        try:
            result = context.run(call)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            try:
                return partial(future.set_exception, error)
            finally:
                del future
        return partial(future.set_result, result)


def _nothing() -> None:
    pass


class Leaving:
    """What a caller needs to know at the deadline of a call that it has handed to a thread: whether
    to leave the thread to itself at once, or to wait for what it takes back.

    The caller makes one, and the thread calls :meth:`begin`. What runs there finds it by
    :func:`leaving`, and makes calls of the host that take nothing back and may hang in
    :meth:`at_deadline`: they need no further thread.
    """

    def __init__(self) -> None:
        self.asking: Callable[[], str] | None = None
        """What is under way and may be left; None: nothing."""
        self._thread: int | None = None

    def begin(self) -> None:
        """This thread does the work."""
        self._thread = threading.get_ident()
        _leaving.set(self)

    @property
    def is_here(self) -> bool:
        """Whether this thread is the one that may be left. One that it has started has its
        context."""
        return self._thread == threading.get_ident()

    @contextmanager
    def at_deadline(self, asking: Callable[[], str]) -> Iterator[None]:
        """In the block the thread may be left to itself at the deadline.

        Args:
            asking: tells, in the caller's thread, what the host has not answered.
        """
        self.asking = asking
        try:
            yield
        finally:
            self.asking = None


_leaving: ContextVar[Leaving | None] = ContextVar("hvdrivers-leaving", default=None)


def leaving() -> Leaving | None:
    """How the caller of this thread may leave it; None: it waits to the end."""
    found = _leaving.get()
    return found if found is not None and found.is_here else None


class Errand:
    """A call that has no result, and that nobody waits for. It must not raise."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def run(self) -> Callable[[], None]:
        """Do it."""
        self._call()
        return _nothing


class _Worker:
    def __init__(self, first: Job[Any] | Errand) -> None:
        self.inbox: SimpleQueue[Job[Any] | Errand | None] = SimpleQueue()
        # before the thread starts: if its start is interrupted, the job is still its own
        self.inbox.put(first)
        self.thread: threading.Thread | None = None


class Workers:
    """A pool that grows with the calls in progress and keeps a few idle threads."""

    def __init__(self, name: str, *, keep_idle: int = 8) -> None:
        self._name = name
        self._keep_idle = keep_idle
        # reentrant: the finaliser of an object that was dropped calls close(), in any thread
        self._lock = threading.RLock()
        self._idle: list[_Worker] = []
        self._closed = False

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Start ``call`` at once in some thread."""
        job = Job(call)
        self.start(job)
        return job.future

    def start(self, job: Job[Any] | Errand) -> None:
        """Start it at once in some thread.

        Raises:
            RuntimeError: the process can have no more threads; it was not started.
        """
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is not None:
            worker.inbox.put(job)
            return
        worker = _Worker(job)
        # daemon: a hung host must not keep the process from ending
        worker.thread = threading.Thread(
            target=self._serve, args=(worker,), name=self._name, daemon=True
        )
        worker.thread.start()

    def _serve(self, worker: _Worker) -> None:
        staying = True
        while staying and (job := worker.inbox.get()) is not None:
            publish = job.run()
            del job  # its arguments must not live as long as the thread is idle
            with self._lock:
                staying = not self._closed and len(self._idle) < self._keep_idle
                if staying:
                    # before publishing: a caller in a loop then finds this thread idle again
                    self._idle.append(worker)
            publish()
            del publish

    def close(self, timeout: float = 5.0) -> None:
        """End the idle threads and wait for them; busy ones end after their call."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.inbox.put(None)
        for worker in idle:
            if worker.thread is not None and worker.thread is not threading.current_thread():
                worker.thread.join(timeout)
