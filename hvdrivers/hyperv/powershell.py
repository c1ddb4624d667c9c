"""One PowerShell on a host that answers requests: framed lines over a process's streams.

::

    shell = PowerShell.open(config, limit=30)
    reply = shell.request("Ping", {}, deadline, changes=False)

A request is a line, and so is its reply (``scripts/loop.ps1`` has the form). The host runs a line
once, however often it comes, and keeps each reply until the driver has it. So a lost message
costs nothing: the driver sends its open lines again. Only a process that died takes replies along.

The service does not notice that a client is gone. So a Receive whose connection broke waits on, and
takes the output that comes next along. For as long as it can, the driver asks for what is missing.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import wait as wait_for
from contextlib import suppress
from typing import Final

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, waitable
from hvdrivers.driverkit.seam import NotSent, ReplyLost, SessionExpired
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.errors import ScriptError
from hvdrivers.hyperv.library import Json, bootstrap, library, packed
from hvdrivers.hyperv.open_requests import OpenRequest, OpenRequests
from hvdrivers.hyperv.wire import Idle, RemoteProcess, ShellLost
from hvdrivers.messages import shortened

_RECEIVE_WAIT: Final = 20.0
"""Seconds that one Receive waits on the host."""
_ASK_AGAIN: Final = 0.5
"""Seconds between two questions for replies that a broken Receive may have taken along."""
_END_WAIT: Final = 2.0
"""Seconds that the host may take to delete a shell."""
_GRACE: Final = 3.5
"""Seconds after the deadline in which the host may undo what a request has begun."""
_SENDINGS: Final = 3
_TICKS: Final = 10_000_000
"""Of the host's clock in a second."""


class _Busy(NotSent):
    """Lines of other requests are under way, and the time to wait for them is over."""


