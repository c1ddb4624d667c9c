"""``doctor``: is this host fit, and if not, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.checks import look
from hvdrivers.cli.codes import ExitCode, code_of
from hvdrivers.cli.command import HostArgument
from hvdrivers.cli.output import table
from hvdrivers.cli.session import Session
from hvdrivers.cli.verdict import Check, Status, failed
from hvdrivers.cli.wording import in_commands
from hvdrivers.contract import errors

_ORDER = list(Status)
_UNREACHABLE = (
    "look at the host itself: is it up, does its management service run, does a firewall let this"
    " machine through, is the address right"
)


def examine(session: Session, host: HostArgument) -> None:
    """Check that a host is fit to run instances.

    Looks at reachability, credentials, versions, acceleration, permissions, room, left-overs and
    clocks, and changes nothing. Exit status: 0 if all is well, 5 for warnings; 3 if the host
    cannot be reached or denies access, and 1 for other failures.
    """
    checks = [_without_itself(check) for check in _examination(session, host)]
    worst = max((check.status for check in checks), key=_ORDER.index)
    session.emit(
        {"worst": str(worst), "checks": [check.as_data() for check in checks]},
        lambda: table(("STATE", "CHECK", "DETAIL"), _rows(checks)),
    )
    if worst is Status.FAIL:
        found = [code_of(check.error) for check in checks if check.error is not None]
        raise typer.Exit(ExitCode.UNREACHABLE if ExitCode.UNREACHABLE in found else ExitCode.FAILED)
    if worst is Status.WARN:
        raise typer.Exit(ExitCode.PARTIAL)


def _without_itself(check: Check) -> Check:
    """A hint that says to call this very command helps nobody who has called it."""
    advises_itself = check.hint is not None and "hvdrivers doctor" in check.hint
    return replace(check, hint=_UNREACHABLE if advises_itself else in_commands(check.hint))


def _rows(checks: Iterable[Check]) -> Iterator[tuple[str, str, str]]:
    for check in checks:
        yield str(check.status), check.check, check.detail
        if check.hint:
            yield " ", " ", f"hint: {check.hint}"


def _examination(session: Session, host: str) -> Iterator[Check]:
    try:
        with session.host(host) as driver:
            yield Check("driver", Status.OK, driver.driver_name)
            yield Check("reachable", Status.OK, driver.host_label)
            yield Check("credentials", Status.OK, "accepted")
            yield from look(driver, session.timeout)
    except errors.PluginError as error:
        yield failed("driver", error)
    except errors.AuthenticationFailed as error:
        yield Check("reachable", Status.OK, "the host answers")
        yield failed("credentials", error)
    except errors.ConnectionFailed as error:
        yield failed("reachable", error)
    except errors.PermissionDenied as error:
        yield failed("permissions", error)


doctor = cmd.command(examine)
