"""One call through the guard (see ``guard.py``): from the check of its arguments to its result."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager, suppress
from typing import Any, Protocol
from uuid import UUID

from hvdrivers.checking import signature_of
from hvdrivers.contract import errors
from hvdrivers.contract.events import EventStream
from hvdrivers.contract.operation import Operation
from hvdrivers.driverkit.deadline import waitable
from hvdrivers.guarded_stream import GuardedStream
from hvdrivers.locks import KeyLocks
from hvdrivers.models.instance import InstanceInfo, InstanceSpec
from hvdrivers.models.migration import Move
from hvdrivers.models.progress import Progress, ProgressCallback
from hvdrivers.models.vif import AttachedVif, VifBase
from hvdrivers.models.volume import AttachedVolume, HostVolume
from hvdrivers.raised import in_words, is_whole
from hvdrivers.redact import blot_error, secrets_in
from hvdrivers.workers import Job, Leaving, Workers


class Guarding(Protocol):
    """What a call needs of its guard."""

    _locks: KeyLocks
    _workers: Workers
    _secrets: frozenset[str]
    _under_way: dict[UUID, set[GuardedCall]]

    @property
    def driver_name(self) -> str: ...

    @property
    def host_label(self) -> str: ...

    def _prepare(self, call: GuardedCall, /) -> None: ...

    def _run(self, rules: Operation, arguments: Mapping[str, Any], /) -> Any: ...

    def _tolerance(self) -> float: ...

    def _write_line(
        self, rules: Operation, uuid: UUID | None, outcome: str, seconds: float, /
    ) -> None: ...


class GuardedCall:
    """One call. ``begin()``, then ``wait()`` or ``wait_async()``, then ``settle()``."""

    def __init__(
        self, guard: Guarding, rules: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.began = time.monotonic()
        self.rules = rules
        self.contract = signature_of(rules.name)
        self.arguments = self.contract.bind(guard, args, kwargs)
        self.deadline = float("inf")
        self._guard = guard
        self._uuid = _subject(self.arguments)
        self._shield = _Shield(self.arguments.get("progress"))
        self._future: futures.Future[Any] | None = None
        self._leaving = Leaving()

    def place_vifs(self) -> None:
        """Give each new NIC the MAC address that it has in its instance."""
        vif, spec = self.arguments.get("vif"), self.arguments.get("spec")
        if isinstance(vif, VifBase) and self._uuid is not None:
            self.arguments["vif"] = vif.within(self._uuid)
        if isinstance(spec, InstanceSpec) and spec.vifs:
            placed = tuple(vif.within(spec.uuid) for vif in spec.vifs)
            self.arguments["spec"] = spec.model_copy(update={"vifs": placed})

    def begin(self, *, waits_here: bool = True) -> None:
        """Check it, and start it in a worker thread.

        Args:
            waits_here: wait for the instance in this thread; otherwise the worker does.
        """
        self._guard._prepare(self)
        self.start(waits_here=waits_here)

    def start(self, *, waits_here: bool = True) -> None:
        """Start a call that has been checked."""
        if "progress" in self.arguments:
            self.arguments["progress"] = self._shield
        locks, workers = self._guard._locks, self._guard._workers
        if self.rules.interrupts and self._uuid is not None:
            for each in tuple(self._guard._under_way.get(self._uuid, ())):
                each._shield.interrupted = True
        uuid = self._uuid if self.rules.serialised else None
        if uuid is not None and waits_here:
            self._take_turn(uuid)
        waits = uuid is not None and not waits_here

        def work() -> Any:
            self._leaving.begin()
            if waits and uuid is not None:
                self._take_turn(uuid)
            try:
                if waits and self._shield.abandoned:
                    raise errors.OperationTimeout("nobody waits for it any more; nothing was begun")
                left = self.deadline - time.monotonic()
                self.arguments["timeout"] = max(0.001, left)
                with self._interruptible():
                    return self._guard._run(self.rules, self.arguments)
            finally:
                # the worker's, also after the caller has given up; and before the result is
                # out, so that the caller's next call finds the instance free
                if uuid is not None:
                    locks.release(uuid)

        job = Job(work)
        try:
            workers.start(job)
        except BaseException as error:
            if job.future.cancel() and uuid is not None and waits_here:
                locks.release(uuid)
            if isinstance(error, RuntimeError):
                raise errors.HypervisorFault(
                    "this process can start no more threads; nothing was begun",
                    hint="look for calls that hang: each keeps a thread until it comes back",
                ) from error
            raise
        self._future = job.future

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """While it runs, and tells its progress, destroy() of its instance can end it."""
        if self._uuid is None or "progress" not in self.arguments:
            yield
            return
        calls = self._guard._under_way.setdefault(self._uuid, set())
        calls.add(self)
        try:
            yield
        finally:
            calls.discard(self)
            if not calls:
                self._guard._under_way.pop(self._uuid, None)

    def _take_turn(self, uuid: UUID) -> None:
        if not self._guard._locks.acquire(uuid, self.deadline - time.monotonic()):
            raise errors.OperationTimeout(
                "another operation on this instance is still under way; nothing was begun"
            )

    def _patience(self) -> Iterator[float]:
        """Seconds to wait, in two parts: until the deadline, and for what the driver takes back. A
        read that may be left then takes nothing back."""
        yield waitable(self.deadline - time.monotonic())
        if self._leaving.asking is None:
            yield waitable(self._guard._tolerance())

    def wait(self) -> Any:
        """Wait for the result."""
        future = self._started()
        done = False
        try:
            for patience in self._patience():
                with suppress(futures.TimeoutError):
                    future.exception(patience)
                    done = True
                    break
        finally:
            if not done:
                self._abandon(future)
        return self._result(future, done)

    async def wait_async(self) -> Any:
        """The same in a coroutine. Cancelling it ends the waiting; the operation goes on, unless it
        waits for its turn."""
        future = self._started()
        import asyncio  # slow: who calls from a coroutine has it already

        waiting = asyncio.wrap_future(future)
        done = False
        try:
            for patience in self._patience():
                if not done:
                    done = bool((await asyncio.wait({waiting}, timeout=patience))[0])
        finally:
            if not done:
                self._abandon(future)
                waiting.cancel()
        if not waiting.cancelled():
            waiting.exception()  # it has been looked at
        return self._result(future, done)

    def _started(self) -> futures.Future[Any]:
        if self._future is None:
            raise AssertionError("the call was not started")
        return self._future

    def _abandon(self, future: futures.Future[Any]) -> None:
        self._shield.abandoned = True
        future.add_done_callback(_end_stream)

    def _result(self, future: futures.Future[Any], done: bool) -> Any:
        if done:
            error = future.exception()
            if isinstance(error, Exception | None):
                result = future.result()
                violation = self.contract.violation(result) or self._of_another(result)
                if violation is not None:
                    raise self._violation(f"returned what the contract does not allow: {violation}")
                return self._guarded(result)
            # an exit or an interrupt in a worker's thread is no reason to end the program
            raise self._violation(f"raised {in_words(error)}") from error
        asking = self._leaving.asking
        what = f" {asking()}" if asking is not None else ""
        message = f"the host did not answer{what} within the deadline"
        if self.rules.changes:
            raise errors.OutcomeUnknown(message)
        raise errors.OperationTimeout(message)

    def _of_another(self, result: Any) -> str | None:
        """Whose result it is, if it is not about what was asked for."""
        asked = self.arguments
        attachment = asked.get("replacement") or asked.get("attachment")
        found: object
        expected: object
        match result:
            case InstanceInfo() | Move():
                found, expected = result.uuid, self._uuid
            case AttachedVif():
                found, expected = result.id, getattr(asked.get("vif"), "id", None)
            case AttachedVolume():
                found, expected = result.volume_id, getattr(attachment, "volume_id", None)
            case HostVolume():
                found, expected = result.volume_id, asked.get("volume_id")
            case _:
                return None
        if expected in {None, found}:
            return None
        return f"{type(result).__name__} of {found}, and not of {expected}"

    def _guarded(self, result: Any) -> Any:
        if not isinstance(result, EventStream):
            return result
        guard, name = self._guard, self.rules.name

        def complete(error: errors.HypervisorError) -> None:
            blot_error(error, guard._secrets)
            error.locate(operation=name, host=guard.host_label)

        return GuardedStream(result, guard.driver_name, complete)

    def _violation(self, what: str) -> errors.ContractViolation:
        return errors.ContractViolation(f"{self._guard.driver_name}: {self.rules.name}() {what}")

    def settle(self, result: Any, error: BaseException | None) -> Any:
        """Return the result, or raise what the error means to the caller; and write the line."""
        final = self._final(error)
        if final is not None and final is not self._shield.raised:
            blot_error(final, self._guard._secrets.union(secrets_in(self.arguments)))
        if isinstance(final, errors.HypervisorError):
            final.locate(
                operation=self.rules.name, host=self._guard.host_label, instance=self._uuid
            )
        outcome = "ok" if final is None else type(final).__name__
        seconds = time.monotonic() - self.began
        self._guard._write_line(self.rules, self._uuid, outcome, seconds)
        if final is None:
            return result
        try:
            raise final
        finally:
            del final, error  # they hold this frame

    def _final(self, error: BaseException | None) -> BaseException | None:
        raised = self._shield.raised
        if self._shield.stopped and isinstance(error, Exception):
            return _destroyed(error)
        if isinstance(error, Exception):
            if raised is not None:
                return raised
            if isinstance(error, errors.HypervisorError) and is_whole(error):
                return error
            return self._of_the_tree(error)
        if error is not None or raised is None:
            return error
        violation = self._violation("went on although the progress callback had raised")
        violation.__cause__ = raised
        return violation

    def _of_the_tree(self, error: Exception) -> errors.HypervisorError:
        """What the caller gets for an error of Python's: the driver's fault, unless the process can
        open no more files. Python opens one too, for a module that is imported late."""
        made: errors.HypervisorError
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            made = errors.HypervisorFault(
                "this process can open no more files",
                vendor_code=f"errno {error.errno}",
                hint="raise its limit (ulimit -n), or close what it does not need; then call again",
                retryable=True,
            )
        else:
            made = self._violation(f"raised {in_words(error)}")
        made.__cause__ = error
        return made


class _CallbackError(Exception):
    """Carries what a caller's progress callback raised through the driver, which undoes its work.
    An Exception even for a KeyboardInterrupt, so that ``except Exception`` undoes too."""


class _Shield:
    """A caller's progress callback as the driver gets it."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self.callback = callback
        self.raised: BaseException | None = None
        self.abandoned = False
        """The caller waits no longer: nothing is reported to him any more."""
        self.interrupted = False
        """destroy() of the instance waits: the operation shall end."""
        self.stopped = False
        """It has been told to."""

    def __call__(self, progress: Progress) -> None:
        if self.interrupted:
            self.stopped = True
            raise _CallbackError
        if self.callback is None or self.abandoned:
            return
        if self.raised is not None:
            raise _CallbackError  # it was told to stop
        try:
            self.callback(progress)
        except BaseException as error:  # whatever it is, it is the caller's and goes back to him
            self.raised = error
            raise _CallbackError from error


def _destroyed(error: Exception) -> errors.HypervisorError:
    """What an operation raises that destroy() has ended. One that could not undo says so itself."""
    if isinstance(error, errors.OutcomeUnknown):
        return error
    ended = errors.InstanceNotFound("destroy() of the instance has ended the operation")
    ended.__cause__ = error
    return ended


def _end_stream(future: futures.Future[Any]) -> None:
    """Close an event stream that comes when nobody waits for it any more."""
    if not future.cancelled() and future.exception() is None:
        result = future.result()
        if isinstance(result, EventStream):
            result.close()


def _subject(arguments: Mapping[str, Any]) -> UUID | None:
    uuid = arguments.get("uuid")
    if isinstance(uuid, UUID):
        return uuid
    move = arguments.get("move")
    if isinstance(move, Move):
        return move.uuid
    spec = arguments.get("spec")
    return spec.uuid if isinstance(spec, InstanceSpec) else None
