"""WinRM: one shell and one process on a host, through pywinrm. What breaks is told apart here.

A pywinrm ``Protocol`` is no object for two threads (a sealed NTLM connection counts its messages),
and Receive waits for output on the host. So a process has two: one sends, one receives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar
from xml.etree.ElementTree import ParseError

import requests
import urllib3
import winrm
from winrm import exceptions as winrm_errors

from hvdrivers.contract import errors
from hvdrivers.driverkit.seam import NotSent, ReplyLost, SessionExpired
from hvdrivers.hyperv.config import Authentication, HypervConfig
from hvdrivers.hyperv.envelopes import Messages
from hvdrivers.messages import shortened

_T = TypeVar("_T")

NO_SUCH_SHELL: Final = 2150858843
QUOTAS: Final = frozenset({2150859173, 0x803381A6})
ACCESS_DENIED: Final = 5
_SEND_LIMIT: Final = 96 * 1024
"""Bytes of standard input in one message: base64 of it fits the smallest envelope in use."""
_IDLE_TIMEOUT: Final = "PT7200S"
_READ_MARGIN: Final = 2.0
"""Seconds that the client waits longer than the host is asked to."""


class ShellLost(SessionExpired):
    """The shell or the process is not there any more; what was sent to it now never arrived."""


class Idle(Exception):
    """No output within the time that was asked for."""


class Channel:
    """One HTTP session with the WinRM service. Thread-safe: one message at a time."""

    def __init__(self, config: HypervConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._protocol: Any = None
        self._proven = False
        """Whether the host has ever taken the credentials of this channel."""
        self._closed = False

    def call(self, send: Callable[[Any], _T], *, wait: float) -> _T:
        """Send one message with pywinrm and read its answer.

        Args:
            wait: seconds that the host may take for it. A message of another thread that is under
                way is waited for no longer than that either.

        Raises:
            NotSent: it never left; ReplyLost: it may have arrived; ShellLost: nobody is there to
                take it; SessionExpired: the host does not know the caller any more; Idle.
            AuthenticationFailed, PermissionDenied, ConnectionFailed, HypervisorFault.
        """
        if not self._lock.acquire(timeout=wait + _READ_MARGIN):
            raise NotSent("the host does not answer an earlier message")
        try:
            if self._closed:
                raise NotSent("the connection was closed")
            if self._protocol is None:
                self._protocol = self._made()
            protocol = self._protocol
            # Whole seconds on the wire; the client's own limit has to be longer.
            protocol.operation_timeout_sec = max(1, int(wait))
            protocol.transport.read_timeout_sec = max(1, int(wait)) + _READ_MARGIN
            try:
                # what the environment says of TLS has been read by then, and a proxy is not used
                protocol.transport.build_session().trust_env = False
                result = send(protocol)
            except BaseException as error:
                translated = self._translated(error)
                broken = isinstance(translated, NotSent | ReplyLost | SessionExpired)
                if broken and not isinstance(translated, ShellLost):
                    self._drop()
                if translated is error:
                    raise
                raise translated from error
            self._proven = True
            return result
        finally:
            self._lock.release()
            if self._closed:
                self.close()

    def _made(self) -> Any:
        config = self._config
        verify = "validate" if config.verify_tls else "ignore"
        if not _has_package_for(config.authentication):
            raise errors.PluginError(
                f"pywinrm cannot authenticate by {config.authentication}: a package is missing",
                hint=f"pip install 'pywinrm[{config.authentication}]'",
            )
        username = config.username
        password = config.password.get_secret_value() if config.password else None
        if config.authentication is Authentication.BASIC and username and password is not None:
            # RFC 7617's charset: requests encodes Latin-1, and fails for any other letter
            username, password = (each.encode().decode("latin-1") for each in (username, password))
        try:
            return winrm.Protocol(
                endpoint=config.endpoint,
                transport=config.authentication.value,
                username=username,
                password=password,
                ca_trust_path=str(config.ca_file) if config.ca_file else None,
                cert_pem=str(config.client_certificate) if config.client_certificate else None,
                cert_key_pem=str(config.client_key) if config.client_key else None,
                server_cert_validation=verify,
                kerberos_delegation=config.kerberos_delegation,
                message_encryption="auto",
                read_timeout_sec=30 + int(_READ_MARGIN),
                operation_timeout_sec=30,
                proxy=None,
            )
        except winrm_errors.WinRMError as error:
            raise errors.PluginError(
                f"pywinrm cannot authenticate by {config.authentication}: {error}",
                hint=f"pip install 'pywinrm[{config.authentication}]'",
            ) from error

    def _drop(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            with suppress(Exception):
                protocol.transport.close_session()

    def close(self) -> None:
        """Close the HTTP session, at once or when the message that is under way has ended. It
        waits for nothing."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _translated(self, error: BaseException) -> BaseException:  # noqa: PLR0911, PLR0912 - a table
        match error:
            case winrm_errors.WinRMOperationTimeoutError():
                return Idle()
            case winrm_errors.WSManFaultError():
                return _fault(error)
            case winrm_errors.AuthenticationError():
                if self._proven:
                    return SessionExpired("the host does not accept the session any more")
                return errors.AuthenticationFailed(
                    "the host refused the credentials",
                    vendor_code="401",
                    hint=_authentication_hint(self._config),
                )
            case winrm_errors.WinRMTransportError():
                return _http(error.code)
            case requests.exceptions.SSLError():
                return errors.ConnectionFailed(
                    "the host's TLS certificate was not accepted",
                    hint="name the authority in ca_file=, or use the name in the certificate",
                    retryable=False,
                )
            case requests.exceptions.ConnectTimeout():
                return NotSent("the host did not answer")
            case requests.exceptions.ConnectionError():
                return _broken(error)
            case requests.exceptions.RequestException():
                return ReplyLost(f"the connection broke ({type(error).__name__})")
            case StopIteration() | AssertionError() | ParseError() | KeyError() | IndexError():
                return ReplyLost("the answer was none of the WinRM service's")
            case winrm_errors.WinRMError() | OSError() | ValueError():
                return ReplyLost(f"the connection broke ({type(error).__name__})")
            case PermissionError():
                return SessionExpired("the host does not accept the session any more")
            case _:
                return error


