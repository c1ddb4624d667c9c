"""The guard: what stands in front of every driver, in this repository or not.

``guarded(driver)`` gives a ComputeDriver with every operation of the contract. Each call

1. is refused with NotSupported if the driver, or this host, lacks the operation or what its
   arguments ask for (the reason is that of ``why_not()``);
2. has its arguments checked against the contract's annotations (InvalidRequest);
3. waits its turn: changes of one instance never overlap, different instances never wait;
4. runs for at most its ``timeout`` (the operation's default, if none is given) and a tolerance of
   ``TOLERANCE`` seconds in which the driver may undo what it began. A driver that overruns that
   is left to itself in its thread; the caller gets OperationTimeout for a read and OutcomeUnknown
   for a change, and the instance stays locked until the driver comes back;
5. has its result checked against the contract (ContractViolation), and its errors completed with
   operation, host and instance, anything that is not of the error tree made a ContractViolation;
6. leaves one line in the log ``hvdrivers.operations``, without secrets.

The guard knows nothing of any hypervisor and sends nothing by itself: it costs no round trip.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, cast, get_type_hints
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.driver import CORE_OPERATIONS, OPERATIONS, ComputeDriver, Driver
from hvdrivers.contract.operation import Operation
from hvdrivers.contract.requirements import required
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.progress import Progress, ProgressCallback
from hvdrivers.redact import blot, blot_error, secrets_in
from hvdrivers.workers import Workers

TOLERANCE = 5.0
"""Seconds that an operation may overrun its deadline, to undo what it began."""

_log = logging.getLogger("hvdrivers.operations")
_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


def _checker(annotation: Any) -> TypeAdapter[Any]:
    if isinstance(annotation, type) and hasattr(annotation, "model_config"):
        return TypeAdapter(annotation)  # a model brings its own configuration
    return TypeAdapter(annotation, config=_STRICT)


@functools.cache
def _checkers(name: str) -> tuple[inspect.Signature, dict[str, TypeAdapter[Any]], Any]:
    function = getattr(ComputeDriver, name)
    hints = get_type_hints(function, include_extras=True)
    returns = hints.pop("return")
    checkers = {parameter: _checker(hint) for parameter, hint in hints.items()}
    return inspect.signature(function), checkers, _checker(returns)


class _Locks:
    """One lock per instance that is being changed, and none for those that are not."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[UUID, tuple[threading.Lock, int]] = {}

    def acquire(self, uuid: UUID, timeout: float) -> bool:
        with self._guard:
            lock, users = self._held.get(uuid, (threading.Lock(), 0))
            self._held[uuid] = (lock, users + 1)
        if lock.acquire(timeout=timeout):
            return True
        self._leave(uuid)
        return False

    def release(self, uuid: UUID) -> None:
        # a worker may release what the caller's thread acquired: hence no RLock
        self._held[uuid][0].release()
        self._leave(uuid)

    def _leave(self, uuid: UUID) -> None:
        with self._guard:
            lock, users = self._held[uuid]
            if users > 1:
                self._held[uuid] = (lock, users - 1)
            else:
                del self._held[uuid]


