"""The connection to one libvirt daemon, and the seam through which every remote call passes.

Nothing else in this package touches a libvirt object directly: ``Connection.remote`` hands out
proxies (``Remote``) that send each method through ``Connection.call``. There, and only there,

* calls are counted (``counting()``), which is how the budgets are tested;
* a test may cut a call before or after it is sent (``seam``);
* a call waits no longer than the deadline of its operation, and an operation that has changed
  nothing by then changes nothing any more;
* libvirt's errors become the contract's, and a call that was under way when the connection broke
  becomes OutcomeUnknown if it could have changed something, ConnectionFailed if it could not.

Behind a Connection are several links (see ``link.py`` and ``link_pool.py``): connections of
libvirt's, on each of which one call is made at a time. An operation has one of them for itself, and
what is read through it (a domain, a pool) is bound to it. A link that is found dead is replaced at
the next call. Libvirt's keepalive finds that out, and needs an event loop: one thread of the
process runs libvirt's own.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, bounding, current_deadline, waitable
from hvdrivers.driverkit.undo import has_changed, note_change
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.errors import translate, translate_on_live, translate_unreadable
from hvdrivers.libvirt.link import Link, NoAnswer, NotMade
from hvdrivers.libvirt.link_pool import LinkPool
from hvdrivers.libvirt.lost_errors import insisting, unreadable
from hvdrivers.libvirt.opening import forked, open_connection
from hvdrivers.libvirt.operation import Calls, Operation
from hvdrivers.libvirt.remote import (
    Remote,
    changes_nothing,
    is_counted,
    matters,
    plain,
    pool_has_gone,
    wrapped,
)
from hvdrivers.workers import leaving

_T = TypeVar("_T")

Seam = Callable[[str, Callable[[], Any]], Any]
"""Called with the name of a remote call (``Domain.create``) and the call itself."""

_NOW = 0.1
_LAST_CALLS = 1.5
"""Seconds: calls that begin at the end of a deadline have so long together. With the undo's three
seconds they stay within the guard's tolerance."""


_operation: ContextVar[Operation | None] = ContextVar("hvdrivers-libvirt", default=None)
_unnoticed: ContextVar[bool] = ContextVar("hvdrivers-libvirt-unnoticed", default=False)


@contextmanager
def unnoticed() -> Iterator[None]:
    """Calls in the block change nothing that a caller sees."""
    token = _unnoticed.set(True)
    try:
        yield
    finally:
        _unnoticed.reset(token)


@contextmanager
def last_calls() -> Iterator[None]:
    """Calls in the block may be sent after the operation's deadline too: they take away what the
    operation has made for itself."""
    with bounding(Deadline(max(current_deadline().left, _LAST_CALLS))):
        yield


