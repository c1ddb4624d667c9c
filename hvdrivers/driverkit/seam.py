"""The seam: the one place in a driver that every remote call passes.

A driver has one :class:`Seam` for each connection and sends each request through it::

    return self.seam.call("VirtualMachine.PowerOnVM_Task", partial(stub.invoke, request))

Two things become possible there. A test counts the calls of an operation, which is how the budget
of round trips is kept. And the conformance suite cuts a call: before it is sent, or after it took
effect, so that the reply is lost. Without a test the seam only calls ``send``.

Give each call a stable name that tells which request it is. Leave out of the seam (or pass
``counted=False``) what depends on chance: the parts of one transfer, the polls of a background
thread.

A transport that breaks says what that means for the request: it raises :class:`NotSent`,
:class:`ReplyLost` or :class:`SessionExpired`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

from hvdrivers.contract import errors

__all__ = [
    "Calls",
    "Cut",
    "Fault",
    "NotSent",
    "ReplyLost",
    "Seam",
    "SessionExpired",
    "Through",
    "cut_after",
    "cut_before",
    "expire_session",
    "hang_for",
]

_T = TypeVar("_T")


class NotSent(errors.ConnectionFailed):
    """The connection broke before the request reached the host. It may be sent again."""


class SessionExpired(errors.ConnectionFailed):
    """The host refused the request because the session is no longer valid. It took no effect, and
    may be sent again in a new session."""


class ReplyLost(errors.OutcomeUnknown):
    """The request was sent, at least in part, and no reply came. It may have taken effect."""


class Fault(Protocol):
    """What happens to a call that is cut. It calls ``send`` or does not, and returns the result
    or raises what the transport would raise."""

    def __call__(self, send: Callable[[], _T], /) -> _T:
        """Stand in the place of ``send()``."""


class Through(Protocol):
    """What stands in the way of every call during :meth:`Seam.through`."""

    def __call__(self, name: str, send: Callable[[], _T], /) -> _T:
        """Stand in the place of ``send()``."""


class Calls(list[str]):
    """The names of calls, in the order in which they were made."""

    @property
    def by_name(self) -> Counter[str]:
        """How often each was made."""
        return Counter(self)


class Cut:
    """A fault that waits for its call."""

    def __init__(self) -> None:
        self.struck = False
        """Whether the call was made. A test that cut nothing has shown nothing."""


class Seam:
    """Every remote call of one connection. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._through: tuple[Through, ...] = ()

    def call(self, name: str, send: Callable[[], _T], *, counted: bool = True) -> _T:
        """Send one request.

        Args:
            name: which request it is.
            send: sends it and waits for its reply.
            counted: False: it is neither counted nor cut.
        """
        return self._pass(self._through if counted else (), name, send)

    def _pass(self, through: tuple[Through, ...], name: str, send: Callable[[], _T]) -> _T:
        if not through:
            return send()
        # as with blocks: the outer one stands nearer to the caller
        return through[0](name, lambda: self._pass(through[1:], name, send))

    @contextmanager
    def through(self, each: Through) -> Iterator[None]:
        """Pass every call of every thread through ``each`` during the block.

        Blocks may be nested and may overlap.
        """

        def layer(name: str, send: Callable[[], _T]) -> _T:
            return each(name, send)

        with self._lock:
            self._through = (*self._through, layer)
        try:
            yield
        finally:
            with self._lock:
                # blocks that overlap do not end in the order in which they began
                self._through = tuple(other for other in self._through if other is not layer)

    @contextmanager
    def counting(self) -> Iterator[Calls]:
        """Collect the names of the calls that are made during the block, in all threads."""
        calls = Calls()

        def note(name: str, send: Callable[[], _T]) -> _T:
            calls.append(name)
            return send()

        with self.through(note):
            yield calls

    @contextmanager
    def cut(
        self,
        fault: Fault,
        *,
        name: str | None = None,
        occurrence: int = 1,
        repeats: int = 1,
        after: Cut | None = None,
        told: Cut | None = None,
    ) -> Iterator[Cut]:
        """Let a fault strike one call during the block.

        Args:
            fault: :func:`cut_before`, :func:`cut_after`, :func:`expire_session`,
                ``hang_for(seconds)``, or one that breaks the real transport.
            name: only calls with this name; None: any call.
            occurrence: which of these calls is struck, counted from 1 at the begin of the block.
            repeats: how many calls in sequence are struck: as many as a driver sends again at once
                what was not sent.
            after: count from the call that another cut has struck. That has its block inside of
                this one.
            told: what is told that the fault has struck. None: a new one, which the block gets.
        """
        found = told or Cut()
        lock = threading.Lock()
        made = 0

        def strike(this: str, send: Callable[[], _T]) -> _T:
            nonlocal made
            if name not in {None, this} or (after is not None and not after.struck):
                return send()
            with lock:
                made += 1
                number = made
            if not occurrence <= number < occurrence + repeats:
                return send()
            found.struck = True
            return fault(send)

        with self.through(strike):
            yield found


def cut_before(send: Callable[[], _T]) -> _T:
    """The connection breaks before the request is sent."""
    del send
    raise NotSent("the connection was cut by a test before the request was sent")


def cut_after(send: Callable[[], _T]) -> _T:
    """The request takes effect, and its reply is lost."""
    with suppress(Exception):  # the reply that is lost may have been an error
        send()
    raise ReplyLost("the connection was cut by a test before the reply came")


def expire_session(send: Callable[[], _T]) -> _T:
    """The host refuses the request because its session is no longer valid."""
    del send
    raise SessionExpired("the session was declared expired by a test")


def hang_for(seconds: float) -> Fault:
    """The request is held up for so many seconds, and is sent then."""

    def hang(send: Callable[[], _T]) -> _T:
        threading.Event().wait(seconds)
        return send()

    return hang