class PowerShell:
    """One process on the host. Thread-safe. :meth:`open` makes one."""

    def __init__(self, config: HypervConfig, left: set[str] | None = None) -> None:
        self._process = RemoteProcess(config, set() if left is None else left)
        self._config = config
        self._nonce = secrets.token_hex(8)
        self._requests = OpenRequests(self._nonce)
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._torn = False
        """A line may have been sent in part: the next one begins with a line break."""
        self._clock = 0
        self._stderr = b""
        self._reader: threading.Thread | None = None
        self._asking = False
        self._repeat = False
        """Whether the open lines are to be sent again."""
        self._wake = threading.Event()
        """Wakes the thread that asks."""
        self._doubtful = Deadline(0)
        """When no broken Receive waits on the host any more."""
        self._over = threading.Event()
        """Nothing comes from the process any more."""
        self.closing = False
        self.facts: object = None
        """What the session that uses it has read of the host."""

    @classmethod
    def open(cls, config: HypervConfig, limit: float, left: set[str] | None = None) -> PowerShell:
        """Start one, and delete the shells of earlier ones that the host did not answer for.

        Args:
            left: their ids, for all that one caller opens one after the other.

        Raises:
            ConnectionFailed, AuthenticationFailed, PermissionDenied.
        """
        deadline = Deadline(limit)
        for attempt in range(1, _SENDINGS + 1):
            shell = cls(config, left)
            try:
                shell._start(deadline)
                shell._process.delete_left(wait=_END_WAIT)
            except (NotSent, ReplyLost, SessionExpired) as error:
                shell.close()
                # a service that restarts cuts the first messages too
                if attempt == _SENDINGS or isinstance(error, NotSent) or deadline.passed:
                    raise errors.ConnectionFailed(
                        f"no PowerShell on the host: {error.message}",
                        vendor_code=error.vendor_code,
                        hint=f"it said: {said}" if (said := shell._last_words()) else None,
                    ) from error
            except BaseException:
                shell.close()
                raise
            else:
                return shell
        raise AssertionError("not reached")

    def _start(self, deadline: Deadline) -> None:
        process = self._process
        arguments = ["-NoProfile", "-NonInteractive", "-NoLogo", "-EncodedCommand", bootstrap()]
        process.start("powershell", arguments, wait=max(1.0, deadline.left))
        hello = f"\n{self._nonce} {self._config.workers}\n".encode()
        process.write(packed(library()) + hello, wait=max(1.0, deadline.left))
        self._reader = threading.Thread(
            target=self._read_on, name="hvdrivers-hyperv-receive", daemon=True
        )
        self._reader.start()
        if not wait_for([self._requests.hello], waitable(deadline.left)).done:
            raise errors.ConnectionFailed(
                "PowerShell on the host did not start in time", hint="give a longer connect_timeout"
            )
        ticks = self._requests.hello.result()
        self._clock = ticks - int(time.monotonic() * _TICKS)

    # ---- requests -------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the process can still take requests, as far as the driver knows."""
        return self._requests.ended is None and not self.closing

    @property
    def requests(self) -> int:
        """How many there have been."""
        return self._requests.made

    def request(
        self,
        operation: str,
        arguments: Mapping[str, Json],
        deadline: Deadline,
        *,
        data: bytes | None = None,
    ) -> Json:
        """Run one function of the library and return what it returns.

        Raises:
            ScriptError: the function failed.
            NotSent: the request never arrived; ReplyLost: it may have, and the process is gone;
                ShellLost: the process is gone, and it never arrived.
            OperationTimeout: the deadline passed, and the host undid what it had begun.
            OutcomeUnknown: the deadline passed, and the host did not say so in time.
        """
        number, request = self._register(operation, arguments, deadline, data)
        try:
            self._send(number, request, deadline)
            if not wait_for([request.reply], waitable(deadline.left)).done:
                self._stop(number, request)
            reply = request.reply.result()
        finally:
            self._requests.forget(number)
        if reply.get("ok"):
            return reply.get("value")
        raise ScriptError(reply.get("error") or {})

    def _register(
        self,
        operation: str,
        arguments: Mapping[str, Json],
        deadline: Deadline,
        data: bytes | None,
    ) -> tuple[int, OpenRequest]:
        left = min(deadline.left, 1e7)
        ticks = self._clock + int((time.monotonic() + left) * _TICKS)
        return self._requests.register(operation, arguments, ticks, data)

    def _send(self, number: int, request: OpenRequest, deadline: Deadline) -> None:
        """Send a line, again if it is not known whether it arrived.

        Raises:
            NotSent, ReplyLost, ShellLost.
        """
        doubtful: ReplyLost | None = None
        for attempt in range(_SENDINGS):
            try:
                self._write(
                    lambda: self._requests.leaving(request),
                    wait=min(max(1.0, deadline.left), _RECEIVE_WAIT),
                    within=deadline.left,
                )
            except _Busy:
                if self._requests.withdrawn(number, request):
                    raise
                break  # the host may have it, and the deadline has passed
            except ReplyLost as error:
                doubtful = error
            except ShellLost as error:
                self._lost(error)
                if doubtful is not None:
                    raise doubtful from error
                raise
            except (NotSent, SessionExpired) as error:
                if attempt + 1 == _SENDINGS or deadline.passed:
                    self._lost(error)
                    raise doubtful or error from error
            else:
                return
            if deadline.passed:
                break
        if doubtful is not None and not deadline.passed:
            self._lost(doubtful)
            raise doubtful

    def _write(self, lines: Callable[[], bytes], *, wait: float, within: float) -> None:
        """Write to the process, one thread after the other.

        Args:
            lines: makes what is written, when it is this thread's turn.
            wait: seconds that the host may take for it.
            within: seconds in which its turn must come.

        Raises:
            _Busy: its turn did not come. As :meth:`RemoteProcess.write` otherwise.
        """
        if not self._writing.acquire(timeout=waitable(within)):
            raise _Busy("the host does not take an earlier request")
        try:
            data = lines()
            if data:
                torn, self._torn = self._torn, True
                self._process.write(b"\n" + data if torn else data, wait=wait)
                self._torn = False
        finally:
            self._writing.release()

    def _stop(self, number: int, request: OpenRequest) -> None:
        """The deadline has passed: have the host undo what it has begun, and wait for its word.

        A host that is in the middle of a call says so, and goes on when nobody waits any more: the
        process stays, and the next request about the same instance waits for the end of this one.
        """
        grace = Deadline(_GRACE)
        line = self._requests.stop_line(number)
        with suppress(NotSent, ReplyLost, SessionExpired, errors.ConnectionFailed):
            self._write(lambda: line, wait=_GRACE, within=_GRACE)
        if not wait_for([request.reply], waitable(grace.left)).done:
            if request.held:
                raise ReplyLost("the deadline passed, and the host is still at work")
            unknown = ReplyLost("the deadline passed, and the host does not answer")
            self._lost(unknown)
            raise unknown

    # ---- replies --------------------------------------------------------------------------------

    def _read_on(self) -> None:
        try:
            self._read_until_the_end()
        finally:
            self._process.receiving.close()

    def _read_until_the_end(self) -> None:
        failures = 0
        while not self.closing:
            try:
                out, err, done = self._process.read(wait=_RECEIVE_WAIT)
            except Idle:
                failures = 0
                continue
            except (NotSent, ReplyLost, SessionExpired) as error:
                failures += 1
                if isinstance(error, ShellLost) or failures > _SENDINGS:
                    self._lost(error)
                    return
                if not self.closing:
                    threading.Event().wait(0.05 * failures)
                    self._ask_again()
                continue
            except BaseException as error:  # noqa: BLE001 - it must not vanish with its thread
                self._lost(
                    error
                    if isinstance(error, errors.HypervisorError)
                    else errors.HypervisorFault(f"reading from the host failed: {error!r}")
                )
                return
            failures = 0
            self._stderr = (self._stderr + err)[-4096:]
            self._requests.take(out)
            if done:
                self._lost(ShellLost("PowerShell on the host has ended", hint=self._last_words()))
                return

    def _last_words(self) -> str | None:
        text = self._stderr.decode("utf-8", errors="replace").strip()
        return shortened(text) or None

    def _ask_again(self) -> None:
        """Send the open lines again, as a message with some may have been lost, and ask for the
        replies that are missing, while a broken Receive may still wait. Both in a thread of their
        own: the one that reads must not wait for a host that takes nothing."""
        with self._lock:
            self._doubtful = Deadline(_RECEIVE_WAIT)
            self._repeat = True
            self._wake.set()
            if self._asking:
                return
            self._asking = True
        threading.Thread(target=self._ask_on, name="hvdrivers-hyperv-ask", daemon=True).start()

    def _ask_on(self) -> None:
        while True:
            with self._lock:
                self._wake.clear()
                repeat, self._repeat = self._repeat, False
                self._asking = not self._over.is_set() and (repeat or not self._doubtful.passed)
                if not self._asking:
                    return
            try:
                self._write(
                    self._requests.open_lines if repeat else self._requests.questions,
                    wait=_END_WAIT,
                    within=_END_WAIT,
                )
            except _Busy:
                self._repeat = self._repeat or repeat
            except (NotSent, ReplyLost, SessionExpired, errors.ConnectionFailed):
                pass
            self._wake.wait(_ASK_AGAIN)

    # ---- the end --------------------------------------------------------------------------------

    def _lost(self, error: errors.HypervisorError) -> None:
        """Nothing comes from this process any more."""
        with self._lock:
            self._over.set()
            self._wake.set()
        self._requests.fail(error)

    def interrupt(self) -> None:
        """Make the requests that wait return."""
        self._lost(self._requests.ended or ReplyLost("the connection was given up"))

    def close(self) -> None:
        """End the process. May be called twice. If the host does not answer, the thread that reads
        ends later, at the time limit of its Receive: nothing waits for it."""
        self.closing = True
        told = self._process.end(wait=_END_WAIT)
        self._lost(ReplyLost("the driver has been closed"))
        if told and self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(_END_WAIT)
        self._process.close()
