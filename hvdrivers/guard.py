"""The guard: what stands in front of every driver, in this repository or not.

``guarded(driver)`` gives a ComputeDriver with every operation of the contract. Each call

1. is refused with NotSupported if the driver, or this host, lacks the operation or what its
   arguments ask for (the reason is that of ``why_not()``), or if they have a field that the driver
   does not honour (``contract.fields``); with ConnectionFailed in a process that was forked from
   the one that connected;
2. has its arguments checked against the contract's annotations (InvalidRequest) and completed by
   the contract's defaults, among them the MAC address of a NIC that was given none;
3. waits its turn: changes of one instance never overlap, different instances never wait. Reads
   and the few changes that are not ``serialised`` (guest_exec()) neither wait nor are waited for;
4. runs for at most its ``timeout`` (the operation's default, if none is given) and a tolerance of
   ``TOLERANCE`` seconds in which the driver may undo what it began. A driver that overruns that
   is left to itself in its thread; the caller gets OperationTimeout for a read and OutcomeUnknown
   for a change, and the instance stays locked until the driver comes back. A read
   of which the driver says that it takes nothing back (``workers.leaving()``) is left at its
   deadline. The same holds for a caller who is interrupted (KeyboardInterrupt): the driver goes on;
5. has its result checked against the contract (ContractViolation): its type, the types of the
   fields of each model in it, and whether it is about the instance or the device that was asked
   for. Its errors are completed with operation, host and instance, and anything that is not of the
   error tree becomes a ContractViolation. The same holds for the events and the errors of a stream
   that watch() has returned. What the caller's own ``progress`` callback raises comes back as it
   is;
6. leaves one line in the log ``hvdrivers.operations``, without secrets.

The guard knows nothing of any hypervisor and sends nothing by itself: it costs no round trip.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, ParamSpec, TypeVar, cast
from uuid import UUID

from hvdrivers.checking import lacking_arguments
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver, Driver
from hvdrivers.contract.fields import Fields, untaken
from hvdrivers.contract.instead import INSTEAD
from hvdrivers.contract.limits import Limit
from hvdrivers.contract.operation import Operation
from hvdrivers.contract.requirements import required
from hvdrivers.driverkit.serial import SerialLines
from hvdrivers.guarded_call import GuardedCall
from hvdrivers.locks import KeyLocks
from hvdrivers.models.host import HostCheck
from hvdrivers.raised import in_words, is_whole
from hvdrivers.redact import blot
from hvdrivers.workers import Workers

_P = ParamSpec("_P")
_T = TypeVar("_T")
_D = TypeVar("_D")

TOLERANCE = 5.0
"""Seconds that an operation may overrun its deadline, to undo what it began."""

_LONGEST = 366 * 86400.0
"""Longer timeouts mean this: Python's own waits refuse very large numbers."""