class _Guard:
    """The part of the guard that is the same for every operation."""

    def __init__(self, driver: Driver, *, timeout_scale: float) -> None:
        self._driver = driver
        self._timeout_scale = timeout_scale
        self._locks = _Locks()
        self._workers = Workers(f"hvdrivers-{driver.driver_name}")
        self._closed = False
        self._declared = declared(type(driver))
        self._narrowed = {
            capability: reason
            for capability, reason in driver.narrowed().items()
            if capability in self._declared
        }

    @property
    def driver_name(self) -> str:
        return self._driver.driver_name

    @property
    def host_label(self) -> str:
        return self._driver.host_label

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
        signature, checkers, returns = _checkers(rules.name)
        arguments = signature.bind(self, *args, **kwargs).arguments
        del arguments["self"]
        uuid = _subject(arguments)
        secrets = frozenset(secrets_in(arguments))
        with self._report(rules, uuid, secrets):
            deadline = time.monotonic() + self._seconds(rules, arguments)
            self._check_capabilities(rules, arguments)
            self._check_arguments(arguments, checkers)
            if rules.name == "close":
                return self._close(arguments)
            if self._closed:
                raise errors.ConnectionFailed(
                    "the driver has been closed", hint="connect() again", retryable=False
                )
            lock = uuid if rules.serialised else None
            result = self._bounded(rules, lock, arguments, deadline)
            return self._checked(rules, result, returns)

    def _seconds(self, rules: Operation, arguments: Mapping[str, Any]) -> float:
        timeout = arguments.get("timeout")
        if timeout is None:
            # what the guest was given to shut down comes on top of what the operation takes
            graceful = arguments.get("graceful") or 0
            return rules.timeout * self._timeout_scale + graceful
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise errors.InvalidRequest("timeout must be a number of seconds")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise errors.InvalidRequest("timeout must be more than 0 seconds, and finite")
        return float(timeout)

    def _check_capabilities(self, rules: Operation, arguments: Mapping[str, Any]) -> None:
        needs = set(required(arguments))
        if rules.capability is not None:
            needs.add(rules.capability)
        for capability in sorted(needs):
            reason = self.why_not(capability)
            if reason is not None:
                raise errors.NotSupported(
                    reason, hint=f"'{capability}' is not among this driver's capabilities"
                )
        if rules.name not in CORE_OPERATIONS and not hasattr(self._driver, rules.name):
            raise errors.NotSupported(f"the {self.driver_name} driver has no {rules.name}()")

    @staticmethod
    def _check_arguments(
        arguments: dict[str, Any], checkers: Mapping[str, TypeAdapter[Any]]
    ) -> None:
        for name, value in arguments.items():
            if name == "timeout":
                continue
            try:
                arguments[name] = checkers[name].validate_python(value)
            except ValidationError as error:
                what = "; ".join(
                    ": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"])))
                    for e in error.errors(include_input=False, include_url=False)
                )
                raise errors.InvalidRequest(f"{name}: {what}") from None

    def _bounded(
        self, rules: Operation, lock: UUID | None, arguments: dict[str, Any], deadline: float
    ) -> Any:
        if lock is not None and not self._locks.acquire(lock, max(0, deadline - time.monotonic())):
            raise errors.OperationTimeout(
                "another operation on this instance is still under way; nothing was begun"
            )
        try:
            if arguments.get("progress") is not None:
                arguments["progress"] = _shielded(arguments["progress"])
            arguments["timeout"] = max(0.001, deadline - time.monotonic())
            call = functools.partial(getattr(self._driver, rules.name), **arguments)
            future = self._workers.submit(call)
        except BaseException:
            if lock is not None:
                self._locks.release(lock)
            raise
        if lock is not None:
            # whenever the driver comes back, also after the caller has given up waiting
            future.add_done_callback(lambda _: self._locks.release(lock))
        return self._wait(rules, future, deadline)

    def _wait(self, rules: Operation, future: Future[Any], deadline: float) -> Any:
        try:
            return future.result(max(0, deadline - time.monotonic()) + TOLERANCE)
        except TimeoutError:
            if future.done():  # the driver's own, and not of the error tree: see _report
                raise
        message = "the host did not answer within the deadline"
        if rules.changes:
            raise errors.OutcomeUnknown(message)
        raise errors.OperationTimeout(message)

    def _checked(self, rules: Operation, result: Any, returns: TypeAdapter[Any]) -> Any:
        try:
            return returns.validate_python(result)
        except ValidationError as error:
            raise errors.ContractViolation(
                f"{self.driver_name} returned {type(result).__name__} from {rules.name}(), which"
                f" is not what the contract says ({error.error_count()} differences)"
            ) from error

    def _close(self, arguments: Mapping[str, Any]) -> None:
        if not self._closed:
            self._closed = True
            self._driver.close(**arguments)
            self._workers.close()

    @contextmanager
    def _report(
        self, rules: Operation, uuid: UUID | None, secrets: frozenset[str]
    ) -> Iterator[None]:
        began = time.monotonic()
        outcome = "ok"
        try:
            try:
                yield
            except errors.HypervisorError:
                raise
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            except _CallbackError as error:
                raise error.original from None
            except Exception as error:
                raise errors.ContractViolation(
                    f"{self.driver_name} raised {type(error).__name__} from {rules.name}(): {error}"
                ) from error
        except BaseException as error:
            blot_error(error, secrets)
            if isinstance(error, errors.HypervisorError):
                error.locate(operation=rules.name, host=self.host_label, instance=uuid)
            outcome = type(error).__name__
            raise
        finally:
            self._write_line(rules, uuid, outcome, time.monotonic() - began, secrets)

    def _write_line(
        self,
        rules: Operation,
        uuid: UUID | None,
        outcome: str,
        seconds: float,
        secrets: frozenset[str],
    ) -> None:
        level = logging.INFO if rules.changes else logging.DEBUG
        if outcome != "ok":
            level = logging.WARNING
        if _log.isEnabledFor(level):
            fields = {
                "operation": rules.name,
                "driver": self.driver_name,
                "host": blot(self.host_label, secrets),
                "instance": str(uuid) if uuid else None,
                "outcome": outcome,
                "seconds": round(seconds, 6),
            }
            line = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
            _log.log(level, "%s", line, extra={"hvdrivers": fields})


class _CallbackError(Exception):
    """What a caller's progress callback raised, on its way through the driver."""

    def __init__(self, original: BaseException) -> None:
        super().__init__()
        self.original = original


def _shielded(progress: ProgressCallback) -> ProgressCallback:
    def report(value: Progress) -> None:
        try:
            progress(value)
        except BaseException as error:  # whatever it is, it is the caller's and goes back to it
            raise _CallbackError(error) from error

    return report


def _subject(arguments: Mapping[str, Any]) -> UUID | None:
    uuid = arguments.get("uuid")
    if isinstance(uuid, UUID):
        return uuid
    spec = arguments.get("spec")
    return spec.uuid if isinstance(spec, InstanceSpec) else None


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


def guarded(driver: Driver, *, timeout_scale: float = 1.0) -> ComputeDriver:
    """Put the guard in front of a driver.

    Args:
        timeout_scale: multiplies every operation's default timeout.
    """
    make = cast(Callable[..., ComputeDriver], _GuardedDriver)
    return make(driver, timeout_scale=timeout_scale)
