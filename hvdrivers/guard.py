"""The guard: what stands in front of every driver, in this repository or not.

``guarded(driver)`` gives a ComputeDriver with every operation of the contract. Each call

1. is refused with NotSupported if the driver, or this host, lacks the operation or what its
   arguments ask for (the reason is that of ``why_not()``);
2. has its arguments checked against the contract's annotations (InvalidRequest) and completed by
   the contract's defaults;
3. waits its turn: changes of one instance never overlap, different instances never wait;
4. runs for at most its ``timeout`` (the operation's default, if none is given) and a tolerance of
   ``TOLERANCE`` seconds in which the driver may undo what it began. A driver that overruns that
   is left to itself in its thread; the caller gets OperationTimeout for a read and OutcomeUnknown
   for a change, and the instance stays locked until the driver comes back. The same holds for a
   caller who is interrupted (KeyboardInterrupt): the driver goes on;
5. has its result checked against the contract (ContractViolation), and its errors completed with
   operation, host and instance, anything that is not of the error tree made a ContractViolation.
   What the caller's own ``progress`` callback raises comes back as it is;
6. leaves one line in the log ``hvdrivers.operations``, without secrets.

The guard knows nothing of any hypervisor and sends nothing by itself: it costs no round trip.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any, cast
from uuid import UUID

from hvdrivers.checking import signature_of
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver, Driver
from hvdrivers.contract.events import EventStream
from hvdrivers.contract.operation import Operation
from hvdrivers.contract.requirements import required
from hvdrivers.locks import InstanceLocks
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.progress import Progress, ProgressCallback
from hvdrivers.redact import blot, blot_error, secrets_in
from hvdrivers.workers import Job, Workers

TOLERANCE = 5.0
"""Seconds that an operation may overrun its deadline, to undo what it began."""

_LONGEST = 366 * 86400.0
"""Longer timeouts mean this: Python's own waits refuse very large numbers."""

_log = logging.getLogger("hvdrivers.operations")
# a program that has not set up logging gets errors as exceptions, not also as lines on stderr
logging.getLogger("hvdrivers").addHandler(logging.NullHandler())


