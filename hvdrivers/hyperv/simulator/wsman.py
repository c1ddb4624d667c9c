"""The WS-Management shell service of a simulated host, over HTTP and HTTPS.

::

    with WsmanServer(host, users={"Administrator": "secret"}) as server:
        winrm.Protocol(server.endpoint, "ntlm", "Administrator", "secret")

It does what WinRM clients rely on: shells and commands that outlive a connection, Receive that
waits for output until the OperationTimeout, quotas, the 8191 characters of cmd.exe, the faults of
shells that are gone. ``server.faults`` breaks messages on request and counts them.
"""

from __future__ import annotations

import base64
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hvdrivers.hyperv.simulator import wsman_answers as answers
from hvdrivers.hyperv.simulator import wsman_soap as soap
from hvdrivers.hyperv.simulator.warm import WarmEngines
from hvdrivers.hyperv.simulator.wsman_auth import Accounts, Authentication, Unauthorised
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, FaultRules, Strike
from hvdrivers.hyperv.simulator.wsman_http import Cut, Listener, Raw
from hvdrivers.hyperv.simulator.wsman_shell import (
    AnyCommand,
    BareHost,
    Host,
    Shell,
    find_engine,
    start_process,
)

_log = logging.getLogger("hvdrivers.hyperv.simulator")


@dataclass(frozen=True)
class Quotas:
    """Limits of the service (``winrm get winrm/config``), with the defaults of Windows 2012+."""

    max_shells_per_user: int = 30
    max_processes_per_shell: int = 25
    max_operations_per_user: int = 1500
    max_envelope_kb: int = 500
    idle_timeout: float = 7200.0
    """Seconds without a message after which a shell is deleted."""


@dataclass(frozen=True)
class Tls:
    """Files in PEM. ``client_authority``: who signs the certificates of clients."""

    certificate: Path
    key: Path
    client_authority: Path | None = None


