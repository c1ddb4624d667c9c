"""``guest``: what the guest's agent does."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.command import Group, InstanceArgument
from hvdrivers.cli.console import write_guest_bytes
from hvdrivers.cli.output import Output, details
from hvdrivers.cli.parse import checked, read_file, secret_of
from hvdrivers.cli.report import BadUsageError, say
from hvdrivers.cli.session import Session

if TYPE_CHECKING:
    from hvdrivers.models.guest import GuestCredentials

_group = Group("What an agent in the guest does: run a program, freeze, set a password.")
group = _group.app

AsOption = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="USER", help="An account of the guest, where the hypervisor asks for one."
    ),
]
AsPasswordOption = Annotated[
    str | None,
    typer.Option(
        "--as-password-env", metavar="VARIABLE", help="Environment variable with its password."
    ),
]


def _credentials(user: str | None, password_env: str | None) -> GuestCredentials | None:
    from hvdrivers.models.guest import GuestCredentials

    if user is None and password_env is None:
        return None
    password = secret_of("--as-password-env", password_env)
    if user is None or password is None:
        raise BadUsageError("--as and --as-password-env go together")
    return checked("--as", GuestCredentials, {"user": user, "password": password})


@_group.command("exec")
def exec_(
    session: Session,
    instance: InstanceArgument,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="-- COMMAND...",
            help="The program's path and its arguments; no shell reads them.",
            show_default=False,
        ),
    ],
    stdin: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the program reads.")
    ] = None,
    user: AsOption = None,
    password_env: AsPasswordOption = None,
) -> None:
    """Run a program in the guest and wait for its end.

    What it writes is written here. Exit status 1 if its own is not 0.
    """
    with session.host() as driver:
        uuid = session.find(driver, instance)
        found = driver.guest_exec(
            uuid,
            command,
            stdin=b"" if stdin is None else read_file("--stdin", stdin),
            credentials=_credentials(user, password_env),
            timeout=session.timeout,
        )
    if session.output is Output.TABLE:
        write_guest_bytes(found.stdout, sys.stdout)
        write_guest_bytes(found.stderr, sys.stderr)
        if found.truncated:
            say("the agent has cut the output")
    else:
        session.emit(
            {
                "exit_code": found.exit_code,
                "stdout": base64.b64encode(found.stdout).decode("ascii"),
                "stderr": base64.b64encode(found.stderr).decode("ascii"),
                "truncated": found.truncated,
            },
            lambda: "",
        )
    if found.exit_code:
        say(f"the program's exit status is {found.exit_code}")
        raise typer.Exit(ExitCode.FAILED)


@_group.command("freeze")
def freeze(session: Session, instance: InstanceArgument) -> None:
    """Flush and freeze the file systems of the guest, for a snapshot that is made elsewhere."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.freeze(uuid, timeout=session.timeout)
    result = {"uuid": str(uuid), "outcome": "frozen"}
    session.emit(result, lambda: details(result))


@_group.command("thaw")
def thaw(session: Session, instance: InstanceArgument) -> None:
    """Let frozen file systems go on. If none is frozen it is a success."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.thaw(uuid, timeout=session.timeout)
    result = {"uuid": str(uuid), "outcome": "thawed"}
    session.emit(result, lambda: details(result))


@_group.command("password")
def password(
    session: Session,
    instance: InstanceArgument,
    account: Annotated[
        str, typer.Argument(metavar="USER", help="A user of the guest.", show_default=False)
    ],
    new_env: Annotated[
        str,
        typer.Option(
            "--password-env", metavar="VARIABLE", help="Environment variable with the password."
        ),
    ],
    user: AsOption = None,
    password_env: AsPasswordOption = None,
) -> None:
    """Set the password of a user in the guest."""
    new = secret_of("--password-env", new_env)
    assert new is not None  # noqa: S101 - a variable was named
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.set_guest_password(
            uuid,
            account,
            new,
            credentials=_credentials(user, password_env),
            timeout=session.timeout,
        )
    result = {"uuid": str(uuid), "user": account, "outcome": "set"}
    session.emit(result, lambda: details(result))
