"""``migrate`` to another host, ``migrate-storage`` to another pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.command import (
    HostArgument,
    InstanceArgument,
    TherePasswordOption,
    ThereStorageOption,
    ThereUserOption,
)
from hvdrivers.cli.instances import show_info
from hvdrivers.cli.interrupt import long_operation
from hvdrivers.cli.output import details, table
from hvdrivers.cli.parse import checked, secret_of
from hvdrivers.cli.report import BadUsageError
from hvdrivers.cli.session import Session
from hvdrivers.cli.wording import in_commands

if TYPE_CHECKING:
    from rich.table import Table

    from hvdrivers.models.migration import MigrationPlan


def migrate_instance(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION",
            help="The host to go to, in the words of the hypervisor: a URI, a host's name.",
            show_default=False,
        ),
    ],
    *,
    storage: ThereStorageOption = None,
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of the destination's migration network.")
    ] = None,
    user: ThereUserOption = None,
    password_env: TherePasswordOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only list what stands in the way; exit 1 if anything.")
    ] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Move a stopped instance.")] = False,
) -> None:
    """Move an instance to another host.

    A running one moves while it runs. After a failure it is where it was.
    """
    from hvdrivers.models.migration import Destination

    if check and cold:
        raise BadUsageError("--check is about a running instance: not with --cold")
    value: dict[str, object] = {
        "host": destination,
        "storage": storage,
        "address": address,
        "user": user,
        "password": secret_of("--password-env", password_env),
    }
    wanted = checked("DESTINATION", Destination, value)
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        if check:
            plan = driver.check_live_migration(uuid, wanted, timeout=session.timeout)
            session.emit(plan, lambda: _plan_view(plan))
            if not plan.possible:
                raise typer.Exit(ExitCode.FAILED)
            return
        move = driver.cold_migrate if cold else driver.live_migrate
        long_operation(
            lambda report: move(uuid, wanted, timeout=session.timeout, progress=report),
            unfinished=f"{uuid} may still be moving: hvdrivers show HOST {uuid}",
        )
    result = {"uuid": str(uuid), "destination": destination, "outcome": "migrated"}
    session.emit(result, lambda: details(result))


def migrate_storage_of(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    pool: Annotated[
        str,
        typer.Argument(metavar="POOL", help="Pool or datastore to go to.", show_default=False),
    ],
) -> None:
    """Move an instance's own disks to another pool of its host. Volumes stay where they are."""
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        long_operation(
            lambda report: driver.migrate_storage(
                uuid, pool, timeout=session.timeout, progress=report
            ),
            unfinished=f"the disks of {uuid} may still be moving",
        )
        show_info(session, driver, uuid)


def _plan_view(plan: MigrationPlan) -> Table | str:
    if plan.possible:
        copied = "its disks are copied" if plan.copy_storage else "the hosts share its disks"
        return f"nothing stands in the way; {copied}"
    return table(
        ("BLOCKER", "DEVICE", "REASON", "HINT"),
        ((each.kind, each.device, each.reason, in_commands(each.hint)) for each in plan.blockers),
    )


migrate = cmd.command(migrate_instance)
migrate_storage = cmd.command(migrate_storage_of)
