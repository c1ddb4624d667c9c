"""Inside the guest, by PowerShell Direct: programs and passwords.

The host's PowerShell enters the guest over the bus of the machine (``Invoke-Command -VMId``), with
an account of the guest. Windows guests take it from Windows 10 and Windows Server 2016 on.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.contract.guest import GuestExec, GuestPassword
from hvdrivers.hints import PROGRAM
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.library import Json, Secret
from hvdrivers.models.guest import ExecResult, GuestCredentials

_MOST_LINE: Final = 32_766
"""Characters of a command line that Windows starts (``CreateProcess``)."""
_MOST_INPUT: Final = 4 << 20
"""Bytes. A session takes an object of 10 MB at most, and this goes in base64."""
_MOST_OUTPUT: Final = 4 << 20


class HypervGuest(Topic, GuestExec, GuestPassword):
    """Budget of each operation: 1 call."""

    def guest_exec(
        self,
        uuid: UUID,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Budget: 1 call. Of each output 4 MiB are kept; ``truncated`` says that there was more."""
        if len(stdin) > _MOST_INPUT:
            raise errors.InvalidRequest(
                f"{len(stdin)} bytes of input are more than {_MOST_INPUT}",
                hint="give the program a file, or a URL to read from",
            )
        arguments = {
            "program": _program(command),
            "line": _line(command),
            "stdin": base64.b64encode(stdin).decode(),
            "most": _MOST_OUTPUT,
            "accounts": _accounts(credentials),
        }
        done = self.session.change("guest_exec", "GuestExec", uuid, arguments, timeout)
        return ExecResult(
            exit_code=done["exit"],
            stdout=base64.b64decode(done["stdout"]),
            stderr=base64.b64decode(done["stderr"]),
            truncated=done["cut"],
        )

    def set_guest_password(
        self,
        uuid: UUID,
        user: str,
        password: SecretStr,
        *,
        credentials: GuestCredentials | None = None,
        timeout: float | None = None,
    ) -> None:
        """Budget: 1 call. A local user of the guest: ``Set-LocalUser``."""
        accounts = _accounts(credentials)
        secret = Secret(password.get_secret_value())
        _check("the name of the user", user)
        _check("the password", secret)
        if credentials is not None and _bare(credentials.user) == _bare(user):
            # it may be set already, and the reply was lost
            accounts.append({"user": credentials.user, "password": secret})
        arguments = {"user": user, "password": secret, "accounts": accounts}
        self.session.change("set_guest_password", "GuestPassword", uuid, arguments, timeout)


def _bare(user: str) -> str:
    return user.rpartition("\\")[2].casefold()


def _check(what: str, text: str) -> None:
    """Refuse a text that no session carries. The error does not show it."""
    if not text or "\0" in text:
        raise errors.InvalidRequest(
            f"{what} is empty, or has a NUL in it", hint="give it as the guest's Windows knows it"
        )


def _accounts(credentials: GuestCredentials | None) -> list[Json]:
    """Without one the script refuses: what the instance's state forbids comes first."""
    if credentials is None:
        return []
    password = Secret(credentials.password.get_secret_value())
    _check("the name of the account", credentials.user)
    _check("the password of the account", password)
    return [{"user": credentials.user, "password": password}]


def _program(command: Sequence[str]) -> str:
    if not command:
        raise errors.InvalidRequest("no program is named", hint=PROGRAM)
    for each in command:
        if "\0" in each:
            raise errors.InvalidRequest(
                "an argument has a NUL in it",
                hint="put such bytes into a file of the guest, and name that",
            )
    program = command[0]
    if not program or '"' in program:
        raise errors.InvalidRequest(
            "Windows has no program of that name", hint=r"as in C:\Windows\System32\whoami.exe"
        )
    if program.rstrip(". ").lower().endswith((".bat", ".cmd")):
        raise errors.InvalidRequest(
            "a shell of Windows reads the arguments of a batch file",
            hint="start it by that shell, and quote for it: cmd.exe, /c, and the line",
        )
    return program


def _line(command: Sequence[str]) -> str:
    """The arguments, as ``CommandLineToArgvW`` takes them apart again."""
    line = subprocess.list2cmdline(command[1:])
    if len(command[0]) + 3 + len(line) > _MOST_LINE:
        raise errors.InvalidRequest(
            f"Windows starts no command line of more than {_MOST_LINE} characters",
            hint="put the long part into the program's input",
        )
    return line