class _Guard:
    """The part of the guard that is the same for every operation."""

    def __init__(self, driver: Driver, *, timeout_scale: float, secrets: frozenset[str]) -> None:
        self._driver = driver
        self._timeout_scale = timeout_scale
        self._secrets = secrets
        # asked once: an error or a log line about a broken driver must not need that driver
        self._driver_name = str(driver.driver_name)
        self._host_label = blot(_one_line(str(driver.host_label)), secrets)
        self._locks = InstanceLocks()
        self._workers = Workers(f"hvdrivers-{self._driver_name}")
        self._closing = threading.Lock()
        self._closed = False
        self._declared = declared(type(driver))
        self._narrowed = {
            capability: reason
            for capability, reason in driver.narrowed().items()
            if capability in self._declared
        }

    @property
    def driver_name(self) -> str:
        return self._driver_name

    @property
    def host_label(self) -> str:
        return self._host_label

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._declared - self._narrowed.keys()

    def narrowed(self) -> dict[Capability, str]:
        return dict(self._narrowed)

    def why_not(self, capability: Capability) -> str | None:
        if capability not in self._declared:
            return f"the {self.driver_name} driver does not have {capability}"
        return self._narrowed.get(capability)

    def __repr__(self) -> str:
        return f"<hvdrivers {self.driver_name} {self.host_label}>"

    def _call(self, rules: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        began = time.monotonic()
        arguments = signature_of(rules.name).bind(self, args, kwargs)
        uuid = _subject(arguments)
        secrets = self._secrets.union(secrets_in(arguments))
        shield = _Shield(arguments.get("progress"))
        outcome = "ok"
        try:
            try:
                result = self._perform(rules, arguments, shield, began)
            except errors.HypervisorError:
                if shield.raised is None:
                    raise
            except Exception as error:
                if shield.raised is None:
                    raise self._violation(rules, f"raised {_in_words(error)}") from error
            else:
                if shield.raised is None:
                    return result
                raise self._violation(
                    rules, "went on although the progress callback had raised"
                ) from shield.raised
            # outside of any handler, so that it keeps its own cause and context
            raise shield.raised
        except BaseException as error:
            if error is not shield.raised:
                blot_error(error, secrets)
            if isinstance(error, errors.HypervisorError):
                error.locate(operation=rules.name, host=self.host_label, instance=uuid)
            outcome = type(error).__name__
            raise
        finally:
            self._write_line(rules, uuid, outcome, time.monotonic() - began)

    def _perform(
        self, rules: Operation, arguments: dict[str, Any], shield: _Shield, began: float
    ) -> Any:
        contract = signature_of(rules.name)
        self._check_operation(rules)
        refusal = contract.refusal(arguments)
        if refusal is not None:
            raise errors.InvalidRequest(refusal)
        self._check_capabilities(required(arguments))
        deadline = began + self._seconds(rules, arguments)
        if shield.callback is not None:
            arguments["progress"] = shield
        if rules.name == "close":
            return self._close(rules, arguments, deadline)
        if self._closed:
            raise errors.ConnectionFailed(
                "the driver has been closed", hint="connect() again", retryable=False
            )
        result = self._bounded(rules, arguments, deadline, shield)
        violation = contract.violation(result)
        if violation is not None:
            raise self._violation(rules, f"returned what the contract does not allow: {violation}")
        return result

    def _violation(self, rules: Operation, what: str) -> errors.ContractViolation:
        return errors.ContractViolation(f"{self.driver_name}: {rules.name}() {what}")

    def _seconds(self, rules: Operation, arguments: Mapping[str, Any]) -> float:
        timeout = arguments["timeout"]
        if timeout is None:
            # what the guest was given to shut down comes on top of what the operation takes
            graceful: float = arguments.get("graceful", 0)
            return min(rules.timeout * self._timeout_scale + graceful, _LONGEST)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise errors.InvalidRequest("timeout must be a number of seconds")
        if not 0 < timeout < float("inf"):
            raise errors.InvalidRequest("timeout must be more than 0 seconds, and finite")
        return float(min(timeout, _LONGEST))

    def _check_operation(self, rules: Operation) -> None:
        if rules.capability is not None:
            self._check_capabilities({rules.capability})
        if not hasattr(type(self._driver), rules.name):
            raise errors.NotSupported(
                f"the {self.driver_name} driver has no {rules.name}()",
                hint="it needs an optional interface that this driver does not implement",
            )

    def _check_capabilities(self, needs: frozenset[Capability] | set[Capability]) -> None:
        for capability in sorted(needs):
            reason = self.why_not(capability)
            if reason is not None:
                raise errors.NotSupported(
                    reason, hint=f"'{capability}' is not among this driver's capabilities"
                )

    def _bounded(
        self, rules: Operation, arguments: dict[str, Any], deadline: float, shield: _Shield
    ) -> Any:
        uuid = _subject(arguments) if rules.serialised else None
        if uuid is not None and not self._locks.acquire(uuid, deadline - time.monotonic()):
            raise errors.OperationTimeout(
                "another operation on this instance is still under way; nothing was begun"
            )

        def call() -> Any:
            try:
                arguments["timeout"] = max(0.001, deadline - time.monotonic())
                return getattr(self._driver, rules.name)(**arguments)
            finally:
                # the worker's, also after the caller has given up; and before the result is
                # out, so that the caller's next call finds the instance free
                if uuid is not None:
                    self._locks.release(uuid)

        job = Job(call)
        try:
            self._workers.start(job)
        except BaseException as error:
            if job.future.cancel() and uuid is not None:
                self._locks.release(uuid)
            if isinstance(error, RuntimeError):
                raise errors.HypervisorFault(
                    "this process can start no more threads; nothing was begun",
                    hint="look for calls that hang: each keeps a thread until it comes back",
                ) from error
            raise
        return self._wait(rules, job.future, deadline, shield)

    def _wait(
        self, rules: Operation, future: futures.Future[Any], deadline: float, shield: _Shield
    ) -> Any:
        done = False
        try:
            left = max(0.0, deadline - time.monotonic()) + TOLERANCE
            done = bool(futures.wait([future], left).done)
        finally:
            if not done:
                shield.abandoned = True
                future.add_done_callback(_end_stream)
        if done:
            error = future.exception()
            if isinstance(error, Exception | None):
                return future.result()
            # an exit or an interrupt in a worker's thread is no reason to end the program
            raise self._violation(rules, f"raised {_in_words(error)}") from error
        message = "the host did not answer within the deadline"
        if rules.changes:
            raise errors.OutcomeUnknown(message)
        raise errors.OperationTimeout(message)

    def _close(self, rules: Operation, arguments: dict[str, Any], deadline: float) -> None:
        with self._closing:
            first, self._closed = not self._closed, True
        if first:
            try:
                self._bounded(rules, arguments, deadline, _Shield(None))
            finally:
                self._workers.close()

    def _write_line(
        self, rules: Operation, uuid: UUID | None, outcome: str, seconds: float
    ) -> None:
        level = logging.INFO if rules.changes else logging.DEBUG
        if outcome != "ok":
            level = logging.WARNING
        if _log.isEnabledFor(level):
            fields = {
                "operation": rules.name,
                "driver": self.driver_name,
                "host": self.host_label,
                "instance": str(uuid) if uuid else None,
                "outcome": outcome,
                "seconds": round(seconds, 6),
            }
            line = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
            _log.log(level, "%s", line, extra={"hvdrivers": fields})


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

    def __call__(self, progress: Progress) -> None:
        if self.callback is None or self.abandoned:
            return
        if self.raised is not None:
            raise _CallbackError  # it was told to stop
        try:
            self.callback(progress)
        except BaseException as error:  # whatever it is, it is the caller's and goes back to him
            self.raised = error
            raise _CallbackError from error


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
    spec = arguments.get("spec")
    return spec.uuid if isinstance(spec, InstanceSpec) else None


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _forwarder(rules: Operation) -> Callable[..., Any]:
    contract = getattr(ComputeDriver, rules.name)

    def forward(self: _Guard, *args: Any, **kwargs: Any) -> Any:
        return self._call(rules, args, kwargs)

    for attribute in ("__name__", "__qualname__", "__doc__", "__annotations__"):
        setattr(forward, attribute, getattr(contract, attribute))
    forward.__wrapped__ = contract  # type: ignore[attr-defined] # help() and IDEs show the contract
    return forward


_GuardedDriver = type(
    "GuardedDriver",
    (_Guard, ComputeDriver),
    {name: _forwarder(rules) for name, rules in OPERATIONS.items()} | {"__doc__": __doc__},
)


def guarded(
    driver: Driver, *, timeout_scale: float = 1.0, secrets: frozenset[str] = frozenset()
) -> ComputeDriver:
    """Put the guard in front of a driver.

    Args:
        timeout_scale: multiplies every operation's default timeout.
        secrets: what no error and no log line may show, beside the secrets of each call: the
            password with which the driver has connected.
    """
    make = cast(Callable[..., ComputeDriver], _GuardedDriver)
    return make(driver, timeout_scale=timeout_scale, secrets=secrets)