def _has_package_for(authentication: Authentication) -> bool:
    """Whether pywinrm has what it imports for a way to log on. It would say so at the first message
    only, in the class of an error that has other causes too."""
    flags = {Authentication.KERBEROS: "HAVE_KERBEROS", Authentication.CREDSSP: "HAVE_CREDSSP"}
    flag = flags.get(authentication)
    return flag is None or bool(getattr(winrm.transport, flag, True))


def _broken(error: BaseException) -> errors.HypervisorError:
    """A connection that was never made, or one that broke."""
    reason = error.args[0] if error.args else None
    cause = getattr(reason, "reason", reason)
    if isinstance(cause, urllib3.exceptions.NewConnectionError):
        return NotSent("the host cannot be reached on the WinRM port")
    return ReplyLost("the connection broke")


_RIGHTS = (
    "the user must be in 'Remote Management Users' and 'Hyper-V Administrators', or"
    " an administrator; local accounts need LocalAccountTokenFilterPolicy"
)


def _http(code: int) -> errors.HypervisorError:
    if code == 403:
        return errors.PermissionDenied(
            "the WinRM service refuses this user", vendor_code="403", hint=_RIGHTS
        )
    if code in {404, 405}:
        return errors.ConnectionFailed(
            "there is no WinRM service behind this port", vendor_code=str(code), retryable=False
        )
    return ReplyLost(f"the WinRM service answered HTTP {code}", vendor_code=str(code))


def _fault(error: Any) -> errors.HypervisorError:
    code = error.wsman_fault_code
    text = f"{code}" if error.wmierror_code is None else f"{code}/{error.wmierror_code}"
    if code == NO_SUCH_SHELL:
        return ShellLost("the shell on the host is gone", vendor_code=text)
    if code in QUOTAS or error.wmierror_code in QUOTAS:
        return ShellLost("a quota of the WinRM service was reached", vendor_code=text)
    if code == ACCESS_DENIED:
        return errors.PermissionDenied(
            "the host does not let this user open a remote shell", vendor_code=text, hint=_RIGHTS
        )
    reason = shortened(" ".join(str(error.reason).split()))
    return errors.ConnectionFailed(f"the WinRM service refused: {reason}", vendor_code=text)


def _authentication_hint(config: HypervConfig) -> str:
    if config.authentication is Authentication.BASIC:
        return "check user name and password, and that Basic is enabled in winrm/config/service"
    return "check user name (DOMAIN\\user for a domain), password, and winrm/config/service/auth"


class RemoteProcess:
    """One shell with one process in it.

    Args:
        left: gets the ids of shells that could not be deleted when they were given up.
    """

    def __init__(self, config: HypervConfig, left: set[str]) -> None:
        self._left = left
        self.sending = Channel(config)
        self.receiving = Channel(config)
        self._shell = ""
        self._messages = Messages("", "")

    def start(self, program: str, arguments: list[str], *, wait: float) -> None:
        """Open the shell and start the process."""
        self._shell = self.sending.call(
            lambda protocol: protocol.open_shell(
                codepage=65001, noprofile=True, idle_timeout=_IDLE_TIMEOUT
            ),
            wait=wait,
        )
        command = self.sending.call(
            lambda protocol: protocol.run_command(
                self._shell, program, arguments, console_mode_stdin=False
            ),
            wait=wait,
        )
        self._messages = Messages(self._shell, command)

    def write(self, data: bytes, *, wait: float) -> None:
        """To its standard input. In pieces: a break may leave a part behind."""
        for start in range(0, len(data), _SEND_LIMIT):
            self._send(data[start : start + _SEND_LIMIT], wait)

    def _send(self, piece: bytes, wait: float) -> None:
        self.sending.call(lambda protocol: self._messages.send(protocol, piece), wait=wait)

    def read(self, *, wait: float) -> tuple[bytes, bytes, bool]:
        """What it has written since, to standard output and error, and whether it has ended.

        Raises:
            Idle: nothing, for ``wait`` seconds.
        """
        return self.receiving.call(self._messages.receive, wait=wait)

    def end(self, *, wait: float) -> bool:
        """End the process and delete the shell. Whether the host said so: then it ends a read too,
        and otherwise only the time limit of the read does."""
        if not self._shell:
            return False
        try:
            self._delete(self._shell, wait)
        except ShellLost:
            return False
        except Exception:  # noqa: BLE001 - the shell is given up, whatever the host says
            self._left.add(self._shell)
            return False
        return True

    def _delete(self, shell: str, wait: float) -> None:
        self.sending.call(
            lambda protocol: protocol.close_shell(shell, close_session=False), wait=wait
        )

    def delete_left(self, *, wait: float) -> None:
        """Delete those shells: the service keeps a shell, and what runs in it, for two hours."""
        for shell in list(self._left):
            try:
                self._delete(shell, wait)
            except ShellLost:
                pass  # gone by itself
            except Exception:  # noqa: BLE001 - there is a next time
                return
            self._left.discard(shell)

    def close(self) -> None:
        """Close the HTTP sessions. It waits for nothing."""
        self.sending.close()
        self.receiving.close()