class Connection:
    """One host. Thread-safe."""

    def __init__(self, config: LibvirtConfig) -> None:
        self.config = config
        self.seam: Seam | None = None
        self.links = LinkPool(
            lambda hangs_up: open_connection(config, hangs_up=hangs_up), config.connect_timeout
        )
        self._pid = os.getpid()
        self._counters: list[Calls] = []
        self._counting = threading.Lock()
        # a driver that is dropped without close() leaves no sockets and threads
        self._finalizer = weakref.finalize(self, self.links.close, 0.0)
        self._finalizer.atexit = False

    @contextmanager
    def operation(self, timeout: float | None) -> Iterator[None]:
        """Stands around an operation: bounds its calls, and gives it a link of its own from its
        first call on. Inside of another one it does nothing."""
        if self._current() is not None:
            yield
            return
        deadline = current_deadline() if timeout is None else Deadline(timeout)
        operation = Operation(self.links, deadline)
        token = _operation.set(operation)
        try:
            with bounding(deadline):
                yield
        finally:
            _operation.reset(token)
            operation.release()
            with self._counting:
                for counter in self._counters:
                    counter.in_sequence += operation.in_sequence

    def _current(self) -> Operation | None:
        operation = _operation.get()
        if operation is None or operation.links is not self.links or not operation.is_here:
            return None
        return operation

    def _link(self) -> Link:
        if os.getpid() != self._pid:
            raise forked("this driver was connected in the process that this one was forked from")
        operation = self._current()
        if operation is not None:
            return operation.link()
        return self.links.shared(current_deadline().at)

    @property
    def deadline(self) -> Deadline:
        """That of the operation that this thread is in, also while it takes back what it has begun,
        which has a time of its own."""
        operation = self._current()
        return operation.deadline if operation is not None else current_deadline()

    @property
    def remote(self) -> Remote:
        """A live connection, made again if it was lost."""
        link = self._link()
        return Remote(self, link, link.connect)

    def together(self, *calls: Callable[[], _T]) -> list[_T]:
        """Make calls that do not depend on each other at the same time, over as many links as are
        free; one after another where none is. All have come to an end before the first error, in
        the order of ``calls``, is raised."""
        operation = self._current()
        outcomes: list[Callable[[], _T]] = [_missing] * len(calls)
        running = []
        first = 0
        if operation is not None:
            first = operation.in_sequence
            operation.link()  # the one that it has had first, whose pools are known
        branches = []
        for number, call in enumerate(calls[1:], 1):
            link = self.links.spare() if operation is not None else None
            if operation is None or link is None:
                continue
            branch = Operation(self.links, operation.deadline, link)
            branch.in_sequence = first

            def run(branch: Operation = branch, call: Callable[[], _T] = call) -> _T:
                _operation.set(branch)
                try:
                    return call()
                finally:
                    branch.release()

            try:
                future = self.links.workers.submit(run)
            except RuntimeError:  # no more threads
                branch.release()
                continue
            branches.append(branch)
            running.append(number)
            outcomes[number] = future.result
        for number, call in enumerate(calls):
            if number not in running:
                outcomes[number] = _outcome(call)
        results: list[_T] = []
        failed: BaseException | None = None
        for outcome in outcomes:
            try:
                results.append(outcome())
            except BaseException as error:  # noqa: BLE001 - raised when all are at their end
                failed = failed or error
        if operation is not None:
            operation.in_sequence = max(each.in_sequence for each in (operation, *branches))
        if failed is not None:
            raise failed
        return results

    def straight(self, read: Callable[[], _T]) -> _T:
        """Make the calls of a reading one after another in this thread, if its caller leaves it at
        the deadline, as the guard does. Otherwise in the thread of the operation's link: it is
        handed over once, not call by call. Only for what changes nothing.

        Raises:
            OperationTimeout: the deadline passed.
        """
        operation = self._current()
        if operation is None or operation.stays:
            return read()
        link = operation.link()
        branch = Operation(self.links, operation.deadline, link)
        caller, deadline = leaving(), current_deadline()
        # at the end of its time the reading has some more, which the guard does not know of
        if caller is not None and deadline.left > _NOW and link.begin_here(deadline.at):
            branch.stay_here()
            token = _operation.set(branch)
            try:
                with caller.at_deadline(lambda: branch.asking):
                    return read()
            finally:
                _operation.reset(token)
                link.end_here()
                operation.in_sequence += branch.in_sequence

        def reading() -> _T:
            branch.stay_here()
            _operation.set(branch)  # in the context of this job alone
            return read()

        try:
            return link.run(reading, _end_of_call(), self.links.notify)
        except NotMade:
            raise errors.OperationTimeout("the deadline passed; nothing was sent") from None
        except NoAnswer:
            raise errors.OperationTimeout(
                f"the host did not answer {branch.asking} within the deadline"
            ) from None
        finally:
            operation.in_sequence += branch.in_sequence

    def fact(self, key: str, read: Callable[[Remote], _T]) -> _T:
        """Something about the host that does not change while it is connected, read once."""
        facts = self.links.facts
        if key not in facts:
            reading = self.links.reading
            if not reading.acquire(timeout=waitable(current_deadline().left)):
                raise errors.OperationTimeout("the deadline passed; nothing was sent")
            try:
                if key not in facts:
                    facts[key] = read(self.remote)
            finally:
                reading.release()
        return cast(_T, facts[key])

    def knows(self, key: str) -> bool:
        """Whether a fact has been read."""
        return key in self.links.facts

    def bound(self, key: str, read: Callable[[Remote], Remote]) -> Remote:
        """An object that is looked up once for each link."""
        link = self._link()
        if key not in link.facts:
            # without the proxy, which would keep a driver that its user has dropped
            link.facts[key] = plain(read(Remote(self, link, link.connect)))
        return Remote(self, link, link.facts[key])

    def close(self, timeout: float | None = None) -> None:
        """Close for good. Twice is allowed."""
        self._finalizer.detach()
        self.links.close(*(() if timeout is None else (timeout,)))

    def call(
        self, link: Link, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """One remote call."""
        unwrapped = [plain(arg) for arg in args]
        kind, _, method_name = name.partition(".")
        reads = changes_nothing(method_name)

        def send() -> Any:
            # a read need not be told apart from one that was not sent
            if not reads and not link.stuck and not link.alive:
                raise errors.ConnectionFailed(f"the connection broke before {name} was sent")
            end = _end_of_call()
            call = functools.partial(method, *unwrapped, **kwargs)
            if reads and kind != "Stream":
                call = functools.partial(insisting, call)
            elif kind != "Stream":
                # looked at in the link's thread: the call may wait for one before it
                call = functools.partial(_in_time, current_deadline(), call, has_changed())
            try:
                return link.run(call, end, self.links.notify)
            except NotMade:
                raise errors.OperationTimeout(
                    f"the deadline passed before {name} was sent"
                ) from None
            except NoAnswer:
                cls = errors.OperationTimeout if reads else errors.OutcomeUnknown
                raise cls(f"the host did not answer {name} within the deadline") from None

        if is_counted(method_name):
            operation = self._current()
            if operation is not None:
                operation.in_sequence += 1
                operation.asking = name
            with self._counting:
                for counter in self._counters:
                    counter[name] += 1
        try:
            result = self.seam(name, send) if self.seam is not None else send()
        except libvirt.libvirtError as error:
            raise self._translated(link, name, error) from error
        except (SystemError, UnicodeDecodeError) as error:
            if (message := unreadable(error)) is None:
                raise
            raise translate_unreadable(message) from error
        noticed = not reads and not _unnoticed.get() and is_counted(method_name)
        if noticed and matters(name, args):
            note_change()
        return wrapped(self, link, result)

    def _translated(
        self, link: Link, name: str, error: libvirt.libvirtError
    ) -> errors.HypervisorError:
        kind, _, method = name.partition(".")
        # the object's own connection: there are others, which live
        if not link.alive:
            translated = translate(error)
            reason = f"the connection broke during {name}: {translated.message}"
            cls = errors.ConnectionFailed if changes_nothing(method) else errors.OutcomeUnknown
            return cls(reason, vendor_code=translated.vendor_code)
        translated = translate_on_live(error)
        if pool_has_gone(kind, method, translated.vendor_code):
            # somebody stopped it, or made another of that name: look for it at the next call
            for each in self.links.links:
                each.facts.clear()
            self.links.facts = {}
            return errors.HypervisorFault(
                translated.message,
                vendor_code=translated.vendor_code,
                hint="the storage pool was stopped or replaced; call again",
                retryable=True,
            )
        return translated

    @contextmanager
    def counting(self) -> Iterator[Calls]:
        """Count the remote calls made meanwhile, by name, in all threads. What the event hub does
        in its own time is not counted."""
        counter = Calls()
        with self._counting:
            self._counters.append(counter)
        try:
            yield counter
        finally:
            with self._counting:
                # by identity: an empty Counter equals any other empty one
                self._counters = [each for each in self._counters if each is not counter]


def _end_of_call() -> float:
    """When the next call must have come back. An operation that has waited for a guest until its
    deadline has some time to say what came of it."""
    deadline = current_deadline()
    return deadline.at if deadline.left > _NOW else deadline.at + _LAST_CALLS


def _in_time(deadline: Deadline, call: Callable[[], _T], begun: bool) -> _T:
    """Make a call that changes something: not after the deadline, if it would be the first."""
    if deadline.passed and not begun:
        raise NotMade
    return call()


def _outcome(call: Callable[[], _T]) -> Callable[[], _T]:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - raised in its turn

        def fail(error: BaseException = error) -> _T:
            raise error

        return fail
    return lambda: result


def _missing() -> Any:
    raise AssertionError("a call of together() has no outcome")
