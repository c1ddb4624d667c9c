"""One libvirt connection on which one call at a time is made.

Libvirt's client library lets any number of threads call on one connection. Four things go wrong
there, all shown with the library alone (libvirt 9.0):

* ``virConnectClose`` while another thread is inside a call frees the connection under that call
  (SIGSEGV). So does it under ``virConnectIsAlive``, which sends nothing: that hangs for ever, or
  spoils the heap (2 threads that look, 1 that closes: at the first or second try of 6 of 6);
* when keepalive gives up a connection with two or more calls under way, one of them returns, the
  others hang for ever; if the host speaks again on it, SIGSEGV;
* the daemon works on five calls of one connection at the same time (``max_client_requests``). Five
  calls that wait for one hung QEMU stop every other call, and keepalive too, so that the healthy
  connection is given up;
* no call can be taken back, so a caller's deadline does not reach it.

So a :class:`Link` makes its calls one after another, each in a worker thread, and closes the
connection in the same order: after the last call. A thread that its caller leaves to itself at the
deadline, as the guard does, makes the calls of a reading itself (``begin_here()``). With one call
under way keepalive always gives the call back. A caller whose deadline passes leaves the call to
itself; the link is of no use then until the call has come back, and the caller's next call goes
over another one.

Measured on a local socket: a trivial call takes 60 microseconds, 72 through the worker thread, and
a further connection costs 0.7 milliseconds; eight threads with a connection each list machines in
0.18 seconds what takes 0.24 over one connection. The other way, one connection for all calls and a
watchdog that shuts its socket down, gives the calls back as well, but it cannot tell a hung QEMU
from a hung daemon behind five waiting calls, and libvirt has no function that tells which
descriptor is a connection's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import waitable
from hvdrivers.workers import Errand, Job, Workers

_T = TypeVar("_T")


class NotMade(Exception):
    """The deadline passed and the call had not been sent."""


class NoAnswer(Exception):
    """The deadline passed and the call, which was sent, has not come back."""


class Link:
    """One connection. Thread-safe."""

    def __init__(self, workers: Workers) -> None:
        self.connect: Any = None
        """Libvirt's object, once it is open."""
        self.facts: dict[str, Any] = {}
        """Objects that are bound to this connection, by what they stand for."""
        self.leased = False
        """One operation has it for itself. The pool's lock guards it."""
        self.kept = False
        """Its holder never gives it back (the event hub): it is no link that may come free."""
        self.before_close: Callable[[Any], None] | None = None
        """Takes callbacks off libvirt's object."""
        self._workers = workers
        self._closed = False
        self._at_hand = threading.Lock()
        """Held while libvirt's object is used without a call: it must not be closed meanwhile."""
        self._lock = threading.Lock()
        self._queue: deque[Job[Any]] = deque()
        self._busy = False
        self._server: int | None = None
        """The thread that makes its calls now."""
        self._here_until: float | None = None
        """When the caller leaves a thread of its own that makes the calls now."""
        self._left: Future[Any] | None = None

    @property
    def alive(self) -> bool:
        """Whether its socket is open, as far as the client library knows: no message."""
        with self._at_hand:
            if self._closed:
                return False
            try:
                return bool(self.connect.isAlive())
            except libvirt.libvirtError:
                return False

    def locally(self, call: Callable[[], _T]) -> _T:
        """Ask libvirt's object for what it has itself, in this thread.

        Raises:
            ConnectionFailed: it has been closed.
        """
        with self._at_hand:
            self._require_open()
            return call()

    def _require_open(self) -> None:
        if self._closed:
            raise errors.ConnectionFailed("the connection was closed before the call was sent")

    @property
    def stuck(self) -> bool:
        """Whether a call that its caller has left has not come back."""
        until = self._here_until
        if until is not None and time.monotonic() >= until:
            return True
        return self._left is not None and not self._left.done()

    @property
    def usable(self) -> bool:
        """Whether a call can be made now."""
        return not self.stuck and self.alive

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Make a call after those before it.

        Raises:
            HypervisorFault: the process can have no more threads; the call is not made.
        """
        job = Job(call)
        with self._lock:
            self._queue.append(job)
            if self._busy:
                return job.future
            self._busy = True
        try:
            self._workers.start(Errand(self._serve))
        except BaseException as error:
            with self._lock:
                self._busy = False
                self._queue.clear()
            if isinstance(error, RuntimeError):
                raise errors.HypervisorFault(
                    "this process can start no more threads",
                    hint="look for calls that hang: each keeps a thread until it comes back",
                ) from error
            raise
        return job.future

    def begin_here(self, end: float) -> bool:
        """Let this thread make the next calls itself, if none is under way: whether it may. Then
        end_here() comes after them.

        Args:
            end: when its caller leaves it to itself, on the monotonic clock.

        Raises:
            ConnectionFailed: the link was closed.
        """
        with self._lock:
            if self._busy or self.stuck:
                return False
            self._require_open()
            self._busy = True
            self._server, self._here_until = threading.get_ident(), end
        return True

    def end_here(self) -> None:
        """Give the calls back to the link's own thread."""
        with self._lock:
            self._server = self._here_until = None
            self._busy = bool(self._queue)
            if not self._busy:
                return
        try:
            self._workers.start(Errand(self._serve))
        except RuntimeError:  # no more threads
            self._serve()

    def _serve(self) -> None:
        self._server = threading.get_ident()
        while True:
            with self._lock:
                if not self._queue:
                    self._busy = False
                    self._server = None
                    return
                job = self._queue.popleft()
            publish = job.run()
            # what the job holds must not live until the next one
            del job
            publish()
            del publish

    def run(self, call: Callable[[], _T], end: float, left: Callable[[], None]) -> _T:
        """Make a call and wait for it.

        Args:
            end: when the caller's deadline passes, on the monotonic clock.
            left: called when a call that was left to itself comes back.

        Raises:
            NotMade: it was not sent.
            NoAnswer: it was sent, and has not come back.
            ConnectionFailed: the link was closed before; it was not sent.
        """
        if self.stuck:
            raise NotMade
        if self._server == threading.get_ident():
            return call()  # within Connection.straight(): its caller waits for all of it

        def unless_closed() -> _T:
            # close() comes in the same order, so it cannot begin meanwhile
            self._require_open()
            return call()

        future = self.submit(unless_closed)
        try:
            return future.result(waitable(end - time.monotonic()))
        except BaseException as error:
            if future.done():
                raise
            if future.cancel():
                raise NotMade from None
            self._left = future
            future.add_done_callback(lambda _: left())
            if isinstance(error, TimeoutError):
                raise NoAnswer from None
            raise
        finally:
            # An error in it knows this frame: together they would keep what the callers' frames
            # have, objects of a host too, until a garbage collection closes these in any thread.
            del future

    def end(self) -> Future[None]:
        """Close it, after the last call."""
        connect, prepare = self.connect, self.before_close
        self.facts.clear()

        def close() -> None:
            if connect is None or self._closed:
                return
            if prepare is not None:
                prepare(connect)
            with self._at_hand:
                self._closed = True
            with suppress(libvirt.libvirtError):
                connect.close()

        return self.submit(close)