_TIMEOUT = "give timeout= in seconds, or leave it out for the operation's own"
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
        self._locks = KeyLocks()
        self._workers = Workers(f"hvdrivers-{self._driver_name}")
        self._finalizer = weakref.finalize(
            self, _dropped, self._workers, f"{self._driver_name} {self._host_label}"
        )
        self._finalizer.atexit = False
        self._closing = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._declared = declared(type(driver))
        self._narrowed = {
            capability: reason
            for capability, reason in driver.narrowed().items()
            if capability in self._declared
        }
        self._takes: Fields = MappingProxyType(dict(driver.takes))
        self._under_way: dict[UUID, set[GuardedCall]] = {}
        self._lacking = MappingProxyType(dict(driver.lacking))
        self._limits = MappingProxyType(dict(driver.limits))

    @property
    def driver_name(self) -> str:
        return self._driver_name

    @property
    def host_label(self) -> str:
        return self._host_label

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._declared - self._narrowed.keys()

    @property
    def takes(self) -> Fields:
        return self._takes

    @property
    def limits(self) -> Mapping[Limit, str]:
        return self._limits

    def narrowed(self) -> dict[Capability, str]:
        return dict(self._narrowed)

    def host_checks(self, *, timeout: float | None = None) -> Sequence[HostCheck]:
        self._check_process()
        name = f"{self.driver_name}: host_checks()"
        try:
            found = tuple(self._driver.host_checks(timeout=timeout))
        except Exception as error:
            if isinstance(error, errors.HypervisorError) and is_whole(error):
                raise
            raise errors.ContractViolation(f"{name} raised {in_words(error)}") from error
        if not all(isinstance(each, HostCheck) for each in found):
            raise errors.ContractViolation(f"{name} returned something else than host checks")
        return found

    def why_not(self, capability: Capability) -> str | None:
        if capability not in self._declared:
            reason = self._lacking.get(
                capability, f"the {self.driver_name} driver does not offer it"
            )
            return f"no {capability}: {reason}; instead: {INSTEAD[capability]}"
        return self._narrowed.get(capability)

    def __repr__(self) -> str:
        return f"<hvdrivers {self.driver_name} {self.host_label}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a connected driver cannot be pickled or copied: its threads and sockets belong to this"
            " process; connect() in each process"
        )

    def _call(self, rules: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = GuardedCall(self, rules, args, kwargs)
        result: Any = None
        error: BaseException | None = None
        try:
            if rules.name == "close":
                self._close(call)
            else:
                call.begin()
                result = call.wait()
        except BaseException as raised:  # noqa: BLE001 - settle() raises it, or what it means
            error = raised
        try:
            return call.settle(result, error)
        finally:
            del error  # it holds this frame

    async def _call_async(
        self, rules: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = GuardedCall(self, rules, args, kwargs)
        result: Any = None
        error: BaseException | None = None
        try:
            call.begin(waits_here=False)
            result = await call.wait_async()
        except BaseException as raised:  # noqa: BLE001 - settle() raises it, or what it means
            error = raised
        try:
            return call.settle(result, error)
        finally:
            del error

    def _prepare(self, call: GuardedCall) -> None:
        """Check a call, and set its deadline."""
        self._check_process()
        self._check_operation(call.rules)
        refusal = call.contract.refusal(call.arguments)
        if refusal is not None:
            raise errors.InvalidRequest(
                refusal, hint="change what is named: the documentation says what may stand there"
            )
        self._check_capabilities(required(call.arguments))
        self._check_fields(call.arguments)
        call.place_vifs()
        call.deadline = call.began + self._seconds(call.rules, call.arguments)
        if self._closed and call.rules.name != "close":
            raise errors.ConnectionFailed(
                "the driver has been closed", hint="connect() again", retryable=False
            )

    def _seconds(self, rules: Operation, arguments: Mapping[str, Any]) -> float:
        timeout = arguments["timeout"]
        if timeout is None:
            # what the guest was given to shut down comes on top of what the operation takes
            graceful: float = arguments.get("graceful", 0)
            return min(rules.timeout * self._timeout_scale + graceful, _LONGEST)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise errors.InvalidRequest("timeout must be a number of seconds", hint=_TIMEOUT)
        if not 0 < timeout < float("inf"):
            raise errors.InvalidRequest(
                "timeout must be more than 0 seconds, and finite", hint=_TIMEOUT
            )
        return float(min(timeout, _LONGEST))

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise errors.ConnectionFailed(
                "this driver was connected in the process that this one was forked from: its"
                " threads and sockets are that one's",
                hint="connect() in each process, and start processes with multiprocessing's"
                " 'spawn' or 'forkserver'",
                retryable=False,
            )

    def _check_operation(self, rules: Operation) -> None:
        if rules.capability is not None:
            self._check_capabilities({rules.capability})
        if not (rules.derived or hasattr(type(self._driver), rules.name)):
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

    def _known(self, rules: Operation, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the optional arguments that the driver's method does not have: what they would
        ask for has been refused, as the driver lacks its capability."""
        if not rules.optional:
            return arguments
        method = getattr(type(self._driver), rules.name)
        lacking = lacking_arguments(method, rules.optional)
        return {name: value for name, value in arguments.items() if name not in lacking}

    def _check_fields(self, arguments: Mapping[str, Any]) -> None:
        for value in arguments.values():
            for name in untaken(value, self._takes):
                raise errors.NotSupported(
                    f"the {self.driver_name} driver does not honour {name}",
                    hint="leave it out; driver.takes names what this driver honours",
                )

    def _run(self, rules: Operation, arguments: Mapping[str, Any]) -> Any:
        if hasattr(type(self._driver), rules.name):
            return getattr(self._driver, rules.name)(**self._known(rules, arguments))
        from hvdrivers.openstack.placement import providers

        return providers(self._driver.get_available_resource(**arguments), self.capabilities)

    def _close(self, call: GuardedCall) -> None:
        self._prepare(call)
        with self._closing:
            first, self._closed = not self._closed, True
        if first:
            self._finalizer.detach()
            try:
                call.start()
                call.wait()
            finally:
                self._workers.close()

    def _tolerance(self) -> float:
        return TOLERANCE

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


def asynchronous(operation: Callable[_P, _T]) -> Callable[_P, Awaitable[_T]] | None:
    """The operation of a guarded driver as a coroutine function, which needs no thread beside the
    one in which the driver works; None for an operation of any other object."""
    owner = getattr(operation, "__self__", None)
    if not isinstance(owner, _Guard):
        return None
    rules = OPERATIONS[operation.__name__]

    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return cast(_T, await owner._call_async(rules, args, kwargs))

    return call


def _dropped(workers: Workers, label: str) -> None:
    """What is left to do for a driver that nobody has any more and nobody has closed."""
    workers.close(0)
    warnings.warn(f"unclosed driver {label}", ResourceWarning, stacklevel=2)


def serial_lines(driver: ComputeDriver) -> SerialLines | None:
    """What opens serial consoles of a driver's guests in this process; None: the driver offers it
    not, as it is no part of the contract."""
    found = driver._driver if isinstance(driver, _Guard) else driver
    return found if isinstance(found, SerialLines) else None


def unguarded(driver: object, kind: type[_D]) -> _D:
    """The driver behind the guard, for what needs to look into it: a conformance target cuts its
    connection. Operations are called in front of the guard.

    Raises:
        TypeError: it is no ``kind``.
    """
    found = driver._driver if isinstance(driver, _Guard) else driver
    if not isinstance(found, kind):
        raise TypeError(f"{driver!r} is no {kind.__name__}")
    return found


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