class WsmanServer:
    """One listener. ``close()`` ends every shell.

    Args:
        host: what the processes run on; None: an engine without Hyper-V.
        users: passwords by user name.
        basic: allow Basic; over HTTP that is ``AllowUnencrypted``.
        ntlm: allow NTLM; over HTTP its messages must be sealed.
        tls: None: HTTP.
        warm: keep the engines of the driver's shells for later ones (see ``warm``).

    Raises:
        NoEngine: there is no PowerShell on this machine.
    """

    def __init__(
        self,
        host: Host | None = None,
        *,
        users: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        basic: bool = True,
        ntlm: bool = True,
        tls: Tls | None = None,
        quotas: Quotas | None = None,
        machine: str = "HVSIM",
        warm: bool = False,
    ) -> None:
        find_engine()  # a server without one is refused here, and not at the first command
        self.host = host or BareHost()
        self.quotas = quotas or Quotas()
        self.machine = machine
        self.faults = FaultRules()
        self._accounts = Accounts(dict(users or {"Administrator": "hvsim"}), machine)
        self._offer = {"basic": basic, "ntlm": ntlm}
        self._tls = tls
        self._engines = WarmEngines() if warm else None
        self._lock = threading.Lock()
        self._shells: dict[str, Shell] = {}
        self._operations: dict[str, int] = {}
        self._connections: set[socket.socket] = set()
        self._closing = False
        self._http = Listener((address, port), self)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            if tls.client_authority is not None:
                context.verify_mode = ssl.CERT_OPTIONAL
                context.load_verify_locations(tls.client_authority)
            self._http.tls = context
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.1,), name="hvsim-wsman", daemon=True
        )
        self._thread.start()
        self.host.on_down(self.restart)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        """The URL that clients connect to."""
        address, port = self._http.server_address[:2]
        return f"{'https' if self._tls else 'http'}://{address!s}:{port}/wsman"

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._http.server_address[1])

    def shells(self) -> list[Shell]:
        """The shells that live."""
        with self._lock:
            return list(self._shells.values())

    def kill_shells(self) -> None:
        """Every shell and process dies, as when the service is restarted."""
        with self._lock:
            shells, self._shells = list(self._shells.values()), {}
        for shell in shells:
            shell.kill()

    def cut_connections(self) -> None:
        """Shut every connection. Shells live on."""
        with self._lock:
            connections = list(self._connections)
        for each in connections:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def restart(self) -> None:
        """What ``Restart-Service WinRM`` does: no shell and no connection survives."""
        self.kill_shells()
        self.cut_connections()

    def close(self) -> None:
        """End everything. Twice is allowed."""
        if self._closing:
            return
        self._closing = True
        self.faults.release()
        self._http.shutdown()
        self.restart()
        self._http.server_close()
        self._thread.join(10)
        if self._engines is not None:
            self._engines.close()
        self._accounts.close()

    # ---- one message ----------------------------------------------------------------------------

    def authentication(self, connection: socket.socket) -> Authentication:
        """The state of a new connection."""
        certificate = None
        if isinstance(connection, ssl.SSLSocket):
            found: Any = connection.getpeercert()
            if found:
                subject = dict(part[0] for part in found.get("subject", ()))
                certificate = str(subject.get("commonName", "certificate"))
        return Authentication(
            self._accounts, **self._offer, plain=self._tls is not None, certificate=certificate
        )

    def answer(self, data: bytes, user: str) -> tuple[int, bytes]:
        """Status and body for a message."""
        self.faults.count("http")
        relates_to = ""
        try:
            if len(data) > self.quotas.max_envelope_kb * 1024:
                raise soap.too_large(len(data), self.quotas.max_envelope_kb * 1024)
            message = soap.read(data)
            relates_to = message.id
            self.faults.count(message.action)
            rule = self.faults.on(message, _carried(message))
            if rule is not None:
                self._strike_before(rule, message)
            body = self._dispatch(message, user)
            if rule is not None:
                self._strike_after(rule, message)
        except soap.Fault as fault:
            return 500, soap.fault_reply(fault, relates_to, self.machine)
        return 200, body

    def _strike_before(self, rule: FaultRule, message: soap.Message) -> None:
        match rule.strike:
            case Strike.CUT_BEFORE:
                raise Cut
            case Strike.STALL:
                self.faults.hold(rule)
            case Strike.UNAUTHORISED:
                raise Unauthorised("Negotiate", 'Basic realm="WSMAN"')
            case Strike.SHELL_LOST:
                self._delete(message.shell or "")
                raise soap.no_such_shell(message.shell or "")
            case Strike.QUOTA:
                raise soap.too_many_operations(self.quotas.max_operations_per_user)
            case Strike.SERVER_ERROR:
                raise Raw(500)
            case Strike.GARBAGE:
                raise Raw(200, b"<html>a proxy's page</html")
            case _:
                pass

    def _strike_after(self, rule: FaultRule, message: soap.Message) -> None:
        match rule.strike:
            case Strike.CUT_AFTER:
                raise Cut
            case Strike.HANG:
                self.faults.hold(rule)
            case Strike.SHELL_LOST_AFTER:
                self._delete(message.shell or "")
                raise Cut
            case _:
                pass

    def _dispatch(self, message: soap.Message, user: str) -> bytes:
        actions: dict[str, Callable[[soap.Message, str], str]] = {
            "Create": self._create,
            "Command": self._command,
            "Send": self._send,
            "Receive": self._receive,
            "Signal": self._signal,
            "Delete": self._delete_shell,
        }
        act = actions.get(message.action)
        if act is None or message.resource != soap.CMD_SHELL:
            raise soap.unsupported(message.action)
        return soap.reply(f"{message.action}Response", message.id, act(message, user))

    def _shell(self, message: soap.Message) -> Shell:
        self._expire()
        with self._lock:
            shell = self._shells.get((message.shell or "").upper())
        if shell is None or shell.dead:
            raise soap.no_such_shell(message.shell or "")
        shell.used = time.monotonic()
        return shell

    def _expire(self) -> None:
        now = time.monotonic()
        with self._lock:
            old = [each for each in self._shells.values() if now - each.used > each.idle_timeout]
        for each in old:
            self._delete(each.id)

    def _delete(self, shell_id: str) -> None:
        with self._lock:
            shell = self._shells.pop(shell_id.upper(), None)
        if shell is not None:
            shell.kill()

    # ---- the actions ----------------------------------------------------------------------------

    def _create(self, message: soap.Message, user: str) -> str:
        self._expire()
        asked = message.text("Shell/IdleTimeOut")
        idle = soap.seconds(asked) if asked is not None else self.quotas.idle_timeout
        variables = {
            each.get("Name", ""): each.text or ""
            for each in message.elements("Shell/Environment/Variable")
        }
        start = self._engines.start if self._engines is not None else start_process
        shell = Shell(self.host, variables, owner=user, idle_timeout=idle, start=start)
        with self._lock:
            allowed = self.quotas.max_shells_per_user
            if sum(each.owner == user for each in self._shells.values()) >= allowed:
                raise soap.too_many_shells(allowed)
            self._shells[shell.id] = shell
        streams = message.text("Shell/OutputStreams") or "stdout stderr"
        return answers.created(shell, self.endpoint, streams)

    def _command(self, message: soap.Message, user: str) -> str:
        shell = self._shell(message)
        with self._lock:
            used = self._operations.get(user, 0)
            if used >= self.quotas.max_operations_per_user:
                raise soap.too_many_operations(self.quotas.max_operations_per_user)
            # A command shell never gives an operation back while it lives (MS-WSMV, note 118).
            self._operations[user] = used + 1
        with shell.lock:
            alive = len(shell.commands)
        if alive >= self.quotas.max_processes_per_shell:
            raise soap.too_many_operations(self.quotas.max_processes_per_shell)
        command = message.text("CommandLine/Command")
        if command is None:
            raise soap.bad_schema("no Command")
        arguments = [each.text or "" for each in message.elements("CommandLine/Arguments")]
        words = [word for each in arguments for word in each.split(" ") if word]
        skip = message.options.get("WINRS_SKIP_CMD_SHELL", "").upper() == "TRUE"
        started = shell.run(command.strip('"'), words, skip_cmd=skip)
        return answers.started(started.id)

    def _running(self, shell: Shell, command_id: str | None) -> AnyCommand:
        with shell.lock:
            command = shell.commands.get((command_id or "").upper())
        if command is None:
            raise soap.no_such_command()
        return command

    def _send(self, message: soap.Message, user: str) -> str:
        shell = self._shell(message)
        for stream in message.elements("Send/Stream"):
            command = self._running(shell, stream.get("CommandId"))
            data = base64.b64decode(stream.text or "")
            command.write(data, end=stream.get("End", "").lower() in {"true", "1"})
        return "<rsp:SendResponse/>"

    def _receive(self, message: soap.Message, user: str) -> str:
        shell = self._shell(message)
        wanted = message.element("Receive/DesiredStream")
        command = self._running(shell, wanted.get("CommandId") if wanted is not None else None)
        if not command.wait(message.timeout):
            raise soap.timed_out()
        limit = min(message.envelope_limit, self.quotas.max_envelope_kb * 1024)
        streams, code = command.take((limit - 4096) * 3 // 4)
        shell.used = time.monotonic()
        if shell.dead:
            raise soap.no_such_shell(shell.id)
        for carried in streams.values():
            rule = self.faults.on(message, carried) if carried else None
            if rule is not None:
                self._strike_after(rule, message)
        return answers.received(command.id, streams, code)

    def _signal(self, message: soap.Message, user: str) -> str:
        shell = self._shell(message)
        signalled = message.element("Signal")
        command_id = signalled.get("CommandId") if signalled is not None else None
        # A command that has ended takes its signal too.
        with shell.lock:
            command = shell.commands.get((command_id or "").upper())
        if command is not None:
            command.kill()
        if (message.text("Signal/Code") or "").endswith("/terminate"):
            with shell.lock:
                shell.commands.pop((command_id or "").upper(), None)
        return "<rsp:SignalResponse/>"

    def _delete_shell(self, message: soap.Message, user: str) -> str:
        self._delete(self._shell(message).id)
        return ""

    # ---- connections ----------------------------------------------------------------------------

    def opened(self, connection: socket.socket) -> None:
        """A client has connected."""
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """It has gone."""
        with self._lock:
            self._connections.discard(connection)


def _carried(message: soap.Message) -> bytes:
    return b"".join(base64.b64decode(each.text or "") for each in message.elements("Send/Stream"))
