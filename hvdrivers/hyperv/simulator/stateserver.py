"""The server that the generated modules call: one connection a runspace, one line a call.

A call goes on when its connection is cut: Hyper-V's management service, too, finishes what a killed
PowerShell asked for.
"""

import contextlib
import json
import logging
import socket
import threading
from pathlib import Path
from typing import BinaryIO

from hvdrivers.hyperv.simulator import wire
from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.jobs import under_way
from hvdrivers.hyperv.simulator.cmdlets.registry import handlers
from hvdrivers.hyperv.simulator.errors import E_ACCESS_DENIED, E_FAIL, CmdletError
from hvdrivers.hyperv.simulator.faults import Rule
from hvdrivers.hyperv.simulator.state.host import HostState

_log = logging.getLogger(__name__)


class StateServer:
    """Serves one host on a UNIX socket that only this user can open."""

    def __init__(self, host: HostState, path: Path) -> None:
        self.host = host
        self.path = path
        self._listener: socket.socket | None = None
        self._links: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Listen, and serve each connection in a thread."""
        listener = self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        self.path.chmod(0o600)
        listener.listen(64)
        self._spawn(self._accept)

    def close(self) -> None:
        """Stop listening, end every connection, and wait for the calls that are under way."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            links, threads = list(self._links), list(self._threads)
        for link in links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        self.path.unlink(missing_ok=True)

    def _spawn(self, work: object, *arguments: object) -> None:
        def run() -> None:
            try:
                work(*arguments)  # type: ignore[operator]
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name="hyperv-state-server", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _accept(self) -> None:
        while (listener := self._listener) is not None:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._links.add(link)
            self._spawn(self._serve, link)

    def _serve(self, link: socket.socket) -> None:
        with link, link.makefile("rb") as stream:
            try:
                while line := stream.readline():
                    answer = self._answer(wire.read_request(line), link, stream)
                    if answer is None:
                        return
                    link.sendall(answer)
            except (OSError, ValueError):
                return
            finally:
                with self._lock:
                    self._links.discard(link)

    def _answer(self, request: wire.Request, link: socket.socket, stream: BinaryIO) -> bytes | None:
        """The lines of the answer; None where a fault rule cuts the link."""

        def ask(query: str, caption: str) -> bool:
            question = json.dumps({"query": query, "caption": caption})
            link.sendall(b"C" + question.encode() + b"\n")
            reply = stream.readline()
            if not reply:
                raise ConnectionAbortedError("the client that was asked is gone")
            return reply == b"Y\n"

        call = Call(self.host, request, ask)
        cut = run(call)
        if cut:
            return None
        return _lines(call)


def run(call: Call) -> bool:
    """Serve a call under the host's lock; whether a fault rule cuts the link afterwards."""
    host = call.host
    cut = False
    with host.world.lock, under_way(call):
        rules = host.faults.meet(call.cmdlet)
        for rule in rules:
            _pause(host, rule, rule.before)
        early = next((rule.error for rule in rules if rule.error and not rule.late), None)
        if early is not None:
            call.error(early)
            return False
        _work(call)
        for rule in rules:
            _pause(host, rule, rule.after)
            if rule.error is not None and rule.late:
                call.error(rule.error)
            cut = cut or rule.cut
        host.world.notify()
    return cut


def _pause(host: HostState, rule: Rule, seconds: float) -> None:
    if seconds > 0:
        host.wait_for(lambda: rule.over, seconds)


def _work(call: Call) -> None:
    handler = handlers().get(call.cmdlet)
    if handler is None:
        call.error(
            CmdletError(
                "NotSupported",
                "NotImplemented",
                "not-simulated",
                name=call.cmdlet,
                terminating=True,
            )
        )
        return
    try:
        if call.flag("AsJob"):
            raise CmdletError("NotSupported", "NotImplemented", "not-simulated", name="-AsJob")
        _redirect(call)
        handler(call)
    except CmdletError as error:
        call.error(error)
    except ConnectionAbortedError:
        raise
    except Exception as error:  # noqa: BLE001 - a fault of the simulator is an answer too
        _log.exception("%s failed in the simulator", call.cmdlet)
        call.error(
            CmdletError(
                "SimulatorFault",
                "NotSpecified",
                "failed",
                hresult=E_FAIL,
                why=repr(error),
                terminating=True,
            )
        )


def _redirect(call: Call) -> None:
    """Let ``-ComputerName`` reach another host, where credentials may be delegated."""
    for name in call.texts("ComputerName"):
        if name.lower() in ("localhost", ".", "127.0.0.1", call.host.name.lower()):
            continue
        other = call.host.peers.get(name.lower())
        if other is None or not call.host.delegation:
            raise CmdletError(
                "AccessDenied",
                "PermissionDenied",
                "access-denied",
                hresult=E_ACCESS_DENIED,
                target=name,
                why=f"The computer '{name}' could not be reached with these credentials.",
            )
        call.host = other


def _lines(call: Call) -> bytes:
    parts: list[bytes] = []
    parts.extend(b"W" + json.dumps(text).encode() + b"\n" for text in call.warnings)
    values: list[wire.Value] = []
    for answer in call.answers:
        if isinstance(answer, CmdletError):
            parts.extend(wire.lines(values))
            values = []
            parts.append(_error(answer, call.host.language))
        else:
            values.append(answer)
    parts.extend(wire.lines(values))
    parts.append(b".\n")
    return b"".join(parts)


def _error(error: CmdletError, language: str) -> bytes:
    told = {
        "id": error.code,
        "category": error.category,
        "message": error.message(language),
        "hresult": error.hresult - (1 << 32) if error.hresult >= 1 << 31 else error.hresult,
        "target": error.target,
        "kind": error.kind,
    }
    return (b"X" if error.terminating else b"E") + json.dumps(told).encode() + b"\n"
